"""The labeling loop: AddLabels(100), then NextBatch(100), at 1,000 labels and more."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tests.benchmarks.pools import BenchPool
from tests.benchmarks.process import Server

from coresift.client import All, Client, Seals

CONCEPT = 30
"""The cluster that is searched for: about 0.4 % of the items."""
START = 1_000
BATCH = 100


@dataclass(frozen=True, slots=True)
class Scenario:
    """A session to measure: SEALS with k neighbours, or all candidates."""

    name: str
    k: int | None


def measure_labeling(
    server: Server, pool: BenchPool, scenario: Scenario, rounds: int
) -> dict[str, float]:
    """Seconds of each call, with think time enough for the look-up of neighbours."""
    generator = np.random.default_rng(1)
    positives = np.flatnonzero(pool.clusters == CONCEPT)
    rest = generator.choice(pool.items, START - 50, replace=False)
    rows = np.unique(np.concatenate([generator.choice(positives, 50, replace=False), rest]))
    candidates = All() if scenario.k is None else Seals(scenario.k)
    pairs, batches, labels = [], [], []
    with Client(server.listen, timeout_s=600) as client:
        session = client.create_session(pool="bench", task="binary", candidates=candidates)
        client.add_labels(session, _labels(pool, rows), annotator="a")
        began = time.perf_counter()
        batch = client.next_batch(session, "a", size=BATCH)
        first = time.perf_counter() - began
        before = server.metrics()
        for _ in range(rounds):
            _think(client, session.session_id)
            named = np.array([int(pick.item_id[5:]) for pick in batch.picks])
            began = time.perf_counter()
            client.add_labels(session, _labels(pool, named), annotator="a")
            labelled = time.perf_counter()
            batch = client.next_batch(session, "a", size=BATCH)
            ended = time.perf_counter()
            labels.append(labelled - began)
            batches.append(ended - labelled)
            pairs.append(ended - began)
        after = server.metrics()
        considered = client.progress(session).considered_share
    return {
        "ready s": server.ready_s,
        "first NextBatch, neighbours of 1,000 items unknown, s": first,
        "AddLabels(100) p50 ms": 1e3 * float(np.median(labels)),
        "NextBatch(100) p50 ms": 1e3 * float(np.median(batches)),
        "NextBatch(100) p95 ms": 1e3 * float(np.quantile(batches, 0.95)),
        "pair p50 ms": 1e3 * float(np.median(pairs)),
        **_stages(before, after, rounds),
        "considered share": considered,
        "resident bytes / pool bytes": server.resident_bytes() / pool.nbytes(),
    }


def _labels(pool: BenchPool, rows: npt.NDArray[np.int64]) -> dict[str, str]:
    return {
        f"item-{row:08d}": "positive" if pool.clusters[row] == CONCEPT else "negative"
        for row in rows.tolist()
    }


def _stages(before: dict[str, float], after: dict[str, float], rounds: int) -> dict[str, float]:
    """Mean ms a round spent in each stage of NextBatch (neighbours: during think time)."""
    name = 'coresift_stage_seconds_sum{{stage="{}"}}'
    return {
        f"stage {stage} ms": 1e3 * (after[key] - before.get(key, 0.0)) / rounds
        for stage in ("catch_up", "neighbours", "fit", "score", "claim")
        if (key := name.format(stage)) in after
    }


def _think(client: Client, session_id: str) -> None:
    """A person's time to label a batch: the look-up of its neighbours ends meanwhile."""
    time.sleep(2.5)
    client.get_session(session_id)
