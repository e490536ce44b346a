"""How the process holds memory, and how much of it there is."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import psutil

from coresift.server.control_groups import own_groups

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
LARGE_BYTES = 4 * 1024 * 1024
UNLIMITED = 1 << 60
"""Version 1 of control groups says "no limit" with a number about this large."""


def return_large_blocks() -> None:
    """Give blocks of 4 MiB and more back to the system as soon as they are freed.

    glibc raises that bound to 32 MiB by itself, and then keeps the temporaries of searches on
    the heaps of the threads that made them: a quarter of a pool of 1M x 256, measured.

    Smaller ones stay with the process, as much of them as glibc itself keeps beside that bound.
    Once the bound is set it keeps 128 KiB: a gather of 2,000 rows took 0.9 ms instead of 0.07,
    nearly all of it for new pages.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc only
        libc.mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * LARGE_BYTES)


def spare_what_is_imported() -> None:
    """Keep the garbage collector from looking at what was imported. For a process that has started.

    It is a quarter of a million objects: while a log of 1M labels was read, each pass over
    everything took 150 to 340 ms, in which no call went on. How often it passes stays Python's
    own choice: with passes a tenth as often, calls that were given up left 45 MB a minute.
    """
    gc.collect()
    gc.freeze()


def available_bytes(cgroup: Path | None = None) -> int:
    """Memory that this process can still have: what the machine has, within its container's limit.

    Args:
        cgroup: directory of the control group; None: the one this process sees as its root, or
            finds itself in.
    """
    free = int(psutil.virtual_memory().available)
    groups = [cgroup] if cgroup is not None else own_groups("memory")
    return max(0, min([free, *(left for group in groups if (left := _left(group)) is not None)]))


def _left(group: Path) -> int | None:
    """Bytes below the limit of a control group; None where it has none.

    The page cache counts as used there, but gives way: what the kernel lists as inactive is free.
    """
    for limit_name, used_name, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            limit = (group / limit_name).read_text().strip()
            used = int((group / used_name).read_text())
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        if limit == "max" or int(limit) >= UNLIMITED:
            return None
        return int(limit) - used + int(stat.get(cached, 0))
    return None
