"""The neighbour table of a whole pool: exact on a slice, beside the bare product; and one that need
not hold all neighbours, as the pool was built with it."""

from __future__ import annotations

import time

import numpy as np
import torch
from tests.benchmarks.ceilings import median_seconds, product
from tests.benchmarks.pools import BenchPool

from coresift.server.arrays import Rows
from coresift.server.pool.neighbours import without_self
from coresift.server.pool.pool import Pool
from coresift.server.pool.search import QUERY_ROWS

ROWS = 8_192
"""Of the slice."""
SAMPLE = 1_024
"""Rows whose true neighbours are compared with the table's."""
RUNS = 3


def measure_neighbour_table(pool: BenchPool, tabled: BenchPool) -> dict[str, float]:
    """Throughput of the exact table, counted as 2 x rows x items x d flop; time and recall of the
    table of ``tabled``, the same rows."""
    rows = np.arange(min(ROWS, pool.items), dtype=np.int32)
    sample = np.random.default_rng(5).choice(pool.items, SAMPLE, replace=False).astype(np.int32)
    taken, products = [], []
    opened, other = Pool.open(pool.directory), Pool.open(tabled.directory)
    try:
        table = other.neighbour_table
        assert table is not None
        k = table.shape[1]
        found = (
            np.isin(a, b).mean()
            for a, b in zip(_exact(opened, sample, k), table[sample], strict=True)
        )
        recall = float(np.mean(list(found)))
        for _ in range(RUNS):
            work, flop = product(torch.float32)
            products.append(flop / 1e9 / median_seconds(work))
            began = time.perf_counter()
            _exact(opened, rows, k)
            taken.append(time.perf_counter() - began)
    finally:
        opened.close()
        other.close()
    seconds, bare = float(np.median(taken)), float(np.median(products))
    reached = 2 * len(rows) * pool.items * pool.dimension / 1e9 / seconds
    return {
        f"exact, {len(rows):,} rows, s": seconds,
        "exact, all rows at that rate, min": seconds * pool.items / len(rows) / 60,
        "exact, GFLOP/s": reached,
        "product float32, GFLOP/s": bare,
        "exact / product": reached / bare,
        "pool with a table by lists, s": float(tabled.timed.read_text()),
        "table by lists, recall": recall,
    }


def _exact(pool: Pool, rows: Rows, k: int) -> Rows:
    """The k nearest other rows of rows."""
    parts = (rows[start : start + QUERY_ROWS] for start in range(0, len(rows), QUERY_ROWS))
    found = [without_self(pool.search(pool.fetch(own), k + 1)[0], own) for own in parts]
    return np.concatenate(found)
