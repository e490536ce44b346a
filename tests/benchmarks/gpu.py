"""What a GPU is to reach: scans, neighbours and core-sets of pools that live on it.

    python -m tests.benchmarks.gpu --device cuda --items 10000000 --smaller 1000000 --out FILE

Needs this repository with torch and pyarrow, but neither faiss nor Redis: rows are drawn there,
and pools are put together from them without a directory: of a NextBatch there is the selection, not
the call. ``--device torch:cpu --items 20000 --smaller 6000`` tries it where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from tests.benchmarks.report import Floor, Target, figures_grid
from tests.benchmarks.tables import Page

from coresift.server.coreset.facility_location import FacilityLocation
from coresift.server.coreset.items import Items
from coresift.server.coreset.k_center import KCenter
from coresift.server.coreset.problem import Problem
from coresift.server.errors import StartError
from coresift.server.head import Head, HeadConfig, Task
from coresift.server.pool.between import rows_between
from coresift.server.pool.device import require_room, torch_device
from coresift.server.pool.rows import VectorRows
from coresift.server.pool.search import QUERY_ROWS, exact_search
from coresift.server.pool.segment import Segment
from coresift.server.selection.leaders import Leaders, show_pool
from coresift.server.selection.registry import Choice, strategy_of
from coresift.server.selection.shortlist import logit_error
from coresift.server.selection.strategy import Ranker, Situation

DIMENSION = 256
CLUSTERS, RANK, NOISE = 1_000, 64, 0.7
"""Of the mixture: that of `pools.make_pool`."""
DRAWN = 2**18
DEPTH = 2_000
"""Rows of an order."""
NEIGHBOURS = 100
BATCHES = 8
"""Of the neighbour table, whose time is taken from them."""
READ = "rows read once, ms"
Figures = dict[str, float]


def draw(
    items: int, dimension: int, device: torch.device
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int32]]:
    """Unit rows around low-rank centres of Zipf sizes, and the centre of each."""
    chance = torch.Generator(device).manual_seed(0)
    sizes = 1 / torch.arange(1, CLUSTERS + 1, device=device)
    shape = (CLUSTERS, RANK), (RANK, dimension)
    one, other = (torch.randn(s, generator=chance, device=device) for s in shape)
    centres = torch.nn.functional.normalize(one @ other)
    rows = np.empty((items, dimension), np.float16)
    clusters = np.empty(items, np.int32)
    for start in range(0, items, DRAWN):
        count = min(DRAWN, items - start)
        part = torch.multinomial(sizes, count, replacement=True, generator=chance)
        noise = torch.randn((count, dimension), generator=chance, device=device)
        block = centres[part] + NOISE * torch.nn.functional.normalize(noise)
        rows[start : start + count] = torch.nn.functional.normalize(block).half().cpu().numpy()
        clusters[start : start + count] = part.cpu().numpy()
    return rows, clusters


def rows_on(device: str, stored: npt.NDArray[np.float16]) -> VectorRows:
    """A cosine pool's vectors."""
    norms = np.empty(len(stored), np.float32)
    for start in range(0, len(stored), DRAWN):
        wide = stored[start : start + DRAWN].astype(np.float32)
        norms[start : start + DRAWN] = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    return VectorRows([Segment(0, stored, norms, None, unit=True)], "cosine", 1 + 1e-6, device)


def milliseconds(work: Callable[[], object], runs: int = 15) -> float:
    """Median of several runs, after two to warm up."""
    times = []
    for _ in range(runs + 2):
        began = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - began))
    return float(np.median(times[2:]))


def binary_head(dimension: int) -> Head:
    """A head such as a thousand labels give: logits of some units."""
    w = np.random.default_rng(1).standard_normal((1, dimension))
    w *= 20 / np.linalg.norm(w)
    return Head(Task.BINARY, w, np.zeros(1), np.ones(1, np.bool_))


def uncertain_by_scan(pool: VectorRows, head: Head) -> npt.NDArray[np.int32]:
    """The most uncertain rows as a session finds them."""
    nothing: Any = np.empty((0, 1))
    rows = np.empty(0, np.int32)
    seen: Any = SimpleNamespace(manifest=SimpleNamespace(items=pool.items), scan=pool.scan)
    situation = Situation(seen, Task.BINARY, 5, 1, head, HeadConfig(), rows, rows, nothing, nothing)
    scorer = strategy_of(Choice("max_entropy")).prepare(situation)
    assert not isinstance(scorer, Ranker)
    leaders = Leaders(scorer, head, np.zeros(pool.items, np.bool_), DEPTH, pool.max_norm)
    show_pool(seen, [leaders])
    return leaders.best(pool.fetch).rows


def uncertain_by_bounds(pool: VectorRows, head: Head) -> npt.NDArray[np.int32]:
    """The same, where only rows that are uncertain enough leave the device.

    They are within twice the error of the last place so far; float64 decides.
    """
    error = logit_error(head, pool.max_norm)
    most = [math.inf]
    kept: list[tuple[Any, Any]] = []

    def cut() -> None:
        rows, doubts = (np.concatenate(arrays) for arrays in zip(*kept, strict=True))
        if len(rows) > DEPTH:
            last = float(np.partition(doubts, DEPTH - 1)[DEPTH - 1])
            most[0] = float(np.nextafter(np.float32(last + 2 * error), np.float32(np.inf)))
            near = doubts <= most[0]
            rows, doubts = rows[near], doubts[near]
        kept[:] = [(rows, doubts)]

    w = head.weights[0].astype(np.float32)
    for rows, products in rows_between(pool, w, lambda: (-most[0], most[0])):
        kept.append((rows, np.abs(products)))
        if sum(len(part) for part, _ in kept) > 4 * DEPTH:
            cut()
    cut()
    rows = kept[0][0]
    logits = np.abs(head.logits(pool.fetch(rows))[:, 0])
    return rows[np.lexsort((rows, logits))[:DEPTH]]


def measure_scans(pool: VectorRows, device: torch.device) -> Figures:
    """All candidates of one binary session, and the k-NN of 100 items."""
    head = binary_head(pool.dimension)
    by_scan, by_bounds = uncertain_by_scan(pool, head), uncertain_by_bounds(pool, head)
    assert by_scan.tolist() == by_bounds.tolist()
    asked = pool.fetch(np.arange(100))
    return {
        READ: read_ms(pool, device),
        "all candidates by scan, p50 ms": milliseconds(lambda: uncertain_by_scan(pool, head)),
        "all candidates by bounds, p50 ms": milliseconds(lambda: uncertain_by_bounds(pool, head)),
        "k-NN of 100 items, p50 ms": milliseconds(lambda: exact_search(pool, asked, NEIGHBOURS)),
    }


def read_ms(pool: VectorRows, device: torch.device) -> float:
    """The floor of every scan: as many bytes, added up where they lie."""
    block = torch.ones(2**26, device=device)

    def work() -> None:
        block.sum().item()

    return milliseconds(work) * pool.items * pool.dimension * 2 / block.nbytes


def measure_table(pool: VectorRows) -> Figures:
    """The exact neighbour table, at the rate of its first batches."""
    batches = min(BATCHES, max(1, pool.items // QUERY_ROWS))
    rows = np.arange(min(pool.items, batches * QUERY_ROWS))
    exact_search(pool, pool.fetch(rows[:QUERY_ROWS]), NEIGHBOURS + 1)
    began = time.perf_counter()
    exact_search(pool, pool.fetch(rows), NEIGHBOURS + 1)
    taken = time.perf_counter() - began
    return {f"neighbour table, k = {NEIGHBOURS}, s": taken * pool.items / len(rows)}


def measure_core_sets(pool: VectorRows, clusters: npt.NDArray[np.int32], budget: int) -> Figures:
    """k-center and facility location."""
    centroids = np.zeros((CLUSTERS, pool.dimension))
    for start in range(0, pool.items, DRAWN):
        part = np.arange(start, min(pool.items, start + DRAWN))
        np.add.at(centroids, clusters[part], pool.fetch(part))
    lengths = np.linalg.norm(centroids, axis=1, keepdims=True)
    seen: Any = SimpleNamespace(
        manifest=SimpleNamespace(
            items=pool.items, dimension=pool.dimension, metric="cosine", neighbours_recall=0.0
        ),
        neighbour_table=None,
        clusters=clusters,
        centroids=(centroids / np.maximum(lengths, 1e-12)).astype(np.float32),
        max_norm=pool.max_norm,
        fetch=pool.fetch,
        scan=pool.scan,
        similarities=pool.similarities,
    )
    items = Items(seen, np.arange(pool.items, dtype=np.int32), lambda: False)
    problem = Problem(items=items, budget=budget, seed=7, report=lambda *_: None)
    figures = {}
    for name, method in (("k-center", KCenter()), ("facility location", FacilityLocation())):
        began = time.perf_counter()
        method.select(problem)
        figures[f"{name}, {budget:,} selected, s"] = time.perf_counter() - began
    return figures


def refusal(device: str) -> str:
    """What is said of a pool that is larger than the GPU."""
    if not device.startswith("cuda"):
        return ""
    _, total = torch.cuda.mem_get_info(torch_device(device))
    try:
        require_room(total, device)
    except StartError as refused:
        return str(refused)
    raise AssertionError("a pool as large as the whole GPU was not refused")


def targets(part: str, budget: int) -> list[Target]:
    """Those of a part at its size."""
    floor = Floor(READ, lambda figures: figures[f"scans / {READ}"])
    bounds = {
        "scans / all candidates by scan, p50 ms": (10, floor),
        "scans / all candidates by bounds, p50 ms": (10, floor),
        "scans / k-NN of 100 items, p50 ms": (15, floor),
        f"table / neighbour table, k = {NEIGHBOURS}, s": (20, None),
        f"core-sets / k-center, {budget:,} selected, s": (2.5, None),
        f"core-sets / facility location, {budget:,} selected, s": (20, None),
    }
    size = 10_000_000 if part == "scans" else 1_000_000
    return [
        Target(figure, most=most, floor=floor, items=size)
        for figure, (most, floor) in bounds.items()
        if figure.startswith(part)
    ]


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--device", default="cuda", help="cuda, cuda:1 or torch:cpu")
    options.add_argument("--items", type=int, default=10_000_000, help="of scans")
    options.add_argument("--smaller", type=int, default=1_000_000, help="of tables and core-sets")
    options.add_argument("--out", type=Path, help="a JSON file for the figures")
    given = options.parse_args()
    device = torch_device(given.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else given.device
    page = Page(Console(width=140))
    page.say(f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}, {os.cpu_count()} CPUs")
    budget = min(10_000, max(1, given.smaller // 100))
    found: dict[str, Any] = {"device": name, "torch": torch.__version__}
    stored, _ = draw(given.items, DIMENSION, device)
    found["scans"] = measure_scans(rows_on(given.device, stored), device)
    del stored
    page.show(grid("scans", found, given.items, budget))
    stored, clusters = draw(given.smaller, DIMENSION, device)
    pool = rows_on(given.device, stored)
    found["table"] = measure_table(pool)
    page.show(grid("table", found, given.smaller, budget))
    found["core-sets"] = measure_core_sets(pool, clusters, budget)
    page.show(grid("core-sets", found, given.smaller, budget))
    found["refusal"] = refusal(given.device)
    page.say(f"a pool as large as the GPU: {found['refusal'] or 'no GPU, nothing to refuse'}")
    if given.out is not None:
        sizes = {"items": given.items, "smaller": given.smaller}
        given.out.write_text(json.dumps(found | sizes, indent=1) + "\n")


def grid(part: str, found: dict[str, Any], items: int, budget: int) -> Any:
    """A part's figures beside their targets."""
    title = f"{part}, {items:,} x {DIMENSION} float16"
    return figures_grid(title, part, found | {"items": items}, targets(part, budget))


if __name__ == "__main__":
    main()
