"""Nearest rows: a float32 shortlist with a proven margin, then canonical order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial

import numpy as np

from coresift.server.arrays import Float32s, Float64s, Int64s, Rows
from coresift.server.pool.compute import Compute
from coresift.server.pool.half import HalfQueries, HalfRows
from coresift.server.pool.half_gain import half_pays, one_thread
from coresift.server.pool.parallel import in_order
from coresift.server.pool.rows import Stop, VectorRows, check
from coresift.server.pool.segment import Segment
from coresift.server.pool.shortlist import Shortlist

QUERY_ROWS = 512
"""Queries answered together: large enough for full speed of the products, and few enough
that block x queries fits in 32 MiB."""

_Nearest = Callable[[int, int, int, Float32s, Float32s], tuple[Int64s, Int64s, Float32s]]
"""Start and stop, k, floor, slack: pairs as `Compute.nearest` finds them."""

_SEARCH_SLOTS = 8192


def exact_search(
    pool: VectorRows, vectors: Float32s, k: int, stop: Stop | None = None
) -> tuple[Rows, Float64s]:
    """The k nearest rows of each vector among all rows.

    Args:
        pool: the rows, at least k.
        vectors: float32 [q, d], as the metric demands them.
        k: at least 1.
        stop: asked between blocks; Cancelled once it says so.

    Returns:
        rows int32 [q, k] and similarities float64 [q, k], by similarity, then row.
    """
    rows = np.empty((len(vectors), k), np.int32)
    similarities = np.empty((len(vectors), k), np.float64)
    for start in range(0, len(vectors), QUERY_ROWS):
        batch = vectors[start : start + QUERY_ROWS]
        shortlist = Shortlist(pool, batch, k)
        scan_all(pool, batch, k, shortlist, stop)
        _, best_rows, best_similarities = shortlist.best()
        rows[start : start + QUERY_ROWS] = best_rows.reshape(len(batch), k)
        similarities[start : start + QUERY_ROWS] = best_similarities.reshape(len(batch), k)
    return rows, similarities


def scan_all(
    pool: VectorRows,
    batch: Float32s,
    k: int,
    shortlist: Shortlist,
    stop: Stop | None = None,
    first_row: int = 0,
) -> None:
    """Show the shortlist every row of the segments from ``first_row`` on."""
    for number, segment in enumerate(pool.segments):
        if segment.first < first_row:
            continue
        step, spread, nearest = _way(pool, number, batch)

        def some(
            start: int,
            step: int = step,
            items: int = segment.items,
            nearest: _Nearest = nearest,
        ) -> tuple[Int64s, Int64s, Float32s]:
            check(stop)
            # The floor may rise meanwhile: an older one only lets a few more pairs through.
            end = min(items, start + step)
            return nearest(start, end, k, shortlist.floor, shortlist.slack)

        starts = range(0, segment.items, step)
        for queries, slots, values in in_order(some, starts) if spread else map(some, starts):
            shortlist.add(queries, _rows_of(segment, slots), values)


def _way(pool: VectorRows, number: int, batch: Float32s) -> tuple[int, bool, _Nearest]:
    """How to look for the nearest rows of a segment: slots a block, whether the blocks may be
    spread over threads, and what finds them."""
    compute, half = pool.computes[number], pool.halves[number]
    if half is not None and half_pays(len(batch), pool.segments[number].items, pool.dimension):
        rounded = HalfQueries.of(batch)
        return (
            _SEARCH_SLOTS,
            True,
            lambda start, end, *rest: half.nearest(start, end, rounded, *rest),
        )
    step = max(_SEARCH_SLOTS, compute.block_bytes // (4 * QUERY_ROWS))
    return step, compute.spread or half is not None, partial(_nearest, compute, half, batch)


def _nearest(
    compute: Compute,
    half: HalfRows | None,
    queries: Float32s,
    start: int,
    stop: int,
    k: int,
    floor: Float32s,
    slack: Float32s,
) -> tuple[Int64s, Int64s, Float32s]:
    """`Compute.nearest`, on the calling thread alone where the rows are on this machine."""
    with nullcontext() if half is None or compute.spread else one_thread():
        return compute.nearest(start, stop, queries, k, floor, slack)


def list_search(
    pool: VectorRows,
    centroids: VectorRows,
    probes: int,
    vectors: Float32s,
    k: int,
    stop: Stop | None = None,
) -> tuple[Rows, Float64s]:
    """As `exact_search`, but only among the rows of each vector's nearest ``probes`` lists.

    Lists are chosen in canonical order, so the answer of a vector does not depend on its
    batch. A vector whose lists hold fewer than k rows is searched exactly.
    """
    rows = np.empty((len(vectors), k), np.int32)
    similarities = np.empty((len(vectors), k), np.float64)
    spread = all(half is not None for half in pool.halves)
    for start in range(0, len(vectors), QUERY_ROWS):
        batch = vectors[start : start + QUERY_ROWS]
        nearest, _ = exact_search(centroids, batch, min(probes, centroids.items), stop)
        shortlist = Shortlist(pool, batch, k)

        def visit(
            probed: tuple[int, Int64s], batch: Float32s = batch, shortlist: Shortlist = shortlist
        ) -> list[tuple[Int64s, Rows, Float32s]]:
            check(stop)
            return list(_visit_list(pool, batch, k, shortlist, *probed))

        for pairs in (
            in_order(visit, _by_list(nearest)) if spread else map(visit, _by_list(nearest))
        ):
            for part in pairs:
                shortlist.add(*part)
        queries, found, values = shortlist.best()
        counts = np.bincount(queries, minlength=len(batch))
        enough = counts[queries] == k
        full = counts == k
        rows[start:][: len(batch)][full] = found[enough].reshape(-1, k)
        similarities[start:][: len(batch)][full] = values[enough].reshape(-1, k)
        short = start + np.flatnonzero(~full)
        if len(short):
            rows[short], similarities[short] = exact_search(pool, vectors[short], k, stop)
    return rows, similarities


def _visit_list(
    pool: VectorRows, batch: Float32s, k: int, shortlist: Shortlist, number: int, askers: Int64s
) -> Iterator[tuple[Int64s, Rows, Float32s]]:
    """Pairs for the shortlist from a list of each segment."""
    for segment, compute, half in zip(pool.segments, pool.computes, pool.halves, strict=True):
        if segment.maps is None:
            continue
        start, end = (int(slot) for slot in segment.maps.lists[number : number + 2])
        if start == end:
            continue
        bounds = k, shortlist.floor[askers], shortlist.slack[askers]
        queries, slots, values = _nearest(compute, half, batch[askers], start, end, *bounds)
        yield askers[queries], _rows_of(segment, slots), values


def _by_list(nearest: Rows) -> Iterator[tuple[int, Int64s]]:
    """Each list that is probed, with the queries that probe it."""
    order = np.argsort(nearest, axis=None, kind="stable")
    numbers, starts = np.unique(nearest.ravel()[order], return_index=True)
    for number, queries in zip(
        numbers, np.split(order // nearest.shape[1], starts[1:]), strict=True
    ):
        yield int(number), queries


def _rows_of(segment: Segment, slots: Int64s) -> Rows:
    rows = slots if segment.maps is None else segment.maps.slot_rows[slots]
    return (rows + segment.first).astype(np.int32)
