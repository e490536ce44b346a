"""How well a core-set covers the items it was chosen from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from coresift.server.arrays import Float32s, Float64s, Int64s, Rows
from coresift.server.coreset.items import squared_lengths
from coresift.server.coreset.problem import Problem
from coresift.server.coreset.ranking import first_of
from coresift.server.pool.canonical import product_error
from coresift.server.pool.parallel import in_order
from coresift.server.selection.coverage import nearest
from coresift.server.selection.priority import priorities

WORK = 2e11
"""Floating-point operations of the products: 1 to 2 s on two cores."""
PAIR_WORK, UNIT_PAIR_WORK = 700, 150
"""What looking at a product costs beside making it, in the same unit; and on unit rows."""
TILE = 2_048
"""Items and centres of one product at most."""
PRODUCT = 2**30
"""Multiplications of one product: some 20 ms."""
REFINED = 64
"""Items whose distances are refined at a time."""


@dataclass(frozen=True, slots=True)
class Measures:
    """What was measured; None: not.

    Attributes:
        covering_radius: largest Euclidean distance of an item to the nearest selected or start
            row; only where all items were looked at.
        mean_max_similarity: mean over items of the cosine with the most similar selected item
            other than itself; an item that is selected alone has none, and does not count.
        items: how many items were looked at: all, or a random sample.
    """

    covering_radius: float | None
    mean_max_similarity: float | None
    items: int


def measure(problem: Problem, selected: Int64s) -> Measures:
    """Measures of a core-set, positions int64 [m].

    All items are looked at where the product with the core-set takes at most `WORK`, else as many
    of the first in the keyed hash order as do. Cosines are float32 products; the radius is the
    float64 distance. Reports the phase "measure".

    Raises:
        Cancelled: nobody wants it any more.
    """
    items = problem.items
    n, centres = len(items), len(selected) + len(problem.start)
    looking = UNIT_PAIR_WORK if items.are_unit else PAIR_WORK
    room = int(WORK / (centres * (2.0 * items.dimension + looking)))
    looked = np.arange(n)
    if room < n:
        keys = priorities(problem.seed, "measure", items.rows)
        looked = np.sort(first_of(-keys, max(1, room)))
    found = _Nearest(problem, selected, looked)
    found.look()
    radius = found.radius() if len(looked) == n else None
    problem.report("measure", 1.0, None)
    similar = np.minimum(found.similarities[found.similarities > -np.inf], 1)
    return Measures(
        covering_radius=radius,
        mean_max_similarity=float(similar.mean()) if len(similar) else None,
        items=len(looked),
    )


class _Nearest:
    """Of some items the most similar selected one, and how far the nearest centre is.

    Attributes:
        similarities: float64 [r], largest cosine with a selected item but itself; -inf: none.
        bounds: float64 [r], no less than the squared distance to the nearest centre.
    """

    def __init__(self, problem: Problem, selected: Int64s, looked: Int64s) -> None:
        self._problem, self._selected, self._looked = problem, selected, looked
        self._pool, self._dimension = problem.items.pool, problem.items.dimension
        self._rows = problem.items.rows[looked]
        self._centres = np.concatenate([problem.items.rows[selected], problem.start])
        self._column = np.full(len(problem.items), -1, np.int64)
        self._column[selected] = np.arange(len(selected))
        self.similarities = np.full(len(looked), -np.inf)
        self.bounds = np.full(len(looked), np.inf)

    def look(self) -> None:
        """Products of all items with all centres, tile by tile."""
        side = min(TILE, math.isqrt(PRODUCT // self._dimension))
        tiles = [
            (slice(i, i + side), slice(c, c + side))
            for i in range(0, len(self._rows), side)
            for c in range(0, len(self._centres), side)
        ]
        for done, (span, similarities, bounds) in enumerate(in_order(self._tile, tiles), 1):
            np.maximum(self.similarities[span], similarities, out=self.similarities[span])
            np.minimum(self.bounds[span], bounds, out=self.bounds[span])
            self._problem.report("measure", 0.9 * done / len(tiles), None)

    def _tile(self, tile: tuple[slice, slice]) -> tuple[slice, Float32s, Float64s]:
        """Of some items to some centres the largest cosine, and a bound of the least square."""
        mine, theirs = tile
        self._problem.items.check()
        X, C = self._fetch(self._rows[mine]), self._fetch(self._centres[theirs])
        x, c = (squared_lengths(V).astype(np.float32) for V in (X, C))
        products = X @ C.T
        own = self._column[self._looked[mine]] - theirs.start
        there = np.flatnonzero((own >= 0) & (own < len(C)))
        error = product_error("l2", self._dimension, self._pool.max_norm, np.sqrt(x))
        if self._problem.items.are_unit and theirs.start + len(C) <= len(self._selected):
            products[there, own[there]] = -np.inf
            best = products.max(axis=1)  # the nearest is the most similar: one look at the product
            return mine, best, x + c.max() - 2.0 * best + error
        squares = products * -2
        squares += c
        products *= _inverse_roots(c)
        products[:, max(0, len(self._selected) - theirs.start) :] = -np.inf
        products[there, own[there]] = -np.inf
        return mine, products.max(axis=1) * _inverse_roots(x), squares.min(axis=1) + x + error

    def radius(self) -> float:
        """The largest distance of an item to its nearest centre, as float64 has it."""
        others = np.flatnonzero(self._column < 0)
        bounds = self.bounds[others]
        order = np.argsort(-bounds, kind="stable")
        centres = np.unique(self._fetch(self._centres), axis=0).astype(np.float64)
        radius = 0.0
        for start in range(0, len(order), REFINED):
            some = order[start : start + REFINED]
            if bounds[some[0]] <= radius**2:
                break
            self._problem.items.check()
            X = self._fetch(self._rows[others[some]]).astype(np.float64)
            radius = max(radius, float(nearest(X, centres, self._pool.max_norm)[1].max()))
        return radius

    def _fetch(self, rows: Rows) -> Float32s:
        return self._pool.fetch(rows)


def _inverse_roots(squares: Float32s) -> Float32s:
    """1 / sqrt, and 1 of 0: a zero vector, whose products are 0, has cosine 0 with everything."""
    return np.asarray(1 / np.sqrt(np.where(squares > 0, squares, 1)), np.float32)
