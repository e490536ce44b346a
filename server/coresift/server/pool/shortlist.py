"""Which pairs may be among the nearest, on float32 evidence; float64 decides."""

from __future__ import annotations

import numpy as np

from coresift.server.arrays import Bools, Float32s, Float64s, Int64s, Rows
from coresift.server.pool.canonical import best_first
from coresift.server.pool.rows import VectorRows
from coresift.server.pool.thresholds import order_by

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
        self._limit = k * len(vectors)  # the first block sets floors for all others

    def add(self, queries: Int64s, rows: Rows, values: Float32s) -> None:
        """Consider pairs; each pair may come once."""
        self._queries.append(queries)
        self._rows.append(rows)
        self._values.append(values)
        self._size += len(rows)
        if self._size > self._limit:
            self.prune()

    def best(self) -> tuple[Int64s, Rows, Float64s]:
        """The k nearest of each query (fewer if fewer were added), canonical: query, row,
        similarity."""
        self.prune()
        queries, rows = self._queries[0], self._rows[0]
        similarities = self._pool.similarities(rows, self._vectors, queries)
        order = best_first(queries, rows, similarities)
        order = order[_rank(queries[order]) < self._k]
        return queries[order], rows[order], similarities[order]

    def prune(self) -> None:
        """Let go of what cannot be among the k nearest, and raise the floors."""
        queries = np.concatenate(self._queries)
        rows = np.concatenate(self._rows)
        values = np.concatenate(self._values)
        order = order_by(queries, values)
        queries, rows, values = queries[order], rows[order], values[order]
        kth = np.flatnonzero(_rank(queries) == self._k - 1)
        owner = queries[kth]
        self.floor[owner] = np.maximum(self.floor[owner], values[kth] - self.slack[owner])
        keep = values >= self.floor[queries]
        for query in np.flatnonzero(np.bincount(queries[keep]) > 4 * self._k + _CROWD):
            self._prune_exactly(int(query), queries, rows, keep)
        self._set(queries[keep], rows[keep], values[keep])

    def _prune_exactly(self, query: int, queries: Int64s, rows: Rows, keep: Bools) -> None:
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


def _rank(groups: Int64s) -> Int64s:
    """Place of each element among its equals, for sorted ``groups``."""
    return np.arange(len(groups)) - np.searchsorted(groups, groups)


def _up(values: Float64s) -> Float32s:
    return np.nextafter(values.astype(np.float32), np.float32(np.inf))
