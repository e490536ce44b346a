"""k-center: the candidate farthest from everything labelled or chosen (Gonzalez, 1985)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from coresift.server.arrays import Rows
from coresift.server.head import Task
from coresift.server.pool.pool import Pool
from coresift.server.selection.strategy import EVERY_TASK, Ranked, Ranker, Setting, Situation
from coresift.server.selection.traversal import Traversal


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
        traversal = Traversal(self.pool, candidates, self.centres)
        places: list[int] = []
        scores: list[float] = []
        if not len(self.centres):
            places.append(traversal.take_first(self.seed))
            scores.append(2 * self.pool.max_norm)
        while len(places) < wanted:
            for place, distance in traversal.take_farthest(wanted - len(places)):
                places.append(place)
                scores.append(distance)
        return Ranked(candidates[places], np.array(scores))
