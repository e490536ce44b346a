"""What the machine can do at best, measured in the same run as everything else."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np


def measure_ceilings() -> dict[str, float]:
    """Streaming bandwidth and matrix product of this machine, medians of several runs."""
    generator = np.random.default_rng(0)
    stream = np.ones(64 * 1024 * 1024, np.float32)
    left = generator.standard_normal((2048, 2048)).astype(np.float32)
    rows = generator.standard_normal((250_000, 256)).astype(np.float32)
    weights = generator.standard_normal((256, 1)).astype(np.float32)
    return {
        "streaming read GB/s": stream.nbytes / 1e9 / median_seconds(stream.sum),
        "float32 product GFLOP/s": 2 * 2048**3 / 1e9 / median_seconds(lambda: left @ left),
        "float32 scan of 1M x 256 s": 4 * median_seconds(lambda: rows @ weights),
    }


def median_seconds(work: Callable[[], object], runs: int = 7) -> float:
    """Median time of ``work`` over several runs, after one to warm up."""
    work()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return float(np.median(times))
