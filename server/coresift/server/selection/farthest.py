"""k-center: the candidate farthest from everything labelled or chosen (Gonzalez, 1985)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from coresift.server.arrays import Float64s, Int64s, Rows
from coresift.server.head import Task
from coresift.server.pool.parallel import in_order
from coresift.server.pool.pool import Pool
from coresift.server.selection.coverage import distances, nearest
from coresift.server.selection.priority import priorities
from coresift.server.selection.strategy import EVERY_TASK, Ranked, Ranker, Setting, Situation

FRONTIER = 1_024
"""Candidates whose distances are kept exact: those that may be farthest."""
BLOCK = 2_048
"""Candidates of one float32 product."""
CENTRES = 256
"""Centres of one float32 product: with the candidates 2 MiB, which the allocator keeps."""


@dataclass(frozen=True, slots=True)
class KCenter:
    """Greedy k-center, the core-set strategy of Sener and Savarese (2018).

    Each choice is the candidate with the largest Euclidean distance (float64) to the nearest
    labelled or chosen row, ties by row; that distance is its score. Where nothing is labelled the
    first choice is the first candidate in the seed's hash order, with twice the largest norm of
    the pool for a score, which no distance exceeds. Departure: distances are those of the stored
    embeddings, not of a network that is trained anew, and the greedy solution is kept.
    """

    needs_head: ClassVar[bool] = False
    tasks: ClassVar[frozenset[Task]] = EVERY_TASK

    def objection(self, setting: Setting) -> str | None:
        return None

    def prepare(self, situation: Situation) -> Ranker:
        return FarthestFirst(situation.pool, situation.labelled, situation.seed)


@dataclass(frozen=True, slots=True)
class FarthestFirst:
    """Orders candidates by farthest-first traversal from given centres.

    Attributes:
        centres: int32 [m], rows that are centres from the start.
        seed: of the first choice where there are none.
    """

    pool: Pool
    centres: Rows
    seed: int

    def rank(self, candidates: Rows, depth: int) -> Ranked:
        wanted = min(depth, len(candidates))
        if wanted == 0:
            return Ranked(np.empty(0, np.int32), np.empty(0))
        places: list[int] = []
        scores: list[float] = []
        centres = self.centres
        if not len(centres):
            places.append(int(priorities(self.seed, "k_center", candidates).argmax()))
            scores.append(2 * self.pool.max_norm)
            centres = candidates[places]
        field = _Field(self.pool, candidates, centres, np.array(places, np.int64))
        while len(places) < wanted:
            for place, distance in field.take_farthest(wanted - len(places)):
                places.append(place)
                scores.append(distance)
        return Ranked(candidates[places], np.array(scores))


class _Field:
    """Distances of candidates to their nearest centre: exact where it matters, else bounds.

    Distances only fall, so an old one is an upper bound. Exact distances are kept for a frontier
    of the candidates with the largest bounds; while the farthest of them lies beyond every other
    bound, it is the farthest of all, and no other candidate need be looked at.

    ``bounds[place]`` is never below the distance; it is exact with respect to the first
    ``seen[place]`` centres. Candidates that were taken have the bound -inf.
    """

    def __init__(self, pool: Pool, candidates: Rows, centres: Rows, taken: Int64s) -> None:
        self._pool = pool
        self._candidates = candidates
        # Copies change no distance, and each would have to be compared exactly.
        self._centres = np.unique(pool.fetch(centres), axis=0).astype(np.float64)
        self._bounds = self._coarse()
        self._bounds[taken] = -np.inf
        self._seen = np.zeros(len(candidates), np.int32)

    def _coarse(self) -> Float64s:
        """Upper bounds from a float32 pass over the candidates."""
        pool, centres = self._pool, self._centres
        matrix = np.ascontiguousarray(centres.T, np.float32)
        norms = (centres**2).sum(axis=1).astype(np.float32)
        # Each of |x|^2, |c|^2 and x.c is off by at most d roundings of its size.
        unit = (pool.manifest.dimension + 16) * float(np.finfo(np.float32).eps)
        slack = 8 * unit * pool.max_norm**2

        def visit(start: int) -> Float64s:
            X = pool.fetch(self._candidates[start : start + BLOCK])
            least = np.full(len(X), np.inf, np.float32)
            for first in range(0, len(centres), CENTRES):
                squared = X @ matrix[:, first : first + CENTRES]
                squared *= -2
                squared += norms[first : first + CENTRES]
                np.minimum(least, squared.min(axis=1), out=least)
            squares = least + np.einsum("ij,ij->i", X, X, dtype=np.float64)
            return np.asarray(np.sqrt(np.maximum(squares, 0) + slack))

        return np.concatenate(list(in_order(visit, range(0, len(self._candidates), BLOCK))))

    def take_farthest(self, wanted: int) -> list[tuple[int, float]]:
        """Up to ``wanted`` next choices, as places with their distances: as many as the frontier
        decides.

        May be empty: then bounds were tightened, and the next call sees farther.
        """
        places, outside, ahead = self._frontier()
        X = self._pool.fetch(self._candidates[places]).astype(np.float64)
        left = self._refresh(places, X)
        found: list[tuple[int, float]] = []
        added: list[Float64s] = []
        while len(found) < wanted:
            at = int(left.argmax())  # the first of equals: places ascend
            place, distance = int(places[at]), float(left[at])
            leads = distance > outside or (distance == outside and place < ahead)
            if not leads or distance == -np.inf:
                break
            found.append((place, distance))
            if distance > 0:
                added.append(X[at])
                np.minimum(left, distances(X, X[at]), out=left)
            left[at] = -np.inf
        if added:
            self._centres = np.concatenate([self._centres, np.array(added)])
        self._bounds[places] = left
        self._seen[places] = len(self._centres)
        return found

    def _frontier(self) -> tuple[Int64s, float, int]:
        """The places with the largest bounds, ascending; the largest bound outside, and the
        first place that has it."""
        bounds = self._bounds
        if len(bounds) <= FRONTIER:
            return np.arange(len(bounds)), -np.inf, 0
        least = np.partition(bounds, len(bounds) - FRONTIER)[len(bounds) - FRONTIER]
        above = np.flatnonzero(bounds > least)
        ties = np.flatnonzero(bounds == least)
        room = FRONTIER - len(above)
        places = np.sort(np.concatenate([above, ties[:room]]))
        if len(ties) > room:
            return places, float(least), int(ties[room])
        below = np.where(bounds < least, bounds, -np.inf)
        ahead = int(below.argmax())
        return places, float(below[ahead]), ahead

    def _refresh(self, places: Int64s, X: Float64s) -> Float64s:
        """Exact distances of places, from their bounds and the centres not yet accounted for."""
        left = self._bounds[places].copy()
        seen = self._seen[places]
        for since in np.unique(seen):
            behind = np.flatnonzero((seen == since) & (left > -np.inf))
            if since == len(self._centres) or not len(behind):
                continue
            exact = nearest(X[behind], self._centres[since:], self._pool.max_norm)
            # A bound from the float32 pass is no distance.
            left[behind] = exact if since == 0 else np.minimum(left[behind], exact)
        return left
