"""A nearest-neighbour model of a concept: labelled neighbours vote."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from coresift.server.arrays import Float64s, Int64s, Rows
from coresift.server.selection.strategy import Situation

BLOCK = 65_536
"""Candidates whose neighbours are looked at together."""


class Votes:
    """Votes on the candidates, by their places, and who is the neighbour of whom.

    Attributes:
        near: int32 [n, k], places of the neighbours of each candidate; n for other rows.
        positives, labels: float64 [n], of the labelled neighbours.
        p: float64 [n], the probability of a positive.
        free: bool [n], not yet chosen.
    """

    def __init__(self, near: Rows, positives: Float64s, labels: Float64s, prior: float) -> None:
        count = len(near)
        held = near < count
        starts = np.concatenate([[0], np.cumsum(held.sum(axis=1))])
        ones = np.ones(int(starts[-1]), np.int8)
        heirs = csr_array((ones, near[held], starts), shape=(count, count)).tocsc()
        self._heirs, self._starts = heirs.indices, heirs.indptr
        self.most_heirs = int(np.diff(heirs.indptr).max())
        self.near, self.positives, self.labels, self._prior = near, positives, labels, prior
        self.free = np.ones(count, np.bool_)
        self.p = self.probability(np.arange(count))

    def probability(self, places: Int64s, positives: int = 0, labels: int = 0) -> Float64s:
        """p of places, had they so many more labels."""
        ours = self._prior + self.positives[places] + positives
        return np.asarray(ours / (1 + self.labels[places] + labels))

    def heirs(self, place: int) -> Int64s:
        """Free candidates that have this one among their neighbours."""
        heirs = self._heirs[self._starts[place] : self._starts[place + 1]]
        return np.asarray(heirs[self.free[heirs]], np.int64)

    def largest(self, count: int) -> Int64s:
        """Up to ``count`` free places with the largest p, the largest first."""
        places = np.flatnonzero(self.free)
        if len(places) > count:
            p = self.p[places]
            places = places[np.argpartition(-p, count)[:count]]
        return places[np.lexsort((places, -self.p[places]))]

    def take(self, place: int, positive: bool) -> Int64s:
        """Label a candidate; the places for which that matters."""
        self.free[place] = False
        heirs = self.heirs(place)
        self.positives[heirs] += positive
        self.labels[heirs] += 1
        self.p[heirs] = self.probability(heirs)
        return np.append(heirs, place)


def votes_of(situation: Situation, candidates: Rows, neighbours: int, prior: float) -> Votes:
    """The votes of the labels on candidates, int32 [n], from the pool's neighbour table.

    An item that annotators voted on counts once, positive to the share of its positive votes.
    """
    table = situation.pool.neighbour_table
    if table is None:
        raise ValueError("the pool has no neighbour table")
    rows, targets, opposed = situation.lessons
    votes = targets[:, 0] + opposed[:, 0]
    voted = votes > 0
    labelled = rows[voted]
    known, share = np.zeros((2, len(table)))
    known[labelled] = 1
    share[labelled] = targets[voted, 0] / votes[voted]
    place = np.full(len(table), len(candidates), np.int32)
    place[candidates] = np.arange(len(candidates))
    near = np.empty((len(candidates), neighbours), np.int32)
    positives, labels = np.empty((2, len(candidates)))
    for start in range(0, len(candidates), BLOCK):
        block = slice(start, start + BLOCK)
        nearest = table[candidates[block], :neighbours]
        near[block] = place[nearest]
        positives[block] = share[nearest].sum(axis=1)
        labels[block] = known[nearest].sum(axis=1)
    return Votes(near, positives, labels, prior)
