"""Scores of doubt: what a model's probabilities leave open, whatever the true classes are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from coresift.server.arrays import Float32s, Float64s, Int64s
from coresift.server.coreset.problem import Problem
from coresift.server.coreset.sources import Higher, Sourced, by_rows, fitted_part, scanned
from coresift.server.head import Task
from coresift.server.selection.doubt import (
    column_doubt,
    column_entropy,
    column_margin,
    doubt_of,
    entropy_of,
    gap_of,
    shares,
    softmax_doubt,
    softmax_entropy,
    softmax_margin,
)
from coresift.server.selection.strategy import Floats

Formula = Callable[[Floats], Floats]


@dataclass(frozen=True, slots=True)
class Formulas:
    """One score in three forms.

    Attributes:
        softmax: [m] of logits [m, K] of classes that exclude each other.
        columns: [m, K] of logits [m, K] of classes that are there or not, each by itself.
        probabilities: [m] of class probabilities [m, K].
    """

    softmax: Formula
    columns: Formula
    probabilities: Formula


@dataclass(frozen=True, slots=True)
class DoubtScore(Sourced):
    """A score of logits or of class probabilities alone.

    From a head: of canonical float64 logits, so that nothing saturates, and of its fitted columns
    alone; multilabel: the mean over the columns. From a proxy: the mean over its runs of what the
    last epoch recorded.
    """

    reads_probabilities: ClassVar[bool] = True
    formulas: ClassVar[Formulas]

    def rate(self, problem: Problem) -> Float64s:
        if self.source == "head":
            return self._of_head(problem)
        if (signal := self.uploaded_probabilities(problem)) is not None:
            return by_rows(problem, signal, lambda p, _: self.formulas.probabilities(shares(p)))
        return Sourced.rate(self, problem)

    def _of_head(self, problem: Problem) -> Float64s:
        head = fitted_part(problem.fitted())

        def score(vectors: Float32s, positions: Int64s) -> Floats:
            logits = head.logits(vectors)
            if head.task is Task.MULTICLASS:
                return self.formulas.softmax(logits)
            return np.asarray(self.formulas.columns(logits).mean(axis=1))

        return scanned(problem, score)


@dataclass(frozen=True, slots=True)
class MaxEntropy(DoubtScore):
    """Entropy of the predicted classes in nats (Shannon, 1948); the selection of SVP (Coleman et
    al., 2020). Binary: of the two sides."""

    higher: ClassVar[Higher] = "harder"
    own_column: ClassVar[str] = "entropy"
    formulas: ClassVar[Formulas] = Formulas(softmax_entropy, column_entropy, entropy_of)


@dataclass(frozen=True, slots=True)
class Margin(DoubtScore):
    """Gap between the two largest probabilities (Scheffer et al., 2001); binary, and in each
    column of a multilabel head: |p - (1 - p)|."""

    higher: ClassVar[Higher] = "easier"
    own_column: ClassVar[str] = "margin"
    formulas: ClassVar[Formulas] = Formulas(
        lambda logits: -softmax_margin(logits),
        lambda logits: -column_margin(logits),
        gap_of,
    )


@dataclass(frozen=True, slots=True)
class LeastConfidence(DoubtScore):
    """One minus the largest probability (Lewis and Gale, 1994).

    Of a signal's column ``confidence``, the largest probability itself, one minus it.
    """

    higher: ClassVar[Higher] = "harder"
    own_column: ClassVar[str] = "confidence"
    formulas: ClassVar[Formulas] = Formulas(softmax_doubt, column_doubt, doubt_of)

    def of_numbers(self, name: str, numbers: Float64s) -> Float64s:
        return 1 - numbers if name == "confidence" else numbers
