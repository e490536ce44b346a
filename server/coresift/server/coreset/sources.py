"""Where scores come from: a session's head, an uploaded signal, or a proxy trained here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from coresift.server.arrays import Float32s, Float64s, Int64s
from coresift.server.coreset.items import SCAN_BYTES, Part
from coresift.server.coreset.problem import Cost, Needs, Problem, Setting, SignalColumns
from coresift.server.coreset.proxy import EPOCHS, RUNS, Training
from coresift.server.head import Head, Task
from coresift.server.pool.parallel import CORES
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

    def objection(self, setting: Setting) -> tuple[str, str] | None:
        for field, default in (("epochs", EPOCHS), ("runs", RUNS)):
            if self.source != "proxy" and getattr(self, field) != default:
                return f"params.{field}", "means something with source proxy alone: leave it out"
        for field in ("signal", "column"):
            if self.source != "signal" and getattr(self, field):
                return f"params.{field}", "means something with source signal alone: leave it out"
        match self.source:
            case "signal":
                return self._signal_objection(setting)
            case "head":
                return self._comparison_objection(setting, setting.head_classes, "the head")
        return _proxy_objection(setting)

    def _signal_objection(self, setting: Setting) -> tuple[str, str] | None:
        if not self.signal:
            return "params.signal", "is required: with source signal it names the uploaded scores"
        kind, names = setting.columns[self.signal]
        if kind == "probabilities" and self.reads_probabilities:
            return self._probability_objection(setting, len(names))
        if kind != "number":
            read = "numbers or class probabilities" if self.reads_probabilities else "numbers"
            return "params.signal", (
                f"names {self.signal!r}, which holds {_HELD[kind]}: give one of {read}"
            )
        if self._column(names) not in names:
            there = f"{self.signal!r} has no column {self._column(names)!r}"
            start = "is wrong" if self.column else "is required"
            return "params.column", f"{start}: {there}; give one of {', '.join(names)}"
        return None

    def _probability_objection(self, setting: Setting, count: int) -> tuple[str, str] | None:
        if self.column:
            return "params.column", (
                f"means something for numbers alone, and {self.signal!r} holds class "
                "probabilities: leave it out"
            )
        if count < 2:
            return "params.signal", (
                f"names {self.signal!r}, which has one column: give a signal with the "
                "probabilities of two classes or more"
            )
        return self._comparison_objection(setting, count, f"signal {self.signal!r}")

    def _comparison_objection(
        self, setting: Setting, count: int, what: str
    ) -> tuple[str, str] | None:
        """Whether the true classes are among the ``count`` that a model knows."""
        if not self.compares:
            return None
        if self.source == "head" and setting.task is Task.MULTILABEL:
            return "params.source", (
                "is head, and of a multilabel head an item has no one class: give signal or proxy"
            )
        if not setting.class_signal:
            return "class_signal", (
                "is required: probabilities are compared with the true classes of the pool's items"
            )
        number = max(setting.class_sizes or (0,))
        if number >= count:
            return "class_signal", (
                f"gives items class {number}, and {what} knows 0..{count - 1}: "
                "give a signal with these numbers"
            )
        return None

    def cost(self, setting: Setting) -> Cost:
        n, held = setting.n, 40.0 * setting.n
        match self.source:
            case "head":
                classes = max(setting.head_classes, 1)
                flops = 2.0 * n * setting.dimension * classes
                return Cost(
                    ROW_BY_ROW * flops, 1, held + SCAN_BYTES + 40.0 * CORES * ROWS * classes
                )
            case "signal":
                columns = len(setting.columns[self.signal][1])
                return Cost(held=held + 32.0 * min(n, 16 * ROWS) * columns)
        return self.training().cost(setting) + Cost(held=held)

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
        column = signal.values[:, signal.columns.index(name)]
        problem.items.check()
        problem.report("score", 1.0, None)
        return name, column[problem.items.rows].astype(np.float64)

    def _column(self, names: Sequence[str]) -> str:
        """Which of a signal's columns is read: the one that was given, the only one, its own."""
        return self.column or (names[0] if len(names) == 1 else self.own_column)


_HELD = {"class": "classes", "probabilities": "probabilities"}


def _proxy_objection(setting: Setting) -> tuple[str, str] | None:
    sizes = setting.class_sizes
    if sizes is not None and len(sizes) < 2:
        (number,) = sizes
        return "class_signal", f"gives every item class {number}: a proxy needs two classes"
    return None


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
