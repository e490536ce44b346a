"""What metrics cost: one server that measures and does not measure in turn.

Run as a module it is ``coresift`` with two signals more: SIGUSR1 ends all measuring, SIGUSR2
begins it again. The times of blocks of calls that follow each other are compared, so that what
else the machine does falls on both alike; given are medians of the ratios.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import numpy as np
import psutil
from tests.benchmarks.labeling import BATCH, CONCEPT, Scenario, first_rows, row_of
from tests.benchmarks.pools import BenchPool
from tests.benchmarks.process import Server

from coresift.client import Client, Session

MODULE = "tests.benchmarks.metrics"
HOT_CALLS = 250
"""In a block of NextBatch(1) from a ranking at hand."""
HOT_PAIRS = 20
LOOP_ROUNDS = 2
"""In a block of AddLabels(100) and NextBatch(100)."""
LOOPS = 3
"""Times the rounds asked for: pairs of blocks of the loop."""


def measure_metrics(pool: BenchPool, rounds: int) -> dict[str, float]:
    """Times with metrics over times without: of a hot NextBatch and of the labeling loop."""
    with (
        Server(pool.directory, module=MODULE) as server,
        Client(server.listen, timeout_s=600) as client,
    ):
        session = client.create_session(pool="bench", task="binary", classes=("rest", "it"))
        rows = first_rows(pool, Scenario("seals(100)")).tolist()
        _label(client, session, pool, rows)
        client.next_batch(session, "a", size=1)
        server.settle()
        names = iter(range(1 << 30))

        def hot() -> None:
            annotator = f"hot-{next(names)}"
            leased: list[str] = []
            for _ in range(HOT_CALLS):
                leased += client.next_batch(session, annotator, size=1).item_ids
            client.release_leases(session, annotator, leased)

        def loop() -> None:
            for _ in range(LOOP_ROUNDS):
                batch = client.next_batch(session, "a", size=BATCH)
                _label(client, session, pool, [row_of(pick.item_id) for pick in batch.picks])

        hot()
        loop()
        hot_wall, hot_cpu = _ratios(server, hot, HOT_PAIRS)
        loop_wall, loop_cpu = _ratios(server, loop, LOOPS * rounds)
    return {
        "hot NextBatch(1), as callers see it": float(np.median(hot_wall)),
        "hot NextBatch(1), CPU of the server": float(np.median(hot_cpu)),
        "labeling loop, as callers see it": float(np.median(loop_wall)),
        "labeling loop, CPU of the server": float(np.median(loop_cpu)),
    }


def _label(client: Client, session: Session, pool: BenchPool, rows: list[int]) -> None:
    labels = {f"item-{row:08d}": "it" if pool.clusters[row] == CONCEPT else "rest" for row in rows}
    client.add_labels(session, labels, annotator="a")


def _ratios(
    server: Server, block: Callable[[], None], pairs: int
) -> tuple[list[float], list[float]]:
    """Of pairs of blocks with and without metrics, which of them first in turn: ratios of wall
    times, and of CPU times of the server."""
    process, wall, cpu = psutil.Process(server.pid), [], []
    for pair in range(pairs):
        found: dict[int, tuple[float, float]] = {}
        order = (signal.SIGUSR1, signal.SIGUSR2)
        for way in order if pair % 2 else reversed(order):
            os.kill(server.pid, way)
            used, began = process.cpu_times(), time.perf_counter()
            block()
            seconds, now = time.perf_counter() - began, process.cpu_times()
            found[way] = seconds, now.user + now.system - used.user - used.system
        without, measured = found[signal.SIGUSR1], found[signal.SIGUSR2]
        wall.append(measured[0] / without[0])
        cpu.append(measured[1] / max(without[1], 1e-9))
    return wall, cpu


def _serve() -> None:
    """``coresift`` whose measuring the two signals switch."""
    from prometheus_client import Counter, Gauge, Histogram

    from coresift.client.cli import main
    from coresift.server.metrics import Metrics, PoolMetrics
    from coresift.server.metrics.labeling import Timer

    reports = [
        *((Counter, "inc"), (Gauge, "set"), (Histogram, "observe"), (Histogram, "labels")),
        *((Counter, "labels"), (Timer, "__enter__"), (Timer, "__exit__")),
        *((Metrics, "observe_redis"), (PoolMetrics, "ranked"), (PoolMetrics, "answered")),
        *((PoolMetrics, "chosen"), (PoolMetrics, "leased"), (PoolMetrics, "labelled")),
    ]
    real = [(owner, name, getattr(owner, name)) for owner, name in reports]

    def switch(number: int, _: object) -> None:
        for owner, name, method in real:
            setattr(owner, name, method if number == signal.SIGUSR2 else _nothing(name))

    signal.signal(signal.SIGUSR1, switch)
    signal.signal(signal.SIGUSR2, switch)
    main()


def _nothing(name: str) -> Callable[..., object]:
    """Does nothing in the place of a method; a metric's ``labels`` are the metric itself."""
    if name == "labels":
        return lambda self, *values, **named: self
    return lambda self, *values, **named: None


if __name__ == "__main__":
    _serve()
