"""Shortlists from bfloat16 products: a proven bound says what they cannot rule out.

bfloat16 has 8 significant bits: rounding moves a vector by up to 2^-8 of its length. Products of
rounded vectors tell which pairs are worth a float32 product, and only these get one: what leaves
this module are float32 similarities, as good as those of `HostCompute`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from coresift.server.arrays import Bools, Float32s, Float64s, Int64s
from coresift.server.pool.canonical import Metric
from coresift.server.pool.compute import HostCompute
from coresift.server.pool.half_gain import one_thread
from coresift.server.pool.segment import Segment
from coresift.server.pool.thresholds import places
from coresift.server.pool.widen import scratch, widen

if TYPE_CHECKING:
    import torch

_PAIRS = 512
"""Pairs that get a float32 product at a time: copies of their vectors stay in the cache."""
_SPARSE = 64
"""Float32 products of each 64th pair cost about as much as one product of all."""

_scratch = threading.local()


@dataclass(frozen=True, slots=True)
class HalfQueries:
    """Queries and their roundings.

    Attributes:
        exact: float32 [q, d].
        rounded: bfloat16 [q, d].
        lengths: float64 [q], no less than those of the roundings.
        lost: float64 [q], no less than the distances of queries and roundings.
    """

    exact: Float32s
    rounded: torch.Tensor
    lengths: Float64s
    lost: Float64s

    @classmethod
    def of(cls, queries: Float32s) -> HalfQueries:
        import torch

        with one_thread():
            rounded = torch.tensor(queries).to(torch.bfloat16)
            wide = rounded.float().numpy()
        return cls(queries, rounded, _lengths(wide), _lengths(wide - queries))


class HalfRows:
    """The rows of a mapped segment, rounded block by block when they are needed."""

    def __init__(self, segment: Segment, metric: Metric) -> None:
        self._segment = segment
        self._metric = metric
        self._host = HostCompute(segment, metric)
        self._bounds: dict[tuple[int, int], tuple[float, float]] = {}

    def nearest(
        self, start: int, stop: int, queries: HalfQueries, k: int, floor: Float32s, slack: Float32s
    ) -> tuple[Int64s, Int64s, Float32s]:
        """As `Compute.nearest`, with similarities in float32; on one thread.

        Where many pairs come near their floor, all of them get a float32 product.
        """
        import torch

        if np.isneginf(floor).any():
            return self._host.nearest(start, stop, queries.exact, k, floor, slack)
        with one_thread():
            rows = self._vectors(start, stop)
            rounded = _buffer("rows", rows.shape).copy_(torch.from_numpy(rows))
            longest, lost = self._bounds_of(start, stop, rows, rounded)
            shape = len(queries.exact), len(rows)
            products = torch.mm(queries.rounded, rounded.T, out=_buffer("products", shape))
            error = _error(queries, longest, lost)
            if self._metric == "l2":
                wanted = self._closer(start, stop, products, queries, floor, error, longest)
            else:
                wanted = _reach(products, floor - error)
        query, slot = places(wanted)
        if len(query) * _SPARSE > wanted.size:
            return self._host.nearest(start, stop, queries.exact, k, floor, slack)
        values = _pair_values(self._metric, rows, slot, queries.exact, query)
        kept = np.flatnonzero(values >= floor[query])
        return query[kept], slot[kept] + start, values[kept]

    def _vectors(self, start: int, stop: int) -> Float32s:
        """As `Compute.vectors`, until this thread's next call; NumPy takes ten times as long to
        widen float16."""
        import torch

        stored = self._segment.stored[start:stop]
        if stored.dtype == np.float32:
            return widen(stored)
        rows = scratch((len(stored), stored.shape[1]))
        torch.from_numpy(rows).copy_(torch.from_numpy(stored))
        if self._segment.unit and self._segment.norms is not None:
            rows /= self._segment.norms[start:stop, None]
        return rows

    def _bounds_of(
        self, start: int, stop: int, rows: Float32s, rounded: torch.Tensor
    ) -> tuple[float, float]:
        """No less than the length of any row, and than its distance to its rounding."""
        bounds = self._bounds.get((start, stop))
        if bounds is None:
            lost = rounded.float().numpy()
            lost -= rows
            bounds = float(_lengths(rows).max()), float(_lengths(lost).max())
            self._bounds[start, stop] = bounds
        return bounds

    def _closer(
        self,
        start: int,
        stop: int,
        products: torch.Tensor,
        queries: HalfQueries,
        floor: Float32s,
        error: Float64s,
        longest: float,
    ) -> Bools:
        """Pairs that may reach their floor of minus |x - q|^2 = 2 (x.q - |x|^2 / 2) - |q|^2."""
        closeness = products.float().numpy()
        if self._segment.norms is not None:
            closeness -= np.square(self._segment.norms[start:stop]) / np.float32(2)
        lengths = _lengths(queries.exact)
        # Of the rounded sum, which is compared as it is, and of the float32 arithmetic here.
        error = error + 2.0**-7 * longest * lengths + 2.0**-20 * (longest + lengths) ** 2
        wide = queries.exact.astype(np.float64)
        least = (floor + np.einsum("ij,ij->i", wide, wide)) / 2 - error
        wanted: Bools = closeness >= _down(least)[:, None]
        return wanted


def _error(queries: HalfQueries, longest: float, lost: float) -> Float64s:
    """How far a sum of products of roundings may be from the inner product, float64 [q].

    With x', q' the roundings of x, q: x.q - x'.q' = (x - x').q' + x.(q - q'), by Cauchy-Schwarz
    at most |x - x'| |q'| + |x| |q - q'|. Both distances are measured (they are about 0.4 of the
    2^-8 |x| that the format allows). A product of two bfloat16 is exact in float32; d of them
    summed in any order, each step rounded or cut, are within 2 d 2^-24 |x'| |q'| (Higham,
    Accuracy and Stability of Numerical Algorithms, section 3.1; d + 2 covers its second order).
    Subnormal numbers may count as zero: as operands that costs 2^-126 times the sum of the
    other's absolute values, as results 2^-126 each.
    """
    dimension = queries.exact.shape[1]
    rounded = longest + lost
    sums = 2.0 * (dimension + 2) * 2.0**-24 * rounded * queries.lengths
    tiny = 2.0**-126 * (2 * dimension + np.sqrt(dimension) * (rounded + queries.lengths))
    error: Float64s = lost * queries.lengths + longest * queries.lost + sums + tiny
    return error


def _lengths(vectors: Float32s) -> Float64s:
    """No less than the lengths of float32 vectors, nor much more, float64 [n].

    Squares that underflow in float32 are made up for.
    """
    dimension = vectors.shape[1]
    squares = np.einsum("ij,ij->i", vectors, vectors).astype(np.float64)
    lengths: Float64s = np.sqrt(squares * (1 + (dimension + 2) * 2.0**-23) + dimension * 2.0**-126)
    return lengths


def _reach(products: torch.Tensor, least: Float64s) -> Bools:
    """Which sums of products may reach ``least``, bool [q, m].

    Rounding a sum to bfloat16 is monotone: where the sum reaches a threshold, the rounded sum
    reaches the rounded threshold. Positive numbers of bfloat16 are ordered as the integers of
    their bits, and what is negative is a negative integer.
    """
    import torch

    rounded = torch.from_numpy(_down(least)).to(torch.bfloat16)
    reach: Bools
    if (rounded > 0).all():
        bits = rounded.view(torch.int16).numpy()
        reach = products.view(torch.int16).numpy() >= bits[:, None]
    else:
        reach = products.float().numpy() >= rounded.float().numpy()[:, None]
    return reach


def _pair_values(
    metric: Metric, X: Float32s, slots: Int64s, Q: Float32s, queries: Int64s
) -> Float32s:
    """Similarities of the pairs (X[slots[i]], Q[queries[i]]), summed in float32, float32 [n]."""
    values = np.empty(len(slots), np.float32)
    for start in range(0, len(slots), _PAIRS):
        part = slice(start, start + _PAIRS)
        x, q = X.take(slots[part], axis=0), Q.take(queries[part], axis=0)
        if metric == "l2":
            x -= q
            values[part] = -np.einsum("ij,ij->i", x, x)
        else:
            values[part] = np.einsum("ij,ij->i", x, q)
    return values


def _down(values: Float64s) -> Float32s:
    return np.nextafter(values.astype(np.float32), np.float32(-np.inf))


def _buffer(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Memory of this thread for bfloat16 that lasts until its next call."""
    import torch

    size = shape[0] * shape[1]
    buffer: torch.Tensor | None = getattr(_scratch, name, None)
    if buffer is None or len(buffer) < size:
        buffer = torch.empty(size, dtype=torch.bfloat16)
        setattr(_scratch, name, buffer)
    return buffer[:size].view(shape)
