"""Uncertainty sampling: the head's own doubt.

Multilabel scores are taken over the columns: their mean, or with ``over="max"`` the largest.
In the binary case ``max_entropy``, ``margin`` and ``least_confidence`` are one order, by
``-|logit|``, and all three score exactly that. Multilabel ``margin`` and ``least_confidence`` are
one order too (a column's margin is twice its doubt less one), with scores of their own. Every
form works from logits, so that nothing saturates: no log(0), no 1 - p.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from coresift.server.arrays import Float64s
from coresift.server.head import Task
from coresift.server.selection.doubt import (
    column_doubt,
    column_doubt_slope,
    column_entropy,
    column_entropy_slope,
    column_margin,
    column_margin_slope,
    column_sum,
    softmax_doubt,
    softmax_doubt_slope,
    softmax_entropy,
    softmax_entropy_slope,
    softmax_margin,
    softmax_margin_slope,
)
from coresift.server.selection.parameters import parameter
from coresift.server.selection.strategy import (
    EVERY_TASK,
    Errors,
    Floats,
    Part,
    Scorer,
    Setting,
    Situation,
    Slopes,
)

Over = Literal["mean", "max"]


@dataclass(frozen=True, slots=True)
class LogitScorer:
    """A scorer that reads logits alone.

    Attributes:
        formula: scores [n] of logits [n, K'].
        lipschitz: largest change of a score when every logit moves by at most 1, for K' logits.
        slope: derivatives [n, K'] of the scores by the logits.
    """

    formula: Callable[[Floats], Floats]
    lipschitz: Callable[[int], float]
    slope: Callable[[Float64s], Float64s]
    needs_head: ClassVar[bool] = True
    needs_rows: ClassVar[bool] = False
    projection: ClassVar[None] = None

    def score(self, part: Part) -> Floats:
        return self.formula(part.logits)

    def error(self, errors: Errors) -> float:
        return self.lipschitz(errors.classes) * errors.logit

    def slopes(self, part: Part) -> Slopes:
        logits = part.logits.astype(np.float64)
        return Slopes(self.slope(logits), np.zeros((len(logits), 0)))


@dataclass(frozen=True, slots=True)
class OneLogitScorer(LogitScorer):
    """The same for the one logit of a binary head.

    Attributes:
        interval: as in `OfOneLogit`.
    """

    interval: Callable[[float], tuple[float, float]]


def _constant(value: float) -> Callable[[int], float]:
    return lambda classes: value


@dataclass(frozen=True, slots=True)
class Doubt:
    """What the strategies of this module have in common."""

    over: Over = parameter("mean", "multilabel: over the columns", choices=("mean", "max"))
    needs_head: ClassVar[bool] = True
    tasks: ClassVar[frozenset[Task]] = EVERY_TASK

    def objection(self, setting: Setting) -> str | None:
        if self.over != "mean" and setting.task is not Task.MULTILABEL:
            return "reads over only on a multilabel task"
        return None


@dataclass(frozen=True, slots=True)
class MaxEntropy(Doubt):
    """Entropy of the predicted classes in nats (Shannon, 1948; Settles, 2009)."""

    def prepare(self, situation: Situation) -> Scorer:
        return entropy_scorer(situation.task, self.over)


def entropy_scorer(task: Task, over: Over = "mean") -> LogitScorer:
    """The scorer of `MaxEntropy`; binary: the order of entropy, by -|logit|."""
    match task:
        case Task.BINARY:
            return BINARY
        case Task.MULTICLASS:
            return LogitScorer(softmax_entropy, entropy_lipschitz, softmax_entropy_slope)
    return _over_columns(over, column_entropy, column_entropy_slope, 0.25)


@dataclass(frozen=True, slots=True)
class Margin(Doubt):
    """Minus the gap between the two largest probabilities (Scheffer et al., 2001).

    Multilabel: minus |p - (1 - p)| of the columns.
    """

    def prepare(self, situation: Situation) -> Scorer:
        match situation.task:
            case Task.BINARY:
                return BINARY
            case Task.MULTICLASS:
                return LogitScorer(softmax_margin, _constant(1.0), softmax_margin_slope)
        return _over_columns(self.over, column_margin, column_margin_slope, 0.5)


@dataclass(frozen=True, slots=True)
class LeastConfidence(Doubt):
    """One minus the largest probability (Lewis and Gale, 1994)."""

    def prepare(self, situation: Situation) -> Scorer:
        match situation.task:
            case Task.BINARY:
                return BINARY
            case Task.MULTICLASS:
                return LogitScorer(softmax_doubt, _constant(1.0), softmax_doubt_slope)
        return _over_columns(self.over, column_doubt, column_doubt_slope, 0.25)


def _over_columns(
    over: Over,
    formula: Callable[[Floats], Floats],
    slope: Callable[[Float64s], Float64s],
    lipschitz: float,
) -> LogitScorer:
    """The mean or the largest of a column's formula [n, K'] to [n, K']."""
    if over == "mean":
        return LogitScorer(
            lambda logits: column_sum(formula(logits)) / logits.shape[1],
            _constant(lipschitz),
            lambda logits: slope(logits) / logits.shape[1],
        )

    def largest_slope(logits: Float64s) -> Float64s:
        slopes = slope(logits)
        column = formula(logits).argmax(axis=1)[:, None]
        only = np.zeros_like(slopes)
        np.put_along_axis(only, column, np.take_along_axis(slopes, column, axis=1), axis=1)
        return only

    return LogitScorer(
        lambda logits: np.asarray(formula(logits).max(axis=1)), _constant(lipschitz), largest_slope
    )


BINARY = OneLogitScorer(
    lambda logits: -np.abs(logits[:, 0]),
    _constant(1.0),
    lambda logits: -np.sign(logits),
    lambda least: (least, -least),
)
"""``-|logit|``: the order of entropy, margin and least confidence for two classes."""


def entropy_lipschitz(classes: int) -> float:
    """Largest change of `softmax_entropy` of so many logits when each moves by at most 1."""
    # |grad H|_1 = E|log p + H| <= std(log p), and Var(log p) <= log(K - 1)^2 / 4 + 1.
    return float(np.sqrt(np.log(max(classes - 1, 1)) ** 2 / 4 + 1))
