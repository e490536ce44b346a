"""Whole-pool candidates: a batch of one session, fit and claim included, and of many at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tests.benchmarks.labeling import Scenario, label_first, labels_of
from tests.benchmarks.pools import BenchPool
from tests.benchmarks.process import Server

from coresift.client import All, Client

SESSIONS = 16
BATCH = 10
SCENARIO = Scenario("all", All())


def measure_scans(pool: BenchPool, rounds: int) -> dict[str, float]:
    """Medians over the rounds: every session has a new label, and asks for a batch."""
    alone, together = [], []
    generator = np.random.default_rng(4)
    with Server(pool.directory) as server, Client(server.listen, timeout_s=600) as client:
        sessions = [label_first(client, pool, SCENARIO) for _ in range(SESSIONS)]
        for session in sessions:
            client.next_batch(session, "a", size=BATCH)

        def ask(session: str) -> None:
            client.next_batch(session, "a", size=BATCH)

        def label(session: str) -> None:
            row = generator.integers(pool.items, size=1)
            client.add_labels(session, labels_of(pool, SCENARIO, row), annotator="a")

        with ThreadPoolExecutor(SESSIONS) as threads:
            for _ in range(rounds):
                server.settle()
                label(sessions[0])
                alone.append(_seconds(lambda: ask(sessions[0])))
                server.settle()
                for session in sessions:
                    label(session)
                together.append(_seconds(lambda: list(threads.map(ask, sessions))))
    one, many = float(np.median(alone)), float(np.median(together))
    return {
        "one session, NextBatch(10) ms": 1e3 * one,
        f"{SESSIONS} sessions at once, all answered, ms": 1e3 * many,
        f"{SESSIONS} sessions at once / one": many / one,
    }


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
