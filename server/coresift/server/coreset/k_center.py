"""Greedy k-center (Gonzalez, 1985; Sener and Savarese, 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coresift.server.arrays import Float64s, Int64s
from coresift.server.coreset.problem import Cost, Needs, Problem, Selection, Setting
from coresift.server.selection.traversal import Traversal


@dataclass(frozen=True, slots=True)
class KCenter:
    """Each centre is the item farthest (Euclidean, float64) from all before it, ties by row.

    Start items are centres that do not count. Without them the first centre is the first item of
    the seed's hash order; it counts. The radius is at most twice the least that any choice of as
    many centres beside the start items has (Gonzalez, 1985).

    The score is the distance to the nearest centre before, infinity for a first one. The weight
    is the size of the cluster: how many items, the selected ones included, are nearer to this
    centre than to any other; a tie goes to the earlier centre, start items first, whose clusters
    are dropped. So a selected copy of an earlier centre has weight 0. The objective is the
    covering radius with a minus, so that it rises.
    """

    def needs(self) -> Needs:
        return Needs(start=True)

    def objection(self, setting: Setting) -> tuple[str, str] | None:
        return None

    def cost(self, setting: Setting) -> Cost:
        """Every item meets every centre once."""
        flops = 2.0 * setting.n * setting.dimension * (setting.budget + setting.start)
        return Cost(flops, passes=10, held=64.0 * setting.n + 2.0**26)

    def select(self, problem: Problem) -> Selection:
        items, budget = problem.items, problem.size()
        traversal = Traversal(items.pool, items.rows, problem.start, items.stop)
        places: list[int] = []
        scores: list[float] = []
        if not traversal.given:
            places.append(traversal.take_first(problem.seed))
            scores.append(np.inf)
        objective = None
        while len(places) < budget:
            for place, distance in traversal.take_farthest(budget - len(places)):
                places.append(place)
                scores.append(distance)
                objective = -distance  # the radius before this choice
            problem.report("select", len(places) / budget, objective)
        radius = traversal.radius()
        positions = np.array(places, np.int64)
        weights = _weights(problem, traversal, positions, -radius)
        return Selection(positions, np.array(scores), weights, -radius, radius)


def _weights(
    problem: Problem, traversal: Traversal, positions: Int64s, objective: float
) -> Float64s:
    """Cluster sizes of the selected items, float64 [m]."""
    for share in traversal.settle():
        problem.report("weigh", share, objective)
    sizes = traversal.clusters()
    numbers = traversal.numbers(positions)
    # Of copies of a centre the centre alone has a cluster.
    owners, first = np.unique(numbers, return_index=True)
    weights = np.zeros(len(positions))
    weights[first] = sizes[owners]
    weights[numbers < traversal.given] = 0
    return weights
