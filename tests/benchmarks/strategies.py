"""Every strategy and batch policy: a batch of 100 with seals(100) at 1,000 labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
from tests.benchmarks.labeling import STAGES, Measured, Scenario, measure
from tests.benchmarks.pools import BenchPool
from tests.benchmarks.process import Server
from tests.benchmarks.tables import Grid, Page

from coresift.client import All, Client, Seals
from coresift.client.simulation.methods import method

BINARY = (
    *("random", "max_entropy", "margin", "least_confidence", "most_likely_positive"),
    *("information_density", "direct", "bald", "epig", "typiclust", "probcover", "k_center"),
    *("signal(name=bench)", "mix(max_entropy=1, most_likely_positive=1)"),
    *("max_entropy/cluster_margin", "max_entropy/badge", "max_entropy/gist", "max_entropy/power"),
    "max_entropy/top(max_similarity=0.9)",
)
TEN_CLASSES = (
    *("max_entropy", "margin", "least_confidence", "information_density", "bald"),
    *("max_entropy/cluster_margin", "max_entropy/badge", "max_entropy/gist"),
)
NEEDS_TABLE = ("ens", "ens(one_step=true)")
"""Measured over all items of a smaller pool that has the table: about as many candidates."""
ROUNDS = 3


def measure_strategies(
    pool: BenchPool, small: BenchPool, rounds: int, page: Page
) -> list[dict[str, Any]]:
    """Measure each on a fresh server, so that memory is its own, and show a table."""
    found, rows = [], []
    for on, scenario in scenarios(pool, small):
        with page.doing(scenario.name), Server(on.directory) as server:
            if scenario.name.startswith("signal("):
                _upload(server, on)
            measured = measure(server, on, scenario, rounds)
        found.append({"strategy": scenario.name, "items": on.items, **_figures(scenario, measured)})
        rows.append(_row(scenario, on, measured))
    headings = ("strategy", "classes", "candidates", "p50", "slowest", *STAGES, "rest")
    page.add(
        Grid(
            f"{pool.items:,} items, 1,000 labels, a batch of 100 over gRPC; ms",
            (*headings, "MB above pool"),
            rows,
            f"ens reads a pool's neighbour table: measured over all of {small.items:,} items. "
            "rest: gRPC, the client.",
        )
    )
    return found


def scenarios(pool: BenchPool, small: BenchPool) -> Iterator[tuple[BenchPool, Scenario]]:
    """Pools with what is measured on them."""
    yield from _on(pool, BINARY, 2, Seals(100))
    yield from _on(small, NEEDS_TABLE, 2, All())
    yield from _on(pool, TEN_CLASSES, 10, Seals(100))


def _on(
    pool: BenchPool, names: Iterable[str], classes: int, candidates: All | Seals
) -> Iterator[tuple[BenchPool, Scenario]]:
    for name in names:
        chosen = method(name)
        yield pool, Scenario(name, candidates, chosen.strategy, chosen.batch, classes)


def _upload(server: Server, pool: BenchPool) -> None:
    ids = (f"item-{row:08d}" for row in range(pool.items))
    values = np.random.default_rng(2).standard_normal(pool.items)
    with Client(server.listen, timeout_s=600) as client:
        client.put_signals("bench", "bench", ids, values)


def _figures(scenario: Scenario, measured: Measured) -> dict[str, Any]:
    return {
        "classes": scenario.classes,
        "p50_ms": 1e3 * float(np.median(measured.batches)),
        **asdict(measured),
    }


def _row(scenario: Scenario, pool: BenchPool, measured: Measured) -> list[str]:
    median = 1e3 * float(np.median(measured.batches))
    stages = [measured.stages_ms.get(stage, 0.0) for stage in STAGES]
    rest = 1e3 * float(np.mean(measured.batches)) - sum(stages)
    numbers = (median, 1e3 * max(measured.batches), *stages, rest)
    return [
        *(scenario.name, str(scenario.classes), f"{measured.considered * pool.items:,.0f}"),
        *(f"{number:,.0f}" for number in numbers),
        f"{measured.above_pool / 1e6:,.0f}",
    ]
