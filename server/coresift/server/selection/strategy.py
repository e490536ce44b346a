"""What a strategy is: frozen parameters that turn a situation into scores or into an order.

A strategy whose score of an item depends on that item alone gives a `Scorer`: it is evaluated in
blocks over any number of candidates, fast in float32, and decided in float64. A strategy whose
picks depend on each other (coverage, search with a budget) gives a `Ranker`, which sees all
candidates at once. A larger score is chosen sooner; ties go to the smaller row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from coresift.server.arrays import Float32s, Float64s, Rows
from coresift.server.head import Head, HeadConfig, Task, TrainingSet
from coresift.server.pool.pool import Pool

Floats = npt.NDArray[np.floating]

EVERY_TASK = frozenset(Task)


@dataclass(frozen=True)
class Situation:
    """What a strategy may know when it is asked: one state of a session's labels.

    Attributes:
        pool: the pool version.
        task: the session's.
        seed, revision: of random choices.
        head: None while the labels do not determine one.
        head_config: how it was fitted.
        labelled: rows with a vote, ascending.
        learned: the rows that train the head with ``targets`` and ``opposed``, as in
            `coresift.server.head.TrainingSet`; asked once, and only where a strategy reads them.
        budget: labels that may still be given; None: no limit.
        signals: uploaded columns by name, float32 [N] each.
    """

    pool: Pool
    task: Task
    seed: int
    revision: int
    head: Head | None
    head_config: HeadConfig
    labelled: Rows
    learned: Callable[[], tuple[Rows, Float64s, Float64s]]
    budget: int | None = None
    signals: Mapping[str, Float32s] = field(default_factory=dict)

    @cached_property
    def lessons(self) -> tuple[Rows, Float64s, Float64s]:
        """Rows that train the head, int32 [n], their targets and opposed weights, [n, K]."""
        return self.learned()

    @cached_property
    def training(self) -> TrainingSet:
        """The labels as the fit saw them."""
        rows, targets, opposed = self.lessons
        return TrainingSet(self.pool.fetch(rows), targets, opposed)

    def fitted(self) -> Head:
        """The head; a strategy that needs none never asks."""
        if self.head is None:
            raise ValueError("there is no head")
        return self.head


@dataclass(frozen=True, slots=True)
class Projection:
    """Linear columns that a scorer reads beside the logits: ``x @ weights.T + offset``.

    Attributes:
        weights: float64 [m, d].
        offset: float64 [m].
    """

    weights: Float64s
    offset: Float64s


@dataclass(frozen=True, slots=True)
class Part:
    """Some candidates as a scorer sees them, all of one precision (float32 or float64).

    Attributes:
        rows: int32 [n]; for vectors outside the pool they mean nothing.
        logits: [n, K'] of the head's fitted columns; binary: the log-odds of the positive class;
            [n, 0] for scorers that need no head.
        projected: [n, m] of the scorer's projection; [n, 0] without one.
    """

    rows: Rows
    logits: Floats
    projected: Floats


@dataclass(frozen=True, slots=True)
class Slopes:
    """Derivatives of scores, float64: by the logits [n, K'] and by the projected columns [n, m]."""

    logits: Float64s
    projected: Float64s


@dataclass(frozen=True, slots=True)
class Errors:
    """Bounds of the errors of a fast part: of any logit, and of any projected column."""

    logit: float
    projected: float
    classes: int
    """Number of logits K'."""


class Scorer(Protocol):
    """Scores candidates one by one."""

    @property
    def needs_head(self) -> bool:
        """Whether `score` reads logits."""
        ...

    @property
    def needs_rows(self) -> bool:
        """Whether `score` reads row numbers: then it knows nothing of vectors outside the pool."""
        ...

    @property
    def projection(self) -> Projection | None:
        """Columns wanted beside the logits."""
        ...

    def score(self, part: Part) -> Floats:
        """Scores [n], of the part's precision. Finite however saturated the logits are."""
        ...

    def error(self, errors: Errors) -> float:
        """How far a score can be off in a part with such errors (exact arithmetic assumed)."""
        ...


@runtime_checkable
class Differentiable(Protocol):
    """A scorer whose score is a function of the vector alone."""

    def slopes(self, part: Part) -> Slopes:
        """Derivatives of the scores, a subgradient where there is a kink."""
        ...


@runtime_checkable
class OfOneLogit(Protocol):
    """A scorer whose score is a function of the one logit of a binary head."""

    def interval(self, least: float) -> tuple[float, float]:
        """Between which logits, both included, all lie whose score is ``least`` or more."""
        ...


@dataclass(frozen=True, slots=True)
class Ranked:
    """The first rows of an order.

    Attributes:
        rows: int32 [n], distinct candidates, the first choice first.
        scores: float64 [n]: the gain of each choice given those before it.
        details: what was found on the way, for the answer (a radius, for example).
    """

    rows: Rows
    scores: Float64s
    details: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Ranker(Protocol):
    """Orders candidates, each choice given those before it."""

    def rank(self, candidates: Rows, depth: int) -> Ranked:
        """The first ``min(depth, n)`` of ``candidates`` (int32 [n], ascending).

        A shallower order is the beginning of a deeper one.
        """
        ...


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of a session before its first label: whether a strategy fits is decided here.

    Attributes:
        classes: number of logits (binary: 1).
    """

    task: Task
    classes: int
    pool: Pool


@runtime_checkable
class ReadsNeighbours(Protocol):
    """A strategy that reads the pool's neighbour table."""

    @property
    def needs_neighbours(self) -> int:
        """Neighbours of a row that the table must hold."""
        ...


class Strategy(Protocol):
    """Frozen parameters of a way to choose; a registered name on the wire."""

    needs_head: ClassVar[bool]
    """Without a head the session is in its cold start."""
    tasks: ClassVar[frozenset[Task]]

    def objection(self, setting: Setting) -> str | None:
        """Why this strategy cannot serve a session ("needs a cosine pool"), or None."""
        ...

    def prepare(self, situation: Situation) -> Scorer | Ranker:
        """The scorer or ranker of a situation; with a head if ``needs_head``."""
        ...
