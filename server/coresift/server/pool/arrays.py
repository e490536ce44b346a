"""Names of the array types that the pool hands around."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]
Stored = npt.NDArray[np.float16] | npt.NDArray[np.float32]
"""Rows as they lie on disk, [n, d]."""
