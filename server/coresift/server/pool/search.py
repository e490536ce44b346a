"""Nearest rows: a float32 shortlist with a proven margin, then canonical order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from coresift.server.arrays import Float32s, Float64s, Int64s, Rows
from coresift.server.pool.canonical import best_first
from coresift.server.pool.compute import Compute
from coresift.server.pool.parallel import in_order
from coresift.server.pool.rows import Stop, VectorRows, check
from coresift.server.pool.segment import Segment

QUERY_ROWS = 512
"""Queries answered together: large enough for full speed of the products, and few enough
that block x queries fits in 32 MiB."""

_SEARCH_SLOTS = 8192

_CROWD = 4096
"""Pairs beyond k that one query may keep on float32 evidence; more are near-ties (duplicate
rows), and only exact similarities can tell them apart."""


class Shortlist:
    """The pairs (query, row) that may still be among the k nearest of their query.

    A pair stays while its float32 similarity is within twice the error bound of the query's
    k-th best so far: a true neighbour can be no lower.
    """

    def __init__(self, pool: VectorRows, vectors: Float32s, k: int) -> None:
        self._pool = pool
        self._vectors = vectors
        self._k = k
        error = pool.error(vectors)
        self.slack: Float32s = _up(2 * error)
        self._error = error
        self.floor: Float32s = np.full(len(vectors), -np.inf, np.float32)
        self._queries = [np.empty(0, np.int64)]
        self._rows = [np.empty(0, np.int32)]
        self._values = [np.empty(0, np.float32)]
        self._size = 0
        self._limit = 3 * k * len(vectors) // 2

    def add(self, queries: Int64s, rows: Rows, values: Float32s) -> None:
        """Consider pairs; each pair may come once."""
        self._queries.append(queries)
        self._rows.append(rows)
        self._values.append(values)
        self._size += len(rows)
        if self._size > self._limit:
            self._prune()

    def best(self) -> tuple[Int64s, Rows, Float64s]:
        """The k nearest of each query (fewer if fewer were added), canonical: query, row,
        similarity."""
        self._prune()
        queries, rows = self._queries[0], self._rows[0]
        similarities = self._pool.similarities(rows, self._vectors, queries)
        order = best_first(queries, rows, similarities)
        order = order[_rank(queries[order]) < self._k]
        return queries[order], rows[order], similarities[order]

    def _prune(self) -> None:
        queries = np.concatenate(self._queries)
        rows = np.concatenate(self._rows)
        values = np.concatenate(self._values)
        order = np.lexsort((-values, queries))
        queries, rows, values = queries[order], rows[order], values[order]
        kth = np.flatnonzero(_rank(queries) == self._k - 1)
        owner = queries[kth]
        self.floor[owner] = np.maximum(self.floor[owner], values[kth] - self.slack[owner])
        keep = values >= self.floor[queries]
        for query in np.flatnonzero(np.bincount(queries[keep]) > 4 * self._k + _CROWD):
            self._prune_exactly(int(query), queries, rows, keep)
        self._set(queries[keep], rows[keep], values[keep])

    def _prune_exactly(
        self, query: int, queries: Int64s, rows: Rows, keep: np.typing.NDArray[np.bool_]
    ) -> None:
        mine = np.flatnonzero((queries == query) & keep)
        exact = self._pool.similarities(rows[mine], self._vectors, queries[mine])
        best = best_first(queries[mine], rows[mine], exact)[: self._k]
        keep[mine] = False
        keep[mine[best]] = True
        lowest = np.float32(exact[best[-1]] - self._error[query])
        lowest = np.nextafter(lowest, np.float32(-np.inf))
        self.floor[query] = max(self.floor[query], lowest)

    def _set(self, queries: Int64s, rows: Rows, values: Float32s) -> None:
        self._queries, self._rows, self._values = [queries], [rows], [values]
        self._size = len(rows)
        self._limit = self._size + self._k * len(self._vectors) // 2


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
    for segment, compute in zip(pool.segments, pool.computes, strict=True):
        if segment.first < first_row:
            continue
        step = max(_SEARCH_SLOTS, compute.block_bytes // (4 * QUERY_ROWS))

        def nearest(
            start: int,
            step: int = step,
            items: int = segment.items,
            compute: Compute = compute,
        ) -> tuple[Int64s, Int64s, Float32s]:
            check(stop)
            # The floor may rise meanwhile: an older one only lets a few more pairs through.
            end = min(items, start + step)
            return compute.nearest(start, end, batch, k, shortlist.floor, shortlist.slack)

        starts = range(0, segment.items, step)
        for queries, slots, values in (
            in_order(nearest, starts) if compute.spread else map(nearest, starts)
        ):
            shortlist.add(queries, _rows_of(segment, slots), values)


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
    for start in range(0, len(vectors), QUERY_ROWS):
        batch = vectors[start : start + QUERY_ROWS]
        nearest, _ = exact_search(centroids, batch, min(probes, centroids.items), stop)
        shortlist = Shortlist(pool, batch, k)
        for number, askers in _by_list(nearest):
            check(stop)
            _visit_list(pool, batch, k, shortlist, number, askers)
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
) -> None:
    for segment, compute in zip(pool.segments, pool.computes, strict=True):
        if segment.maps is None:
            continue
        start, end = (int(slot) for slot in segment.maps.lists[number : number + 2])
        if start == end:
            continue
        queries, slots, values = compute.nearest(
            start, end, batch[askers], k, shortlist.floor[askers], shortlist.slack[askers]
        )
        shortlist.add(askers[queries], _rows_of(segment, slots), values)


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


def _rank(groups: Int64s) -> Int64s:
    """Place of each element among its equals, for sorted ``groups``."""
    return np.arange(len(groups)) - np.searchsorted(groups, groups)


def _up(values: Float64s) -> Float32s:
    return np.nextafter(values.astype(np.float32), np.float32(np.inf))
