"""Streams about a session: its log, and what its head says of many items."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from tests.benchmarks.labeling import Scenario, label_first, labels_of
from tests.benchmarks.pools import BenchPool
from tests.benchmarks.process import Server

from coresift.client import Client

LABELS, CALL = 10_000, 1_000
ITEMS = 100_000
TOP = 10_000
ROUNDS = 5
SCENARIO = Scenario("10 classes", classes=10)


def measure_session_streams(pool: BenchPool) -> dict[str, float]:
    """Medians, in thousands a second, of a log of 10,000 labels and predictions of 10 classes."""
    chance = np.random.default_rng(2)
    rows = chance.choice(pool.items, LABELS, replace=False)
    asked = chance.choice(pool.items, min(ITEMS, pool.items), replace=False)
    items = [f"item-{row:08d}" for row in asked]
    vectors = np.load(pool.embeddings, mmap_mode="r")[np.sort(asked)]
    with Server(pool.directory) as server, Client(server.listen, timeout_s=600) as client:
        session = label_first(client, pool, SCENARIO)
        for start in range(0, LABELS, CALL):
            labels = labels_of(pool, SCENARIO, rows[start : start + CALL])
            client.add_labels(session, labels, annotator="a")
        client.head(session)
        return {
            "ListLabels, thousand labels a second": _rate(
                lambda: sum(1 for _ in client.list_labels(session))
            ),
            "Predict of items, thousand a second": _rate(
                lambda: len(client.predict(session, items=items).probabilities)
            ),
            "Predict of vectors, thousand a second": _rate(
                lambda: len(client.predict(session, vectors=vectors).probabilities)
            ),
            f"Predict of the top {TOP:,}, s": _seconds(
                lambda: len(client.predict(session, top=TOP, class_name=SCENARIO.names[0]).item_ids)
            ),
        }


def _rate(count: Callable[[], int]) -> float:
    return count() / 1e3 / _seconds(count)


def _seconds(work: Callable[[], int]) -> float:
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return float(np.median(times))
