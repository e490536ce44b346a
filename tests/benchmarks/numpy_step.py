"""The step of a labeling loop as it is written without a service: scikit-learn and NumPy."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from tests.benchmarks.labeling import BATCH, Scenario, first_rows
from tests.benchmarks.pools import BenchPool

BLOCK = 1_000_000
"""Rows scored at a time: what is stored in half precision is widened."""


def step_seconds(pool: BenchPool, scenario: Scenario, rounds: int) -> float:
    """Median seconds of a fit of the first labels, with the default solver and the same C as ours,
    and the 100 rows of highest entropy of the whole pool, its rows in memory."""
    X = np.load(pool.embeddings, mmap_mode="r")
    rows = first_rows(pool, scenario)
    labels = [scenario.label(int(cluster)) for cluster in pool.clusters[rows]]
    if X.dtype == np.float32:
        X = np.array(X)
    times = []
    for _ in range(rounds + 1):  # the first warms up
        began = time.perf_counter()
        with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
            model = LogisticRegression(C=100).fit(X[rows].astype(np.float32), labels)
        blocks = (X[start : start + BLOCK] for start in range(0, len(X), BLOCK))
        entropy = np.concatenate([_entropy(model, np.asarray(b, np.float32)) for b in blocks])
        np.argpartition(entropy, -BATCH)[-BATCH:]
        times.append(time.perf_counter() - began)
    return float(np.median(times[1:]))


def _entropy(model: Any, X: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    logits = X @ model.coef_.T.astype(np.float32) + model.intercept_.astype(np.float32)
    entropy: npt.NDArray[np.float32]
    if logits.shape[1] == 1:
        size = np.abs(logits[:, 0])
        power = np.exp(-size)
        entropy = np.log1p(power) + size * power / (1 + power)
        return entropy
    logits -= logits.max(axis=1, keepdims=True)
    powers = np.exp(logits)
    sums = powers.sum(axis=1)
    entropy = np.log(sums) - (powers * logits).sum(axis=1) / sums
    return entropy
