"""The items that a core-set is chosen from: rows of a pool, all or some.

Methods speak of positions among the items, 0..n-1, and never of rows: a method that is run on
each class by itself sees smaller items and is otherwise the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from coresift.server.arrays import Float32s, Float64s, Int64s, Rows
from coresift.server.pool.parallel import CORES, in_order
from coresift.server.pool.pool import Pool
from coresift.server.pool.rows import Block, Stop, check

T = TypeVar("T")

BLOCK_BYTES = 4 * 2**20
"""Of gathered vectors: the allocator keeps blocks of this size."""
SCAN_BYTES = 2.0**24 * CORES
"""What a scan holds of vectors and what is computed on them, for estimates."""


class Part(Protocol):
    """Some items, and what can be computed on them."""

    @property
    def positions(self) -> Int64s:
        """int64 [m], ascending."""
        ...

    def vectors(self) -> Float32s:
        """float32 [m, d], read-only."""
        ...

    def product(self, matrix: Float32s) -> Float32s:
        """The vectors times a float32 [d, c] matrix: float32 [m, c]."""
        ...


@dataclass(frozen=True, slots=True)
class _Scanned:
    """A block of a pool whose rows are the positions."""

    block: Block

    @property
    def positions(self) -> Int64s:
        return self.block.rows.astype(np.int64)

    def vectors(self) -> Float32s:
        return self.block.vectors()

    def product(self, matrix: Float32s) -> Float32s:
        return self.block.product(matrix)


@dataclass(frozen=True, slots=True)
class _Gathered:
    """Vectors that were fetched."""

    positions: Int64s
    fetched: Float32s

    def vectors(self) -> Float32s:
        return self.fetched

    def product(self, matrix: Float32s) -> Float32s:
        return np.asarray(self.fetched @ matrix)


@dataclass(frozen=True, slots=True)
class Items:
    """Rows of a pool to choose from.

    Attributes:
        rows: int32 [n], ascending.
        stop: asked between blocks; true ends whatever runs with `Cancelled`.
    """

    pool: Pool
    rows: Rows
    stop: Stop

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def dimension(self) -> int:
        """Length d of a vector."""
        return self.pool.manifest.dimension

    @property
    def are_unit(self) -> bool:
        """Whether every vector has length 1, so that an inner product is the cosine."""
        return self.pool.manifest.metric == "cosine"

    def check(self) -> None:
        """Raise `Cancelled` if nobody wants the result any more."""
        check(self.stop)

    def fetch(self, positions: Int64s) -> Float32s:
        """Vectors of items, float32 [m, d], a copy."""
        return self.pool.fetch(self.rows[positions])

    def directions(self, positions: Int64s) -> Float32s:
        """Vectors of items scaled to length 1, float32 [m, d]; a zero vector stays."""
        return unit(self.fetch(positions), self.are_unit)

    def scan(self, visit: Callable[[Part], T]) -> Iterator[T]:
        """What ``visit`` makes of each part of the items, in a fixed order, on all cores."""
        n = len(self.rows)
        if n == self.pool.manifest.items:
            yield from self.pool.scan(lambda block: visit(_Scanned(block)), stop=self.stop)
            return
        step = max(64, BLOCK_BYTES // (4 * self.dimension))

        def gathered(start: int) -> T:
            self.check()
            positions = np.arange(start, min(n, start + step))
            return visit(_Gathered(positions, self.fetch(positions)))

        yield from in_order(gathered, range(0, n, step))


def unit(vectors: Float32s, are_unit: bool = False) -> Float32s:
    """Vectors scaled to length 1, float32 [m, d]; a zero vector stays."""
    if are_unit:
        return vectors
    return np.divide(vectors, divisors(vectors), out=np.empty_like(vectors), casting="same_kind")


def divisors(vectors: Float32s) -> Float64s:
    """What scales vectors to length 1, float64 [m, 1]: their lengths, and 1 for a zero vector."""
    lengths = np.sqrt(squared_lengths(vectors))[:, None]
    return np.where(lengths > 0, lengths, 1.0)


def squared_lengths(vectors: Float32s) -> Float64s:
    """Squared lengths of vectors, float64 [m], of rows of float32 without a copy of them all."""
    return np.asarray(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
