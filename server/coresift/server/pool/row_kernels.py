"""Products with stored rows, and their widening: compiled where there are many, else by NumPy.

To multiply a million rows with a few columns NumPy takes two to three times as long as to read
them, and float16 it widens one by one: eight times as long.
"""

from __future__ import annotations

import gc
import importlib
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from types import ModuleType
from typing import cast

import numpy as np
import structlog

from coresift.server.arrays import Float32s, Stored
from coresift.server.pool.kernels import has_wide_kernels
from coresift.server.pool.parallel import give_way
from coresift.server.pool.widen import scratch, widen

log = structlog.get_logger()

COMPILED = "coresift.server.pool.compiled"
MANY = 2**24
"""Numbers of a segment or a pool from which compiling pays."""
MOST_COLUMNS = 64
"""Of more, NumPy makes a product as fast."""


class RowKernels:
    """What is computed on the rows of a segment, whichever of them.

    Compiling begins with the first of them, beside other work: until it is done, seconds at most,
    NumPy does it. Sums may be taken in any order; widened are rows exactly.
    """

    def __init__(self, numbers: int) -> None:
        """``numbers``: of all rows together."""
        self._compiling = compiling() if numbers >= MANY else None

    def product(self, rows: Stored, matrix: Float32s) -> Float32s:
        """Rows [m, d] times a float32 matrix [d, c]: float32 [m, c]."""
        compiled = self._compiled()
        if compiled is None or matrix.shape[1] > MOST_COLUMNS:
            return _numpy_product(self.in_scratch(rows), matrix)
        lines = np.empty((matrix.shape[1], len(rows)), np.float32)
        whole, columns = np.ascontiguousarray(rows), np.ascontiguousarray(matrix.T)
        if rows.dtype == np.float16:
            compiled.multiply_halves(whole.view(np.uint16), columns, lines)
        else:
            compiled.multiply(whole, columns, lines, 0)
        return lines.T

    def widen(self, rows: Stored, out: Float32s | None = None) -> Float32s:
        """Rows as float32: the rows themselves if they are, else converted (into ``out``)."""
        compiled = self._compiled()
        if compiled is None or rows.dtype == np.float32:
            return widen(rows, out)
        if out is None:
            out = np.empty(rows.shape, np.float32)
        compiled.widen(np.ascontiguousarray(rows).view(np.uint16), out.view(np.uint32))
        return out

    def in_scratch(self, rows: Stored) -> Float32s:
        """The same, converted in memory of this thread that lasts until its next call."""
        if rows.dtype == np.float32:
            return cast("Float32s", rows)
        return self.widen(rows, scratch((len(rows), rows.shape[1])))

    def _compiled(self) -> ModuleType | None:
        if self._compiling is None or not self._compiling.done():
            return None
        return self._compiling.result()


@cache
def compiling() -> Future[ModuleType | None]:
    """The compiled kernels; None where they cannot be had."""
    executor = ThreadPoolExecutor(1, "compile", give_way)
    try:
        return executor.submit(_compiled_or_none)
    finally:
        executor.shutdown(wait=False)


def _compiled_or_none() -> ModuleType | None:
    try:
        compiled = importlib.import_module(COMPILED)
    except Exception as error:
        log.warning("products with rows do without compiled kernels", error=str(error))
        return None
    gc.freeze()  # else each full pass of the collector looks at all of the compiler
    return compiled


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
