"""Core-sets at 100k and at 1M items over gRPC: seconds, memory, streams, beside other forms."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from tests.benchmarks.labeling import Scenario, first_rows
from tests.benchmarks.peers import cell, theirs
from tests.benchmarks.pools import BenchPool, make_pool
from tests.benchmarks.process import Peak, Server

from coresift.client import All, Client, Coreset, CoresetMethod, Sampler, Strategy, Targets
from coresift.client.convert import StringColumn

SMALL = 100_000
CLASSES = 10
HEAD, PROXY, SIGNAL = "head", "proxy", "signal"


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
    return Job(title, CoresetMethod(name, **params), budget, sampler, 100 * (name == "query"))


AT_100K = (
    _job("random", 1_000),
    _job("k_center", 1_000),
    _job("facility_location", 1_000),
    _job("facility_location", 1_000, graph="dense"),
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


def measure_compression(
    root: Path, items: int, dimension: int, console: Console, python: str
) -> dict[str, Any]:
    """All figures; prints the tables. ``python`` is the interpreter that has other libraries."""
    small = make_pool(root, min(SMALL, items), dimension)
    found: dict[str, Any] = {"items": items}
    found["small"] = _run(small, AT_100K, console)
    found["forms"] = _forms(small, found["small"], console, python, root, dimension)
    large = make_pool(root, items, dimension)
    scores = tuple(
        _job(name, items // 2, None, source=source, **_named(source)) for name, source in SCORES
    )
    jobs = (_job("k_center", items // 100), _job("k_means_medoids", items // 100), *scores)
    found["large"] = _run(large, jobs, console)
    found["streams"] = _streams(large, console)
    return found


def _named(source: str) -> dict[str, Any]:
    return {"signal": "dynamics"} if source == SIGNAL else {}


def _run(pool: BenchPool, jobs: tuple[Job, ...], console: Console) -> list[dict[str, Any]]:
    """Each job on a server of its own, so that memory is its own."""
    table = Table(title=f"{pool.items:,} items: core-sets over gRPC")
    for heading in ("method", "budget", "s", "phases", "MB above pool", "radius", "mean max cos"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    found = []
    for job in jobs:
        with console.status(job.name), Server(pool.directory) as server:
            own = _timed(server, pool, job)
        found.append(own)
        phases = ", ".join(f"{name} {s:.1f}" for name, s in own["phases"].items() if s >= 0.05)
        table.add_row(
            job.name,
            f"{job.budget:,}",
            f"{own['seconds']:.2f}",
            phases,
            f"{own['bytes'] / 1e6:,.0f}",
            _shown(own["radius"]),
            _shown(own["similarity"]),
        )
    console.print(table)
    return found


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _timed(server: Server, pool: BenchPool, job: Job) -> dict[str, Any]:
    source = job.method.params.get("source")
    needs_classes = source == PROXY or job.method.name in ("el2n", "moderate")
    with Client(server.listen, timeout_s=600) as client:
        if needs_classes:
            client.put_signals(
                "bench", "classes", _ids(pool), pool.clusters % CLASSES, kind="class"
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


def _ids(pool: BenchPool) -> StringColumn:
    data = b"".join(b"item-%08d" % row for row in range(pool.items))
    return StringColumn(data, 13 * np.arange(pool.items + 1))


def _rows(core: Coreset) -> list[int]:
    return [int(item_id[5:]) for item_id in core.item_ids]


def _upload(client: Client, pool: BenchPool) -> None:
    columns = ["forgetting", "el2n", "aum", "entropy"]
    values = np.random.default_rng(3).standard_normal((pool.items, 4)).astype(np.float32)
    client.put_signals("bench", "dynamics", _ids(pool), values, columns=columns)


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


def _forms(
    pool: BenchPool,
    ours: list[dict[str, Any]],
    console: Console,
    python: str,
    root: Path,
    dimension: int,
) -> dict[str, Any]:
    """The one-pass-a-centre form, objectives on the true similarity, and apricot."""
    X = np.load(pool.directory.parent / "embeddings.npy")
    found: dict[str, Any] = {}
    own = next(job for job in ours if job["name"] == "k_center")
    began = time.perf_counter()
    centres = one_pass_a_centre(X, own["rows"][0], own["budget"])
    seconds = time.perf_counter() - began
    found["k_center, one NumPy pass a centre"] = seconds
    found["k_center, times faster"] = seconds / own["seconds"]
    found["k_center, same centres"] = float(np.mean(np.array(centres) == own["rows"]))
    exact = next(job for job in ours if "dense" in job["name"])
    for job in ours:
        if job["name"].startswith("facility_location") and job is not exact:
            ratio = objective(X, job["rows"]) / objective(X, exact["rows"])
            found[f"{job['name']}, objective / dense"] = ratio
    _print(console, f"{pool.items:,} items: beside ours", found)
    table = Table("apricot, facility location, lazy, 1,000 of", "s, memory")
    for items in (10_000, pool.items):
        peer = make_pool(root, items, dimension)
        start = first_rows(peer, Scenario(""))
        np.savez(peer.directory.parent / "peers.npz", rows=start, labels=np.zeros(len(start)))
        result = theirs(python, peer, "apricot facility location")
        found[f"apricot {items}"] = result
        table.add_row(f"{items:,}", cell(result))
    console.print(table)
    return found


def one_pass_a_centre(X: npt.NDArray[np.float32], first: int, budget: int) -> list[int]:
    """Greedy k-center as it is written in NumPy: a pass over the rows for each centre."""
    norms = np.einsum("ij,ij->i", X, X)
    squared = np.full(len(X), np.inf, np.float32)
    centres = [first]
    while True:
        distance = norms - 2 * (X @ X[centres[-1]]) + norms[centres[-1]]
        np.minimum(squared, distance, out=squared)
        if len(centres) == budget:
            return centres
        centres.append(int(squared.argmax()))


def objective(X: npt.NDArray[np.float32], rows: list[int]) -> float:
    """Facility location's objective: the sum of each row's largest max(0, cosine)."""
    chosen = np.ascontiguousarray(X[rows].T)
    return float(
        sum(
            np.maximum((X[start : start + 10_000] @ chosen).max(axis=1), 0).sum(dtype=np.float64)
            for start in range(0, len(X), 10_000)
        )
    )


def _streams(pool: BenchPool, console: Console) -> dict[str, float]:
    """Uploads of four columns and results of the whole pool."""
    found: dict[str, float] = {}
    ids = _ids(pool)
    values = np.random.default_rng(4).standard_normal((pool.items, 4)).astype(np.float32)
    with Server(pool.directory) as server, Client(server.listen, timeout_s=600) as client:
        began = time.perf_counter()
        client.put_signals("bench", "four", ids, values)
        found["PutSignals of 4 columns, s"] = time.perf_counter() - began
        client.score_coreset("random", pool.items, pool="bench", request_id="whole")
        began = time.perf_counter()
        core = client.score_coreset("random", pool.items, pool="bench", request_id="whole")
        lazily = time.perf_counter() - began
        strings = list(core.item_ids)
        whole = time.perf_counter() - began
        assert len(strings) == pool.items
    found["results, million items a second, lazily"] = pool.items / lazily / 1e6
    found["results, million items a second, as a list of strings"] = pool.items / whole / 1e6
    _print(console, f"{pool.items:,} items: streams of a finished job", found)
    return found


def _print(console: Console, title: str, figures: dict[str, Any]) -> None:
    table = Table("figure", "value", title=title)
    for name, value in figures.items():
        table.add_row(name, f"{value:,.4g}")
    console.print(table)
