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
from scipy.special import entr

from coresift.server.arrays import Float64s
from coresift.server.head import Task
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
            return LogitScorer(softmax_entropy, entropy_lipschitz, _softmax_entropy_slope)
    return _over_columns(over, column_entropy, _column_entropy_slope, 0.25)


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
                return LogitScorer(softmax_margin, _constant(1.0), _softmax_margin_slope)
        return _over_columns(self.over, column_margin, _column_margin_slope, 0.5)


@dataclass(frozen=True, slots=True)
class LeastConfidence(Doubt):
    """One minus the largest probability (Lewis and Gale, 1994)."""

    def prepare(self, situation: Situation) -> Scorer:
        match situation.task:
            case Task.BINARY:
                return BINARY
            case Task.MULTICLASS:
                return LogitScorer(softmax_doubt, _constant(1.0), _softmax_doubt_slope)
        return _over_columns(self.over, column_doubt, _column_doubt_slope, 0.25)


def _over_columns(
    over: Over,
    formula: Callable[[Floats], Floats],
    slope: Callable[[Float64s], Float64s],
    lipschitz: float,
) -> LogitScorer:
    """The mean or the largest of a column's formula [n, K'] to [n, K']."""
    if over == "mean":
        return LogitScorer(
            lambda logits: np.asarray(formula(logits).mean(axis=1)),
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


BINARY = LogitScorer(
    lambda logits: -np.abs(logits[:, 0]), _constant(1.0), lambda logits: -np.sign(logits)
)
"""``-|logit|``: the order of entropy, margin and least confidence for two classes."""


def softmax_entropy(logits: Floats) -> Floats:
    """Entropy in nats, [n], of the softmax of logits [n, K']."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    weights = np.exp(shifted)
    total = weights.sum(axis=1)
    return np.asarray(np.log(total) - (weights * shifted).sum(axis=1) / total)


def _softmax(logits: Float64s) -> Float64s:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def entropy_lipschitz(classes: int) -> float:
    """Largest change of `softmax_entropy` of so many logits when each moves by at most 1."""
    # |grad H|_1 = E|log p + H| <= std(log p), and Var(log p) <= log(K - 1)^2 / 4 + 1.
    return float(np.sqrt(np.log(max(classes - 1, 1)) ** 2 / 4 + 1))


def _softmax_entropy_slope(logits: Float64s) -> Float64s:
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return np.asarray(-np.exp(log_p) * (log_p + softmax_entropy(logits)[:, None]))


def column_entropy(logits: Floats) -> Floats:
    """Entropy in nats of each column's two sides, [n, K']."""
    size = np.abs(logits)
    tail = np.exp(-size)
    return np.asarray(np.log1p(tail) + size * tail / (1 + tail))


def _variance(logits: Float64s) -> Float64s:
    """p (1 - p) of each column."""
    tail = np.exp(-np.abs(logits))
    return np.asarray(tail / (1 + tail) ** 2)


def _column_entropy_slope(logits: Float64s) -> Float64s:
    return -logits * _variance(logits)


def softmax_margin(logits: Floats) -> Floats:
    """Minus the gap between the two largest softmax probabilities of logits [n, K'], [n]."""
    top = np.partition(logits, logits.shape[1] - 2, axis=1)[:, -2:]
    best = top.max(axis=1)
    total = np.exp(logits - best[:, None]).sum(axis=1)
    return np.asarray(np.expm1(top.min(axis=1) - best) / total)


def _softmax_margin_slope(logits: Float64s) -> Float64s:
    p = _softmax(logits)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :2]
    first, second = (np.take_along_axis(p, order[:, i : i + 1], axis=1) for i in (0, 1))
    slopes = p * (first - second)
    for place, value, sign in ((0, first, -1.0), (1, second, 1.0)):
        column = order[:, place : place + 1]
        there = np.take_along_axis(slopes, column, axis=1)
        np.put_along_axis(slopes, column, there + sign * value, axis=1)
    return slopes


def column_margin(logits: Floats) -> Floats:
    """Minus |p - (1 - p)| of each column, [n, K']."""
    return np.asarray(-np.tanh(np.abs(logits) / 2))


def _column_margin_slope(logits: Float64s) -> Float64s:
    return -np.sign(logits) * 2 * _variance(logits)


def softmax_doubt(logits: Floats) -> Floats:
    """One minus the largest softmax probability of logits [n, K'], [n]."""
    best = logits.max(axis=1, keepdims=True)
    weights = np.exp(logits - best)
    total = weights.sum(axis=1)
    # The rest over the total: 1 - 1/total would lose the small ones to rounding.
    weights[np.arange(len(weights)), logits.argmax(axis=1)] = 0
    return np.asarray(weights.sum(axis=1) / total)


def _softmax_doubt_slope(logits: Float64s) -> Float64s:
    p = _softmax(logits)
    column = logits.argmax(axis=1)[:, None]
    best = np.take_along_axis(p, column, axis=1)
    slopes = p * best
    np.put_along_axis(slopes, column, best * best - best, axis=1)
    return slopes


def column_doubt(logits: Floats) -> Floats:
    """The smaller of p and 1 - p of each column, [n, K']."""
    tail = np.exp(-np.abs(logits))
    return np.asarray(tail / (1 + tail))


def _column_doubt_slope(logits: Float64s) -> Float64s:
    return -np.sign(logits) * _variance(logits)


def shares(probabilities: Floats) -> Float64s:
    """Uploaded class probabilities [n, K], scaled to sums of 1: float64."""
    wide = probabilities.astype(np.float64)
    return np.asarray(wide / wide.sum(axis=1, keepdims=True))


def entropy_of(p: Floats) -> Floats:
    """Entropy in nats, [n], of class probabilities [n, K]."""
    return np.asarray(entr(p).sum(axis=1))


def gap_of(p: Floats) -> Floats:
    """Gap between the two largest of class probabilities [n, K], [n]; 1 where K is 1."""
    if p.shape[1] == 1:
        return np.ones(len(p))
    top = np.partition(p, p.shape[1] - 2, axis=1)[:, -2:]
    return np.asarray(top[:, 1] - top[:, 0])


def doubt_of(p: Floats) -> Floats:
    """One minus the largest of class probabilities [n, K], [n]."""
    return np.asarray(1 - p.max(axis=1))
