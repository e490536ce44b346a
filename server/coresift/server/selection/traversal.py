"""Farthest-first traversal of a pool's rows, exact, at the cost of a matrix product or less."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from coresift.server.arrays import Int64s, Rows
from coresift.server.pool.pool import Pool
from coresift.server.pool.rows import Stop, check
from coresift.server.selection.coverage import distances
from coresift.server.selection.nearest_centres import NearestCentres
from coresift.server.selection.priority import priorities

FRONTIER = 1_024
"""Fewest candidates among which choices are made without a look at the others."""
MOST = 4_096
"""Most of them, where their vectors stay within `WIDEST` numbers."""
WIDEST = 2**20
AHEAD = 1_024
"""Centres that a candidate outside the frontier is compared with before it is looked at again."""


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

    Distances only fall, so the *gap* of a candidate (`NearestCentres`), the distance to the
    nearest of the first few centres, is an upper bound of the distance to all. Choices are made
    in a frontier, the candidates with the largest gaps, which have seen all centres. While the
    farthest of them lies beyond every other gap, no other candidate need be looked at. Then
    those whose gaps reach beyond the frontier's farthest, and only those, see more centres, by
    float32 products of blocks that tell which pairs of candidate and centre matter. Hardly a
    candidate meets a centre twice, and many never meet most.
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
        self._candidates = candidates
        self._stop = stop
        self._state = NearestCentres(pool, candidates, centres, stop)
        self.given = len(self._state.centres)
        """Centres that were there from the start: the numbers of those taken begin here."""
        self._reached = -np.inf  # no farther than the farthest
        self._width = FRONTIER
        self._most = max(FRONTIER, min(MOST, WIDEST // pool.manifest.dimension))

    def take_first(self, seed: int) -> int:
        """Take the first candidate of the seed's hash order, where there is no centre yet."""
        place = int(priorities(seed, "k_center", self._candidates).argmax())
        self._state.add(np.array([place]))
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
        state = self._state
        if state.is_taken.all():
            return 0.0
        while True:
            frontier = self._clear()
            if frontier is None:
                continue
            farthest = int(state.gaps.argmax())
            if state.is_exact[farthest]:
                return float(state.gaps[farthest])
            state.refine(np.flatnonzero(state.gaps >= self._reached))

    def settle(self) -> Iterator[float]:
        """Let every candidate see every centre: the share of them that has, from step to step."""
        state = self._state
        # Nothing is nearer than a copy.
        behind = np.flatnonzero(state.is_behind() & (state.gaps > 0))
        behind = behind[np.argsort(state.seen[behind], kind="stable")]
        step = state.many()
        for start in range(0, len(behind), step):
            yield 1 - (len(behind) - start) / len(state.gaps)
            state.look(behind[start : start + step], len(state.centres))
        yield 1.0

    def clusters(self) -> Int64s:
        """How many candidates are nearest to each centre, the taken ones included, int64.

        Right once all have settled. A tie goes to the smaller number.
        """
        return np.bincount(self._state.nearest, minlength=len(self._state.centres))

    def numbers(self, places: Int64s) -> Int64s:
        """The numbers of the centres nearest to candidates, int64: of a taken one its own, unless
        it is a copy of an earlier centre."""
        return self._state.nearest[places].astype(np.int64)

    def _clear(self) -> _Frontier | None:
        """A frontier that holds the farthest candidate; None after a step towards it."""
        state = self._state
        if self._reached > -np.inf:
            behind = np.flatnonzero(state.is_behind() & (state.gaps >= self._reached))
            if len(behind) > self._width // 2:
                state.look(behind, AHEAD)
                return None
        frontier = self._largest()
        behind = frontier.places[state.is_behind(frontier.places)]
        if len(behind):
            state.look(behind, len(state.centres))
        is_behind = state.is_behind(frontier.places)
        self._reached = state.least(frontier.places[~is_behind])
        is_clear = state.gaps[frontier.places].max() >= frontier.outside and not is_behind.any()
        return frontier if is_clear else None

    def _largest(self) -> _Frontier:
        """The candidates with the largest gaps, of equals the first."""
        gaps, width = self._state.gaps, self._width
        if len(gaps) <= width:
            return _Frontier(np.arange(len(gaps)), -np.inf, 0)
        outside = np.partition(gaps, len(gaps) - width - 1)[len(gaps) - width - 1]
        near = np.flatnonzero(gaps >= outside)
        is_above = gaps[near] > outside
        above, ties = near[is_above], near[~is_above]
        room = width - len(above)
        places = np.sort(np.concatenate([above, ties[:room]]))
        return _Frontier(places, float(outside), int(ties[room]))

    def _take_from(self, frontier: _Frontier, wanted: int) -> list[tuple[int, float]]:
        """Choices while they lie beyond all that is outside; perhaps none, but exact gaps."""
        state, places = self._state, frontier.places
        X, norms = state.vectors(places), state.norms(places)
        gaps, closest, is_exact = state.gaps[places], state.nearest[places], state.is_exact[places]
        slack = state.slack
        # The inner product with a centre, less half its square, from which it may be nearer.
        reach = (norms - gaps**2 - slack) / 2
        reach[gaps == -np.inf] = np.inf
        chosen: list[int] = []
        scores: list[float] = []
        first = len(state.centres)

        def refine(some: Int64s) -> None:
            some = some[~is_exact[some]]
            if len(some):
                gaps[some] = state.exact_gaps(X[some], closest[some])
                is_exact[some] = True

        while len(chosen) < wanted:
            check(self._stop)
            at = int(gaps.argmax())  # the first of equals: places ascend
            gap = float(gaps[at])
            leads = gap > frontier.outside or (
                gap == frontier.outside and places[at] < frontier.ahead
            )
            if not leads or gap <= 0:
                break
            if not is_exact[at]:
                refine(np.flatnonzero(gaps >= frontier.outside))
                continue
            near = np.flatnonzero(X @ X[at] >= reach + norms[at] / 2)
            away = distances(X[near].astype(np.float64), X[at].astype(np.float64))
            refine(near[away**2 >= gaps[near] ** 2 - 3 * slack])
            near, away = near[away < gaps[near]], away[away < gaps[near]]
            gaps[near], closest[near], is_exact[near] = away, first + len(chosen), True
            reach[near] = (norms[near] - away**2 - slack) / 2
            gaps[at], reach[at] = -np.inf, np.inf
            chosen.append(at)
            scores.append(gap)
        state.gaps[places], state.nearest[places], state.is_exact[places] = gaps, closest, is_exact
        state.seen[places] = first + len(chosen)
        state.add(places[chosen])
        self._reached = state.least(places)
        self._adapt(len(chosen))
        found = list(zip(places[chosen].tolist(), scores, strict=True))
        if gaps.max() == 0 and frontier.outside <= 0:
            found += self._take_copies(wanted - len(found))
        return found

    def _take_copies(self, wanted: int) -> list[tuple[int, float]]:
        """Choices where nothing is left but copies of centres: none is a new centre."""
        copies = np.flatnonzero(self._state.gaps == 0)[:wanted]
        self._state.take(copies, self._state.nearest[copies])
        return [(place, 0.0) for place in copies.tolist()]

    def _adapt(self, choices: int) -> None:
        """Widen the frontier while the others cost more than it does, and the reverse.

        A choice reads the whole frontier at about a fifth of what it costs to fetch a candidate.
        """
        inside = choices * self._width / 5
        outside = self._state.looks + len(self._candidates) / 20
        if inside < outside / 2:
            self._width = min(self._most, 2 * self._width)
        elif inside > 2 * outside:
            self._width = max(FRONTIER, self._width // 2)
        self._state.looks = 0
