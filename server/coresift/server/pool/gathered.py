"""Rows brought together from anywhere in a pool, where its products are taken.

What is to be compared with many rows again and again goes there once: of a product of thousands of
rows with thousands three numbers a row come back, and the pairs that these leave open.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from coresift.server.arrays import Float32s, Float64s, Int64s, Rows
from coresift.server.pool.device_compute import DeviceCompute, download
from coresift.server.pool.rows import VectorRows
from coresift.server.pool.thresholds import SPREAD

if TYPE_CHECKING:
    import torch

_HOST_BYTES = 4 * 2**20
"""Of a product on the host."""

Pairs = tuple[Int64s, Int64s]
"""Places in one list of rows, and beside them places in another, int64 [n]."""


class Gathered(Protocol):
    """Rows, and how near they are to others: by ``x . y - |y|^2 / 2``, in float32."""

    def __len__(self) -> int: ...

    def vectors(self, places: Int64s) -> Float32s:
        """Of some, float32 [n, d]: bit by bit those of `Pool.fetch`."""
        ...

    def squares(self) -> Float64s:
        """Squared lengths, float64 [m]."""
        ...

    def closest(self, others: Self) -> tuple[Int64s, Float32s, Float32s]:
        """The nearest of the others to each row, int64 [m]; how near it is, float32 [m]; and how
        near the second is, -inf where there is none."""
        ...

    def near(self, places: Int64s, others: Self, least: Float32s, most: int) -> Pairs | None:
        """Pairs of some rows and the others that are as near as ``least``, float32 [n]: numbers
        0..n-1 of the rows, ascending, and the others, ascending for each row. None if there are
        more than ``most``."""
        ...


class Gathering:
    """Brings rows of a pool together.

    Attributes:
        spread: whether several threads may do so at once.
        breadth: how many times larger than on the host the two sides of a product should be.
    """

    def __init__(self, pool: VectorRows) -> None:
        self._pool = pool
        self.spread = not pool.is_on_device
        wide = pool.computes[0].block_bytes if pool.is_on_device else _HOST_BYTES
        self.breadth = math.isqrt(max(1, wide // _HOST_BYTES))

    def of(self, rows: Rows) -> Gathered:
        """These rows of the pool, int32 [m]."""
        if self._pool.is_on_device:
            return _OnDevice(self._pool, rows)
        return _OnHost(self._pool.fetch(rows))

    def cosines(self, rows: Rows) -> _CosinesOnDevice | None:
        """Of some rows by their positions among these; None where they are taken on the host."""
        return _CosinesOnDevice(self._pool, rows) if self._pool.is_on_device else None


class _OnHost:
    """Vectors by themselves."""

    def __init__(self, vectors: Float32s) -> None:
        self._vectors = vectors
        self._products: Float32s
        self._best: tuple[Int64s, Float32s]

    def __len__(self) -> int:
        return len(self._vectors)

    def vectors(self, places: Int64s) -> Float32s:
        return self._vectors[places]

    def squares(self) -> Float64s:
        wide = self._vectors.astype(np.float64)
        return np.asarray(np.vecdot(wide, wide))

    def closest(self, others: Self) -> tuple[Int64s, Float32s, Float32s]:
        rows = np.arange(len(self._vectors))
        products = self._vectors @ others._vectors.T
        products -= others.squares().astype(np.float32) / 2
        which = products.argmax(axis=1)
        best = products[rows, which]
        products[rows, which] = -np.inf
        self._products, self._best = products, (which, best)  # for `near`
        return which, best, products[rows, products.argmax(axis=1)]

    def near(self, places: Int64s, others: Self, least: Float32s, most: int) -> Pairs | None:
        products, (which, best) = self._products[places], self._best
        products[np.arange(len(places)), which[places]] = best[places]
        found = np.flatnonzero(products >= least[:, None])
        if len(found) > most:
            return None
        at, of = np.divmod(found, self._products.shape[1])
        return at, of


class _OnDevice:
    """Copies on the device. Products do not stay there: others need the room."""

    def __init__(self, pool: VectorRows, rows: Rows) -> None:
        self._pool, self._rows = pool, rows
        self._turn = _computes(pool)[0].turn
        with self._turn():
            self._vectors = _gathered(pool, rows)

    def __len__(self) -> int:
        return len(self._rows)

    def vectors(self, places: Int64s) -> Float32s:
        return self._pool.fetch(self._rows[places])

    def squares(self) -> Float64s:
        with self._turn():
            squares: Float64s = self._squares().cpu().numpy()
            return squares

    def closest(self, others: Self) -> tuple[Int64s, Float32s, Float32s]:
        with self._turn():
            products = self._nearness(self._vectors, others)
            best, which = products.max(dim=1)
            products.scatter_(1, which[:, None], -math.inf)
            return which.cpu().numpy(), download(best), download(products.amax(dim=1))

    def near(self, places: Int64s, others: Self, least: Float32s, most: int) -> Pairs | None:
        import torch

        with self._turn():
            device = self._vectors.device
            some = self._vectors[torch.tensor(places, device=device)]
            found = self._nearness(some, others) >= torch.tensor(least, device=device)[:, None]
            if int(found.count_nonzero()) > most:
                return None
            at, of = torch.nonzero(found, as_tuple=True)
            return at.cpu().numpy(), of.cpu().numpy()

    def _nearness(self, vectors: torch.Tensor, others: Self) -> torch.Tensor:
        products = vectors @ others._vectors.T
        products -= others._squares().float() / 2
        return products

    def _squares(self) -> torch.Tensor:
        return _lengths(self._vectors).square()


class _CosinesOnDevice:
    """`self_join.Products` of rows' directions. Nothing stays on the device from call to call."""

    def __init__(self, pool: VectorRows, rows: Rows) -> None:
        self._pool, self._rows = pool, rows
        self._turn = _computes(pool)[0].turn
        self.breadth = max(1, Gathering(pool).breadth // 2)  # room for where all tie

    def these(self, positions: Int64s) -> Int64s:
        return positions

    def largest(
        self, mine: Int64s, others: Int64s, own: tuple[Int64s, Int64s], floor: Float32s, k: int
    ) -> tuple[Int64s, Int64s, Float32s]:
        import torch

        with self._turn():
            products = self._directions(mine) @ self._directions(others).T
            device = products.device
            products[tuple(torch.tensor(side, device=device) for side in own)] = -math.inf
            least = torch.tensor(floor, device=device)[:, None]
            kth = products.topk(min(k, len(others)), dim=1).values[:, -1:]
            if len(others) >= k:
                least = torch.maximum(least, kth)
            above = products >= least
            if int(above.count_nonzero()) > SPREAD * k * len(mine) and len(others) > k:
                equal = products == kth
                above = products > kth
                room = k - above.sum(dim=1, keepdim=True)
                above |= equal & (equal.cumsum(dim=1, dtype=torch.int32) <= room)
                above &= products >= least
            rows, columns = torch.nonzero(above, as_tuple=True)
            return rows.cpu().numpy(), columns.cpu().numpy(), download(products[rows, columns])

    def _directions(self, positions: Int64s) -> torch.Tensor:
        vectors = _gathered(self._pool, self._rows[positions])
        if self._pool.metric != "cosine":
            lengths = _lengths(vectors)
            lengths[lengths == 0] = 1
            vectors = (vectors / lengths[:, None]).float()
        return vectors


def _computes(pool: VectorRows) -> list[DeviceCompute]:
    return [compute for compute in pool.computes if isinstance(compute, DeviceCompute)]


def _gathered(pool: VectorRows, rows: Rows) -> torch.Tensor:
    """Vectors of rows, float32 [m, d], on the device; within a turn."""
    import torch

    computes = _computes(pool)
    device = computes[0].device
    vectors = torch.empty((len(rows), pool.dimension), device=device)
    for segment, compute in zip(pool.segments, computes, strict=True):
        [mine] = np.nonzero((rows >= segment.first) & (rows < segment.first + segment.items))
        slots = rows[mine] - np.int32(segment.first)
        if segment.maps is not None:
            slots = segment.maps.row_slots[slots]
        vectors[torch.tensor(mine, device=device)] = compute.gathered(slots)
    return vectors


def _lengths(vectors: torch.Tensor) -> torch.Tensor:
    """Lengths of vectors, float64 [m]."""
    import torch

    lengths: torch.Tensor = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)
    return lengths
