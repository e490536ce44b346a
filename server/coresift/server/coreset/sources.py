"""Where scores come from: a session's head, an uploaded signal, or a proxy trained here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from coresift.server.arrays import Float32s, Float64s, Int64s
from coresift.server.coreset.items import Part
from coresift.server.coreset.problem import Cost, Needs, Problem, Setting, SignalColumns
from coresift.server.coreset.proxy import EPOCHS, RUNS, Training
from coresift.server.errors import invalid
from coresift.server.head import Head, Task
from coresift.server.selection.parameters import parameter
from coresift.server.selection.strategy import Floats

Source = Literal["head", "signal", "proxy"]
Higher = Literal["harder", "easier"]

ROWS = 1024
"""Scored at a time, so that a cancelled job ends soon also with many classes."""

ROW_BY_ROW = 8.0
"""How much slower canonical products are than those that the estimates assume."""

Formula = Callable[[Float32s, Int64s], Floats]
"""Scores of some vectors, or rows of a signal, [m, c], and their positions [m]."""


@dataclass(frozen=True, slots=True)
class Sourced:
    """What the score methods have in common.

    Attributes:
        higher: what a larger score says of an item.
        own_column: what the client's recorder and the proxy call this score.
        reads_probabilities: a signal of class probabilities will do.
        compares: a model's probabilities are compared with the true classes, one an item.
    """

    source: Source = parameter(
        "head",
        "head: the session's; signal: an upload; proxy: heads trained on the pool's embeddings",
        choices=("head", "signal", "proxy"),
    )
    signal: str = parameter("", "with source signal: its name")
    column: str = parameter(
        "", "of a signal of numbers; may be left out where it has one, or one of the score's name"
    )
    epochs: int = parameter(EPOCHS, "with source proxy: of each run", low=1, high=100)
    runs: int = parameter(RUNS, "with source proxy: trainings, averaged", low=1, high=20)
    higher: ClassVar[Higher]
    own_column: ClassVar[str]
    reads_probabilities: ClassVar[bool] = False
    compares: ClassVar[bool] = False

    def needs(self) -> Needs:
        match self.source:
            case "head":
                return Needs(head=True, classes=self.compares, true_classes=self.compares)
            case "signal":
                return Needs(signals=(self.signal,) if self.signal else ())
        return Needs(classes=True, true_classes=True)

    def objection(self, setting: Setting) -> str | None:
        if self.source != "proxy" and (self.epochs, self.runs) != (EPOCHS, RUNS):
            return "reads epochs and runs only with source proxy"
        if self.source == "signal":
            return self._signal_objection(setting)
        if self.signal or self.column:
            return "reads signal and column only with source signal"
        if self.source == "head" and self.compares and setting.task is Task.MULTILABEL:
            return "compares with one class an item, and the session's task is multilabel"
        return None

    def _signal_objection(self, setting: Setting) -> str | None:
        if not self.signal:
            return "reads a signal: params.signal names it"
        kind, names = setting.columns[self.signal]
        if kind == "probabilities" and self.reads_probabilities:
            return self._probability_objection(setting, len(names))
        if kind != "number":
            return f"reads numbers, and {self.signal!r} holds {_HELD[kind]}"
        if self._column(names) is None:
            wanted = self.column or self.own_column
            return f"finds no column {wanted!r} in {self.signal!r}: it has {', '.join(names)}"
        return None

    def _probability_objection(self, setting: Setting, count: int) -> str | None:
        if self.column:
            return "reads column only of numbers"
        if count < 2:
            return f"needs the probabilities of two classes, and {self.signal!r} has one column"
        if self.compares and all(kind != "class" for kind, _ in setting.columns.values()):
            return "needs a class_signal to compare the probabilities with"
        return None

    def cost(self, setting: Setting) -> Cost:
        held = Cost(held=32.0 * setting.n)
        match self.source:
            case "head":
                flops = 2.0 * setting.n * setting.dimension * max(setting.classes, 1)
                return Cost(ROW_BY_ROW * flops, 1) + held
            case "signal":
                return held
        return self.training().cost(setting) + held

    def rate(self, problem: Problem) -> Float64s:
        """Scores of a signal's numbers, or of what the proxy recorded: float64 [n]."""
        if self.source == "signal":
            return self.of_numbers(*self._numbers(problem))
        recorded = self.training().record(problem)
        return self.of_numbers(self.own_column, getattr(recorded, self.own_column))

    def of_numbers(self, name: str, numbers: Float64s) -> Float64s:
        """Scores of the column ``name``, float64 [n]."""
        return numbers

    def uploaded_probabilities(self, problem: Problem) -> SignalColumns | None:
        """The signal, if it holds class probabilities."""
        if self.source != "signal" or problem.signals[self.signal].kind != "probabilities":
            return None
        return problem.signals[self.signal]

    def training(self) -> Training:
        """That of the proxy."""
        return Training(self.epochs, self.runs)

    def _numbers(self, problem: Problem) -> tuple[str, Float64s]:
        signal = problem.signals[self.signal]
        name = self._column(signal.columns)
        if name is None:
            raise invalid("params.column", f"is none of {', '.join(signal.columns)}")
        column = signal.values[:, signal.columns.index(name)]
        problem.items.check()
        problem.report("score", 1.0, None)
        return name, column[problem.items.rows].astype(np.float64)

    def _column(self, names: Sequence[str]) -> str | None:
        if self.column:
            return self.column if self.column in names else None
        if len(names) == 1:
            return names[0]
        return self.own_column if self.own_column in names else None


_HELD = {"class": "classes", "probabilities": "probabilities"}


def scanned(problem: Problem, formula: Formula) -> Float64s:
    """Scores by a formula of vectors and positions: float64 [n]."""
    items = problem.items
    scores = np.empty(len(items))

    def visit(part: Part) -> tuple[Int64s, Float64s]:
        positions, vectors = part.positions, part.vectors()
        found = np.empty(len(positions))
        for start in range(0, len(positions), ROWS):
            items.check()
            some = slice(start, start + ROWS)
            found[some] = formula(vectors[some], positions[some])
        return positions, found

    done = 0
    for positions, found in items.scan(visit):
        scores[positions] = found
        done += len(positions)
        problem.report("score", done / len(items), None)
    return scores


def by_rows(problem: Problem, signal: SignalColumns, formula: Formula) -> Float64s:
    """Scores by a formula of a signal's values and positions: float64 [n]."""
    items = problem.items
    scores = np.empty(len(items))
    for start in range(0, len(items), 16 * ROWS):
        items.check()
        positions = np.arange(start, min(len(items), start + 16 * ROWS))
        values = signal.values[items.rows[positions]].astype(np.float32, copy=False)
        scores[positions] = formula(values, positions)
        problem.report("score", (start + len(positions)) / len(items), None)
    return scores


def fitted_part(head: Head) -> Head:
    """The columns of a head that could be fitted: the others say the same of every item."""
    kept = head.fitted
    return Head(head.task, head.weights[kept], head.bias[kept], kept[kept])
