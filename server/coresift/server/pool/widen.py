"""From float16 to float32, exactly."""

from __future__ import annotations

import threading
from typing import cast

import numpy as np

from coresift.server.arrays import Float32s, Stored

_scratch = threading.local()


def widen(stored: Stored, out: Float32s | None = None) -> Float32s:
    """Rows as float32: the rows themselves if they are, else converted (into ``out``)."""
    if stored.dtype == np.float32:
        return cast("Float32s", stored)
    if out is None:
        out = np.empty(stored.shape, np.float32)
    np.copyto(out, stored)
    return out


def scratch(shape: tuple[int, int]) -> Float32s:
    """Memory of this thread that lasts until its next call: saves the page faults of new."""
    size = shape[0] * shape[1]
    buffer: Float32s | None = getattr(_scratch, "buffer", None)
    if buffer is None or buffer.size < size:
        buffer = _scratch.buffer = np.empty(size, np.float32)
    return buffer[:size].reshape(shape)
