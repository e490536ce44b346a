"""Products with the rows of a segment, wherever these live."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from coresift.server.arrays import Float32s, Int64s
from coresift.server.pool.canonical import Metric
from coresift.server.pool.kernels import has_wide_kernels
from coresift.server.pool.segment import Segment
from coresift.server.pool.thresholds import lower_bounds, places
from coresift.server.pool.widen import scratch, widen


class Compute(Protocol):
    """Products with the rows of a segment, wherever these live. All in slot order."""

    block_bytes: int
    """How much float32 a block should hold."""

    spread: bool
    """Whether blocks may be worked on by several threads at once."""

    def vectors(self, start: int, stop: int) -> Float32s:
        """Vectors of the slots [start, stop), float32 [m, d]."""
        ...

    def product(self, start: int, stop: int, matrix: Float32s) -> Float32s:
        """Vectors times ``matrix`` [d, c]: float32 [m, c]."""
        ...

    def nearest(
        self, start: int, stop: int, queries: Float32s, k: int, floor: Float32s, slack: Float32s
    ) -> tuple[Int64s, Int64s, Float32s]:
        """Pairs (query, slot, similarity) that may belong to the k nearest of a query.

        Holds at least every pair whose similarity reaches the query's ``floor`` and the k-th
        best of these slots less ``slack``.
        """
        ...


class HostCompute:
    """Blocked NumPy products over the mapped rows."""

    block_bytes = 16 * 2**20
    spread = True

    def __init__(self, segment: Segment, metric: Metric) -> None:
        self._segment = segment
        self._metric = metric

    def vectors(self, start: int, stop: int) -> Float32s:
        vectors = widen(self._segment.stored[start:stop])
        if self._segment.unit and self._segment.norms is not None:
            vectors /= self._segment.norms[start:stop, None]
        return vectors

    def product(self, start: int, stop: int, matrix: Float32s) -> Float32s:
        segment = self._segment
        products = _products(self._raw(start, stop), matrix)
        if segment.unit and segment.norms is not None:
            products /= segment.norms[start:stop, None]
        return products

    def nearest(
        self, start: int, stop: int, queries: Float32s, k: int, floor: Float32s, slack: Float32s
    ) -> tuple[Int64s, Int64s, Float32s]:
        similarities = self._similarities(start, stop, queries)
        wanted = similarities >= floor[:, None]
        slots = stop - start
        if slots > k and np.count_nonzero(wanted) > 2 * k * len(queries):
            least = np.maximum(floor, lower_bounds(similarities, k) - slack)
            wanted = similarities >= least[:, None]
        query, slot = places(wanted)
        return query, slot + start, similarities[query, slot]

    def _similarities(self, start: int, stop: int, queries: Float32s) -> Float32s:
        segment = self._segment
        similarities: Float32s = queries @ self._raw(start, stop).T
        if segment.norms is None:
            return similarities
        if self._metric == "l2":
            similarities *= np.float32(2)
            similarities -= np.square(segment.norms[start:stop])
            similarities -= np.einsum("ij,ij->i", queries, queries)[:, None]
        elif segment.unit:
            similarities /= segment.norms[start:stop]
        return similarities

    def _raw(self, start: int, stop: int) -> Float32s:
        stored = self._segment.stored[start:stop]
        if stored.dtype == np.float32:
            return widen(stored)
        out = scratch((len(stored), stored.shape[1]))
        return widen(stored, out)


def _products(vectors: Float32s, matrix: Float32s) -> Float32s:
    """``vectors @ matrix``, in the shape that the kernels do without an edge to their tiles."""
    count = matrix.shape[1]
    if count == 1:
        return vectors @ matrix
    if has_wide_kernels():
        columns = np.zeros((len(matrix), _whole(count, 4 if count <= 4 else 16)), np.float32)
        columns[:, :count] = matrix
        return (vectors @ columns)[:, :count]
    # By AVX2 it takes half as long where each column stands in one piece.
    lines = np.zeros((_whole(count, 4), len(matrix)), np.float32)
    lines[:count] = matrix.T
    return (lines @ vectors.T)[:count].T


def _whole(count: int, tile: int) -> int:
    return -(-count // tile) * tile
