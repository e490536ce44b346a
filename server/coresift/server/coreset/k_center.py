"""Exact greedy k-center (Gonzalez, 1985; Sener and Savarese, 2018) in linear memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coresift.server.arrays import Float64s, Rows
from coresift.server.coreset.selection import Request, Selection
from coresift.server.pool.failures import Cancelled
from coresift.server.pool.pool import Pool
from coresift.server.pool.rows import Block
from coresift.server.selection.priority import random_order

FRONTIER = 1_024
"""Rows whose distances are kept exact: those that may be farthest."""
TIES = 16_384
"""Rows of equal bounds that a frontier takes in: bounds its memory where many are alike."""
PRODUCT = 2**22
"""Numbers of one product."""
PAIRS = 8_192
"""Rows and centres whose exact distances are taken at a time."""


def k_center(pool: Pool, request: Request) -> Selection:
    """Each centre is the row farthest (Euclidean, float64) from all before it, ties by row.

    Without start rows the first centre is the first row of the seed's hash order; it counts.

    Distances only fall, so an old one is an upper bound. Exact distances are kept for a frontier
    of the rows with the largest bounds; while the farthest of them lies beyond every other
    bound, it is the farthest of all, and no other row need be looked at. The score is the
    distance to the nearest centre before (infinity for a first one); the weight counts the rows
    nearest to a centre, start rows among the centres.
    """
    given = request.start
    first = given
    if not len(given):
        first = random_order(request.seed, "k_center", pool.manifest.items, 1)
    distances = _Distances(pool, first, request)
    rows, scores = ([], []) if len(given) else ([int(first[0])], [np.inf])
    while len(rows) < request.budget:
        for row, distance in distances.take_farthest(request.budget - len(rows)):
            rows.append(row)
            scores.append(distance)
        request.progress(0.9 * len(rows) / request.budget)
        if request.stop():
            raise Cancelled
    selected = np.array(rows, np.int32)
    weights = _cluster_sizes(pool, np.concatenate([given, selected]), request)[len(given) :]
    return Selection(selected, np.array(scores), weights, distances.radius())


class _Distances:
    """Distances of all rows to their nearest centre: exact where it matters, else bounds.

    ``bounds[row]`` is never below the distance; it is exact with respect to the first
    ``exact[row]`` centres. Centres themselves have the bound -inf.
    """

    def __init__(self, pool: Pool, first: Rows, request: Request) -> None:
        self._pool = pool
        self._first = pool.fetch(first).astype(np.float64)
        self._added: list[Float64s] = []
        self._bounds = self._coarse(request)
        self._bounds[first] = -np.inf
        self._exact = np.full(len(self._bounds), -1, np.int32)  # not even with the first ones

    def _coarse(self, request: Request) -> Float64s:
        """Upper bounds from a float32 pass over the pool."""
        pool, first = self._pool, self._first
        norms = (first**2).sum(axis=1)
        size = pool.max_norm**2 + float(norms.max())
        # Each of |x|^2, |c|^2 and x.c is off by at most d roundings of that size.
        slack = 4 * (pool.manifest.dimension + 16) * float(np.finfo(np.float32).eps) * size
        bounds = np.empty(pool.manifest.items)

        def visit(block: Block) -> tuple[Rows, Float64s]:
            nearest = np.full(len(block.rows), np.inf)
            step = _columns(len(block.rows))
            for start in range(0, len(first), step):
                part = np.ascontiguousarray(first[start : start + step].T, np.float32)
                product = block.product(part).astype(np.float64)
                squared = norms[start : start + step] - 2 * product
                np.minimum(nearest, squared.min(axis=1), out=nearest)
            return block.rows, nearest + (block.vectors().astype(np.float64) ** 2).sum(axis=1)

        for rows, squared in pool.scan(visit, stop=request.stop):
            bounds[rows] = np.sqrt(np.maximum(squared, 0) + slack)
        return bounds

    def take_farthest(self, wanted: int) -> list[tuple[int, float]]:
        """Up to ``wanted`` next centres with their distances, as many as the frontier decides.

        May be empty: then bounds were tightened, and the next call sees farther.
        """
        rows, X, distances, outside, ahead = self._frontier()
        found: list[tuple[int, float]] = []
        while len(found) < wanted:
            place = int(distances.argmax())  # the first of equals: rows ascend
            distance = float(distances[place])
            leads = distance > outside or (distance == outside and rows[place] < ahead)
            if not leads or distance == -np.inf:
                break
            found.append((int(rows[place]), distance))
            self._added.append(X[place].copy())  # a view would keep the whole frontier
            np.minimum(distances, _distance(X, X[place]), out=distances)
            distances[place] = -np.inf
        self._bounds[rows] = distances
        self._exact[rows] = len(self._added)
        return found

    def radius(self) -> float:
        """The largest distance that is left: the covering radius."""
        while True:
            rows, _, distances, outside, _ = self._frontier()
            self._bounds[rows] = distances
            self._exact[rows] = len(self._added)
            if distances.max() >= outside:
                return max(0.0, float(distances.max()))

    def _frontier(self) -> tuple[Rows, Float64s, Float64s, float, int]:
        """Rows with the largest bounds, ascending, their vectors and exact distances, the
        largest bound outside, and a row that stands before all that have it (or 0)."""
        bounds = self._bounds
        place = max(0, len(bounds) - FRONTIER)
        least = np.partition(bounds, place)[place]
        ties = np.flatnonzero(bounds == least)
        rows = np.concatenate([np.flatnonzero(bounds > least), ties[:TIES]])
        rows = np.sort(rows).astype(np.int32)
        outside, ahead = float(bounds[bounds < least].max(initial=-np.inf)), 0
        if len(ties) > TIES:
            outside, ahead = float(least), int(ties[TIES])
        X = self._pool.fetch(rows).astype(np.float64)
        return rows, X, self._refresh(rows, X), outside, ahead

    def _refresh(self, rows: Rows, X: Float64s) -> Float64s:
        """Exact distances of rows, from their bounds and the centres not yet accounted for."""
        distances = self._bounds[rows].copy()
        fresh = (self._exact[rows] < 0) & (distances > -np.inf)
        if fresh.any():
            distances[fresh] = _nearest(X[fresh], self._first)[1]
        since = np.maximum(self._exact[rows], 0)
        order = np.argsort(since, kind="stable")
        for number in range(int(since.min()), len(self._added)):
            behind = order[: np.searchsorted(since[order], number, side="right")]
            closer = _distance(X[behind], self._added[number])
            distances[behind] = np.minimum(distances[behind], closer)
        return distances


def _distance(X: Float64s, centre: Float64s) -> Float64s:
    """Euclidean distances of rows of X to a centre (or to centres row by row), float64.

    Row by row, so that a row's bits depend on nothing else.
    """
    return np.asarray(np.sqrt(((X - centre) ** 2).sum(axis=1)))


def _nearest(X: Float64s, centres: Float64s) -> tuple[npt.NDArray[np.int64], Float64s]:
    """Place of the nearest centre (the first of equals) of each row of X, and its distance.

    A product tells which centres may be nearest, their exact distances decide.
    """
    nearest, least = np.zeros(len(X), np.int64), np.full(len(X), np.inf)
    norms = (centres**2).sum(axis=1)
    slack = _slack(X.shape[1], np.float64) * ((X**2).sum(axis=1) + norms.max())
    step = _columns(len(X))
    for start in range(0, len(centres), step):
        part = centres[start : start + step]
        squared = norms[start : start + step] - 2 * (X @ part.T)
        rows, places = np.nonzero(squared <= (squared.min(axis=1) + slack)[:, None])
        distances = np.empty(len(rows))
        for at in range(0, len(rows), PAIRS):
            pairs = slice(at, at + PAIRS)
            distances[pairs] = _distance(X[rows[pairs]], part[places[pairs]])
        order = np.lexsort((places, distances, rows))
        first = order[np.unique(rows[order], return_index=True)[1]]
        closer = distances[first] < least
        nearest[closer] = places[first][closer] + start
        least[closer] = distances[first][closer]
    return nearest, least


def _slack(dimension: int, dtype: type[np.floating]) -> float:
    """Twice the error of a squared distance from a product, in units of both squared norms."""
    return 8.0 * (dimension + 16) * float(np.finfo(dtype).eps)


def _columns(rows: int) -> int:
    """How many centres a product with ``rows`` rows may have."""
    return max(16, PRODUCT // max(rows, 1))


def _cluster_sizes(pool: Pool, centres: Rows, request: Request) -> Float64s:
    """How many rows are nearest to each centre, float64; a tie goes to the earlier centre.

    A float32 product decides where one centre is clearly nearest, exact distances elsewhere.
    """
    vectors = pool.fetch(centres)
    exact = vectors.astype(np.float64)
    norms = (exact**2).sum(axis=1)
    slack = _slack(vectors.shape[1], np.float32) * (pool.max_norm**2 + float(norms.max()))

    def visit(block: Block) -> npt.NDArray[np.int64]:
        count = len(block.rows)
        nearest, least = np.zeros(count, np.int64), np.full(count, np.inf)
        second = np.full(count, np.inf)
        step = _columns(count)
        for start in range(0, len(vectors), step):
            part = np.ascontiguousarray(vectors[start : start + step].T)
            squared = norms[start : start + step] - 2 * block.product(part).astype(np.float64)
            best = squared.argmin(axis=1)
            value = squared[np.arange(count), best]
            squared[np.arange(count), best] = np.inf
            second = np.minimum.reduce([second, squared.min(axis=1), np.maximum(least, value)])
            nearest = np.where(value < least, best + start, nearest)
            least = np.minimum(value, least)
        unclear = np.flatnonzero(second <= least + slack)
        if len(unclear):
            X = pool.fetch(block.rows[unclear]).astype(np.float64)
            nearest[unclear] = _nearest(X, exact)[0]
        return nearest

    sizes = np.zeros(len(centres))
    for nearest in pool.scan(visit, stop=request.stop):
        sizes += np.bincount(nearest, minlength=len(centres))
    return sizes
