"""Products with stored rows, and their widening: compiled where there are many, else by NumPy.

To multiply a million rows with a few columns NumPy takes two to three times as long as to read
them, and float16 it widens one by one: eight times as long.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import cast

import numpy as np
import structlog

from coresift.server.arrays import Float32s, Stored
from coresift.server.pool.kernels import has_wide_kernels
from coresift.server.pool.parallel import give_way
from coresift.server.pool.widen import scratch, widen

log = structlog.get_logger()

MANY = 2**24
"""Numbers of a segment or a pool from which compiling pays."""
MOST_COLUMNS = 64
"""Of more, NumPy makes a product as fast."""


@dataclass(frozen=True, slots=True)
class _Compiled:
    """Of one type of rows. Both fill their last argument."""

    multiply: Callable[[Stored, Float32s, Float32s], None]
    widen: Callable[[Stored, Float32s], None]


class RowKernels:
    """What is computed on the rows of a segment, whichever of them.

    Compiling begins with the first use, beside the work, and takes two seconds: until then NumPy
    does it. Sums may be taken in any order; widened are rows exactly.
    """

    def __init__(self, numbers: int) -> None:
        """``numbers``: of all rows together."""
        self._are_many = numbers >= MANY

    def product(self, rows: Stored, matrix: Float32s) -> Float32s:
        """Rows [m, d] times a float32 matrix [d, c]: float32 [m, c]."""
        compiled = self._compiled(rows)
        if compiled is None or matrix.shape[1] > MOST_COLUMNS:
            return _numpy_product(self.in_scratch(rows), matrix)
        lines = np.empty((matrix.shape[1], len(rows)), np.float32)
        compiled.multiply(_whole(rows), np.ascontiguousarray(matrix.T), lines)
        return lines.T

    def widen(self, rows: Stored, out: Float32s | None = None) -> Float32s:
        """Rows as float32: the rows themselves if they are, else converted (into ``out``)."""
        compiled = None if rows.dtype == np.float32 else self._compiled(rows)
        if compiled is None:
            return widen(rows, out)
        if out is None:
            out = np.empty(rows.shape, np.float32)
        compiled.widen(_whole(rows), out)
        return out

    def in_scratch(self, rows: Stored) -> Float32s:
        """The same, converted in memory of this thread that lasts until its next call."""
        if rows.dtype == np.float32:
            return cast("Float32s", rows)
        return self.widen(rows, scratch((len(rows), rows.shape[1])))

    def _compiled(self, rows: Stored) -> _Compiled | None:
        if not self._are_many:
            return None
        answer = compiling(rows.dtype == np.float16)
        return answer.result() if answer.done() else None


@cache
def compiling(half: bool) -> Future[_Compiled | None]:
    """The kernels for rows of float16, or of float32; None where they cannot be had."""
    executor = ThreadPoolExecutor(1, "compile", give_way)
    try:
        return executor.submit(_compiled_or_none, half)
    finally:
        executor.shutdown(wait=False)


def _compiled_or_none(half: bool) -> _Compiled | None:
    try:
        found = _for_float16() if half else _for_float32()
    except Exception as error:
        log.warning("products with rows do without compiled kernels", error=str(error))
        return None
    gc.freeze()  # else each full pass of the collector looks at all of the compiler
    return found


def _for_float32() -> _Compiled:
    from coresift.server.pool import compiled

    def multiply(rows: Stored, columns: Float32s, lines: Float32s) -> None:
        compiled.multiply(rows, columns, lines, 0)

    return _Compiled(multiply, np.copyto)


def _for_float16() -> _Compiled:
    from coresift.server.pool import compiled_halves

    def multiply(rows: Stored, columns: Float32s, lines: Float32s) -> None:
        compiled_halves.multiply(rows.view(np.uint16), columns, lines)

    def widen(rows: Stored, out: Float32s) -> None:
        compiled_halves.widen(rows.view(np.uint16), out.view(np.uint32))

    return _Compiled(multiply, widen)


def _numpy_product(vectors: Float32s, matrix: Float32s) -> Float32s:
    """``vectors @ matrix``, in the shape that the kernels do without an edge to their tiles."""
    count = matrix.shape[1]
    if count == 1:
        return vectors @ matrix
    if has_wide_kernels():
        columns = np.zeros((len(matrix), _tiles(count, 4 if count <= 4 else 16)), np.float32)
        columns[:, :count] = matrix
        return (vectors @ columns)[:, :count]
    # By AVX2 it takes half as long where each column stands in one piece.
    lines = np.zeros((_tiles(count, 4), len(matrix)), np.float32)
    lines[:count] = matrix.T
    return (lines @ vectors.T)[:count].T


def _tiles(count: int, tile: int) -> int:
    return -(-count // tile) * tile


def _whole(rows: Stored) -> Stored:
    """In one piece."""
    return cast("Stored", np.ascontiguousarray(rows))
