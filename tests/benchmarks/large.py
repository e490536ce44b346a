"""Ten times the items in half precision: the labeling loop beside that of the usual size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.benchmarks.ceilings import median_seconds
from tests.benchmarks.labeling import Scenario, measure_labeling
from tests.benchmarks.numpy_step import step_seconds
from tests.benchmarks.pools import BenchPool, make_pool
from tests.benchmarks.process import Server

from coresift.client import Seals

TIMES = 10
SEALS, MOST = Seals(100), 1_000
SCENARIO = Scenario("seals(100)", SEALS)
TEN_CLASSES = Scenario("seals(100), 10 classes", classes=10)
PEER_ROUNDS = 1
SCAN_ROUNDS = 3


def measure_large(
    root: Path, items: int, dimension: int, rounds: int
) -> tuple[dict[str, Any], dict[str, float]]:
    """The loop at ``items`` and at ten times as many, the second with an IVF index; both float16.

    The figures of each loop, and others. The pools take minutes to make, once.
    """
    usual = make_pool(root, items, dimension, dtype="float16")
    large = make_pool(root, TIMES * items, dimension, dtype="float16", index="ivf")
    loops: dict[str, dict[str, Any]] = {}

    def loop(name: str, pool: BenchPool, scenario: Scenario) -> dict[str, Any]:
        with Server(pool.directory) as server:
            loops[name] = measure_labeling(server, pool, scenario, rounds)
        return loops[name]

    fewer = loop("usual size", usual, SCENARIO)
    more = loop("ten times as many", large, SCENARIO)
    # Lists of neighbours overlap less among more items.
    k = min(MOST, round(SEALS.k * more["candidates"] / fewer["candidates"]))
    equal = loop("usual size, as many candidates", usual, Scenario(f"seals({k})", Seals(k)))
    ten = loop("ten times as many, 10 classes", large, TEN_CLASSES)
    ours, peer = more["pair p50 ms"], 1e3 * step_seconds(large, SCENARIO, PEER_ROUNDS)
    ten_peer = 1e3 * step_seconds(large, TEN_CLASSES, PEER_ROUNDS)
    scan = 1e3 * _scan_seconds(large)
    return loops, {
        "pair p50 / that at the usual size with as many candidates": ours / equal["pair p50 ms"],
        "scikit-learn and NumPy, ms": peer,
        "times faster than scikit-learn and NumPy": peer / ours,
        "scikit-learn and NumPy, 10 classes, ms": ten_peer,
        "times faster than scikit-learn and NumPy, 10 classes": ten_peer / ten["pair p50 ms"],
        "scan, one output, torch float16, ms": scan,
        "times faster than torch's scan alone": scan / ours,
    }


def _scan_seconds(pool: BenchPool) -> float:
    """Of one output over all rows, float16 as they are stored."""
    X = torch.from_numpy(np.load(pool.embeddings, mmap_mode="c"))
    w = X[0].clone()
    return median_seconds(lambda: X @ w, SCAN_ROUNDS)
