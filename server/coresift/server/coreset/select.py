"""A core-set from start to end: method, sampler, budgets by class, pacing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from coresift.server.arrays import Float64s, Int64s, Rows
from coresift.server.coreset.class_budgets import ClassBudgets
from coresift.server.coreset.items import Items
from coresift.server.coreset.problem import Problem, Rater, Sampler, Selection, Selector
from coresift.server.coreset.shares import by_turns

NOBODY = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to select: a selector, or a rater with a sampler; by class or at once."""

    method: Selector | Rater
    sampler: Sampler | None
    class_budgets: ClassBudgets | None

    def select(self, problem: Problem) -> Selection:
        """The core-set: distinct items, exactly ``problem.budget`` where there is one.

        With budgets by class a rater still scores all items at once, and whatever chooses runs on
        each class by itself, with the start rows of that class. Every beginning of the order has
        about the classes' shares. The objective is the sum of the classes'. There is no covering
        radius, as one within classes says little of all items; of the details those stay that
        are the same in every class.

        Raises:
            CoresiftError: INVALID_FIELD for class budgets that cannot be met.
            Cancelled: nobody wants it any more.
        """
        scores = self.method.rate(problem) if isinstance(self.method, Rater) else None
        if self.class_budgets is None:
            return self._choose(problem, scores)
        classes = problem.item_classes()
        members, starts = _by_class(classes), _by_class(problem.classes_of(problem.start))
        sizes = {number: len(mine) for number, mine in members.items()}
        shares = self.class_budgets.divide(sizes, problem.size())
        parts = []
        for done, (number, share) in enumerate(shares.items()):
            problem.items.check()
            mine, given = members[number], problem.start[starts.get(number, NOBODY)]
            of_class = _narrowed(problem, mine, given, share, done / len(shares), 1 / len(shares))
            part = self._choose(of_class, None if scores is None else scores[mine])
            parts.append(replace(part, positions=mine[part.positions]))
        return _interleaved(parts)

    def _choose(self, problem: Problem, scores: Float64s | None) -> Selection:
        if isinstance(self.method, Selector):
            return self.method.select(problem)
        if scores is None or self.sampler is None:
            raise ValueError("a rater needs a sampler")
        difficulty = scores if self.method.higher == "harder" else -scores
        positions = self.sampler.take(problem, difficulty)
        return Selection(positions, scores[positions])


def _by_class(classes: Rows) -> dict[int, Int64s]:
    """Where each class stands, ascending, by class number."""
    numbers, counts = np.unique(classes, return_counts=True)
    places = np.split(np.argsort(classes, kind="stable"), np.cumsum(counts)[:-1])
    return dict(zip(numbers.tolist(), places, strict=True)) if len(numbers) else {}


def _narrowed(
    problem: Problem, mine: Int64s, start: Rows, budget: int, before: float, part: float
) -> Problem:
    """The problem of one class; its progress is a part of the whole, after what came before."""
    items = problem.items

    def report(phase: str, share: float, objective: float | None) -> None:
        problem.report(phase, before + part * share, None)

    return replace(
        problem,
        items=Items(items.pool, items.rows[mine], items.stop),
        start=start,
        budget=budget,
        report=report,
    )


def _interleaved(parts: list[Selection]) -> Selection:
    order = by_turns([len(part.positions) for part in parts])
    weights = [part.weights for part in parts if part.weights is not None]
    objectives = [part.objective for part in parts if part.objective is not None]
    details = set.intersection(*(set(part.details.items()) for part in parts))
    return Selection(
        np.concatenate([part.positions for part in parts])[order],
        np.concatenate([part.scores for part in parts])[order],
        weights=np.concatenate(weights)[order] if len(weights) == len(parts) else None,
        objective=sum(objectives) if len(objectives) == len(parts) else None,
        details=dict(sorted(details)),
    )


def pacing_buckets(count: int, buckets: int) -> Int64s:
    """Bucket 0..buckets-1 of each rank, equal parts of the order; int64 [count]."""
    return np.arange(count) * buckets // max(count, 1)
