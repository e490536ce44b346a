"""How the process holds memory."""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3
LARGE_BYTES = 4 * 1024 * 1024


def return_large_blocks() -> None:
    """Give blocks of 4 MiB and more back to the system as soon as they are freed.

    glibc raises that bound to 32 MiB by itself, and then keeps the temporaries of searches on
    the heaps of the threads that made them: a quarter of a pool of 1M x 256, measured.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc only
        libc.mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
