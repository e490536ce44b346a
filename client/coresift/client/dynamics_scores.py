"""What is kept of each item's presentations, and the scores that it makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from coresift.client.convert import Float64
from coresift.client.presentations import Bools, Int64, Presentations

COLUMNS = ("forgetting", "el2n", "aum", "entropy", "margin", "confidence")
"""Scores by name, in the order of a signal's columns."""

UInt32 = npt.NDArray[np.uint32]


@dataclass(slots=True)
class Scores:
    """Of n items, changed by every presentation.

    Attributes:
        presented: uint32 [n]: how often.
        correct: bool [n]: the last time.
        learned: bool [n]: at least once.
        events: float64 [n]: correct and then wrong; not whole as the mean of several runs.
        el2n: float64 [n]: mean length of the error in the first presentations, NaN without any.
        aum: float64 [n]: mean margin of the label's logit, NaN without presentations.
        last: float64 [3, n]: entropy, margin, confidence of the last one, NaN without.
    """

    presented: UInt32
    correct: Bools
    learned: Bools
    events: Float64
    el2n: Float64
    aum: Float64
    last: Float64

    @classmethod
    def of_nothing(cls, count: int) -> Self:
        """``count`` items that were never presented."""
        return cls.of_columns(
            dict.fromkeys(COLUMNS, np.full(count, np.nan)),
            np.zeros(count, np.uint32),
            np.zeros(count, np.bool_),
        )

    @classmethod
    def of_columns(
        cls, columns: Mapping[str, npt.NDArray[np.float64]], presented: UInt32, correct: Bools
    ) -> Self:
        """The inverse of `columns`, of items whose presentations are known."""
        forgetting = columns["forgetting"]
        learned = np.isfinite(forgetting)
        return cls(
            presented=presented.copy(),
            correct=correct.copy(),
            learned=learned,
            events=np.where(learned, forgetting, 0),
            el2n=columns["el2n"].copy(),
            aum=columns["aum"].copy(),
            last=np.stack([columns[name] for name in COLUMNS[3:]]),
        )

    def columns(self) -> dict[str, Float64]:
        """The scores by name, float64 [n] each; NaN for items that were never presented."""
        forgetting = np.where(self.learned, self.events, np.inf)
        forgetting[self.presented == 0] = np.nan
        scores = np.stack([forgetting, self.el2n, self.aum, *self.last])
        return dict(zip(COLUMNS, scores, strict=True))

    def take(self, places: Int64, found: Presentations, chosen: Int64, el2n_epochs: int) -> None:
        """Present each of distinct ``places`` once: what is ``found`` at ``chosen``."""
        correct = found.correct[chosen]
        self.events[places] += self.correct[places] & ~correct
        self.correct[places] = correct
        self.learned[places] |= correct
        number = self.presented[places] + 1
        self.presented[places] = number
        self.aum[places] = _mean(self.aum[places], found.label_margin[chosen], number)
        early = number <= el2n_epochs
        first = places[early]
        self.el2n[first] = _mean(self.el2n[first], found.el2n[chosen[early]], number[early])
        for row, values in enumerate((found.entropy, found.margin, found.confidence)):
            self.last[row, places] = values[chosen]


def merged(runs: Sequence[tuple[Int64, Scores]], count: int) -> Scores:
    """Several runs as one, each with the places of its items among ``count``.

    Each score is the mean over the runs that recorded the item. In ``forgetting`` a run that never
    learned it counts as one event more than its presentations allow, +inf where no run learned it.
    """
    presented = np.zeros(count, np.uint32)
    correct = np.zeros(count, np.bool_)
    learned = np.zeros(count, np.bool_)
    sums = {name: np.zeros(count) for name in COLUMNS}
    counts = {name: np.zeros(count) for name in COLUMNS}
    for places, run in runs:
        presented[places] += run.presented
        correct[places] = run.correct  # one run alone goes on
        columns = run.columns()
        missed = np.isinf(columns["forgetting"])
        learned[places[(run.presented > 0) & ~missed]] = True
        columns["forgetting"][missed] = run.presented[missed] // 2 + 1
        for name, values in columns.items():
            known = np.isfinite(values)
            sums[name][places[known]] += values[known]
            counts[name][places[known]] += 1
    with np.errstate(invalid="ignore"):
        means = {name: sums[name] / counts[name] for name in COLUMNS}
    means["forgetting"][~learned & (presented > 0)] = np.inf
    return Scores.of_columns(means, presented, correct)


def _mean(before: Float64, value: Float64, number: UInt32) -> Float64:
    """A running mean with its next value, the ``number``-th; ``before`` is NaN for the first."""
    return np.where(number == 1, value, before + (value - before) / number)
