"""Products with the rows of a segment, wherever these live."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from coresift.server.arrays import Float32s, Int64s
from coresift.server.pool.canonical import Metric
from coresift.server.pool.segment import Segment
from coresift.server.pool.thresholds import lower_bounds, places

_FEW = 32
"""Queries that are multiplied as columns."""


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
        vectors = self._segment.kernels.widen(self._segment.stored[start:stop])
        if self._segment.unit and self._segment.norms is not None:
            vectors /= self._segment.norms[start:stop, None]
        return vectors

    def product(self, start: int, stop: int, matrix: Float32s) -> Float32s:
        segment = self._segment
        products = segment.kernels.product(segment.stored[start:stop], matrix)
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
        stored = segment.stored[start:stop]
        similarities: Float32s
        if len(queries) <= _FEW:
            similarities = segment.kernels.product(stored, queries.T).T
        else:
            similarities = queries @ segment.kernels.in_scratch(stored).T
        if segment.norms is None:
            return similarities
        if self._metric == "l2":
            similarities *= np.float32(2)
            similarities -= np.square(segment.norms[start:stop])
            similarities -= np.einsum("ij,ij->i", queries, queries)[:, None]
        elif segment.unit:
            similarities /= segment.norms[start:stop]
        return similarities
