"""The vectors of a pool: fetch them, scan them in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import cycle
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from coresift.server.arrays import Float32s, Float64s, Int64s, Rows
from coresift.server.pool.canonical import Metric, pair_similarities, product_error
from coresift.server.pool.compute import Compute
from coresift.server.pool.device import compute_for
from coresift.server.pool.failures import Cancelled
from coresift.server.pool.half import HalfRows
from coresift.server.pool.parallel import in_order
from coresift.server.pool.row_kernels import RowKernels
from coresift.server.pool.segment import Segment

A = TypeVar("A")
G = TypeVar("G")
T = TypeVar("T")

Stop = Callable[[], bool]

_PAIRS = 1024
"""Vectors fetched at a time to re-score pairs: their copies stay in the cache."""


class Block:
    """Some rows of the pool, ascending, and what can be computed on them."""

    def __init__(self, segment: Segment, compute: Compute, start: int, stop: int) -> None:
        self._compute = compute
        self._start = start
        self._stop = stop
        rows = segment.rows_at(start, stop)
        self._order: Int64s | None = None
        if segment.maps is not None:
            self._order = np.argsort(rows)
            rows = rows[self._order]
        self.rows: Rows = rows
        """int32 [m], ascending."""

    def product(self, matrix: Float32s) -> Float32s:
        """The rows' vectors times a float32 [d, c] matrix: float32 [m, c].

        Computed where the block lives; within `product_error` of the exact product.
        """
        return self._in_row_order(self._compute.product(self._start, self._stop, matrix))

    def vectors(self) -> Float32s:
        """The rows' vectors, float32 [m, d], read-only: they may be the mapped rows themselves."""
        vectors = self._in_row_order(self._compute.vectors(self._start, self._stop))
        vectors.flags.writeable = False
        return vectors

    def _in_row_order(self, array: Float32s) -> Float32s:
        return array if self._order is None else array[self._order]


class VectorRows:
    """The vectors of all segments, as the metric sees them."""

    def __init__(
        self,
        segments: Sequence[Segment],
        metric: Metric,
        max_norm: float,
        device: str = "cpu",
    ) -> None:
        self.segments = tuple(segments)
        self.computes = tuple(compute_for(segment, metric, device) for segment in segments)
        self.halves = tuple(
            HalfRows(segment, metric) if device == "cpu" else None for segment in segments
        )
        self.is_on_device = device != "cpu"
        """Whether they live on a torch device: what leaves it takes its time."""
        self.metric: Metric = metric
        self.max_norm = max_norm
        self.items = sum(segment.items for segment in segments)
        self.dimension = int(segments[0].stored.shape[1])
        self.kernels = RowKernels(self.items * self.dimension)
        """What computes on copies of many of the rows."""
        self._firsts = np.array([segment.first for segment in segments])

    def fetch(self, rows: npt.NDArray[Any]) -> Float32s:
        """Vectors of rows, float32 [n, d]. IndexError for a row that does not exist."""
        if len(rows) and not (rows.min() >= 0 and rows.max() < self.items):
            raise IndexError(f"rows must be 0..{self.items - 1}")
        if len(self.segments) == 1:
            return self.segments[0].take(rows)
        vectors = np.empty((len(rows), self.dimension), np.float32)
        owner = np.searchsorted(self._firsts, rows, side="right") - 1
        for number, segment in enumerate(self.segments):
            mine = np.flatnonzero(owner == number)
            if len(mine):
                vectors[mine] = segment.take(rows[mine] - segment.first)
        return vectors

    def scan(self, visit: Callable[[Block], T], *, stop: Stop | None = None) -> Iterator[T]:
        """What ``visit`` makes of each block, in a fixed order. Cancelled once ``stop`` says so.

        ``visit`` runs on several threads at once.
        """

        def work(block: Callable[[], Block]) -> T:
            check(stop)
            return visit(block())

        return self._spread(work, self.blocks())

    def scan_around(
        self, first: int, visit: Callable[[Block, G], T], given: Iterable[G]
    ) -> Iterator[T]:
        """What ``visit`` makes of each block, from the ``first`` on and around, with what is given
        for it, until nothing more is given. That is asked for on this thread, some blocks ahead."""

        def work(part: tuple[Callable[[], Block], G]) -> T:
            block, with_it = part
            return visit(block(), with_it)

        blocks = self.blocks()
        around = cycle([*blocks[first:], *blocks[:first]])
        # What is given comes first: nothing of it is lost.
        return self._spread(work, ((next(around), with_it) for with_it in given))

    def blocks(self) -> list[Callable[[], Block]]:
        """All blocks, in a fixed order; whoever works on one makes it."""
        return [
            partial(Block, segment, compute, *span)
            for segment, compute in zip(self.segments, self.computes, strict=True)
            for span in self.spans(segment.items, compute)
        ]

    def _spread(self, work: Callable[[A], T], parts: Iterable[A]) -> Iterator[T]:
        on_cores = all(compute.spread for compute in self.computes)
        return in_order(work, parts) if on_cores else map(work, parts)

    def spans(self, items: int, compute: Compute) -> Iterator[tuple[int, int]]:
        """Half-open blocks of ``items`` slots."""
        step = max(64, compute.block_bytes // (4 * self.dimension))
        for start in range(0, items, step):
            yield start, min(items, start + step)

    def similarities(self, rows: Rows, vectors: Float32s, which: npt.NDArray[Any]) -> Float64s:
        """Canonical similarities of pairs (rows[i], vectors[which[i]]), float64 [n]."""
        result = np.empty(len(rows), np.float64)
        for start in range(0, len(rows), _PAIRS):
            end = start + _PAIRS
            pairs = self.fetch(rows[start:end]), vectors[which[start:end]]
            result[start:end] = pair_similarities(self.metric, *pairs)
        return result

    def error(self, vectors: Float32s) -> Float64s:
        """Bound on the error of a block's similarities to each vector, float64 [q]."""
        wide = vectors.astype(np.float64)
        norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))
        return product_error(self.metric, self.dimension, self.max_norm, norms)


def check(stop: Stop | None) -> None:
    """Raise Cancelled if the caller is gone."""
    if stop is not None and stop():
        raise Cancelled
