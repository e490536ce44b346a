"""A core-set from start to end: method, sampler, budgets by class, pacing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from coresift.server.arrays import Float64s, Int64s
from coresift.server.coreset.class_budgets import ClassBudgets, by_turns
from coresift.server.coreset.items import Items
from coresift.server.coreset.problem import Problem, Rater, Sampler, Selection, Selector


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
        about the classes' shares. The objective is the sum of the classes'.

        Raises:
            CoresiftError: INVALID_FIELD for class budgets that cannot be met.
            Cancelled: nobody wants it any more.
        """
        scores = self.method.rate(problem) if isinstance(self.method, Rater) else None
        if self.class_budgets is None:
            return self._choose(problem, scores)
        classes = problem.item_classes()
        numbers, sizes = np.unique(classes, return_counts=True)
        shares = self.class_budgets.divide(
            dict(zip(numbers.tolist(), sizes.tolist(), strict=True)), problem.size()
        )
        parts = []
        for done, (number, share) in enumerate(shares.items()):
            mine = np.flatnonzero(classes == number)
            of_class = _narrowed(problem, number, share, done / len(shares), 1 / len(shares))
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


def _narrowed(problem: Problem, number: int, budget: int, before: float, part: float) -> Problem:
    """The problem of one class; its progress is a part of the whole, after what came before."""
    items, classes = problem.items, problem.classes
    assert classes is not None  # noqa: S101 - they were just divided

    def report(phase: str, share: float, objective: float | None) -> None:
        problem.report(phase, before + part * share, None)

    return replace(
        problem,
        items=Items(items.pool, items.rows[classes[items.rows] == number], items.stop),
        start=problem.start[classes[problem.start] == number],
        budget=budget,
        report=report,
    )


def _interleaved(parts: list[Selection]) -> Selection:
    order = by_turns([len(part.positions) for part in parts])
    weights = [part.weights for part in parts if part.weights is not None]
    objectives = [part.objective for part in parts if part.objective is not None]
    return Selection(
        np.concatenate([part.positions for part in parts])[order],
        np.concatenate([part.scores for part in parts])[order],
        np.concatenate(weights)[order] if len(weights) == len(parts) else None,
        sum(objectives) if len(objectives) == len(parts) else None,
    )


def pacing_buckets(count: int, buckets: int) -> Int64s:
    """Bucket 0..buckets-1 of each rank, equal parts of the order; int64 [count]."""
    return np.arange(count) * buckets // max(count, 1)
