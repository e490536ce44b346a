"""Start to ready, and a session of 10,000 labels on a replica that has never seen it."""

from __future__ import annotations

import time

import numpy as np
from tests.benchmarks.labeling import Scenario, label_first, labels_of
from tests.benchmarks.pools import BenchPool
from tests.benchmarks.process import Server, State

from coresift.client import Client

LABELS, CALL = 10_000, 1_000
SCENARIOS = (Scenario("2 classes"), Scenario("10 classes", classes=10))
RUNS = 3


def measure_start(pool: BenchPool) -> dict[str, float]:
    """Seconds until it serves, and until a cold replica has answered a NextBatch(10).

    The replicas share the state store and no files: the second reads the log, the neighbours, and
    the head that the first has published.
    """
    figures: dict[str, float] = {}
    ready = []
    rows = np.random.default_rng(2).choice(pool.items, LABELS, replace=False)
    with State() as state, Server(pool.directory, state=state.url) as first:
        sessions = []
        with Client(first.listen, timeout_s=600) as client:
            for scenario in SCENARIOS:
                sessions.append(label_first(client, pool, scenario))
                for start in range(0, LABELS, CALL):
                    labels = labels_of(pool, scenario, rows[start : start + CALL])
                    client.add_labels(sessions[-1], labels, annotator="a")
                client.next_batch(sessions[-1], "a", size=10)
        first.settle()
        taken: list[list[float]] = [[] for _ in SCENARIOS]
        for _ in range(RUNS):
            with Server(pool.directory, state=state.url) as second, Client(second.listen) as client:
                ready.append(second.ready_s)
                for times, session in zip(taken, sessions, strict=True):
                    began = time.perf_counter()
                    client.next_batch(session, "b", size=10)
                    times.append(time.perf_counter() - began)
    figures["start to ready s"] = float(np.median(ready))
    for scenario, times in zip(SCENARIOS, taken, strict=True):
        figures[f"cold NextBatch(10), {LABELS:,} labels, {scenario.name}, s"] = float(
            np.median(times)
        )
    return figures
