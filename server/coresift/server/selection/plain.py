"""Strategies that read one number of an item: its hash, its logit, or an uploaded column."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from coresift.server.arrays import Float32s
from coresift.server.head import Task
from coresift.server.selection.doubt import doubt_of, entropy_of, gap_of
from coresift.server.selection.parameters import parameter
from coresift.server.selection.priority import priorities
from coresift.server.selection.strategy import (
    EVERY_TASK,
    Errors,
    Floats,
    Part,
    Scorer,
    Setting,
    Situation,
)
from coresift.server.selection.uncertainty import OneLogitScorer


@dataclass(frozen=True, slots=True)
class RowScorer:
    """A scorer that reads row numbers alone."""

    needs_head: ClassVar[bool] = False
    needs_rows: ClassVar[bool] = True
    projection: ClassVar[None] = None

    def error(self, errors: Errors) -> float:
        return 0.0


@dataclass(frozen=True, slots=True)
class HashScorer(RowScorer):
    """The keyed hash of the row."""

    seed: int

    def score(self, part: Part) -> Floats:
        return priorities(self.seed, "random", part.rows)


@dataclass(frozen=True, slots=True)
class Random:
    """Uniform choice: the score is the keyed hash of the row, in [0, 1)."""

    needs_head: ClassVar[bool] = False
    tasks: ClassVar[frozenset[Task]] = EVERY_TASK

    def objection(self, setting: Setting) -> str | None:
        return None

    def prepare(self, situation: Situation) -> Scorer:
        return HashScorer(situation.seed)


@dataclass(frozen=True, slots=True)
class MostLikelyPositive:
    """The log-odds of the positive class: certainty sampling (Lewis and Gale, 1994)."""

    needs_head: ClassVar[bool] = True
    tasks: ClassVar[frozenset[Task]] = frozenset({Task.BINARY})

    def objection(self, setting: Setting) -> str | None:
        return None

    def prepare(self, situation: Situation) -> Scorer:
        return OneLogitScorer(
            lambda logits: logits[:, 0],
            lambda classes: 1.0,
            np.ones_like,
            lambda least: (least, np.inf),
        )


Of = Literal["column", "max_entropy", "margin", "least_confidence"]

DOUBTS: Mapping[str, Callable[[Floats], Floats]] = {
    "max_entropy": entropy_of,
    "margin": lambda p: -gap_of(p),
    "least_confidence": doubt_of,
}
"""Scores [n] of class probabilities [n, K] by their names in `Signal.of`."""


@dataclass(frozen=True, slots=True)
class SignalScorer(RowScorer):
    """A column [N] with a sign."""

    values: Float32s
    sign: int

    def score(self, part: Part) -> Floats:
        return self.sign * self.values[part.rows].astype(np.float64)


@dataclass(frozen=True, slots=True)
class Signal:
    """An uploaded signal: a user's own model decides (active learning via proxy, turned round).

    The score is the number as it was uploaded, in its own unit, or the doubt of uploaded class
    probabilities: their entropy in nats, minus the gap between the two largest, or one minus the
    largest. With ``order="smallest"`` minus that. Infinity counts as the largest float32.
    """

    name: str = parameter(..., "name of an uploaded signal")
    column: str = parameter("", "its column; may be left out where it has one")
    order: Literal["largest", "smallest"] = parameter(
        "largest", "which numbers come first", choices=("largest", "smallest")
    )
    of: Of = parameter(
        "column",
        "what is ranked by: one column, or the doubt over all columns of class probabilities",
        choices=("column", "max_entropy", "margin", "least_confidence"),
    )
    needs_head: ClassVar[bool] = False
    tasks: ClassVar[frozenset[Task]] = EVERY_TASK

    def objection(self, setting: Setting) -> str | None:
        return None

    def prepare(self, situation: Situation) -> Scorer:
        values = situation.signals[signal_key(self)]
        return SignalScorer(values, 1 if self.order == "largest" else -1)


def signal_key(signal: Signal) -> str:
    """The name of what a signal is ranked by among `Situation.signals`."""
    return f"{signal.name}/{signal.column if signal.of == 'column' else '/' + signal.of}"
