"""Uploads of signals and results of core-set jobs, a million items at a time."""

from __future__ import annotations

import time

import numpy as np
from tests.benchmarks.pools import BenchPool
from tests.benchmarks.process import Server

from coresift.client import Client
from coresift.client.convert import StringColumn

ROUNDS = 5


def item_ids(pool: BenchPool) -> StringColumn:
    """The ids of a pool of the benchmarks, packed."""
    data = b"".join(b"item-%08d" % row for row in range(pool.items))
    return StringColumn(data, 13 * np.arange(pool.items + 1))


def measure_streams(pool: BenchPool) -> dict[str, float]:
    """Medians of several uploads of four columns, and of several results of the whole pool."""
    ids = item_ids(pool)
    values = np.random.default_rng(4).standard_normal((pool.items, 4)).astype(np.float32)
    uploads, lazily, listed = [], [], []
    with Server(pool.directory) as server, Client(server.listen, timeout_s=600) as client:
        for number in range(ROUNDS):
            began = time.perf_counter()
            client.put_signals("bench", f"four-{number}", ids, values + number)
            uploads.append(time.perf_counter() - began)
        client.score_coreset("random", pool.items, pool="bench", request_id="whole")
        for _ in range(ROUNDS):
            began = time.perf_counter()
            core = client.score_coreset("random", pool.items, pool="bench", request_id="whole")
            lazily.append(time.perf_counter() - began)
            strings = list(core.item_ids)
            listed.append(time.perf_counter() - began)
            assert len(strings) == pool.items
    million = pool.items / 1e6
    return {
        "PutSignals of 4 columns, s": float(np.median(uploads)),
        "results, M items a second, lazily": million / float(np.median(lazily)),
        "results, M items a second, as strings": million / float(np.median(listed)),
    }
