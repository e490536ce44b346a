"""The same for rows of float16, which neither NumPy nor most processors multiply.

Rows come and go as their bits, uint16, without infinities and NaN.
"""

from __future__ import annotations

import numpy as np
from numba import float32, types, uint16, uint32, void

from coresift.server.pool.compiled import LINES, ROWS, kernel
from coresift.server.pool.compiled import multiply as multiply_rows

_HALVES = types.Array(uint16, 2, "C", readonly=True)
_STAYS = 2**16
"""Numbers that stay in a core's cache once they are wide."""
_MAGNITUDE, _SIGN = uint32(0x7FFF), uint32(0x8000)
_TO_MAGNITUDE, _TO_SIGN = uint32(13), uint32(16)
_REBIASED = float32(2.0**112)
"""Exponents of float16 count from 15, those of float32 from 127."""


@kernel(void(_HALVES, uint32[:, ::1]))
def widen(halves, bits):  # type: ignore[no-untyped-def]
    """Rows [m, d] as the bits of float32, uint32 [m, d], exactly."""
    values = bits.view(np.float32)
    for i in range(len(halves)):
        row, wide, value = halves[i], bits[i], values[i]
        for k in range(len(row)):
            half = uint32(row[k])
            wide[k] = (half & _MAGNITUDE) << _TO_MAGNITUDE | (half & _SIGN) << _TO_SIGN
        for k in range(len(row)):
            value[k] *= _REBIASED


@kernel(void(_HALVES, ROWS, LINES))
def multiply(halves, columns, lines):  # type: ignore[no-untyped-def]
    """Products of rows [m, d] with columns float32 [c, d], into lines float32 [c, m]."""
    step = max(1, _STAYS // halves.shape[1])
    bits = np.empty((step, halves.shape[1]), np.uint32)
    for start in range(0, len(halves), step):
        some = halves[start : start + step]
        widen(some, bits)
        multiply_rows(bits.view(np.float32)[: len(some)], columns, lines, start)
