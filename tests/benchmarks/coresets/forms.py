"""The same core-sets in other forms: NumPy, all pairs, apricot."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tests.benchmarks.labeling import Scenario, first_rows
from tests.benchmarks.peers import cell, theirs
from tests.benchmarks.pools import BenchPool, make_pool
from tests.benchmarks.tables import Grid, Page

APRICOT_ITEMS = 10_000
BLOCK = 10_000


def measure_forms(
    pool: BenchPool, ours: Sequence[dict[str, Any]], exact: Sequence[int]
) -> dict[str, float]:
    """One NumPy pass a centre beside our k_center, and facility location's objectives over all
    pairs beside that of the selection by the exact graph."""
    X = np.load(pool.embeddings)
    own = next(job for job in ours if job["name"] == "k_center")
    began = time.perf_counter()
    centres = one_pass_a_centre(X, own["rows"][0], own["budget"])
    seconds = time.perf_counter() - began
    found = {
        "k_center, one NumPy pass a centre, s": seconds,
        "k_center, times faster": seconds / own["seconds"],
        "k_center, share of same centres": float(np.mean(centres == own["rows"])),
    }
    reached = objective(X, exact)
    for job in ours:
        if job["name"].startswith("facility_location"):
            ratio = objective(X, job["rows"]) / reached
            found[f"{job['name']}, objective / by exact graph"] = ratio
    return found


def measure_apricot(
    root: Path, items: int, dimension: int, page: Page, python: str
) -> dict[str, Any]:
    """Facility location by apricot, on 10,000 items and on ``items``."""
    found, rows = {}, []
    for count in (APRICOT_ITEMS, items):
        peer = make_pool(root, count, dimension)
        start = first_rows(peer, Scenario(""))
        np.savez(peer.directory.parent / "peers.npz", rows=start, labels=np.zeros(len(start)))
        found[f"{count}"] = theirs(python, peer, "apricot facility location")
        rows.append((f"{count:,}", cell(found[f"{count}"])))
    page.add(Grid("apricot, facility location, lazy, 1,000 of", ("items", "s, memory"), rows))
    return found


def one_pass_a_centre(X: npt.NDArray[np.float32], first: int, budget: int) -> npt.NDArray[np.int64]:
    """Greedy k-center as it is written in NumPy: a pass over the rows for each centre."""
    norms = np.einsum("ij,ij->i", X, X)
    squared = np.full(len(X), np.inf, np.float32)
    centres = [first]
    while True:
        distance = norms - 2 * (X @ X[centres[-1]]) + norms[centres[-1]]
        np.minimum(squared, distance, out=squared)
        if len(centres) == budget:
            return np.array(centres)
        centres.append(int(squared.argmax()))


def objective(X: npt.NDArray[np.float32], rows: Sequence[int]) -> float:
    """Facility location's objective: the sum of each row's largest max(0, cosine)."""
    chosen = np.ascontiguousarray(X[list(rows)].T)
    return float(
        sum(
            np.maximum((X[start : start + BLOCK] @ chosen).max(axis=1), 0).sum(dtype=np.float64)
            for start in range(0, len(X), BLOCK)
        )
    )
