"""Names of the array types that the layers hand each other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int32]
"""Row numbers."""
Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]
Stored = npt.NDArray[np.float16] | npt.NDArray[np.float32]
"""Vectors as they lie on disk, [n, d]."""
