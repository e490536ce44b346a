"""The labeling loop: AddLabels(100), then NextBatch(100), at 1,000 labels and more."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from tests.benchmarks.pools import BenchPool
from tests.benchmarks.process import Peak, Server
from tests.benchmarks.tables import Grid, number

from coresift.client import All, BatchPolicy, Client, Mix, Seals, Strategy

CONCEPT = 30
"""The cluster that is searched for: about 0.4 % of the items."""
START = 1_000
BATCH = 100
OF_EACH = 50
"""Labels of each sought class among the first."""
SPLIT = "stages, ms"
STAGES = ("catch_up", "fit", "score", "arrange", "claim")
"""Of a NextBatch."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A session to measure; of ``classes`` the first is the rest of the pool."""

    name: str
    candidates: All | Seals = field(default_factory=Seals)
    strategy: Strategy | Mix = field(default_factory=lambda: Strategy("max_entropy"))
    batch: BatchPolicy = field(default_factory=BatchPolicy)
    classes: int = 2

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return ("rest", *(f"concept {number}" for number in range(1, self.classes)))

    def label(self, cluster: int) -> str:
        """The class of an item: the clusters from `CONCEPT` on are the sought ones."""
        number = cluster - CONCEPT + 1
        return self.names[number if 0 < number < self.classes else 0]


@dataclass(frozen=True, slots=True)
class Measured:
    """Times of a scenario in seconds, a value a round, and the server's side of them.

    Attributes:
        first: of the first NextBatch; no neighbours have been looked up before it.
        labels, batches: of AddLabels and NextBatch.
        stages_ms: mean ms of a round in each stage.
        considered: share of the pool.
        above_pool: bytes, the largest the server held of its own less what it held when ready.
    """

    first: float
    labels: tuple[float, ...]
    batches: tuple[float, ...]
    stages_ms: dict[str, float]
    considered: float
    above_pool: int


def measure(
    server: Server, pool: BenchPool, scenario: Scenario, rounds: int, *, thinks: bool = True
) -> Measured:
    """Label, ask, think until the neighbours of what was leased are known, and again.

    ``thinks``: else label at once.
    """
    batches, labels = [], []
    ready = server.own_bytes()
    with Client(server.listen, timeout_s=600) as client, Peak(server.pid) as peak:
        session = label_first(client, pool, scenario)
        began = time.perf_counter()
        batch = client.next_batch(session, "a", size=BATCH)
        first = time.perf_counter() - began
        before = server.metrics()
        for _ in range(rounds):
            if thinks:
                server.settle()
            named = np.array([row_of(pick.item_id) for pick in batch.picks])
            began = time.perf_counter()
            client.add_labels(session, labels_of(pool, scenario, named), annotator="a")
            labelled = time.perf_counter()
            batch = client.next_batch(session, "a", size=BATCH)
            ended = time.perf_counter()
            labels.append(labelled - began)
            batches.append(ended - labelled)
        after = server.metrics()
        considered = client.progress(session).considered_share
    return Measured(
        first,
        tuple(labels),
        tuple(batches),
        _stages(before, after, rounds),
        considered,
        peak.bytes - ready,
    )


def measure_labeling(
    server: Server, pool: BenchPool, scenario: Scenario, rounds: int, *, thinks: bool = True
) -> dict[str, Any]:
    """The figures of the labeling loop by name; the stages are means and add up to the pair."""
    found = measure(server, pool, scenario, rounds, thinks=thinks)
    pairs = np.add(found.labels, found.batches)
    stages = {stage: found.stages_ms.get(stage, 0.0) for stage in STAGES}
    labels, mean = 1e3 * float(np.mean(found.labels)), 1e3 * float(np.mean(pairs))
    candidates = found.considered * pool.items
    return {
        "ready s": server.ready_s,
        "first NextBatch, neighbours of 1,000 items unknown, s": found.first,
        "AddLabels(100) p50 ms": 1e3 * float(np.median(found.labels)),
        "NextBatch(100) p50 ms": 1e3 * float(np.median(found.batches)),
        "NextBatch(100) p95 ms": 1e3 * float(np.quantile(found.batches, 0.95)),
        "pair p50 ms": 1e3 * float(np.median(pairs)),
        "labels a second": BATCH / float(np.mean(pairs)),
        SPLIT: {
            "AddLabels": labels,
            **stages,
            "rest": mean - labels - sum(stages.values()),
            "pair": mean,
            "neighbours": found.stages_ms.get("neighbours", 0.0),
        },
        "candidates": candidates,
        "candidates in half precision, MB": candidates * 2 * pool.dimension / 1e6,
        "resident bytes / pool bytes": server.resident_bytes() / pool.nbytes(),
    }


def stages_grid(found: Mapping[str, Any]) -> Grid:
    """Where the time of a pair goes, a row a scenario."""
    stages = {name: figures[SPLIT] for name, figures in found.items()}
    headings = next(iter(stages.values()))
    rows = [[name, *(number(own[heading]) for heading in headings)] for name, own in stages.items()]
    note = (
        "Means. AddLabels as its caller sees it; the stages are the server's; rest: gRPC, the "
        "client, and waiting for neighbours, whose looking up is the last column: in think time "
        "where there is any."
    )
    return Grid("Where the time of a pair goes, ms", ("loop", *headings), rows, note)


def without_stages(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that are not in `stages_grid`."""
    return {name: value for name, value in figures.items() if name != SPLIT}


def label_first(client: Client, pool: BenchPool, scenario: Scenario) -> str:
    """A session with its first 1,000 labels."""
    session = client.create_session(
        pool="bench",
        task="binary" if scenario.classes == 2 else "multiclass",
        classes=scenario.names,
        strategy=scenario.strategy,
        candidates=scenario.candidates,
        batch=scenario.batch,
    )
    client.add_labels(session, labels_of(pool, scenario, first_rows(pool, scenario)), annotator="a")
    return session.session_id


def row_of(item_id: str) -> int:
    """The row of an item of a benchmark's pool."""
    return int(item_id.removeprefix("item-"))


def first_rows(pool: BenchPool, scenario: Scenario) -> npt.NDArray[np.int64]:
    """About 1,000 rows: some of each sought class, the rest from the whole pool."""
    generator = np.random.default_rng(1)
    sought = [np.flatnonzero(pool.clusters == CONCEPT + n) for n in range(scenario.classes - 1)]
    found = [generator.choice(rows, min(OF_EACH, len(rows)), replace=False) for rows in sought]
    rest = generator.choice(pool.items, START - sum(map(len, found)), replace=False)
    return np.unique(np.concatenate([*found, rest]))


def labels_of(pool: BenchPool, scenario: Scenario, rows: npt.NDArray[np.int64]) -> dict[str, str]:
    """The labels of rows by item id."""
    return {f"item-{row:08d}": scenario.label(int(pool.clusters[row])) for row in rows.tolist()}


def _stages(before: dict[str, float], after: dict[str, float], rounds: int) -> dict[str, float]:
    name = 'coresift_stage_seconds_sum{{stage="{}"}}'
    return {
        stage: 1e3 * (after[key] - before.get(key, 0.0)) / rounds
        for stage in (*STAGES, "neighbours")
        if (key := name.format(stage)) in after
    }
