"""How well selected items cover all: by all similarities, or by those of a neighbour graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.sparse import csr_array

from coresift.server.arrays import Float32s, Float64s, Int64s, Rows
from coresift.server.coreset.graph import Graph
from coresift.server.coreset.problem import Problem, Selection
from coresift.server.pool.parallel import in_order

BLOCK = 1_024
"""Items of one product."""
SELECTED = 4_096
"""Selected items of one product."""
LISTS = 65_536
"""Items whose neighbours are gone through at once."""


class AllPairs:
    """Facility location over all pairs, float64; n x d floats and no n x n."""

    def __init__(self, problem: Problem) -> None:
        self._items = problem.items
        n = len(problem.items)
        self._directions = problem.items.directions(np.arange(n))
        self._nearest = np.full(n, -np.inf)
        self._owners = np.zeros(n, np.int64)
        self._selected = 0

    def gains(self, positions: Int64s) -> Float64s:
        """What each position would add, float64 [m]."""
        covered = np.maximum(self._nearest, 0)

        def added(similarities: Float64s, start: int) -> Float64s:
            similarities -= covered[start : start + len(similarities), None]
            np.maximum(similarities, 0, out=similarities)
            return np.asarray(similarities.sum(axis=0))

        total = np.zeros(len(positions))
        queries = self._directions[positions].astype(np.float64).T

        def work(start: int) -> Float64s:
            return added(self._similarities(start, positions, queries), start)

        for part in in_order(work, range(0, len(covered), BLOCK)):
            total += part
        return total

    def add(self, position: int) -> None:
        """Select a position."""
        positions = np.array([position])
        queries = self._directions[positions].astype(np.float64).T

        def work(start: int) -> Float64s:
            return self._similarities(start, positions, queries)[:, 0]

        starts = range(0, len(self._nearest), BLOCK)
        similarities = np.concatenate(list(in_order(work, starts)))
        closer = similarities > self._nearest
        self._nearest[closer] = similarities[closer]
        self._owners[closer] = self._selected
        self._selected += 1

    def _similarities(self, start: int, positions: Int64s, queries: Float64s) -> Float64s:
        """Cosines of a block of items with positions, float64 [BLOCK, m]; 1 with themselves."""
        self._items.check()
        similarities = self._directions[start : start + BLOCK].astype(np.float64) @ queries
        here = np.flatnonzero((positions >= start) & (positions < start + BLOCK))
        similarities[positions[here] - start, here] = 1
        return similarities

    def result(self, positions: Int64s, scores: Float64s) -> Selection:
        """The selection with the weights of its items and the objective."""
        self._owners[positions] = np.arange(len(positions))
        weights = np.bincount(self._owners, minlength=len(positions)).astype(np.float64)
        return Selection(
            positions, scores, weights, objective=float(np.maximum(self._nearest, 0).sum())
        )


class OnGraph:
    """Facility location over the edges of a graph, from each item to its neighbours."""

    def __init__(self, problem: Problem, graph: Graph) -> None:
        self._problem, self._graph = problem, graph
        n = len(graph.neighbours)
        self._starts, self._sources, self._similarities = _incoming(problem, graph)
        self._covered = np.zeros(n)

    def gains(self, positions: Int64s) -> Float64s:
        """What each position would add, float64 [m]."""
        self._problem.items.check()
        starts = self._starts[positions]
        counts = self._starts[positions + 1] - starts
        edges = np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        added = self._similarities[edges] - self._covered[self._sources[edges]]
        owners = np.repeat(np.arange(len(positions)), counts)
        sums = np.bincount(owners, np.maximum(added, 0), minlength=len(positions))
        return np.asarray(sums + 1 - self._covered[positions])

    def add(self, position: int) -> None:
        """Select a position."""
        edges = slice(self._starts[position], self._starts[position + 1])
        sources = self._sources[edges]
        self._covered[sources] = np.maximum(self._covered[sources], self._similarities[edges])
        self._covered[position] = 1

    def result(self, positions: Int64s, scores: Float64s) -> Selection:
        """The selection with the weights of its items and the objective.

        An item's most similar selected one is the first in its list of neighbours; where none of
        these is selected, it is found by float32 products.
        """
        owners, nearest = self._first_in_lists(positions)
        for found, owner, similarity in self._by_products(np.flatnonzero(owners < 0), positions):
            owners[found], nearest[found] = owner, similarity
        weights = np.bincount(owners, minlength=len(positions)).astype(np.float64)
        details: Mapping[str, float] = {
            "all_pairs_objective": float(np.maximum(nearest, 0).sum()),
            "exact_graph": float(self._graph.exact),
        }
        objective = float(self._covered.sum())
        return Selection(positions, scores, weights, objective=objective, details=details)

    def _first_in_lists(self, positions: Int64s) -> tuple[Int64s, Float64s]:
        """Rank of the first selected neighbour of each item, -1 for none, and the cosine."""
        n, k = self._graph.neighbours.shape
        ranks = np.full(n, -1)
        ranks[positions] = np.arange(len(positions))
        owners, nearest = ranks.copy(), np.ones(n)
        for start in range(0, n if k else 0, LISTS):
            self._problem.items.check()
            others = np.flatnonzero(ranks[start : start + LISTS] < 0) + start
            selected = ranks[self._graph.neighbours[others]]
            first = np.arange(len(others)), (selected >= 0).argmax(axis=1)
            owners[others] = selected[first]
            nearest[others] = self._graph.similarities[others, first[1]]
        return owners, nearest

    def _by_products(
        self, others: Int64s, positions: Int64s
    ) -> list[tuple[Int64s, Int64s, Float32s]]:
        """The nearest selected item of others, as its rank, and the cosine."""
        items = self._problem.items
        selected = items.directions(positions)

        def nearest(start: int) -> tuple[Int64s, Int64s, Float32s]:
            found = others[start : start + BLOCK]
            directions = items.directions(found)
            best = np.full(len(found), -np.inf, np.float32)
            owners = np.zeros(len(found), np.int64)
            for first in range(0, len(selected), SELECTED):
                items.check()
                similarities = directions @ selected[first : first + SELECTED].T
                at = similarities.argmax(axis=1)
                value = similarities[np.arange(len(found)), at]
                closer = value > best
                best[closer], owners[closer] = value[closer], at[closer] + first
            return found, owners, best

        parts = []
        for part in in_order(nearest, range(0, len(others), BLOCK)):
            parts.append(part)
            self._problem.report("weigh", (len(parts) * BLOCK) / (len(others) + BLOCK), None)
        return parts


def _incoming(problem: Problem, graph: Graph) -> tuple[Int64s, Rows, Float32s]:
    """The edges by the item they lead to: where each begins, int64 [n + 1]; sources; cosines.

    Put together from parts: one conversion of them all could not be cancelled for a second.
    """
    n, k = graph.neighbours.shape
    starts = np.zeros(n + 1, np.int64)
    sources, similarities = np.empty(n * k, np.int32), np.empty(n * k, np.float32)
    for start in range(0, n, LISTS):
        problem.items.check()
        found = graph.neighbours[start : start + LISTS].ravel()
        starts[1:] += np.bincount(found, minlength=n)
    np.cumsum(starts, out=starts)
    free = starts[:-1].copy()
    for start in range(0, n, LISTS):
        problem.items.check()
        part = graph.neighbours[start : start + LISTS]
        edges = graph.similarities[start : start + LISTS].ravel(), part.ravel()
        into = csr_array((*edges, np.arange(len(part) + 1) * k), shape=(len(part), n)).tocsc()
        counts = np.diff(into.indptr)
        places = np.repeat(free - into.indptr[:-1], counts) + np.arange(part.size)
        sources[places] = into.indices + start
        similarities[places] = np.clip(into.data, 0, 1)
        free += counts
    return starts, sources, similarities
