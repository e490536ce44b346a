"""Which torch device a pool's vectors live on, and whether they have room there."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from coresift.server.errors import StartError
from coresift.server.pool.canonical import Metric
from coresift.server.pool.compute import Compute, HostCompute
from coresift.server.pool.device_compute import GPU_BLOCK, DeviceCompute
from coresift.server.pool.segment import Segment
from coresift.server.pool.tensor_cores import TensorCoreCompute

if TYPE_CHECKING:
    import torch


def compute_for(segment: Segment, metric: Metric, device: str = "cpu") -> Compute:
    """The way to compute on a segment: where it is mapped, or by torch on a device.

    Args:
        segment: the mapped rows.
        metric: of the pool.
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``torch:cpu``.

    Raises:
        StartError: there is no such device, or it has no room.
    """
    if device == "cpu":
        return HostCompute(segment, metric)
    place = torch_device(device)
    norms = 0 if segment.norms is None else segment.norms.nbytes
    require_room(segment.stored.nbytes + norms, device)
    if segment.stored.dtype == np.float16 and has_tensor_cores(place):
        return TensorCoreCompute(segment, metric, place)
    return DeviceCompute(segment, metric, place)


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
        torch.set_float32_matmul_precision("highest")
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    return device


def has_tensor_cores(device: torch.device) -> bool:
    """Whether float16 is multiplied fast there, with float32 sums."""
    return device.type == "cuda"


def require_room(bytes_needed: int, name: str) -> None:
    """Refuse what would take the memory that work on a GPU needs. StartError.

    On the CPU rows are mapped: they take page cache, which gives way.
    """
    if not name.startswith("cuda"):
        return
    import torch

    free, _ = torch.cuda.mem_get_info(torch_device(name))
    if bytes_needed + 4 * GPU_BLOCK > free:
        raise StartError(
            f"{name} has {free} bytes free, and {bytes_needed} of vectors need room for work "
            "beside them: use --device cpu or a larger GPU, or serve fewer versions"
        )
