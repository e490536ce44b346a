"""Farthest-first traversal of a pool's rows, exact, at the cost of a matrix product or less."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from coresift.server.arrays import Bools, Float32s, Float64s, Int64s, Rows
from coresift.server.pool.parallel import CORES, in_order
from coresift.server.pool.pool import Pool
from coresift.server.pool.rows import Stop, check
from coresift.server.selection.coverage import distances, nearest, pair_nearest
from coresift.server.selection.priority import priorities

FRONTIER = 1_024
"""Fewest candidates among which choices are made without a look at the others."""
MOST = 4_096
"""Most of them, where their vectors stay within `WIDEST` numbers."""
WIDEST = 2**20
BLOCK = 2_048
"""Most candidates of one float32 product, where their vectors stay within `NUMBERS` numbers."""
NUMBERS = 2**19
CENTRES = 512
"""Centres of one float32 product."""
AHEAD = 1_024
"""Centres that a candidate outside the frontier is compared with before it is looked at again."""
PAIRS = 2**27
"""Candidates times centres of one step: some tenths of a second."""
NEAR = 4
"""Centres a candidate that are compared exactly; where more may be nearest, float64 screens."""


@dataclass(frozen=True, slots=True)
class _Frontier:
    """The candidates of which one is the farthest.

    Attributes:
        places: ascending.
        outside: the largest gap of all others; ``ahead`` is the first place that has it.
    """

    places: Int64s
    outside: float
    ahead: int


class Traversal:
    """Takes candidates one by one, each the farthest from all centres; what is taken is a centre.

    The definition is Gonzalez's (1985): the next choice has the largest Euclidean distance, as
    `coverage.distances` computes it, to its nearest centre; of equals the first candidate.
    Centres have numbers: those given from the start, less the copies, then those taken.

    Distances only fall, so a distance to the first few centres is an upper bound of the distance
    to all. Every candidate has such a *gap*: exact, but for the centres it has *seen*. Choices
    are made in a frontier, the candidates with the largest gaps, which have seen all centres.
    While the farthest of them lies beyond every other gap, no other candidate need be looked at.
    Then those whose gaps reach beyond the frontier's farthest, and only those, see more
    centres, by float32 products of blocks that tell which pairs of candidate and centre matter.
    Hardly a candidate meets a centre twice, and many never meet most.

    Memory is linear in the candidates, 25 bytes each, and in the centres, 4 bytes each.
    """

    def __init__(
        self, pool: Pool, candidates: Rows, centres: Rows, stop: Stop | None = None
    ) -> None:
        """Start.

        Args:
            candidates: int32 [n], ascending, none of them a centre.
            centres: int32 [m], rows that are centres from the start.
            stop: asked between blocks; ends what runs with `Cancelled`.
        """
        self._pool = pool
        self._candidates = candidates
        self._stop = stop
        self._centres = _distinct(pool, centres, stop)
        self.given = len(self._centres)
        """Centres that were there from the start: the numbers of those taken begin here."""
        self._gaps = np.full(len(candidates), np.inf)
        self._norms = np.zeros(len(candidates))  # squared, once a candidate has seen a centre
        self._seen = np.zeros(len(candidates), np.int32)
        self._nearest = np.zeros(len(candidates), np.int32)
        self._taken = np.zeros(len(candidates), np.bool_)
        self._reached = -np.inf  # no farther than the farthest
        dimension = pool.manifest.dimension
        self._width = FRONTIER
        self._most = max(FRONTIER, min(MOST, WIDEST // dimension))
        self._block = max(1, min(BLOCK, NUMBERS // dimension))
        self._looks = 0  # at candidates outside, since the last choices
        # As `coverage.slack`, for one inner product in float32 and one square.
        unit = 2 * (dimension + 16) * 2.0**-24
        self._slack = unit * pool.max_norm**2 + dimension * 2.0**-120

    def take_first(self, seed: int) -> int:
        """Take the first candidate of the seed's hash order, where there is no centre yet."""
        place = int(priorities(seed, "k_center", self._candidates).argmax())
        self._take(np.array([place]), np.array([0]))
        self._centres = self._candidates[[place]]
        return place

    def take_farthest(self, wanted: int) -> list[tuple[int, float]]:
        """Up to ``wanted`` next choices, as places with their distances: as many as are clear.

        May be empty: then candidates saw more centres, some tenths of a second long, and the
        next call sees farther. There must be a centre, and a candidate left.
        """
        frontier = self._clear()
        return [] if frontier is None else self._take_from(frontier, wanted)

    def radius(self) -> float:
        """The largest distance of any candidate to its nearest centre."""
        if self._taken.all():
            return 0.0
        while (frontier := self._clear()) is None:
            pass
        return float(self._gaps[frontier.places].max())

    def settle(self) -> Iterator[float]:
        """Let every candidate see every centre: the share of them that has, from step to step."""
        # Nothing is nearer than a copy.
        behind = np.flatnonzero(self._behind() & (self._gaps > 0))
        behind = behind[np.argsort(self._seen[behind], kind="stable")]
        step = max(self._block, PAIRS // len(self._centres))
        for start in range(0, len(behind), step):
            yield 1 - (len(behind) - start) / len(self._gaps)
            self._look(behind[start : start + step], len(self._centres))
        yield 1.0

    def clusters(self) -> Int64s:
        """How many candidates are nearest to each centre, the taken ones included, int64.

        Right once all have settled. A tie goes to the smaller number.
        """
        return np.bincount(self._nearest, minlength=len(self._centres))

    def numbers(self, places: Int64s) -> Int64s:
        """The numbers of the centres nearest to candidates, int64: of a taken one its own, unless
        it is a copy of an earlier centre."""
        return self._nearest[places].astype(np.int64)

    def _behind(self) -> Bools:
        return np.asarray((self._seen < len(self._centres)) & ~self._taken)

    def _clear(self) -> _Frontier | None:
        """A frontier that holds the farthest candidate; None after a step towards it."""
        if self._reached > -np.inf:
            behind = np.flatnonzero(self._behind() & (self._gaps >= self._reached))
            if len(behind) > self._width // 2:
                self._look(behind, AHEAD)
                return None
        frontier = self._largest()
        behind = frontier.places[self._behind()[frontier.places]]
        if len(behind):
            self._look(behind, len(self._centres))
        clear = frontier.places[~self._behind()[frontier.places]]
        self._reached = float(self._gaps[clear].max(initial=-np.inf))
        is_clear = len(clear) == len(frontier.places) and self._reached >= frontier.outside
        return frontier if is_clear else None

    def _largest(self) -> _Frontier:
        """The candidates with the largest gaps, of equals the first."""
        gaps, width = self._gaps, self._width
        if len(gaps) <= width:
            return _Frontier(np.arange(len(gaps)), -np.inf, 0)
        least = np.partition(gaps, len(gaps) - width)[len(gaps) - width]
        above = np.flatnonzero(gaps > least)
        ties = np.flatnonzero(gaps == least)
        room = width - len(above)
        places = np.sort(np.concatenate([above, ties[:room]]))
        if len(ties) > room:
            return _Frontier(places, float(least), int(ties[room]))
        below = np.where(gaps < least, gaps, -np.inf)
        ahead = int(below.argmax())
        return _Frontier(places, float(below[ahead]), ahead)

    def _take_from(self, frontier: _Frontier, wanted: int) -> list[tuple[int, float]]:
        """Choices while they lie beyond all that is outside."""
        places = frontier.places
        X = self._pool.fetch(self._candidates[places])
        norms = self._norms[places]
        gaps, closest = self._gaps[places], self._nearest[places]
        # The inner product with a centre, less half its square, from which it may be nearer.
        reach = (norms - gaps**2 - self._slack) / 2
        reach[gaps == -np.inf] = np.inf
        chosen: list[int] = []
        scores: list[float] = []
        first = len(self._centres)
        while len(chosen) < wanted:
            check(self._stop)
            at = int(gaps.argmax())  # the first of equals: places ascend
            gap = float(gaps[at])
            leads = gap > frontier.outside or (
                gap == frontier.outside and places[at] < frontier.ahead
            )
            if not leads or gap <= 0:
                break
            near = np.flatnonzero(X @ X[at] >= reach + norms[at] / 2)
            away = distances(X[near].astype(np.float64), X[at].astype(np.float64))
            near, away = near[away < gaps[near]], away[away < gaps[near]]
            gaps[near], closest[near] = away, first + len(chosen)
            reach[near] = (norms[near] - away**2 - self._slack) / 2
            gaps[at], reach[at] = -np.inf, np.inf
            chosen.append(at)
            scores.append(gap)
        self._gaps[places], self._nearest[places] = gaps, closest
        self._seen[places] = first + len(chosen)
        self._reached = float(gaps.max())
        self._centres = np.concatenate([self._centres, self._candidates[places[chosen]]])
        self._take(places[chosen], np.arange(first, len(self._centres)))
        self._adapt(len(chosen))
        found = list(zip(places[chosen].tolist(), scores, strict=True))
        if self._reached == 0 and frontier.outside <= 0:
            found += self._take_copies(wanted - len(found))
        return found

    def _take_copies(self, wanted: int) -> list[tuple[int, float]]:
        """Choices where nothing is left but copies of centres: none is a new centre."""
        copies = np.flatnonzero(self._gaps == 0)[:wanted]
        self._take(copies, self._nearest[copies])
        return [(place, 0.0) for place in copies.tolist()]

    def _take(self, places: Int64s, numbers: Int64s | Rows) -> None:
        self._gaps[places] = -np.inf
        self._nearest[places] = numbers
        self._taken[places] = True

    def _adapt(self, choices: int) -> None:
        """Widen the frontier while the others cost more than it does, and the reverse.

        A choice reads the whole frontier at about a fifth of what it costs to fetch a candidate.
        """
        inside = choices * self._width / 5
        outside = self._looks + len(self._gaps) / 20
        if inside < outside / 2:
            self._width = min(self._most, 2 * self._width)
        elif inside > 2 * outside:
            self._width = max(FRONTIER, self._width // 2)
        self._looks = 0

    def _look(self, places: Int64s, ahead: int) -> None:
        """Compare candidates with the next centres they have not seen, ``ahead`` at most."""
        places = places[np.argsort(self._seen[places], kind="stable")]
        fresh = np.minimum(len(self._centres) - self._seen[places], ahead)
        count = int(np.searchsorted(np.cumsum(fresh, dtype=np.int64), PAIRS)) + self._block
        places = places[:count]
        self._looks += len(places)
        step = min(self._block, max(64, -(-len(places) // (2 * CORES))))
        parts = [places[start : start + step] for start in range(0, len(places), step)]

        def compare(part: Int64s) -> None:
            self._compare(part, ahead)

        for _ in in_order(compare, parts):
            pass

    def _compare(self, places: Int64s, ahead: int) -> None:
        """Gaps of candidates whose first has seen the fewest centres. Safe on threads."""
        first = int(self._seen[places[0]])
        last = min(first + ahead, len(self._centres))
        X = self._pool.fetch(self._candidates[places])
        if first == 0:
            self._norms[places] = _squared_norms(X)
        norms = self._norms[places]
        gaps, closest = self._gaps[places], self._nearest[places]
        for start in range(first, last, CENTRES):
            check(self._stop)
            C = self._pool.fetch(self._centres[start : min(start + CENTRES, last)])
            at, of, away = self._nearer(X, norms, gaps, C)
            gaps[at], closest[at] = away, start + of
        self._gaps[places], self._nearest[places] = gaps, closest
        self._seen[places] = np.maximum(self._seen[places], last)

    def _nearer(
        self, X: Float32s, norms: Float64s, gaps: Float64s, C: Float32s
    ) -> tuple[Int64s, Int64s, Float64s]:
        """Rows of X that have a centre of C nearer than their gaps, that centre (the first of
        equals), and its distance."""
        products = X @ C.T
        products -= _squared_norms(C).astype(np.float32) / 2
        best = np.take_along_axis(products, products.argmax(axis=1)[:, None], axis=1)
        rows = np.flatnonzero(best[:, 0] >= (norms - gaps**2 - self._slack) / 2)
        # On one axis NumPy is ten times faster.
        near = np.flatnonzero(products[rows] >= best[rows] - self._slack)
        at, of = np.divmod(near, len(C))
        wide, centres = X[rows].astype(np.float64), C.astype(np.float64)
        if len(at) <= NEAR * len(rows):
            which, away = pair_nearest(wide, centres, at, of)
        else:
            which, away = nearest(wide, centres, self._pool.max_norm)
        closer = away < gaps[rows]
        return rows[closer], which[closer], away[closer]


def _squared_norms(X: Float32s) -> Float64s:
    wide = X.astype(np.float64)
    return np.asarray(np.vecdot(wide, wide))


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
