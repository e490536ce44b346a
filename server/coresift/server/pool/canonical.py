"""Numbers whose bits depend on nothing but their two vectors.

Fast float32 products only make a shortlist. What decides is computed here: row by row in
float64, independent of order, block, batch and number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from coresift.server.arrays import Float32s, Float64s, Int64s, Rows

Metric = Literal["cosine", "ip", "l2"]

_WIDE_BYTES = 1 << 19
"""Of rows widened at a time: float64 copies stay in the cache, and need no new pages."""


def matrix_products(X: Float32s, W: Float64s) -> Float64s:
    """Inner products of rows with several vectors.

    Args:
        X: float32 [n, d].
        W: float64 [m, d].

    Returns:
        float64 [n, m]; each row has the same bits whatever other rows stand beside it: BLAS
        multiplies one row at a time, always in the same shape.
    """
    products = np.empty((len(X), len(W)), np.float64)
    matrix = np.ascontiguousarray(W.T)
    for rows, wide in _widened(X):
        products[rows] = np.matmul(wide[:, None, :], matrix)[:, 0, :]
    return products


def pair_similarities(metric: Metric, X: Float32s, Q: Float32s) -> Float64s:
    """Similarities of the pairs (X[i], Q[i]), float32 [n, d] each, as float64 [n].

    Inner product; for ``l2`` the negative squared distance.
    """
    similarities = np.empty(len(X), np.float64)
    for rows, wide in _widened(X):
        if metric == "l2":
            np.subtract(wide, Q[rows], out=wide)
            np.multiply(wide, wide, out=wide)
            similarities[rows] = -wide.sum(axis=1)
        else:
            np.multiply(wide, Q[rows], out=wide)
            similarities[rows] = wide.sum(axis=1)
    return similarities


def _widened(X: Float32s) -> Iterator[tuple[slice, Float64s]]:
    """Runs of rows in float64, each in the memory of the one before."""
    count = max(1, _WIDE_BYTES // (8 * max(1, X.shape[1])))
    wide = np.empty((min(count, len(X)), X.shape[1]), np.float64)
    for start in range(0, len(X), count):
        rows = slice(start, start + count)
        narrow = X[rows]
        np.copyto(wide[: len(narrow)], narrow)
        yield rows, wide[: len(narrow)]


def best_first(queries: Int64s, rows: Rows, similarities: Float64s) -> Int64s:
    """The order by query, then similarity from the largest, then row from the smallest."""
    return np.lexsort((rows, -similarities, queries)).astype(np.int64, copy=False)


def product_error(metric: Metric, dimension: int, max_norm: float, norms: Float64s) -> Float64s:
    """How far a float32 similarity may be from the canonical one, for vectors of these norms.

    The bound of a float32 inner product of length d in any order of summation (Higham,
    Accuracy and Stability of Numerical Algorithms, section 3.1: d u |x| |q|, u = 2^-24), with
    room for the rounding of the stored row, its norm and, for ``l2``, the two squares.
    """
    unit = (dimension + 16) * 2.0**-24
    tiny = dimension * 2.0**-126
    if metric == "l2":
        return unit * 2.0 * (max_norm + norms) ** 2 + tiny
    return unit * max_norm * norms + tiny
