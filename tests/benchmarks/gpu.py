"""What a GPU is to reach: scans, neighbours and core-sets of pools that live on it.

    python -m tests.benchmarks.gpu --device cuda --items 10000000 --smaller 1000000 --out FILE

Needs this repository with torch and pyarrow, but neither faiss nor Redis: rows are drawn there,
and pools are put together from them without a directory: of a NextBatch there is the selection, not
the call. ``--only table`` measures one part; ``--device torch:cpu --items 20000 --smaller 6000``
tries it where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from tests.benchmarks.report import Floor, Target, figures_grid
from tests.benchmarks.tables import Page
from threadpoolctl import threadpool_limits

from coresift.server.coreset.facility_location import FacilityLocation
from coresift.server.coreset.items import Items
from coresift.server.coreset.k_center import KCenter
from coresift.server.coreset.problem import Problem
from coresift.server.errors import StartError
from coresift.server.head import Head, HeadConfig, Task
from coresift.server.pool.between import rows_between
from coresift.server.pool.device import require_room, torch_device
from coresift.server.pool.device_compute import GPU_BLOCK
from coresift.server.pool.gathered import Gathering
from coresift.server.pool.neighbours import ExactTable
from coresift.server.pool.rows import VectorRows
from coresift.server.pool.search import exact_search
from coresift.server.pool.segment import Segment
from coresift.server.selection.circular_scan import show_pool
from coresift.server.selection.leaders import Leaders
from coresift.server.selection.registry import Choice, strategy_of
from coresift.server.selection.strategy import Ranker, Situation

DIMENSION = 256
CLUSTERS, RANK, NOISE = 1_000, 64, 0.7
"""Of the mixture: that of `pools.make_pool`."""
DRAWN = 2**18
DEPTH = 2_000
"""Rows of an order."""
NEIGHBOURS = 100
BATCHES = 128
"""Of the neighbour table, whose time is taken from them."""
READ = "rows read once, ms"
WORK = "memory beside the vectors, GiB"
PARTS = ("scans", "table", "core-sets")
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


def as_a_pool(pool: VectorRows, **more: Any) -> Any:
    """The vectors as those see them who expect a pool."""
    manifest = SimpleNamespace(
        items=pool.items, dimension=pool.dimension, metric="cosine", neighbours_recall=0.0
    )
    return SimpleNamespace(
        manifest=manifest,
        max_norm=pool.max_norm,
        is_on_device=pool.is_on_device,
        fetch=pool.fetch,
        scan=pool.scan,
        between=partial(rows_between, pool),
        gathering=Gathering(pool),
        similarities=pool.similarities,
        **more,
    )


def most_uncertain(pool: Any, head: Head) -> npt.NDArray[np.int32]:
    """As a session finds them."""
    nothing: Any = np.empty((0, 1))
    rows = np.empty(0, np.int32)
    learned = rows, nothing, nothing
    situation = Situation(pool, Task.BINARY, 5, 1, head, HeadConfig(), rows, lambda: learned)
    scorer = strategy_of(Choice("max_entropy")).prepare(situation)
    assert not isinstance(scorer, Ranker)
    blocked = np.zeros(pool.manifest.items, np.bool_)
    leaders = Leaders(scorer, head, blocked, DEPTH, pool.max_norm)
    show_pool(pool, [leaders])
    return leaders.best(pool.fetch).rows


def measure_scans(pool: VectorRows, device: torch.device) -> Figures:
    """All candidates of one binary session, and the k-NN of 100 items."""
    head, seen = binary_head(pool.dimension), as_a_pool(pool)
    asked = pool.fetch(np.arange(100))
    return {
        READ: read_ms(pool, device),
        "all candidates, p50 ms": milliseconds(lambda: most_uncertain(seen, head)),
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
    work = ExactTable(pool, NEIGHBOURS, np.empty((0, NEIGHBOURS), np.int32))
    chunks = work.chunks()[:BATCHES]
    for _ in work.work(chunks[:1]):
        pass
    began = time.perf_counter()
    rows = sum(len(some) for some, _ in work.work(chunks))
    taken = time.perf_counter() - began
    return {f"neighbour table, k = {NEIGHBOURS}, s": taken * pool.items / rows}


def measure_core_sets(pool: VectorRows, clusters: npt.NDArray[np.int32], budget: int) -> Figures:
    """k-center and facility location, and when each of their phases ended."""
    centroids = np.zeros((CLUSTERS, pool.dimension))
    for start in range(0, pool.items, DRAWN):
        part = np.arange(start, min(pool.items, start + DRAWN))
        np.add.at(centroids, clusters[part], pool.fetch(part))
    centroids /= np.maximum(np.linalg.norm(centroids, axis=1, keepdims=True), 1e-12)
    seen = as_a_pool(
        pool, neighbour_table=None, clusters=clusters, centroids=centroids.astype(np.float32)
    )
    items = Items(seen, np.arange(pool.items, dtype=np.int32), lambda: False)
    figures: Figures = {}
    for name, method in (("k-center", KCenter()), ("facility location", FacilityLocation())):
        ended: dict[str, float] = {}

        def told(phase: str, *_: object, ended: dict[str, float] = ended) -> None:
            ended[phase] = time.perf_counter()

        began = time.perf_counter()
        method.select(Problem(items=items, budget=budget, seed=7, report=told))
        figures[f"{name}, {budget:,} selected, s"] = time.perf_counter() - began
        figures |= {f"{name}, end of {phase}, s": at - began for phase, at in ended.items()}
    return figures


def beside_the_vectors(pool: VectorRows, device: torch.device) -> Figures:
    """What work took of the GPU since it was asked last."""
    if device.type != "cuda":
        return {}
    held = sum(segment.stored.nbytes + 4 * segment.items for segment in pool.segments)
    most = torch.cuda.max_memory_allocated(device) - held
    torch.cuda.reset_peak_memory_stats(device)
    return {WORK: most / 2**30}


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
        "scans / all candidates, p50 ms": (10, floor),
        "scans / k-NN of 100 items, p50 ms": (15, floor),
        f"table / neighbour table, k = {NEIGHBOURS}, s": (20, None),
        f"core-sets / k-center, {budget:,} selected, s": (2.5, None),
        f"core-sets / facility location, {budget:,} selected, s": (20, None),
    }
    size = 10_000_000 if part == "scans" else 1_000_000
    return [
        *(
            Target(figure, most=most, floor=floor, items=size)
            for figure, (most, floor) in bounds.items()
            if figure.startswith(part)
        ),
        Target(f"{part} / {WORK}", most=4 * GPU_BLOCK / 2**30, items=0),
    ]


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--device", default="cuda", help="cuda, cuda:1 or torch:cpu")
    options.add_argument("--items", type=int, default=10_000_000, help="of scans")
    options.add_argument("--smaller", type=int, default=1_000_000, help="of tables and core-sets")
    options.add_argument("--only", choices=PARTS, action="append", help="a part; may be repeated")
    options.add_argument("--out", type=Path, help="a JSON file for the figures")
    given = options.parse_args()
    device, parts = torch_device(given.device), given.only or PARTS
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else given.device
    page = Page(Console(width=140))
    page.say(f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}, {os.cpu_count()} CPUs")
    budget = min(10_000, max(1, given.smaller // 100))
    found: dict[str, Any] = {"device": name, "torch": torch.__version__}
    for part in parts:
        items = given.items if part == "scans" else given.smaller
        stored, clusters = draw(items, DIMENSION, device)
        pool = rows_on(given.device, stored)
        with threadpool_limits(1, user_api="blas"):  # as in a server
            match part:
                case "scans":
                    figures = measure_scans(pool, device)
                case "table":
                    figures = measure_table(pool)
                case _:
                    figures = measure_core_sets(pool, clusters, budget)
        found[part] = figures | beside_the_vectors(pool, device)
        page.show(grid(part, found, items, budget))
        del pool
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
