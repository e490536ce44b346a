"""Other libraries on the same data: a batch of 100 from the whole pool at 1,000 labels.

Each query runs in a process of its own and is stopped after a minute; what was stopped is not run
on more items. Ours is a NextBatch over gRPC on candidates ``all``, with the fit; the libraries'
times have theirs where they take a model.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from tests.benchmarks import peer_cases
from tests.benchmarks.labeling import CONCEPT, Scenario, first_rows, measure
from tests.benchmarks.pools import BenchPool, make_pool
from tests.benchmarks.process import Peak, Server, own_bytes
from tests.benchmarks.tables import Grid, Page

from coresift.client import All
from coresift.client.simulation.methods import method

LIMIT_S = 60.0
LIMIT_BYTES = 16 * 2**30
SIZES = (10_000, 100_000, 1_000_000)
EQUIVALENTS = (
    ("max_entropy", ("scikit-activeml entropy", "modAL entropy", "small-text entropy")),
    ("max_entropy/badge", ("scikit-activeml BADGE",)),
    ("typiclust", ("scikit-activeml TypiClust",)),
    ("k_center", ("scikit-activeml CoreSet", "small-text greedy core-set")),
    ("probcover", ("scikit-activeml ProbCover",)),
    ("max_entropy/gist", ("modAL ranked batch",)),
)
"""Ours and what comes closest to it elsewhere."""


def measure_peers(
    root: Path, dimension: int, page: Page, python: str, sizes: Sequence[int]
) -> list[dict[str, Any]]:
    """Measure all, show a table. ``python`` is the interpreter that has the libraries."""
    found: list[dict[str, Any]] = []
    for items in sizes:
        pool = make_pool(root, items, dimension)
        start = first_rows(pool, Scenario(""))
        labels = (pool.clusters[start] == CONCEPT).astype(np.int64)
        np.savez(pool.directory.parent / "peers.npz", rows=start, labels=labels)
        for ours, others in EQUIVALENTS:
            with page.doing(f"{ours}, {items:,} items"):
                found.append({"items": items, "name": f"coresift {ours}", **_ours(pool, ours)})
            for name in others:
                beaten = next((own for own in found if own["name"] == name and _gave_up(own)), None)
                if beaten is not None:
                    found.append({"items": items, "name": name, "gave_up_at": beaten["items"]})
                    continue
                with page.doing(f"{name}, {items:,} items"):
                    result = theirs(python, pool, name)
                found.append({"items": items, "name": name, **result})
    missing = {own["missing"] for own in found if "missing" in own}
    for what in sorted(missing):
        page.say(f"skipped: {what} (pip install --group peers)")
    names = dict.fromkeys(own["name"] for own in found)
    rows = [(name, *(cell(own) for own in found if own["name"] == name)) for name in names]
    page.add(
        Grid(
            "Other libraries",
            ("batch of 100", *(f"{items:,} x {dimension}" for items in sizes)),
            rows,
            "Ours with badge and gist arrange the ten best for each one wanted, not the pool.",
        )
    )
    return found


def _gave_up(own: dict[str, Any]) -> bool:
    return "stopped" in own or "memory" in own


def _ours(pool: BenchPool, name: str) -> dict[str, Any]:
    chosen = method(name)
    scenario = Scenario(name, All(), chosen.strategy, chosen.batch)
    with Server(pool.directory) as server:
        measured = measure(server, pool, scenario, rounds=1)
    return {"seconds": measured.batches[0], "bytes": measured.above_pool}


def theirs(python: str, pool: BenchPool, name: str) -> dict[str, Any]:
    """One case of `peer_cases` in a process of its own: seconds and bytes, or why not."""
    command = [python, peer_cases.__file__, name, str(pool.directory.parent), str(LIMIT_BYTES)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    stop = threading.Timer(LIMIT_S, lambda: _kill(process.pid))
    try:
        assert process.stdout is not None
        first: dict[str, Any] = json.loads(process.stdout.readline() or "{}")
        if "ready" not in first:
            return first or {"failed": process.communicate()[1].strip().splitlines()[-1]}
        loaded = own_bytes(process.pid)
        stop.start()
        with Peak(process.pid) as peak:
            out, errors = process.communicate("\n")
        result: dict[str, Any] = {"bytes": peak.bytes - loaded}
        if out.strip():
            return {**result, **json.loads(out)}
        if not stop.is_alive():
            return result | {"stopped": LIMIT_S}
        return result | {"failed": (errors.strip().splitlines() or ["no answer"])[-1]}
    finally:
        stop.cancel()
        process.wait()


def _kill(pid: int) -> None:
    """End a query with the workers that it has started."""
    try:
        parent = psutil.Process(pid)
        for process in [*parent.children(recursive=True), parent]:
            process.kill()
    except psutil.NoSuchProcess:
        pass


def cell(own: dict[str, Any]) -> str:
    """What a case gave, for a table."""
    if "missing" in own:
        return "not installed"
    if "gave_up_at" in own:
        return f"gave up at {own['gave_up_at']:,}"
    if "failed" in own:
        return f"failed: {own['failed'][:60]}"
    memory = f"{own['bytes'] / 1e6:,.0f} MB"
    if "memory" in own:
        return f"more than {LIMIT_BYTES / 2**30:.0f} GiB"
    if "stopped" in own:
        return f"stopped after {LIMIT_S:.0f} s, {memory}"
    return f"{own['seconds']:.2f} s, {memory}"
