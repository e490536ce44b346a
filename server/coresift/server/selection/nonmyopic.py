"""Efficient nonmyopic search for the items of a rare concept. Experimental."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from coresift.server.arrays import Float64s, Int64s, Rows
from coresift.server.head import Task
from coresift.server.selection.neighbour_votes import Votes, votes_of
from coresift.server.selection.parameters import parameter
from coresift.server.selection.strategy import Ranked, Ranker, Setting, Situation

BLOCK = 65_536
"""Candidates whose neighbours are looked at together."""
GRID = 2.0**30
"""Scores are compared in units of 1 / GRID: what differs by less differs by rounding. Sums of
products of votes lie on no border between two such units."""
LOOSE = 64
"""Candidates scored for one choice before bounds are taken from better levels."""


@dataclass(frozen=True, slots=True)
class Ens:
    """Efficient nonmyopic search, ENS (Jiang et al., 2017), in batches (Jiang et al., 2018).

    Experimental. On a nearest-neighbour model of the concept,

        p(x) = (prior + positives) / (1 + labels)

    counted among the ``neighbours`` nearest rows of x that have labels, each with weight 1 (an
    item with several votes counts as positive to the share of its positive votes), the score of a
    candidate is the number of positives expected from labelling it now and the most probable
    candidates, all at once, with the rest of the label budget b:

        p(x) + E_y [sum of the b - 1 largest p(x' | x has label y)]

    A batch is chosen one by one: each choice gets its more likely label (positive if p > 1/2) for
    the next one, whose budget is smaller by one. Once the budget is spent, and with ``one_step``
    from the start, the score is p(x) alone. Scores are compared to 2^-30, ties go to the smaller
    row.

    Departures: the budget of a session without one, and of one with more, is ``horizon``; the later
    labels are candidates too, not any item; the neighbour table holds the nearest rows of the
    pool, of which only some have labels. Needs a pool with a neighbour table.
    """

    neighbours: int = parameter(50, "nearest rows that may vote", low=1, high=1_000)
    prior: float = parameter(
        0.01, "probability of an item without labelled neighbours", low=1e-6, high=0.999999
    )
    horizon: int = parameter(500, "most labels that are planned for", low=1, high=10_000)
    one_step: bool = parameter(False, "only the next label counts")
    needs_head: ClassVar[bool] = False
    tasks: ClassVar[frozenset[Task]] = frozenset({Task.BINARY})

    @property
    def needs_neighbours(self) -> int:
        """Columns that the pool's neighbour table must have."""
        return self.neighbours

    def objection(self, setting: Setting) -> str | None:
        return None

    def prepare(self, situation: Situation) -> Ranker:
        return Search(situation, self)


@dataclass(frozen=True, slots=True)
class Search:
    """Orders candidates by sequential simulation of the search."""

    situation: Situation
    strategy: Ens

    def rank(self, candidates: Rows, depth: int) -> Ranked:
        wanted = min(depth, len(candidates))
        places, scores = np.empty(wanted, np.int64), np.empty(wanted)
        if wanted:
            budget = self.strategy.horizon
            if self.situation.budget is not None:
                budget = min(budget, self.situation.budget)
            simulation = _Simulation(
                votes_of(self.situation, candidates, self.strategy.neighbours, self.strategy.prior)
            )
            for number in range(wanted):
                later = 0 if self.strategy.one_step else max(0, budget - 1 - number)
                places[number], scores[number] = simulation.choose(later)
        return Ranked(candidates[places], scores)


class _Outlook:
    """Bounds of the sum of the T largest p after a candidate got a certain label.

    The sum of the T largest of some values is at most ``T t + sum (value - t)+`` for any level t,
    and equals it where t is the T-th largest. A label of x changes only its heirs, so the bound
    for x needs but a sum over them, and one choice changes these sums in a few places.
    """

    def __init__(self, votes: Votes, label: int) -> None:
        self._votes, self._label, self._level = votes, label, np.nan
        count = len(votes.p)
        self._surplus, self._change = np.zeros((2, count))
        self._by_heirs = np.zeros(count + 1)

    def bounds(self, later: int) -> Float64s:
        """Bounds [n] of the sum of the ``later`` largest."""
        whole = later * self._level + float(self._surplus.sum())
        return np.asarray(whole - self._surplus + self._by_heirs[:-1])

    def look_from(self, level: float) -> None:
        """Change the level."""
        if level == self._level:
            return
        self._level = level
        self._change[:], self._by_heirs[:] = 0, 0
        for start in range(0, len(self._change), BLOCK):
            self.update(np.arange(start, min(len(self._change), start + BLOCK)))

    def update(self, places: Int64s) -> None:
        """Votes of places have changed, or they were chosen."""
        votes, level, before = self._votes, self._level, self._change[places]
        now = np.maximum(votes.p[places] - level, 0)
        then = np.maximum(votes.probability(places, self._label, 1) - level, 0)
        self._surplus[places] = votes.free[places] * now
        self._change[places] = votes.free[places] * (then - now)
        more = self._change[places] - before
        moved = np.flatnonzero(more)
        around = votes.near[places[moved]]
        weights = np.repeat(more[moved], around.shape[1])
        if around.size < len(self._by_heirs):
            np.add.at(self._by_heirs, around.ravel(), weights)
        else:
            self._by_heirs += np.bincount(around.ravel(), weights, len(self._by_heirs))


class _Simulation:
    """The search, one choice after another."""

    def __init__(self, votes: Votes) -> None:
        self._votes = votes
        self._outlooks = (_Outlook(votes, 0), _Outlook(votes, 1))
        self._levels: tuple[float, float] | None = None
        self._marked = np.zeros(len(votes.p), np.bool_)

    def choose(self, later: int) -> tuple[int, float]:
        """Take the best candidate, if ``later`` labels come after it: its place and score."""
        place, score = self._best(later) if later else self._most_likely()
        touched = self._votes.take(place, bool(self._votes.p[place] > 0.5))
        if later:
            for outlook in self._outlooks:
                outlook.update(touched)
        return place, score

    def _most_likely(self) -> tuple[int, float]:
        p = np.where(self._votes.free, _on_grid(self._votes.p), -np.inf)
        place = int(p.argmax())
        return place, float(p[place])

    def _best(self, later: int) -> tuple[int, float]:
        """Candidates are scored from the largest bound on, until none can be better."""
        votes = self._votes
        top = votes.largest(later + votes.most_heirs + 1)
        if self._levels is None:
            level = float(votes.p[top[later - 1]]) if later <= len(top) else 0.0
            self._look_from((level, level))
        bounds = self._bounds(later)
        first, best, scored = -1, -np.inf, 0
        while True:
            place = int(bounds.argmax())  # the first of equals: places ascend
            if bounds[place] < best or (bounds[place] == best and place > first):
                return first, best
            score, levels = self._score(place, later, top)
            if score > best or (score == best and place < first):
                first, best = place, score
            bounds[place] = -np.inf
            scored += 1
            if scored % LOOSE == 0:
                self._look_from(levels)
                bounds = np.minimum(bounds, self._bounds(later))

    def _look_from(self, levels: tuple[float, float]) -> None:
        self._levels = levels
        for outlook, level in zip(self._outlooks, levels, strict=True):
            outlook.look_from(level)

    def _bounds(self, later: int) -> Float64s:
        p = self._votes.p
        missed, found = (outlook.bounds(later) for outlook in self._outlooks)
        bounds = _on_grid(p + p * found + (1 - p) * missed)
        return np.where(self._votes.free, bounds, -np.inf)

    def _score(self, place: int, later: int, top: Int64s) -> tuple[float, tuple[float, float]]:
        """A score, and the last p that counts in it after either label."""
        votes, marked = self._votes, self._marked
        heirs = votes.heirs(place)
        marked[heirs] = marked[place] = True
        others = top[: later + len(heirs) + 1]
        others = others[~marked[others]][:later]
        marked[heirs] = marked[place] = False
        p = float(votes.p[place])
        (missed, low), (found, high) = (
            _largest(np.concatenate([votes.p[others], votes.probability(heirs, y, 1)]), later)
            for y in (0, 1)
        )
        score = float(_on_grid(np.asarray(p + p * found + (1 - p) * missed)))
        return score, (low, high)


def _on_grid(scores: Float64s) -> Float64s:
    return np.asarray(np.rint(scores * GRID) / GRID)


def _largest(values: Float64s, count: int) -> tuple[float, float]:
    """Sum of the ``count`` largest values (or all), and the last of them (or 0)."""
    if len(values) < count:
        return float(values.sum()), 0.0
    place = len(values) - count
    ordered = np.partition(values, place)[place:]
    return float(ordered.sum()), float(ordered[0])
