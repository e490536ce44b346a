"""The memory of the GPU that pools are on."""

from __future__ import annotations

from coresift.server.metrics import Metrics


def watch_gpu(metrics: Metrics, device: str) -> None:
    """Publish the memory of a device, asked at every scrape; nothing for one that is no GPU.

    Args:
        device: as of ``Pool.open``.
    """
    if not device.startswith("cuda"):
        return
    import torch

    place = torch.device(device)

    def used() -> float:
        free, total = torch.cuda.mem_get_info(place)
        return float(total - free)

    def limit() -> float:
        return float(torch.cuda.mem_get_info(place)[1])

    name = f"cuda:{place.index or 0}"
    metrics.gpu_memory_used.labels(name).set_function(used)
    metrics.gpu_memory_limit.labels(name).set_function(limit)
