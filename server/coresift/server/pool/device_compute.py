"""Products with the rows of a segment on a torch device, in float32.

They are within `canonical.product_error`, since float32 is multiplied and summed with rounding to
the nearest: on GPUs too, as long as these take no TF32 (`device.torch_device` sees to that).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from coresift.server.arrays import Float32s, Int64s, Rows, Stored
from coresift.server.errors import CoresiftError, Reason, StartError
from coresift.server.pool.canonical import Metric
from coresift.server.pool.segment import Segment
from coresift.server.pool.widen import widen

if TYPE_CHECKING:
    import torch

    from coresift.server.pool.tensor_cores import Split

COPY_ROWS = 65_536
_CPU_BLOCK = 8 * 2**20
GPU_BLOCK = 512 * 2**20
"""Bytes. Each block costs the start of some kernels and a wait for their end, about 0.1 ms."""
_WAIT_S = 1.0

_turn = Lock()
"""One block at a time on GPUs: all threads share a stream there, and it is one block that
`device.require_room` leaves room for."""


@dataclass(frozen=True, slots=True)
class Column:
    """Weights that rows are multiplied with, on the device.

    Attributes:
        weights: float32 [d, 1].
        split: the same for tensor cores, whose products are within ``error``; None without them.
    """

    weights: torch.Tensor
    split: Split | None = None
    error: float = 0.0


class DeviceCompute:
    """Products on a torch device.

    On the CPU over the mapped rows themselves, on a GPU over a copy of the segment there. Work
    that finds no room on a GPU raises CoresiftError: OVERLOADED.
    """

    spread = False  # torch spreads each product itself

    def __init__(self, segment: Segment, metric: Metric, device: torch.device) -> None:
        import torch

        self._segment = segment
        self._metric = metric
        self.device = device
        self.block_bytes = _CPU_BLOCK if device.type == "cpu" else GPU_BLOCK
        try:
            self._rows = self._place(segment.stored)
            self._norms = None if segment.norms is None else self._upload(segment.norms)
        except torch.OutOfMemoryError:
            raise StartError(
                f"{device} has no room for {segment.stored.nbytes} bytes of vectors: "
                "use --device cpu"
            ) from None

    def vectors(self, start: int, stop: int) -> Float32s:
        if self.device.type == "cpu":
            vectors = download(self._rows[start:stop].float())
        else:
            vectors = widen(self._segment.stored[start:stop])
        if self._segment.unit and self._segment.norms is not None:
            vectors /= self._segment.norms[start:stop, None]
        return vectors

    def product(self, start: int, stop: int, matrix: Float32s) -> Float32s:
        with self.turn():
            return download(self._products(slice(start, stop), self._upload(matrix)))

    def column(self, weights: Float32s) -> Column:
        """Weights float32 [d] as `between` takes them, for many blocks."""
        return Column(self._upload(weights[:, None]))

    def between(
        self, start: int, stop: int, column: Column, low: float, high: float
    ) -> tuple[Int64s, Float32s]:
        """Slots of [start, stop) whose products with a column are in [low, high], ascending, and
        the products, float32 [n]: as if `product` were taken of all, but nothing else comes back.
        """
        with self.turn():
            return self._between(start, stop, column, low, high)

    def nearest(
        self, start: int, stop: int, queries: Float32s, k: int, floor: Float32s, slack: Float32s
    ) -> tuple[Int64s, Int64s, Float32s]:
        with self.turn():
            return self._nearest(start, stop, queries, k, floor, slack)

    def gathered(self, slots: Rows) -> torch.Tensor:
        """Vectors of slots, float32 [m, d], on the device; within a `turn`."""
        import torch

        where = torch.tensor(slots, dtype=torch.int64, device=self.device)
        vectors = self._rows[where].float()
        if self._segment.unit and self._norms is not None:
            vectors /= self._norms[where, None]
        return vectors

    def _between(
        self, start: int, stop: int, column: Column, low: float, high: float
    ) -> tuple[Int64s, Float32s]:
        import torch

        products = self._products(slice(start, stop), column.weights)[:, 0]
        [found] = torch.nonzero((products >= low) & (products <= high), as_tuple=True)
        return found.cpu().numpy() + start, download(products[found])

    def _nearest(
        self, start: int, stop: int, queries: Float32s, k: int, floor: Float32s, slack: Float32s
    ) -> tuple[Int64s, Int64s, Float32s]:
        import torch

        similarities = self._similarities(start, stop, self._upload(queries))
        least = self._upload(floor)
        slots = stop - start
        wanted = similarities >= least[:, None]
        if slots > k and int(wanted.count_nonzero()) > 2 * k * len(queries):
            kth = torch.topk(similarities, k, dim=1).values[:, -1]
            least = torch.maximum(least, kth - self._upload(slack))
            wanted = similarities >= least[:, None]
        query, slot = torch.nonzero(wanted, as_tuple=True)
        pairs = similarities[query, slot]
        return query.cpu().numpy(), slot.cpu().numpy() + start, download(pairs)

    def _products(self, slots: slice | torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        """Float32 products of some slots with a matrix [d, c]: [m, c]."""
        products = self._rows[slots].float() @ matrix
        if self._segment.unit and self._norms is not None:
            products /= self._norms[slots, None]
        return products

    def _similarities(self, start: int, stop: int, queries: torch.Tensor) -> torch.Tensor:
        """Float32 similarities [q, m]."""
        return self._from_products(queries @ self._rows[start:stop].float().T, start, stop, queries)

    def _from_products(
        self, products: torch.Tensor, start: int, stop: int, queries: torch.Tensor
    ) -> torch.Tensor:
        """Similarities [q, m] from inner products, in their place."""
        if self._norms is None:
            return products
        if self._metric == "l2":
            products *= 2
            products -= self._norms[start:stop] ** 2
            products -= (queries**2).sum(dim=1)[:, None]
        elif self._segment.unit:
            products /= self._norms[start:stop]
        return products

    def _place(self, stored: Stored) -> torch.Tensor:
        import torch

        if self.device.type == "cpu":
            return torch.from_numpy(stored)  # mapped copy-on-write: torch wants writable memory
        dtype = torch.float16 if stored.dtype == np.float16 else torch.float32
        rows = torch.empty(stored.shape, dtype=dtype, device=self.device)
        for start in range(0, len(stored), COPY_ROWS):
            rows[start : start + COPY_ROWS].copy_(
                torch.from_numpy(stored[start : start + COPY_ROWS])
            )
        return rows

    def _upload(self, array: Float32s) -> torch.Tensor:
        import torch

        return torch.tensor(array, dtype=torch.float32, device=self.device)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Work on the device meanwhile; OVERLOADED where it finds no room."""
        import torch

        with nullcontext() if self.device.type == "cpu" else _turn:
            try:
                yield
            except torch.OutOfMemoryError:
                raise CoresiftError(
                    Reason.OVERLOADED,
                    f"{self.device} has no room left for work beside the vectors",
                    retry_after_s=_WAIT_S,
                ) from None


def download(tensor: torch.Tensor) -> Float32s:
    array: Float32s = tensor.cpu().numpy()
    return array
