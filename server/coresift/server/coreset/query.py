"""Targeted selection: more like these, less like those."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coresift.server.arrays import Float32s, Float64s, Int64s
from coresift.server.coreset.items import SCAN_BYTES, Items, Part, squared_lengths, unit
from coresift.server.coreset.lazy_greedy import lazy_greedy
from coresift.server.coreset.problem import Cost, Needs, Problem, Selection, Setting
from coresift.server.pool.canonical import product_error
from coresift.server.pool.parallel import in_order
from coresift.server.selection.parameters import parameter

TARGETS = 256
"""Targets of one product."""


@dataclass(frozen=True, slots=True)
class Query:
    """Greedily maximises the facility-location mutual information with the query targets.

    For a selection A, query targets Q and targets to avoid P, with s = max(0, cosine):

        sum over q of max over A of s(q, a)  +  eta sum over A of max over Q of s(a, q)
                                             -  nu sum over A of max over P of s(a, p)

    The first two terms are FLQMI (Iyer et al., 2021; Kothawade et al., 2022, PRISM and TALISMAN):
    every target is to have a selected item near it, and every selected item a target. Departure:
    the last term; PRISM joins query and private sets in the conditional mutual information, which
    needs similarities of all pairs of the pool. The function is submodular and without avoid
    targets monotone: then the greedy result is within 1 - 1/e of the optimum.

    The score is the gain at selection, compared to 2^-30, ties by row. Near what is to be avoided
    gains are negative; the selection has exactly its budget even so, such items last.
    """

    eta: float = parameter(1.0, "weight of how near the selected are to targets", low=0, high=1e6)
    nu: float = parameter(1.0, "weight of how near they are to avoid targets", low=0, high=1e6)

    def needs(self) -> Needs:
        return Needs(query=True)

    def objection(self, setting: Setting) -> tuple[str, str] | None:
        return None

    def cost(self, setting: Setting) -> Cost:
        # Some 200 items are looked at for each selected one, in float64 at half speed.
        looks = setting.n + 400.0 * setting.budget
        flops = 2.0 * looks * setting.targets * setting.dimension
        held = 72.0 * setting.n + 16.0 * setting.targets * setting.dimension
        return Cost(flops, 1, held + SCAN_BYTES)

    def select(self, problem: Problem) -> Selection:
        nearness = _Nearness(self, problem)
        budget = problem.size()

        def told(selected: int, objective: float) -> None:
            problem.items.check()
            problem.report("select", selected / budget, objective)

        positions, scores = lazy_greedy(nearness, nearness.bounds(problem), budget, told)
        return Selection(positions, scores, objective=nearness.value())


class _Nearness:
    """The function above for a growing selection, float64."""

    def __init__(self, method: Query, problem: Problem) -> None:
        if problem.query is None:
            raise ValueError("there are no query targets")
        items = problem.items
        nothing = np.empty((0, items.dimension), np.float32)
        self._items, self._method = items, method
        self._query = unit(problem.query, items.are_unit)
        self._avoid = unit(nothing if problem.avoid is None else problem.avoid, items.are_unit)
        self._covered = np.zeros(len(self._query))
        self._own = 0.0

    def bounds(self, problem: Problem) -> Float64s:
        """No less than the gains over an empty selection, float64 [n], by float32 products."""
        method, items = self._method, self._items
        error = float(product_error("cosine", items.dimension, 1.0, np.ones(1))[0])
        slack = error * (len(self._query) + method.eta + method.nu)

        def visit(part: Part) -> tuple[Int64s, Float64s]:
            lengths = _lengths(part, items)
            total, nearest = _sums(part, self._query, lengths, items)
            _, worst = _sums(part, self._avoid, lengths, items)
            return part.positions, total + method.eta * nearest - method.nu * worst + slack

        bounds, done = np.empty(len(items)), 0
        for positions, part in items.scan(visit):
            bounds[positions] = part
            done += len(positions)
            problem.report("score", done / len(items), None)
        return bounds

    def gains(self, positions: Int64s) -> Float64s:
        """What each position would add, float64 [m]."""
        directions = self._items.directions(positions).astype(np.float64)

        def work(start: int) -> tuple[Float64s, Float64s]:
            self._items.check()
            similarities = self._similarities(directions, self._query, start)
            nearest = similarities.max(axis=1)
            similarities -= self._covered[start : start + TARGETS]
            return np.maximum(similarities, 0, out=similarities).sum(axis=1), nearest

        added, nearest = np.zeros(len(positions)), np.zeros(len(positions))
        for total, closest in in_order(work, range(0, len(self._query), TARGETS)):
            added += total
            np.maximum(nearest, closest, out=nearest)
        return added + self._alone(directions, nearest)

    def add(self, position: int) -> None:
        """Select a position."""
        direction = self._items.directions(np.array([position])).astype(np.float64)
        nearest = np.zeros(1)
        for start in range(0, len(self._query), TARGETS):
            similarities = self._similarities(direction, self._query, start)
            np.maximum(nearest, similarities.max(axis=1), out=nearest)
            part = self._covered[start : start + TARGETS]
            np.maximum(part, similarities[0], out=part)
        self._own += float(self._alone(direction, nearest)[0])

    def value(self) -> float:
        """The function of the selection."""
        return float(self._covered.sum()) + self._own

    def _alone(self, directions: Float64s, nearest: Float64s) -> Float64s:
        """What items add whatever else is selected, float64 [m]."""
        worst = np.zeros(len(directions))
        for start in range(0, len(self._avoid), TARGETS):
            self._items.check()
            similarities = self._similarities(directions, self._avoid, start)
            np.maximum(worst, similarities.max(axis=1), out=worst)
        return np.asarray(self._method.eta * nearest - self._method.nu * worst)

    @staticmethod
    def _similarities(directions: Float64s, targets: Float32s, start: int) -> Float64s:
        part = targets[start : start + TARGETS].astype(np.float64)
        return np.maximum(directions @ part.T, 0)


def _lengths(part: Part, items: Items) -> Float32s | None:
    """Lengths of the vectors, float32 [m, 1], at least the smallest number; None: all 1."""
    if items.are_unit:
        return None
    lengths = np.sqrt(squared_lengths(part.vectors()))[:, None]
    return np.asarray(np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def _sums(
    part: Part, targets: Float32s, lengths: Float32s | None, items: Items
) -> tuple[Float64s, Float64s]:
    """Sum and maximum of max(0, cosine) over targets, float64 [m]."""
    total, nearest = np.zeros(len(part.positions)), np.zeros(len(part.positions))
    for start in range(0, len(targets), TARGETS):
        items.check()
        matrix = np.ascontiguousarray(targets[start : start + TARGETS].T)
        similarities = part.product(matrix)
        if lengths is not None:
            similarities = similarities / lengths
        similarities = np.maximum(similarities, 0)
        total += similarities.sum(axis=1, dtype=np.float64)
        np.maximum(nearest, similarities.max(axis=1), out=nearest)
    return total, nearest
