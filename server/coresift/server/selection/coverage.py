"""Euclidean distances for strategies that cover the pool: products propose, float64 decides.

A distance is that of two rows alone: differences squared and summed in float64, so that its bits
depend on no other row. A product of many rows at once tells which pairs may matter.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from coresift.server.arrays import Bools, Float32s, Float64s, Int64s

Floats = Float32s | Float64s

PRODUCT = 2**20
"""Numbers of one product: 8 MiB in float64."""
PAIRS = 512
"""Pairs whose distances are taken at a time: 1 MiB of 256 numbers each, which the cache holds."""

_EPS = float(np.finfo(np.float64).eps)


def distances(X: Float64s, Y: Float64s) -> Float64s:
    """Distances of rows of X [n, d] to the rows of Y beside them, or to the one row Y [d]."""
    gaps = X - Y
    gaps *= gaps
    return np.asarray(np.sqrt(gaps.sum(axis=1)))


def pair_distances(X: Floats, Y: Floats, at: Int64s, of: Int64s) -> Float64s:
    """Distances of the pairs (X[at[i]], Y[of[i]]), float64 [n], in bounded memory."""
    result = np.empty(len(at))
    for start in range(0, len(at), PAIRS):
        pairs = slice(start, start + PAIRS)
        wide = X[at[pairs]].astype(np.float64, copy=False)
        result[pairs] = distances(wide, Y[of[pairs]].astype(np.float64, copy=False))
    return result


def squares(X: Float64s, Y: Float64s) -> Float64s:
    """Squared distances [n, m] of the rows of X and Y by a product, each within `slack`."""
    result = np.asarray(X @ (-2 * Y).T)
    result += (X**2).sum(axis=1)[:, None]
    result += (Y**2).sum(axis=1)
    return result


def slack(dimension: int, max_norm: float) -> float:
    """How far an entry of `squares` and the square of that distance may be apart.

    Two inner products and two squared norms, each off by at most d roundings of its size in any
    order of summation (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
    """
    return 8 * (dimension + 16) * _EPS * max_norm**2


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Spans of ``rows`` whose product with ``columns`` rows stays within bounds."""
    step = max(16, PRODUCT // max(columns, 1))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def pair_nearest(X: Floats, Y: Floats, at: Int64s, of: Int64s) -> tuple[Int64s, Float64s]:
    """For each row of X the nearest of the rows of Y that it is paired with, and its distance.

    Pairs (X[at[i]], Y[of[i]]) ascend, and every row of X has one; of equals the first counts.
    """
    away = pair_distances(X, Y, at, of)
    rows = np.arange(len(X))
    if not len(X):
        return rows, away
    least = np.minimum.reduceat(away, np.searchsorted(at, rows))
    best = np.flatnonzero(away == least[at])
    return of[best[np.searchsorted(at[best], rows)]], least


def nearest(X: Float64s, Y: Float64s, max_norm: float) -> tuple[Int64s, Float64s]:
    """For each row of X [n, d] the nearest of Y [m, d], of equals the first, and its distance."""
    which, least = np.zeros(len(X), np.int64), np.full(len(X), np.inf)
    error = slack(X.shape[1], max_norm)
    for span in blocks(len(Y), len(X)):
        squared = squares(X, Y[span])
        at, of = np.nonzero(squared <= (squared.min(axis=1) + 2 * error)[:, None])
        place, away = pair_nearest(X, Y[span], at, of)
        closer = away < least
        which[closer], least[closer] = place[closer] + span.start, away[closer]
    return which, least


def within(X: Float64s, Y: Float64s, radius: float, max_norm: float) -> Bools:
    """Which rows of X and Y are at most ``radius`` apart, bool [n, m]."""
    squared = squares(X, Y)
    # The square of the radius is rounded too.
    error = slack(X.shape[1], max_norm) + 4 * _EPS * radius**2
    near = np.asarray(squared < radius**2 - error)
    at, of = np.nonzero((squared <= radius**2 + error) ^ near)
    near[at, of] = pair_distances(X, Y, at, of) <= radius
    return near
