"""Scores that compare a model with the true classes: while it learned, or once it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from coresift.server.arrays import Float32s, Float64s, Int64s, Rows
from coresift.server.coreset.items import squared_lengths
from coresift.server.coreset.problem import Problem, Setting
from coresift.server.coreset.sources import (
    Formula,
    Higher,
    Source,
    Sourced,
    by_rows,
    scanned,
)
from coresift.server.head import Head, Task
from coresift.server.selection.doubt import shares
from coresift.server.selection.parameters import parameter

Watched = Literal["signal", "proxy"]
WATCHED = "signal: an upload; proxy: heads trained on the pool's embeddings"


@dataclass(frozen=True, slots=True)
class Forgetting(Sourced):
    """Forgetting events: correct in one epoch and wrong in the next, at mini-batch time (Toneva et
    al., 2019; SVP, Coleman et al., 2020). Never correct: +inf. No one head can tell."""

    source: Watched = parameter("signal", WATCHED, choices=("signal", "proxy"))
    higher: ClassVar[Higher] = "harder"
    own_column: ClassVar[str] = "forgetting"


@dataclass(frozen=True, slots=True)
class Aum(Sourced):
    """Area under the margin: the mean over epochs of z_y - max_{c != y} z_c (Pleiss et al., 2020).

    Low where an item is mislabelled. No one head can tell.
    """

    source: Watched = parameter("signal", WATCHED, choices=("signal", "proxy"))
    higher: ClassVar[Higher] = "easier"
    own_column: ClassVar[str] = "aum"


@dataclass(frozen=True, slots=True)
class El2n(Sourced):
    """|p - onehot(y)|_2 (Paul et al., 2021), there of a network early in its training.

    From a proxy: the mean over its first epochs and its runs. From a head or uploaded
    probabilities: of these, as they are, in float64; a fitted head has seen the labels it is
    compared with. Binary: two classes, 1 is the positive one.
    """

    source: Source = parameter(
        "signal", f"head: the session's; {WATCHED}", choices=("head", "signal", "proxy")
    )
    higher: ClassVar[Higher] = "harder"
    own_column: ClassVar[str] = "el2n"
    reads_probabilities: ClassVar[bool] = True
    compares: ClassVar[bool] = True

    def rate(self, problem: Problem) -> Float64s:
        if self.source == "head":
            return scanned(problem, _errors_of_head(problem))
        if (signal := self.uploaded_probabilities(problem)) is not None:
            classes = problem.item_classes()
            return by_rows(problem, signal, lambda p, at: _errors(shares(p), classes[at]))
        return Sourced.rate(self, problem)


@dataclass(frozen=True, slots=True)
class Grand(Sourced):
    """Norm of the loss's gradient in the weights and biases of the last layer: |p - onehot(y)|_2 *
    |(x, 1)|_2 (Paul et al., 2021).

    Of a linear head that is the whole gradient. On unit rows it is el2n times the root of 2, and
    refused, save for uploaded numbers: a network's gradients are its own. From a proxy: |(x, 1)|
    times its el2n.
    """

    higher: ClassVar[Higher] = "harder"
    own_column: ClassVar[str] = "grand"
    compares: ClassVar[bool] = True

    def objection(self, setting: Setting) -> tuple[str, str] | None:
        if setting.unit and self.source != "signal":
            return "method", (
                "'grand' is el2n times the root of 2 on vectors of length 1: give 'el2n', "
                "or source signal"
            )
        return Sourced.objection(self, setting)

    def rate(self, problem: Problem) -> Float64s:
        if self.source == "signal":
            return Sourced.rate(self, problem)
        if self.source == "proxy":
            errors = self.training().record(problem).el2n
            return scanned(problem, lambda vectors, at: errors[at] * _lengths(vectors))
        error = _errors_of_head(problem)
        return scanned(problem, lambda vectors, at: error(vectors, at) * _lengths(vectors))


def _errors_of_head(problem: Problem) -> Formula:
    """|p - onehot(y)|_2 of the head at each item."""
    head, classes = problem.fitted(), problem.item_classes()

    def score(vectors: Float32s, positions: Int64s) -> Float64s:
        return _errors(_weights(head, vectors), classes[positions])

    return score


def _weights(head: Head, vectors: Float32s) -> Float64s:
    """Class probabilities up to a factor of each row, the largest is 1: float64 [m, K]."""
    logits = head.logits(vectors)
    if head.task is Task.BINARY:
        logits = np.column_stack([np.zeros(len(logits)), logits[:, 0]])
    return np.asarray(np.exp(logits - logits.max(axis=1, keepdims=True)))


def _errors(weights: Float64s, classes: Rows) -> Float64s:
    """|p - onehot(y)|_2 [m] of probabilities [m, K] up to a factor of each row."""
    others = weights / weights.sum(axis=1, keepdims=True)
    others[np.arange(len(others)), classes] = 0
    # 1 - p_y is the sum of the others: 1 - p_y itself would lose the small ones to rounding.
    return np.asarray(np.sqrt((others * others).sum(axis=1) + others.sum(axis=1) ** 2))


def _lengths(vectors: Float32s) -> Float64s:
    """|(x, 1)|_2."""
    return np.asarray(np.sqrt(squared_lengths(vectors) + 1))
