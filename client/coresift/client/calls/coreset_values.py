"""What a core-set is asked for with, and what comes back, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt

from coresift.client.calls.basis import Basis
from coresift.client.calls.named import Named
from coresift.client.convert import Float64, StringColumn

UInt32 = npt.NDArray[np.uint32]


class CoresetMethod(Named):
    """How a core-set is selected: ``CoresetMethod("facility_location", neighbours=32)``."""


class Sampler(Named):
    """How items are taken by their scores: "top", "ccs" or "d2", as in
    ``Sampler("ccs", beta=0.2)``."""


@dataclass(frozen=True, eq=False)
class Targets:
    """Items of the pool and vectors from outside it that a selection looks to, together 1..10,000.

    Args:
        item_ids: ids in the pool.
        vectors: [q, d], or one vector [d]; None: none.
    """

    item_ids: Sequence[str] = ()
    vectors: npt.ArrayLike | None = None


@dataclass(frozen=True)
class CoresetPlan:
    """What a job is going to do, with estimates for the server's machine."""

    job_id: str
    basis: Basis
    method: CoresetMethod
    """With every parameter."""
    sampler: Sampler | None
    """With every parameter; None: the method chooses items by each other."""
    pool_items: int
    budget: int | None
    """None: the method's parameters decide."""
    notes: tuple[str, ...]
    """What else was settled: where classes come from, what a larger score means."""
    expected_time: timedelta
    expected_bytes: int


@dataclass(frozen=True)
class CoresetProgress:
    """Where a job is."""

    phase: str
    """"queued", "prepare", "train", "score", "graph", "select", "weigh", "measure" or "store"."""
    share: float
    """Of the phase that is done, 0..1."""
    objective: float | None
    """What the method maximises, so far; None: nothing, or not yet."""
    plan: CoresetPlan


@dataclass(frozen=True)
class CoresetSummary:
    """What a finished job says about its result."""

    count: int
    covering_radius: float | None
    """Largest Euclidean distance of an item of the pool to the nearest selected one (k_center: or
    start item); None: not measured."""
    mean_max_similarity: float | None
    """Mean over the pool's items of the cosine with the most similar selected item other than
    itself; None: not measured."""
    measured_items: int
    """Items that ``mean_max_similarity`` was measured on: all, or a random sample."""
    objective: float | None
    """What the method maximised, at the end; None: nothing."""
    class_counts: Mapping[int, int]
    """Class number to selected items; empty: the call named no classes."""
    details: Mapping[str, float]
    """Numbers that the method found on the way, by name."""
    durations: Mapping[str, timedelta]
    """Phase to time spent."""
    uri: str
    """The result as a Parquet file at the server."""
    content_hash: str


@dataclass(frozen=True)
class Coreset:
    """A selected subset, in order of selection."""

    item_ids: StringColumn
    """A lazy sequence of strings; ``list(coreset.item_ids)`` decodes all."""
    ranks: UInt32
    """uint32 [n], from 0."""
    scores: Float64
    """float64 [n]; what they are is the method's affair."""
    weights: Float64 | None
    """float64 [n], how many items of the pool each one stands for; None: the method gives none."""
    buckets: UInt32 | None
    """uint32 [n], equal parts of the order from 0; None: none were asked for."""
    plan: CoresetPlan
    summary: CoresetSummary

    def __len__(self) -> int:
        return len(self.item_ids)
