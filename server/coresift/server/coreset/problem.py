"""What a core-set method is, what it gets and what it gives.

Two kinds of methods: a `Selector` chooses items by each other (geometry); a `Rater` gives every
item a score by itself, and a `Sampler` takes the core-set by these scores. All are frozen
parameters under a registered name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from coresift.server.arrays import Float32s, Float64s, Int64s, Rows
from coresift.server.coreset.items import Items
from coresift.server.head import Head, Task

Report = Callable[[str, float, float | None], None]
"""Told the phase, the share of it that is done (0..1), and the objective so far."""


@dataclass(frozen=True, slots=True)
class SignalColumns:
    """An uploaded signal.

    Attributes:
        kind: its kind by name: number, class or probabilities.
        columns: their names.
        values: [N, columns], float32 (int32 for classes), of every row of the pool.
    """

    kind: Literal["number", "class", "probabilities"]
    columns: tuple[str, ...]
    values: npt.NDArray[np.float32] | npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Problem:
    """A selection to make.

    Attributes:
        budget: items to select, 1..n; None: the method's parameters decide.
        seed: of random choices.
        head: a session's, the proxy of methods that need one.
        start: int32, ascending rows that are covered already; they are no longer among the items.
        classes: int32 [N], the class number of every row of the pool, or None.
        signals: those the method asked for, by name.
        query, avoid: float32 [q, d], vectors to be near to and to keep away from.
        report: see `Report`.
    """

    items: Items
    budget: int | None
    seed: int
    report: Report
    head: Head | None = None
    start: Rows = field(default_factory=lambda: np.empty(0, np.int32))
    classes: Rows | None = None
    signals: Mapping[str, SignalColumns] = field(default_factory=dict)
    query: Float32s | None = None
    avoid: Float32s | None = None

    def size(self) -> int:
        """The budget, where there must be one."""
        if self.budget is None:
            raise ValueError("the method needs a budget")
        return self.budget

    def fitted(self) -> Head:
        """The head; a method that asks for none never calls this."""
        if self.head is None:
            raise ValueError("there is no head")
        return self.head

    def item_classes(self) -> Rows:
        """Class number of each item, int32 [n]."""
        return self.classes_of(self.items.rows)

    def classes_of(self, rows: Rows) -> Rows:
        """Class numbers of rows of the pool, int32."""
        if self.classes is None:
            raise ValueError("there are no classes")
        return self.classes[rows]


@dataclass(frozen=True, slots=True)
class Selection:
    """Selected items in order of selection.

    Attributes:
        positions: int64 [m], distinct.
        scores: float64 [m]; what they mean is the method's.
        weights: float64 [m], how many items each one stands for, or None.
        objective: what the method maximised, or None.
        covering_radius: largest Euclidean distance of an item to the nearest selected or start
            row, where the method knows it.
        details: numbers found on the way.
    """

    positions: Int64s
    scores: Float64s
    weights: Float64s | None = None
    objective: float | None = None
    covering_radius: float | None = None
    details: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Needs:
    """What a method must be given, and what means something to it.

    Attributes:
        head: a session's head.
        classes: classes of the pool's items; ``true_classes``: not those the head predicts.
        signals: names of uploaded signals.
        query: query targets (``avoid`` ones may come with them).
        start: start items have a meaning.
        budget: False: the parameters decide the size, and a budget would contradict them.
    """

    head: bool = False
    classes: bool = False
    true_classes: bool = False
    signals: tuple[str, ...] = ()
    query: bool = False
    start: bool = False
    budget: bool = True


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known when a job is planned: whether a method fits is decided here.

    Attributes:
        n: items to choose from.
        budget: items to select; n where the method decides.
        start: rows that are covered already; they are not among the items.
        task: of the head that the method needs; None: it needs none.
        head_classes: how many classes that head tells apart (binary: 2); 0: it needs none.
        classes: how many classes the items will have: of the class signal, else of the session's
            head; 0: not known.
        class_signal: the classes come from a signal.
        class_sizes: class number to items of it, from the class signal; None without one, as
            predicted classes are counted in the run.
        unit: every vector has length 1.
        neighbours: width of the pool's neighbour table; 0: none.
        columns: kind and column names of the signals that the method needs, by signal.
        targets: number of query and avoid vectors.
    """

    n: int
    dimension: int
    budget: int
    task: Task | None = None
    head_classes: int = 0
    start: int = 0
    classes: int = 0
    class_signal: bool = False
    class_sizes: Mapping[int, int] | None = None
    unit: bool = True
    neighbours: int = 0
    columns: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    targets: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """An estimate: floating-point operations of products, passes over the vectors, bytes held."""

    flops: float = 0.0
    passes: float = 0.0
    held: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.flops + other.flops, self.passes + other.passes, max(self.held, other.held)
        )


class Planned(Protocol):
    """What selectors, raters and samplers have in common: a plan is made of them."""

    def objection(self, setting: Setting) -> tuple[str, str] | None:
        """Why this cannot serve, or None: the field of the request that is at fault, and what is
        wrong with it, as a sentence goes on from the field's name ("params.signal", "is required:
        source signal reads it")."""
        ...

    def cost(self, setting: Setting) -> Cost:
        """What it takes."""
        ...


class Method(Planned, Protocol):
    """What selectors and raters have in common."""

    def needs(self) -> Needs:
        """What these parameters ask for."""
        ...


@runtime_checkable
class Selector(Method, Protocol):
    """A method that chooses items by each other."""

    def select(self, problem: Problem) -> Selection:
        """The core-set, exactly ``budget`` items."""
        ...


@runtime_checkable
class Rater(Method, Protocol):
    """A method that gives every item a score of its own."""

    higher: ClassVar[Literal["harder", "easier"]]
    """What a larger score says of an item."""

    def rate(self, problem: Problem) -> Float64s:
        """Scores, float64 [n]: no NaN; +inf where the method says so."""
        ...


class Sampler(Planned, Protocol):
    """How a core-set is taken by scores."""

    def take(self, problem: Problem, difficulty: Float64s) -> Int64s:
        """Positions, int64 [budget], distinct, in order of selection.

        ``difficulty``, float64 [n]: larger is harder; +inf: harder than all.
        """
        ...
