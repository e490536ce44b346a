"""Kernels for rows that stream from memory, compiled for this processor when this is imported.

That takes two seconds once, then 0.5 where what was compiled can be kept (beside this file, else in
the user's cache), and LLVM 100 MB: `row_kernels` imports this where it pays. Sums are taken in any
order. All release the lock of the interpreter.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np
from numba import float32, intp, types, uint16, uint32, void

_ROWS = types.Array(float32, 2, "C", readonly=True)
_HALVES = types.Array(uint16, 2, "C", readonly=True)
_LINES = float32[:, ::1]
_PRODUCT = void(_ROWS, _ROWS, _LINES, intp, intp)

_STAYS = 2**16
"""Numbers of rows that stay in a core's cache until all columns had them."""
_MAGNITUDE, _SIGN = uint32(0x7FFF), uint32(0x8000)
_TO_MAGNITUDE, _TO_SIGN = uint32(13), uint32(16)
_REBIASED = float32(2.0**112)
"""Exponents of float16 count from 15, those of float32 from 127."""

_jit: Any = partial(numba.njit, nogil=True, fastmath={"reassoc", "contract", "nsz"})


def _kernel(signature: object) -> Callable[[Callable[..., None]], Any]:
    def compiled(function: Callable[..., None]) -> Any:
        try:
            return _jit(signature, cache=True)(function)
        except RuntimeError:  # there is no place to keep it
            return _jit(signature)(function)

    return compiled


@_kernel(_PRODUCT)
def _one(rows, columns, lines, j, start):  # type: ignore[no-untyped-def]
    """Of all rows with column ``j``, from the ``start`` of the line on."""
    column = columns[j]
    for i in range(len(rows)):
        row, total = rows[i], float32(0)
        for k in range(len(row)):
            total += row[k] * column[k]
        lines[j, start + i] = total


@_kernel(_PRODUCT)
def _four(rows, columns, lines, j, start):  # type: ignore[no-untyped-def]
    """With four columns, row after row, as they lie in memory: of four at a time the processor does
    not foresee which it needs next (measured: half as fast)."""
    w0, w1, w2, w3 = columns[j], columns[j + 1], columns[j + 2], columns[j + 3]
    for i in range(len(rows)):
        row = rows[i]
        s0 = s1 = s2 = s3 = float32(0)
        for k in range(len(row)):
            x = row[k]
            s0 += x * w0[k]
            s1 += x * w1[k]
            s2 += x * w2[k]
            s3 += x * w3[k]
        n = start + i
        lines[j, n], lines[j + 1, n], lines[j + 2, n], lines[j + 3, n] = s0, s1, s2, s3


@_kernel(_PRODUCT)
def _four_by_four(rows, columns, lines, j, start):  # type: ignore[no-untyped-def]
    """The same for rows in the cache: half as many loads."""
    w0, w1, w2, w3 = columns[j], columns[j + 1], columns[j + 2], columns[j + 3]
    whole = len(rows) - len(rows) % 4
    for i in range(0, whole, 4):
        x0, x1, x2, x3 = rows[i], rows[i + 1], rows[i + 2], rows[i + 3]
        a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = float32(0)
        c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = float32(0)
        for k in range(len(x0)):
            w, x, y, z = w0[k], w1[k], w2[k], w3[k]
            a0 += x0[k] * w
            a1 += x1[k] * w
            a2 += x2[k] * w
            a3 += x3[k] * w
            b0 += x0[k] * x
            b1 += x1[k] * x
            b2 += x2[k] * x
            b3 += x3[k] * x
            c0 += x0[k] * y
            c1 += x1[k] * y
            c2 += x2[k] * y
            c3 += x3[k] * y
            d0 += x0[k] * z
            d1 += x1[k] * z
            d2 += x2[k] * z
            d3 += x3[k] * z
        n = start + i
        a, b, c, d = lines[j], lines[j + 1], lines[j + 2], lines[j + 3]
        a[n], a[n + 1], a[n + 2], a[n + 3] = a0, a1, a2, a3
        b[n], b[n + 1], b[n + 2], b[n + 3] = b0, b1, b2, b3
        c[n], c[n + 1], c[n + 2], c[n + 3] = c0, c1, c2, c3
        d[n], d[n + 1], d[n + 2], d[n + 3] = d0, d1, d2, d3
    _four(rows[whole:], columns, lines, j, start + whole)


@_kernel(void(_ROWS, _ROWS, _LINES, intp))
def multiply(rows, columns, lines, start):  # type: ignore[no-untyped-def]
    """Products of rows [m, d] with columns [c, d], into lines [c, n] from ``start`` on."""
    step, count = max(1, _STAYS // rows.shape[1]), len(columns)
    for first in range(0, len(rows), step):
        some, at = rows[first : first + step], start + first
        j = 0
        if count >= 4:  # these come from memory, for the others they are in the cache
            _four(some, columns, lines, j, at)
            j = 4
        while j + 4 <= count:
            _four_by_four(some, columns, lines, j, at)
            j += 4
        while j < count:
            _one(some, columns, lines, j, at)
            j += 1


@_kernel(void(_HALVES, uint32[:, ::1]))
def widen(halves, bits):  # type: ignore[no-untyped-def]
    """Rows of float16 as float32, exactly, both as their bits, [m, d]; no infinities or NaN."""
    values = bits.view(np.float32)
    for i in range(len(halves)):
        row, wide, value = halves[i], bits[i], values[i]
        for k in range(len(row)):
            half = uint32(row[k])
            wide[k] = (half & _MAGNITUDE) << _TO_MAGNITUDE | (half & _SIGN) << _TO_SIGN
        for k in range(len(row)):
            value[k] *= _REBIASED


@_kernel(void(_HALVES, _ROWS, _LINES))
def multiply_halves(halves, columns, lines):  # type: ignore[no-untyped-def]
    """As `multiply`, of the bits of rows of float16."""
    step = max(1, _STAYS // halves.shape[1])
    bits = np.empty((step, halves.shape[1]), np.uint32)
    for start in range(0, len(halves), step):
        some = halves[start : start + step]
        widen(some, bits)
        multiply(bits.view(np.float32)[: len(some)], columns, lines, start)
