"""The nearest of a growing list of centres to each of many rows, by float32 products.

These are taken where the pool's vectors live; what they leave open is decided here, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coresift.server.arrays import Bools, Float32s, Float64s, Int64s, Rows
from coresift.server.pool.gathered import Gathered
from coresift.server.pool.parallel import CORES, in_order
from coresift.server.pool.pool import Pool
from coresift.server.pool.rows import Stop, check
from coresift.server.selection.coverage import nearest, pair_distances, pair_nearest
from coresift.server.selection.priority import priorities

BLOCK = 2_048
"""Most candidates of one float32 product, where their vectors stay within `NUMBERS` numbers. On a
device that wants larger products all these are `Gathering.breadth` times as large."""
NUMBERS = 2**19
CENTRES = 512
"""Centres of one float32 product."""
PAIRS = 2**27
"""Candidates times centres of one step: some tenths of a second."""
NEAR = 4
"""Centres a candidate that are compared exactly; where more may be nearest, float64 screens."""


@dataclass(slots=True)
class _Block:
    """Some candidates with what is known of them; each array is a copy."""

    X: Gathered
    norms: Float64s
    gaps: Float64s
    nearest: Rows
    is_exact: Bools


class NearestCentres:
    """Knows of each candidate the nearest of the centres that it has *seen*: the first ones.

    The *gap* is the distance to it, as `coverage.distances` computes it, or a little more: an
    estimate from a float32 product that is no smaller. It stays one until somebody asks, for
    most candidates are far from mattering when they meet a nearer centre. The nearest centre is
    right always, of equals the first: what a product leaves open is compared exactly at once.

    Memory is linear in the candidates, 26 bytes each, and in the centres, 4 bytes each.

    Attributes:
        centres: int32 [m], rows of the pool.
        gaps: float64 [n], inf before the first centre, -inf once taken.
        nearest: int32 [n], numbers of centres.
        seen: int32 [n], how many centres.
        is_exact: bool [n], whether the gap is the distance.
        is_taken: bool [n].
        slack: how far the square of a gap and an estimate of it may be apart.
        looks: how many candidates were compared so far.
    """

    def __init__(
        self, pool: Pool, candidates: Rows, centres: Rows, stop: Stop | None = None
    ) -> None:
        """``candidates`` int32 [n]; of ``centres``, int32 [m], copies of others are left out."""
        self._pool = pool
        self._candidates = candidates
        self._stop = stop
        self._norms = np.zeros(len(candidates))  # squared, once a candidate has seen a centre
        self.centres = _distinct(pool, centres, stop)
        self.gaps = np.full(len(candidates), np.inf)
        self.nearest = np.zeros(len(candidates), np.int32)
        self.seen = np.zeros(len(candidates), np.int32)
        self.is_exact = np.ones(len(candidates), np.bool_)
        self.is_taken = np.zeros(len(candidates), np.bool_)
        self.looks = 0
        dimension, breadth = pool.manifest.dimension, pool.gathering.breadth
        self._step = max(1, min(BLOCK, NUMBERS // dimension) * breadth)
        self._centres = CENTRES * breadth
        self._pairs = PAIRS * breadth**2
        # As `coverage.slack`, for one inner product in float32 and one square.
        unit = 2 * (dimension + 16) * 2.0**-24
        self.slack = unit * pool.max_norm**2 + dimension * 2.0**-120

    def vectors(self, places: Int64s) -> Float32s:
        """Of candidates, float32 [m, d]."""
        return self._pool.fetch(self._candidates[places])

    def norms(self, places: Int64s) -> Float64s:
        """Squared norms of candidates that have seen a centre, float64 [m]."""
        return self._norms[places]

    def add(self, places: Int64s) -> None:
        """Make candidates the next centres."""
        numbers = np.arange(len(self.centres), len(self.centres) + len(places))
        self.centres = np.concatenate([self.centres, self._candidates[places]])
        self.take(places, numbers)

    def take(self, places: Int64s, numbers: Int64s | Rows) -> None:
        """Let candidates count no more; ``numbers`` are their nearest centres."""
        self.gaps[places] = -np.inf
        self.nearest[places] = numbers
        self.is_taken[places] = True

    def is_behind(self, places: Int64s | slice = slice(None)) -> Bools:
        """Which candidates that are not taken have not seen all centres."""
        unseen = self.seen[places] < len(self.centres)
        return np.asarray(unseen & ~self.is_taken[places])

    def least(self, places: Int64s) -> float:
        """No more than the largest distance of candidates that have seen all; -inf for none."""
        return self._no_more_than(float(self.gaps[places].max(initial=-np.inf)))

    def look(self, places: Int64s, ahead: int) -> None:
        """Compare candidates with the next centres they have not seen, ``ahead`` at most.

        Those that have seen the fewest come first, as many as take some tenths of a second.
        """
        places = places[np.argsort(self.seen[places], kind="stable")]
        fresh = np.minimum(len(self.centres) - self.seen[places], ahead)
        count = int(np.searchsorted(np.cumsum(fresh, dtype=np.int64), self._pairs)) + self._step
        places = places[:count]
        self.looks += len(places)
        spread, step = self._pool.gathering.spread, self._step
        if spread:
            step = min(step, max(64, -(-len(places) // (2 * CORES))))
        parts = [places[start : start + step] for start in range(0, len(places), step)]

        def compare(part: Int64s) -> None:
            self._compare(part, ahead)

        for _ in in_order(compare, parts) if spread else map(compare, parts):
            pass

    def many(self) -> int:
        """Candidates that one `look` at all centres takes at most."""
        return max(self._step, self._pairs // max(1, len(self.centres)))

    def refine(self, places: Int64s) -> None:
        """Make gaps exact."""
        places = places[~self.is_exact[places]]
        for start in range(0, len(places), self._step):
            check(self._stop)
            some = places[start : start + self._step]
            self.gaps[some] = self.exact_gaps(self.vectors(some), self.nearest[some])
            self.is_exact[some] = True

    def exact_gaps(self, X: Float32s, numbers: Rows) -> Float64s:
        """Distances of rows of X to the centres of these numbers, float64 [n]."""
        rows = np.arange(len(X))
        return pair_distances(X, self._pool.fetch(self.centres[numbers]), rows, rows)

    def _no_more_than(self, gap: float) -> float:
        """What the distance is at least."""
        return max(gap**2 - 2 * self.slack, 0) ** 0.5 if gap >= 0 else gap

    def _compare(self, places: Int64s, ahead: int) -> None:
        """As `look`, of candidates whose first has seen the fewest centres. Safe on threads."""
        first = int(self.seen[places[0]])
        last = min(first + ahead, len(self.centres))
        X = self._pool.gathering.of(self._candidates[places])
        if first == 0:
            self._norms[places] = X.squares()
        known = self._norms[places], self.gaps[places], self.nearest[places], self.is_exact[places]
        block = _Block(X, *known)
        for start in range(first, last, self._centres):
            check(self._stop)
            some = self.centres[start : min(start + self._centres, last)]
            self._meet(block, start, self._pool.gathering.of(some))
        self.gaps[places], self.nearest[places] = block.gaps, block.nearest
        self.is_exact[places] = block.is_exact
        self.seen[places] = np.maximum(self.seen[places], last)

    def _meet(self, block: _Block, start: int, C: Gathered) -> None:
        """Gaps after the centres C, whose numbers begin at ``start``."""
        which, best, second = block.X.closest(C)
        squares, before = block.norms - 2.0 * best, block.gaps**2
        may_be_nearer = squares <= before + self.slack
        is_nearer = (squares < before - 3 * self.slack) & (second < best - self.slack)
        clear = np.flatnonzero(is_nearer)
        block.gaps[clear] = np.sqrt(np.maximum(squares[clear] + self.slack, 0))
        block.nearest[clear] = start + which[clear]
        block.is_exact[clear] = False
        open_ = np.flatnonzero(may_be_nearer & ~is_nearer)
        if len(open_):
            self._decide(block, start, C, open_, best[open_] - np.float32(self.slack))

    def _decide(
        self, block: _Block, start: int, C: Gathered, rows: Int64s, least: Float32s
    ) -> None:
        """Of rows of a block the nearest centre exactly: it is as near as ``least`` in float32."""
        self._refine(block, rows)
        X = block.X.vectors(rows)
        pairs = block.X.near(rows, C, least, NEAR * len(rows))
        if pairs is not None:
            at, of = pairs
            first, away = pair_nearest(X, C.vectors(of), at, np.arange(len(of)))
            which = of[first]
        else:
            wide = C.vectors(np.arange(len(C))).astype(np.float64)
            which, away = nearest(X.astype(np.float64), wide, self._pool.max_norm)
        closer = away < block.gaps[rows]
        block.gaps[rows[closer]] = away[closer]
        block.nearest[rows[closer]] = start + which[closer]

    def _refine(self, block: _Block, rows: Int64s) -> None:
        """Make gaps of a block exact."""
        rows = rows[~block.is_exact[rows]]
        block.gaps[rows] = self.exact_gaps(block.X.vectors(rows), block.nearest[rows])
        block.is_exact[rows] = True


def _distinct(pool: Pool, rows: Rows, stop: Stop | None) -> Rows:
    """Rows less the copies of earlier ones: each would have to be compared exactly."""
    chance = priorities(0, "copies", np.arange(pool.manifest.dimension, dtype=np.int32))
    sums = np.empty(len(rows))
    for start in range(0, len(rows), BLOCK):
        check(stop)
        part = slice(start, start + BLOCK)
        sums[part] = (pool.fetch(rows[part]) * chance).sum(axis=1)
    _, first, which = np.unique(sums, return_index=True, return_inverse=True)
    earlier = first[which]
    alike = np.flatnonzero(earlier != np.arange(len(rows)))
    is_copy = np.zeros(len(rows), np.bool_)
    for start in range(0, len(alike), BLOCK):
        check(stop)
        some = alike[start : start + BLOCK]
        same = pool.fetch(rows[some]) == pool.fetch(rows[earlier[some]])
        is_copy[some] = same.all(axis=1)
    return rows[~is_copy]
