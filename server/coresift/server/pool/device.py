"""Segments that live on a torch device, in their own dtype; products are taken in float32."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from coresift.server.arrays import Float32s, Int64s, Stored
from coresift.server.errors import StartError
from coresift.server.pool.canonical import Metric
from coresift.server.pool.compute import Compute, HostCompute
from coresift.server.pool.segment import Segment
from coresift.server.pool.widen import widen

if TYPE_CHECKING:
    import torch

_COPY_ROWS = 65_536
_CPU_BLOCK = 8 * 2**20
_GPU_BLOCK = 256 * 2**20

_TORCH_PAYS = 2**25
"""Numbers in a float16 segment from which torch is worth its import on the CPU.

1M x 256 with one output: NumPy 370 ms, torch 35 ms on two threads. Not torch for the
conversion and NumPy for the product: their threads spin against each other (8 ms a switch).
"""


def compute_for(segment: Segment, metric: Metric, device: str = "cpu") -> Compute:
    """The way to compute on a segment: NumPy, or torch on a device or for large float16.

    Args:
        segment: the mapped rows.
        metric: of the pool.
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``torch:cpu``.

    Raises:
        StartError: there is no such device, or it has no room.
    """
    half = segment.stored.dtype == np.float16
    if device == "cpu" and not (half and segment.stored.size >= _TORCH_PAYS):
        return HostCompute(segment, metric)
    return DeviceCompute(segment, metric, torch_device(device))


def torch_device(name: str) -> torch.device:
    """The device of ``cuda``, ``cuda:1`` or ``torch:cpu``. StartError where there is none."""
    import torch

    device = torch.device(name.removeprefix("torch:"))
    if device.type == "cuda":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of an old driver; we say it ourselves
            available = torch.cuda.is_available()
        if not available or (device.index or 0) >= torch.cuda.device_count():
            raise StartError(f"there is no {name} device here: use --device cpu")
    return device


def require_room(bytes_needed: int, name: str) -> None:
    """Refuse what would take the memory that work on a GPU needs. StartError.

    On the CPU rows are mapped: they take page cache, which gives way.
    """
    if not name.startswith("cuda"):
        return
    import torch

    free, _ = torch.cuda.mem_get_info(torch_device(name))
    if bytes_needed + 4 * _GPU_BLOCK > free:
        raise StartError(
            f"{name} has {free} bytes free, and {bytes_needed} of vectors need room for work "
            "beside them: use a larger GPU, or serve fewer versions"
        )


class DeviceCompute:
    """Products on a torch device.

    On the CPU over the mapped rows themselves, on a GPU over a copy of the segment there.
    """

    spread = False  # torch spreads each product itself

    def __init__(self, segment: Segment, metric: Metric, device: torch.device) -> None:
        import torch

        self._segment = segment
        self._metric = metric
        self._device = device
        self.block_bytes = _CPU_BLOCK if device.type == "cpu" else _GPU_BLOCK
        try:
            self._rows = self._place(segment.stored)
            self._norms = None if segment.norms is None else self._upload(segment.norms)
        except torch.OutOfMemoryError:
            raise StartError(
                f"{device} has no room for {segment.stored.nbytes} bytes of vectors: "
                "use --device cpu"
            ) from None

    def vectors(self, start: int, stop: int) -> Float32s:
        if self._device.type == "cpu":
            vectors = _download(self._rows[start:stop].float())
        else:
            vectors = widen(self._segment.stored[start:stop])
        if self._segment.unit and self._segment.norms is not None:
            vectors /= self._segment.norms[start:stop, None]
        return vectors

    def product(self, start: int, stop: int, matrix: Float32s) -> Float32s:
        products = self._rows[start:stop].float() @ self._upload(matrix)
        if self._segment.unit and self._norms is not None:
            products /= self._norms[start:stop, None]
        return _download(products)

    def nearest(
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
        return query.cpu().numpy(), slot.cpu().numpy() + start, _download(pairs)

    def _similarities(self, start: int, stop: int, queries: torch.Tensor) -> torch.Tensor:
        similarities = queries @ self._rows[start:stop].float().T
        if self._norms is None:
            return similarities
        if self._metric == "l2":
            similarities *= 2
            similarities -= self._norms[start:stop] ** 2
            similarities -= (queries**2).sum(dim=1)[:, None]
        elif self._segment.unit:
            similarities /= self._norms[start:stop]
        return similarities

    def _place(self, stored: Stored) -> torch.Tensor:
        import torch

        if self._device.type == "cpu":
            return torch.from_numpy(stored)  # mapped copy-on-write: torch wants writable memory
        dtype = torch.float16 if stored.dtype == np.float16 else torch.float32
        rows = torch.empty(stored.shape, dtype=dtype, device=self._device)
        for start in range(0, len(stored), _COPY_ROWS):
            rows[start : start + _COPY_ROWS].copy_(
                torch.from_numpy(stored[start : start + _COPY_ROWS])
            )
        return rows

    def _upload(self, array: Float32s) -> torch.Tensor:
        import torch

        return torch.tensor(array, dtype=torch.float32, device=self._device)


def _download(tensor: torch.Tensor) -> Float32s:
    array: Float32s = tensor.cpu().numpy()
    return array
