"""TypiClust: typical items of the clusters that have the fewest labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from coresift.server.arrays import Float64s, Int64s, Rows
from coresift.server.head import Task
from coresift.server.pool.parallel import in_order
from coresift.server.pool.pool import Pool
from coresift.server.selection.coverage import blocks, pair_distances, slack, squares
from coresift.server.selection.parameters import parameter
from coresift.server.selection.priority import priorities
from coresift.server.selection.strategy import EVERY_TASK, Ranked, Ranker, Setting, Situation

MEMBERS = 8_192
"""Rows of a cluster among which neighbours are looked for."""
SMALLEST = 1e-5
"""Added to a mean distance, so that copies have a finite typicality."""
ROUNDING = 1e-12
"""More than the relative rounding of a mean of 1,000 numbers."""


@dataclass(frozen=True, slots=True)
class TypiClust:
    """Typical items of uncovered clusters (Hacohen, Dekel and Weinshall, 2022).

    The cluster with the fewest labelled or chosen rows is next, the larger one of equals; of it
    the candidate with the highest typicality, ``1 / (1e-5 + mean distance)`` in units of the
    embedding, where the mean is over the Euclidean distances (float64) to its ``neighbours``
    nearest rows in the cluster, or to all of a smaller one. Ties go to the smaller cluster number
    and row. The score is the typicality; it rises and falls along the order, as the clusters come
    first.

    Departures: clusters are those stored with the pool, about the square root of its size,
    whatever is labelled (the paper clusters anew into as many as there are labels and choices,
    at most 500); small clusters are not left out; in a cluster of more than 8,192 rows neighbours
    are looked for among as many of them, drawn by the seed's hash.
    """

    neighbours: int = parameter(20, "nearest rows that make an item typical", low=1, high=1_000)
    needs_head: ClassVar[bool] = False
    tasks: ClassVar[frozenset[Task]] = EVERY_TASK

    def objection(self, setting: Setting) -> str | None:
        return None

    def prepare(self, situation: Situation) -> Ranker:
        return TypicalFirst(situation.pool, situation.labelled, situation.seed, self.neighbours)


@dataclass(frozen=True, slots=True)
class TypicalFirst:
    """Orders candidates by turns of their clusters, then typicality."""

    pool: Pool
    labelled: Rows
    seed: int
    neighbours: int

    def rank(self, candidates: Rows, depth: int) -> Ranked:
        if min(depth, len(candidates)) == 0:
            return Ranked(np.empty(0, np.int32), np.empty(0))
        owners = self._turns(candidates, depth)
        reached, counts = np.unique(owners, return_counts=True)
        rows, scores = np.empty(len(owners), np.int32), np.empty(len(owners))
        # A cluster's first turn takes its most typical candidate, its second turn the next.
        places = np.split(np.argsort(owners, kind="stable"), np.cumsum(counts)[:-1])
        own = _members(self.pool.clusters[candidates], reached)
        others = _members(self.pool.clusters, reached)

        def work(number: int) -> tuple[Rows, Float64s]:
            free = candidates[own[number]]
            members = self._drawn(others[number].astype(np.int32))
            return self._most_typical(free, members, int(counts[number]))

        for where, (best, typical) in zip(places, in_order(work, range(len(reached))), strict=True):
            rows[where], scores[where] = best, typical
        return Ranked(rows, scores)

    def _turns(self, candidates: Rows, depth: int) -> Rows:
        """The cluster of each of the first ``depth`` choices.

        The j-th choice of a cluster finds it with j more labels than there are: so turns need
        not be played one after the other, but can be sorted.
        """
        clusters = self.pool.clusters
        sizes = np.bincount(clusters)
        labels = np.bincount(clusters[self.labelled], minlength=len(sizes))
        owners = np.sort(clusters[candidates], kind="stable")
        level = labels[owners] + np.arange(len(owners)) - np.searchsorted(owners, owners)
        if depth < len(owners):
            early = level <= np.partition(level, depth - 1)[depth - 1]
            owners, level = owners[early], level[early]
        return owners[np.lexsort((owners, -sizes[owners], level))][:depth]

    def _drawn(self, members: Rows) -> Rows:
        if len(members) <= MEMBERS:
            return members
        priority = priorities(self.seed, "typiclust", members)
        return members[np.lexsort((members, -priority))[:MEMBERS]]

    def _most_typical(self, free: Rows, members: Rows, count: int) -> tuple[Rows, Float64s]:
        """The ``count`` most typical of ``free`` and their typicality, best first."""
        pool = self.pool
        Y = pool.fetch(members).astype(np.float64)
        low, high = np.empty(len(free)), np.empty(len(free))
        for span in blocks(len(free), len(members)):
            X = pool.fetch(free[span]).astype(np.float64)
            low[span], high[span] = self._bounds(X, Y, free[span], members)
        near = free[low <= np.partition(high, count - 1)[count - 1]]
        means = self._exact_means(near, members, Y)
        order = np.lexsort((near, means))[:count]
        return near[order], 1 / (means[order] + SMALLEST)

    def _exact_means(self, rows: Rows, members: Rows, Y: Float64s) -> Float64s:
        """Mean distance of each row to its nearest members, its bits those of that row alone."""
        vectors = self.pool.fetch(rows)
        # Copies have one mean; in a cluster full of them each would tie with all.
        inside = np.isin(rows, members).astype(np.float32)
        keyed = np.concatenate([inside[:, None], vectors], axis=1)
        _, first, which = np.unique(keyed, axis=0, return_index=True, return_inverse=True)
        means = np.empty(len(first))
        for span in blocks(len(first), len(members)):
            own = rows[first[span]]
            X = vectors[first[span]].astype(np.float64)
            means[span] = self._exact(X, Y, own, members)
        return means[which]

    def _exact(self, X: Float64s, Y: Float64s, own: Rows, members: Rows) -> Float64s:
        k = min(self.neighbours, len(members) - 1)
        if k == 0:
            return np.full(len(X), np.inf)
        squared = _to_others(X, Y, own, members)
        kth = np.partition(squared, k - 1, axis=1)[:, k - 1]
        error = slack(X.shape[1], self.pool.max_norm)
        at, of = np.nonzero(squared <= (kth + 2 * error)[:, None])
        exact = pair_distances(X, Y, at, of)
        order = np.lexsort((exact, at))
        rank = np.arange(len(at)) - np.searchsorted(at, at)
        smallest: Float64s = exact[order][rank < k].reshape(len(X), k)
        return np.asarray(smallest.sum(axis=1) / k)

    def _bounds(
        self, X: Float64s, Y: Float64s, own: Rows, members: Rows
    ) -> tuple[Float64s, Float64s]:
        """Bounds of the exact means."""
        k = min(self.neighbours, len(members) - 1)
        if k == 0:
            return np.zeros(len(X)), np.full(len(X), np.inf)
        squared = np.partition(_to_others(X, Y, own, members), k - 1, axis=1)[:, :k]
        error = slack(X.shape[1], self.pool.max_norm)
        low, high = (
            np.sqrt(np.maximum(squared + shift, 0)).mean(axis=1) for shift in (-error, error)
        )
        return low * (1 - ROUNDING), high * (1 + ROUNDING)


def _to_others(X: Float64s, Y: Float64s, own: Rows, members: Rows) -> Float64s:
    """Squared distances of X to the members Y; infinity to the row itself."""
    squared = squares(X, Y)
    squared[own[:, None] == members] = np.inf
    return squared


def _members(clusters: Rows, reached: Rows) -> list[Int64s]:
    """Places of the members of each reached cluster, ascending."""
    places = np.flatnonzero(np.isin(clusters, reached))
    places = places[np.argsort(clusters[places], kind="stable")]
    ends = np.searchsorted(clusters[places], reached, side="right")
    return np.split(places, ends[:-1])
