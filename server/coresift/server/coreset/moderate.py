"""The moderate core-set: items at a median distance from the mean of their class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coresift.server.arrays import Float64s, Int64s
from coresift.server.coreset.centres import group_means, in_halves, squared_distances
from coresift.server.coreset.class_budgets import ClassBudgets
from coresift.server.coreset.items import SCAN_BYTES
from coresift.server.coreset.problem import Cost, Needs, Problem, Selection, Setting
from coresift.server.coreset.ranking import first_of
from coresift.server.coreset.shares import by_turns


@dataclass(frozen=True, slots=True)
class Moderate:
    """The moderate core-set (Xia et al., 2023).

    Of each class the items whose Euclidean distance (float64) to the mean of the class is nearest
    to the median of these distances, ties by row: neither typical nor odd. The score is minus the
    difference to the median, the objective their sum. The budget is divided in proportion to the
    classes (largest remainders) unless class budgets say otherwise. Classes take turns, so that
    every beginning of the order has their shares.

    Departures: distances are those of the pool's embeddings, not of a network trained on the
    task; the paper cuts the same share below and above the median, here the nearest are taken.
    """

    def needs(self) -> Needs:
        return Needs(classes=True)

    def objection(self, setting: Setting) -> tuple[str, str] | None:
        return None

    def cost(self, setting: Setting) -> Cost:
        return Cost(passes=4, held=96.0 * setting.n + SCAN_BYTES)

    def select(self, problem: Problem) -> Selection:
        items = problem.items
        numbers, groups = np.unique(problem.item_classes(), return_inverse=True)

        first, second = in_halves(lambda share: problem.report("score", share, None))
        means = group_means(items, groups, len(numbers), first)
        distances = np.sqrt(squared_distances(items, means, groups, second))
        members = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])
        sizes = {number: len(own) for number, own in enumerate(members)}
        shares = ClassBudgets("proportional").divide(sizes, problem.size())
        chosen, gaps = [], []
        for number, share in shares.items():
            gap = from_median(distances[members[number]])
            nearest = first_of(gap, share)
            chosen.append(members[number][nearest])
            gaps.append(gap[nearest])
        order = by_turns(list(shares.values()))
        positions: Int64s = np.concatenate(chosen)[order]
        scores = -np.concatenate(gaps)[order]
        return Selection(positions, scores, objective=float(scores.sum()))


def from_median(values: Float64s) -> Float64s:
    """How far each value is from the median of all, float64 [n].

    The two in the middle of an even number are equally far: their bits agree.
    """
    middle = (len(values) - 1) // 2, len(values) // 2
    low, high = np.partition(values, middle)[list(middle)]
    return np.asarray(np.maximum(values - high, low - values) + (high - low) / 2)
