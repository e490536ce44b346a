"""Core-sets at 100k and at 1M items over gRPC: seconds, memory, streams, beside other forms."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tests.benchmarks.coresets.forms import measure_apricot, measure_forms
from tests.benchmarks.coresets.streams import item_ids, measure_streams
from tests.benchmarks.labeling import Scenario, first_rows
from tests.benchmarks.pools import BenchPool, make_pool
from tests.benchmarks.process import Peak, Server
from tests.benchmarks.tables import Grid, Page, number

from coresift.client import All, Client, Coreset, CoresetMethod, Sampler, Strategy, Targets

SMALL = 100_000
CLASSES = 10
HEAD, PROXY, SIGNAL = "head", "proxy", "signal"
NEIGHBOURS = 32
"""Of facility location's graph; a pool with a table of so many has the exact one."""


@dataclass(frozen=True, slots=True)
class Job:
    """A core-set to time."""

    name: str
    method: CoresetMethod
    budget: int
    sampler: Sampler | None = None
    targets: int = 0


def _job(name: str, budget: int, sampler: Sampler | None = None, **params: Any) -> Job:
    shown = ", ".join(f"{key}={value}" for key, value in params.items())
    title = f"{name}{f'({shown})' if shown else ''}{f' / {sampler.name}' if sampler else ''}"
    targets = 100 if name == "query" else 0
    return Job(title, CoresetMethod(name, **params), budget, sampler, targets)


AT_100K = (
    _job("random", 1_000),
    _job("k_center", 1_000),
    _job("facility_location", 1_000),
    _job("facility_location", 1_000, optimizer="stochastic"),
    _job("query", 1_000),
    _job("herding", 1_000),
    _job("k_means_medoids", 1_000),
    _job("semdedup", 50_000),
    _job("moderate", 50_000),
    _job("forgetting", 50_000, Sampler("ccs"), source=SIGNAL, signal="dynamics"),
    _job("forgetting", 50_000, Sampler("d2"), source=SIGNAL, signal="dynamics"),
)
SCORES = (
    *((name, HEAD) for name in ("max_entropy", "margin", "least_confidence", "el2n")),
    *((name, SIGNAL) for name in ("forgetting", "el2n", "aum")),
    *((name, PROXY) for name in ("max_entropy", "forgetting", "el2n", "aum")),
)
"""Score methods by source; `grand` is refused on unit rows."""


def measure_speed(
    root: Path, items: int, dimension: int, page: Page, python: str
) -> dict[str, Any]:
    """All figures; shows the tables. ``python`` is the interpreter that has other libraries."""
    small = make_pool(root, min(SMALL, items), dimension)
    fitting = [replace(job, budget=min(job.budget, small.items // 2)) for job in AT_100K]
    few = _run(small, fitting, page)
    tabled = make_pool(root, small.items, dimension, NEIGHBOURS)
    exact = _run(tabled, [_job("facility_location", fitting[2].budget)], page)[0]
    large = make_pool(root, items, dimension)
    scores = [_job(name, items // 2, source=source, **_named(source)) for name, source in SCORES]
    geometry = [_job(name, items // 100) for name in ("k_center", "k_means_medoids")]
    many = _run(large, [*geometry, *scores], page)
    return {
        "small": _figures(few),
        "forms": measure_forms(small, few, exact["rows"]),
        "apricot": measure_apricot(root, small.items, dimension, page, python),
        "large": {
            **_figures(many),
            "slowest score method, s": max(own["seconds"] for own in many[len(geometry) :]),
            "most memory beyond the pool, MB": max(own["bytes"] for own in many) / 1e6,
        },
        "streams": measure_streams(large),
    }


def _figures(found: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    return {own["name"]: {"s": own["seconds"], "MB": own["bytes"] / 1e6} for own in found}


def _named(source: str) -> dict[str, Any]:
    return {"signal": "dynamics"} if source == SIGNAL else {}


def _run(pool: BenchPool, jobs: Sequence[Job], page: Page) -> list[dict[str, Any]]:
    """Each job on a server of its own, so that memory is its own."""
    found, rows = [], []
    for job in jobs:
        with page.doing(job.name), Server(pool.directory) as server:
            own = _timed(server, pool, job)
        found.append(own)
        phases = ", ".join(f"{name} {s:.1f}" for name, s in own["phases"].items() if s >= 0.05)
        rows.append(
            (
                *(job.name, f"{job.budget:,}", f"{own['seconds']:.2f}", phases),
                *(number(own["bytes"] / 1e6), _shown(own["radius"]), _shown(own["similarity"])),
            )
        )
    headings = ("method", "budget", "s", "phases", "MB", "radius", "mean max cos")
    title = f"Core-sets of {pool.items:,} items over gRPC; MB above the pool"
    page.add(Grid(title, headings, rows))
    return found


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _timed(server: Server, pool: BenchPool, job: Job) -> dict[str, Any]:
    source = job.method.params.get("source")
    needs_classes = source == PROXY or job.method.name in ("el2n", "moderate")
    with Client(server.listen, timeout_s=600) as client:
        if needs_classes:
            client.put_signals(
                "bench", "classes", item_ids(pool), pool.clusters % CLASSES, kind="class"
            )
        if source == SIGNAL:
            _upload(client, pool)
        session = _session(client, pool) if source == HEAD else None
        where: dict[str, Any] = {"pool": "bench"} if session is None else {"session": session}
        targets = Targets(item_ids=[f"item-{row:08d}" for row in range(job.targets)])
        ready = server.own_bytes()
        began = time.perf_counter()
        with Peak(server.pid) as peak:
            core = client.score_coreset(
                job.method,
                job.budget,
                sampler=job.sampler,
                class_signal="classes" if needs_classes else None,
                query=targets if job.targets else None,
                **where,
            )
        seconds = time.perf_counter() - began
    return {
        "name": job.name,
        "budget": job.budget,
        "seconds": seconds,
        "phases": {k: v.total_seconds() for k, v in core.summary.durations.items()},
        "bytes": peak.bytes - ready,
        "radius": core.summary.covering_radius,
        "similarity": core.summary.mean_max_similarity,
        "rows": _rows(core) if job.budget <= 1_000 else None,
    }


def _rows(core: Coreset) -> list[int]:
    return [int(item_id[5:]) for item_id in core.item_ids]


def _upload(client: Client, pool: BenchPool) -> None:
    columns = ["forgetting", "el2n", "aum", "entropy"]
    values = np.random.default_rng(3).standard_normal((pool.items, 4)).astype(np.float32)
    client.put_signals("bench", "dynamics", item_ids(pool), values, columns=columns)


def _session(client: Client, pool: BenchPool) -> str:
    scenario = Scenario("", classes=CLASSES)
    names = [str(number) for number in range(CLASSES)]
    session = client.create_session(
        pool="bench",
        task="multiclass",
        classes=names,
        strategy=Strategy("max_entropy"),
        candidates=All(),
    )
    rows = first_rows(pool, scenario).tolist()
    labels = {f"item-{row:08d}": names[pool.clusters[row] % CLASSES] for row in rows}
    client.add_labels(session, labels, annotator="a")
    return session.session_id
