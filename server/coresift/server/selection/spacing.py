"""Which rows are too much like rows taken before: exact, from fast products.

A float32 product tells most pairs apart; those within its proven error of the limit are taken
again in float64, pair by pair. What comes out depends on no block, order or thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from coresift.server.arrays import Bools, Float32s, Float64s, Int64s
from coresift.server.pool.canonical import pair_similarities, product_error

BLOCK = 256
"""Rows compared with all taken ones at a time."""
_PAIRS = 4_096
"""Pairs whose exact likeness is taken at a time."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """How alike the rows of a matrix are; larger is more alike.

    Attributes:
        fast: of places int64 [n] and others int64 [m], float64 [n, m], off by at most ``slack``.
        exact: of pairs of places, int64 [p] each, float64 [p], each pair's bits its own.
    """

    fast: Callable[[Int64s, Int64s], Float64s]
    exact: Callable[[Int64s, Int64s], Float64s]
    slack: float


def nearness(X: Float32s) -> Likeness:
    """Minus the squared Euclidean distance of rows of X, float32 [n, d]."""
    # Around their middle vectors are shorter, and products of float32 nearer to the truth.
    middle = X.sum(axis=0, dtype=np.float64) / max(1, len(X))
    Y = X - middle.astype(np.float32)
    squares = pair_similarities("ip", Y, Y)
    longest = float(np.sqrt(squares.max(initial=0)))

    def fast(places: Int64s, others: Int64s) -> Float64s:
        likeness: Float64s = 2 * (Y[places] @ Y[others].T).astype(np.float64)
        likeness -= squares[places][:, None]
        likeness -= squares[others]
        return likeness

    def exact(places: Int64s, others: Int64s) -> Float64s:
        return pair_similarities("l2", X[places], X[others])

    error = product_error("l2", X.shape[1], longest, np.array([longest]))
    return Likeness(fast, exact, float(error[0]))


def cosines(X: Float32s) -> Likeness:
    """The cosine of rows of X, float32 [n, d]; 0 for a zero vector, exactly 1 for copies."""
    squares = pair_similarities("ip", X, X)
    norms = np.where(squares > 0, np.sqrt(squares), 1.0)
    units = np.empty_like(X)
    np.divide(X, norms[:, None], out=units, casting="same_kind")

    def fast(places: Int64s, others: Int64s) -> Float64s:
        return (units[places] @ units[others].T).astype(np.float64)

    def exact(places: Int64s, others: Int64s) -> Float64s:
        products = pair_similarities("ip", X[places], X[others])
        # One root of the product: the root of a square has no rounding error.
        scale = np.sqrt(squares[places] * squares[others])
        return np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)

    return Likeness(fast, exact, float(product_error("ip", X.shape[1], 1.0, np.ones(1))[0]))


class Spacing:
    """Rows taken so far, and which others are at least ``limit`` alike to one of them.

    Every row is compared with every taken row at most once for a limit.
    """

    def __init__(self, likeness: Likeness, rows: int, limit: float) -> None:
        self._likeness = likeness
        self._limit = limit
        self._taken = np.empty(rows, np.int64)
        self._count = 0
        self._most = np.full(rows, -np.inf)  # on the right side of the limit, off by the slack
        self._seen = np.zeros(rows, np.int64)  # taken rows that this accounts for

    def take(self, place: int) -> None:
        """Count a row as taken."""
        self._taken[self._count] = place
        self._count += 1

    def raise_limit(self, limit: float) -> None:
        """From now on only rows that are more alike are refused."""
        self._limit = limit
        doubtful = np.abs(self._most - limit) <= self._likeness.slack
        self._most[doubtful] = -np.inf
        self._seen[doubtful] = 0

    def free(self, places: Int64s) -> Bools:
        """Which places, int64 [n], are less alike than the limit to all taken rows; bool [n]."""
        start = int(self._seen[places].min(initial=self._count))
        if start < self._count:
            others = self._taken[start : self._count]
            self._most[places] = np.maximum(self._most[places], self._compared(places, others))
            self._seen[places] = self._count
        return np.asarray(self._most[places] < self._limit)

    def _compared(self, places: Int64s, others: Int64s) -> Float64s:
        """Largest likeness of each place to the others, on the right side of the limit."""
        limit, slack = self._limit, self._likeness.slack
        likeness = self._likeness.fast(places, others)
        undecided = likeness.max(axis=1) <= limit + slack
        i, j = np.nonzero((likeness >= limit - slack) & undecided[:, None])
        for start in range(0, len(i), _PAIRS):
            row, column = i[start : start + _PAIRS], j[start : start + _PAIRS]
            likeness[row, column] = self._likeness.exact(places[row], others[column])
        return np.asarray(likeness.max(axis=1))
