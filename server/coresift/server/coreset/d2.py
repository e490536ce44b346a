"""D2 pruning: difficulty and diversity by messages over the neighbour graph."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace

import numpy as np
from scipy.sparse import csr_array

from coresift.server.arrays import Float64s, Int64s
from coresift.server.coreset.graph import Graph, flops_of_graph, held_by_graph, neighbour_graph
from coresift.server.coreset.problem import Cost, Problem, Setting
from coresift.server.coreset.ranking import finite, first_of
from coresift.server.selection.parameters import parameter

STEPS = 2_048
"""Choices between two looks at who still wants the result: about 20 ms."""


@dataclass(frozen=True, slots=True)
class D2:
    """D2 pruning (Maharana et al., ICLR 2024) on a k-nearest-neighbour graph.

    Forward, each item collects from its neighbours: ``u'_i = u_i + sum_j w_f(i, j) u_j``. Then
    the item with the largest u' is chosen, ties by row, and takes from its neighbours:
    ``u'_j -= w_r(i, j) u'_i``; and so on. ``w(i, j) = exp(-gamma d(i, j)^2)`` with d the
    Euclidean distance of unit vectors.

    The graph is undirected as in the paper: two items are neighbours if one is among the k
    nearest of the other; with ``symmetric`` false, messages go to an item's own k alone.

    Departures: u are the difficulties scaled to 0..1 (all equal: 1), since margins and logs may
    be negative; an infinite one is the largest finite one plus one first. An item whose u' has
    fallen to 0 sends nothing back: a negative message would draw its neighbours in, not keep
    them out. Distances are of the pool's vectors, not of the features of the trained model.
    """

    k: int = parameter(10, "neighbours of an item", low=1, high=100)
    gamma_forward: float = parameter(1.0, "how fast messages forward fade", low=0.0, high=1e3)
    gamma_reverse: float = parameter(1.0, "how fast messages back fade", low=0.0, high=1e3)
    symmetric: bool = parameter(True, "messages go both ways along an edge")

    def objection(self, setting: Setting) -> tuple[str, str] | None:
        return None

    def cost(self, setting: Setting) -> Cost:
        # The graph, its edges and those turned round; a heap of Python's numbers.
        held = max(setting.n * (56.0 * self.k + 240.0), held_by_graph(setting, self.k))
        # A choice takes as long as a million operations of a product.
        return Cost(flops_of_graph(setting, self.k) + 1e6 * setting.budget, 2, held)

    def take(self, problem: Problem, difficulty: Float64s) -> Int64s:
        nearness = _nearness(problem, neighbour_graph(problem, self.k), self.symmetric)
        scores = _scaled(finite(difficulty))
        problem.items.check()
        scores += np.asarray(_edges(nearness, self.gamma_forward) @ scores)
        problem.items.check()
        return _choose(problem, scores, _edges(nearness, self.gamma_reverse))


def _nearness(problem: Problem, graph: Graph, symmetric: bool) -> csr_array[np.float64]:
    """exp(-d^2) of neighbours i, j: [n, n], never 0 where there is an edge."""
    n, k = graph.neighbours.shape
    problem.items.check()
    values = np.exp(2 * np.minimum(graph.similarities.astype(np.float64), 1) - 2).ravel()
    starts = np.arange(0, n * k + 1, k) if k else np.zeros(n + 1, np.int64)
    nearness = csr_array((values, graph.neighbours.ravel(), starts), shape=(n, n))
    problem.items.check()
    if not symmetric:
        return nearness
    turned = nearness.T.tocsr()
    problem.items.check()
    return nearness.maximum(turned)


def _edges(nearness: csr_array[np.float64], gamma: float) -> csr_array[np.float64]:
    """exp(-gamma d^2) of the same edges."""
    parts = nearness.data**gamma, nearness.indices, nearness.indptr
    return csr_array(parts, shape=nearness.shape)


def _scaled(difficulty: Float64s) -> Float64s:
    low, high = difficulty.min(), difficulty.max()
    return (difficulty - low) / (high - low) if high > low else np.ones(len(difficulty))


def _choose(problem: Problem, scores: Float64s, back: csr_array[np.float64]) -> Int64s:
    """Positions by largest score, each choice lowering the scores of its neighbours.

    Scores only fall: one that a heap still holds as it was bounds it from above, and the largest
    that is not out of date is the largest of all.
    """
    budget = problem.size()
    problem.items.check()
    heap = list(zip((-scores).tolist(), range(len(scores)), strict=True))
    heapify(heap)
    problem.items.check()
    starts, neighbours, weights = back.indptr.tolist(), back.indices, back.data
    chosen: list[int] = []
    while len(chosen) < budget and heap[0][0] < 0:
        before, position = heap[0]
        now = scores.item(position)
        if -now > before:
            heapreplace(heap, (-now, position))
            continue
        heappop(heap)
        chosen.append(position)
        span = slice(starts[position], starts[position + 1])
        scores[neighbours[span]] -= weights[span] * now
        if len(chosen) % STEPS == 0:
            problem.items.check()
            problem.report("select", len(chosen) / budget, None)
    first = np.array(chosen, np.int64)
    rest = np.delete(np.arange(len(scores)), first)
    quiet = rest[first_of(-scores[rest], budget - len(first))]
    problem.report("select", 1.0, None)
    return np.concatenate([first, quiet])
