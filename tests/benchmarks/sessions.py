"""Many sessions on one replica: latency of any of them, and memory of their views."""

from __future__ import annotations

import time

import numpy as np
from tests.benchmarks.labeling import Scenario, first_rows, labels_of
from tests.benchmarks.pools import BenchPool
from tests.benchmarks.process import Server

from coresift.client import Client

LABELS = 200
"""Of each session."""
BATCH = 10
TURNS = 4
"""Times the number of sessions: calls that are timed, of sessions at random."""
LARGE = 1_000
"""Times of which a 99.9th percentile says something."""
SCENARIO = Scenario("seals(100)")


def measure_sessions(pool: BenchPool, most: int) -> dict[str, float]:
    """Label-and-ask pairs at 1 to ``most`` sessions that were all used before."""
    figures: dict[str, float] = {}
    generator = np.random.default_rng(3)
    rows = generator.permutation(first_rows(pool, SCENARIO))
    labels = labels_of(pool, SCENARIO, rows[:LABELS])
    with Server(pool.directory) as server, Client(server.listen, timeout_s=600) as client:
        sessions: list[str] = []
        ready = server.own_bytes()
        for count in sorted({1, most // 10, most}):
            while len(sessions) < count:
                session = client.create_session("bench", task="binary", classes=SCENARIO.names)
                client.add_labels(session, labels, annotator="a")
                client.next_batch(session, "a", size=BATCH)
                sessions.append(session.session_id)
            server.settle()
            times = []
            for number in generator.integers(len(sessions), size=max(100, TURNS * count)):
                row = generator.integers(pool.items, size=1)
                began = time.perf_counter()
                client.add_labels(sessions[number], labels_of(pool, SCENARIO, row), annotator="b")
                client.next_batch(sessions[number], "b", size=BATCH)
                times.append(time.perf_counter() - began)
            name = f"{count} sessions"
            figures[f"{name}: pair p50 ms"] = 1e3 * float(np.median(times))
            rare, share = ("p99.9", 0.999) if len(times) >= LARGE else ("longest", 1.0)
            figures[f"{name}: pair {rare} ms"] = 1e3 * float(np.quantile(times, share))
            figures[f"{name}: MB above the pool"] = (server.own_bytes() - ready) / 1e6
    return figures
