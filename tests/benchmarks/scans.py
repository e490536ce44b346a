"""Whole-pool candidates beside one scan of the pool: one output, ten, and many sessions at once."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from tests.benchmarks.labeling import Scenario, label_first, labels_of
from tests.benchmarks.pools import BenchPool
from tests.benchmarks.process import Server

from coresift.client import All, Client, Strategy

SESSIONS = 16
BATCH = 10
OUTPUTS = 10
ONE = Scenario("one output", All())
TEN = (
    Scenario("10 outputs, max_entropy", All(), classes=OUTPUTS),
    Scenario("10 outputs, margin", All(), Strategy("margin"), classes=OUTPUTS),
)
SCORE = 'coresift_stage_seconds_sum{stage="score"}'
FLOAT32 = "scan, one output, float32, ms"
BFLOAT16 = "scan, one output, bfloat16, ms"
PRODUCT = "product, 10 outputs, bfloat16, ms"


def measure_scans(pool: BenchPool, rounds: int) -> dict[str, float]:
    """Medians over the rounds, each of which measures the scans and products as well.

    Every round a session gets new labels and its head is fitted; then it asks for a batch, which
    is timed: alone, or with others at once.
    """
    scans = _scans(pool)
    times: defaultdict[str, list[float]] = defaultdict(list)
    row = np.random.default_rng(4).integers
    with (
        Server(pool.directory) as server,
        Client(server.listen, timeout_s=600) as client,
        ThreadPoolExecutor(SESSIONS) as threads,
    ):
        many = [(ONE, label_first(client, pool, ONE)) for _ in range(SESSIONS)]
        ten = [(scenario, label_first(client, pool, scenario)) for scenario in TEN]

        def ask(session: str) -> None:
            client.next_batch(session, "a", size=BATCH)

        def measure(name: str, sessions: list[tuple[Scenario, str]]) -> None:
            for _ in range(2):  # what follows a batch is ranked with at once, the next is not
                for scenario, session in sessions:
                    labels = labels_of(pool, scenario, row(pool.items, size=1))
                    client.add_labels(session, labels, annotator="a")
                server.settle()
            times[f"{name}: fits, ms"].append(
                _ms(lambda: list(threads.map(client.head, [session for _, session in sessions])))
            )
            server.settle()
            before = server.metrics()
            wall = _ms(lambda: list(threads.map(ask, [session for _, session in sessions])))
            times[f"{name}: answered, ms"].append(wall)
            score = server.grown(before)[SCORE]
            times[f"{name}: scored, ms"].append(1e3 * score / len(sessions))

        for _ in range(rounds + 1):
            for name, scan in scans.items():
                times[name].append(_ms(scan))
            measure(ONE.name, many[:1])
            measure(f"{SESSIONS} sessions at once", many)
            for own in ten:
                measure(own[0].name, [own])
    medians = {name: float(np.median(values[1:])) for name, values in times.items()}
    return medians | _ratios(medians)


def _ratios(medians: dict[str, float]) -> dict[str, float]:
    one = medians[f"{ONE.name}: scored, ms"]
    together = medians[f"{SESSIONS} sessions at once: answered, ms"]
    ratios = {
        "one output: scored / scan in float32": one / medians[FLOAT32],
        "one output: scored / scan in bfloat16": one / medians[BFLOAT16],
        f"{SESSIONS} sessions at once: answered / scan in float32": together / medians[FLOAT32],
        f"{SESSIONS} sessions at once: answered / one session": together
        / medians[f"{ONE.name}: answered, ms"],
    }
    for scenario in TEN:
        score = medians[f"{scenario.name}: scored, ms"]
        ratios[f"{scenario.name}: scored / product in bfloat16"] = score / medians[PRODUCT]
    return ratios


def _scans(pool: BenchPool) -> dict[str, Callable[[], object]]:
    """Over rows that lie in memory, by whatever does each fastest."""
    X = np.load(pool.embeddings)
    half = torch.from_numpy(X).bfloat16()
    w, half_w, outputs = X[0].copy(), half[:1].T.contiguous(), half[:OUTPUTS].T.contiguous()
    return {
        FLOAT32: lambda: X @ w,
        BFLOAT16: lambda: half @ half_w,
        PRODUCT: lambda: half @ outputs,
    }


def _ms(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began)
