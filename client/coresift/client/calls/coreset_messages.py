"""Values of core-sets as messages, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy.typing as npt

from coresift.client.calls.basis import basis
from coresift.client.calls.coreset_values import (
    Coreset,
    CoresetMethod,
    CoresetPlan,
    CoresetProgress,
    CoresetSummary,
    Sampler,
    Targets,
)
from coresift.client.calls.named import params_of
from coresift.client.convert import StringColumn, array, matrix, vectors
from coresift.v1 import selection_pb2 as pb

ClassBudgets = Literal["balanced", "proportional"] | Mapping[int, int]
"""A rule by name, or class number to number of items."""


def class_budgets_message(budgets: ClassBudgets) -> pb.ClassBudgets:
    """How a budget is divided among classes."""
    if isinstance(budgets, Mapping):
        return pb.ClassBudgets(counts=pb.ClassBudgets.Counts(counts=budgets))
    if budgets not in ("balanced", "proportional"):
        raise ValueError(
            "class_budgets must be 'balanced', 'proportional' or a mapping of class numbers to "
            f"numbers of items, got {budgets!r}"
        )
    message = pb.ClassBudgets()
    getattr(message, budgets).SetInParent()
    return message


def targets_message(targets: Targets | Iterable[str]) -> pb.Targets:
    """What a selection looks to; a plain sequence holds item ids."""
    if isinstance(targets, str):
        raise TypeError(f"targets must be Targets or a sequence of item ids, got {targets!r}")
    if not isinstance(targets, Targets):
        targets = Targets(tuple(targets))
    if isinstance(targets.item_ids, str):
        raise TypeError(f"item_ids must be several ids, got one: {targets.item_ids!r}")
    message = pb.Targets(item_ids=targets.item_ids)
    if targets.vectors is not None:
        message.vectors.CopyFrom(vectors(matrix(targets.vectors)))
    return message


def plan_of(plan: pb.CoresetPlan) -> CoresetPlan:
    """A job's plan."""
    sampler = None
    if plan.sampler:
        sampler = Sampler(plan.sampler, **params_of(plan.sampler_params))
    return CoresetPlan(
        job_id=plan.job_id,
        basis=basis(plan.basis),
        method=CoresetMethod(plan.method, **params_of(plan.params)),
        sampler=sampler,
        pool_items=plan.pool_items,
        budget=plan.budget if plan.HasField("budget") else None,
        notes=tuple(plan.notes),
        expected_time=plan.expected_time.ToTimedelta(),
        expected_bytes=plan.expected_bytes,
    )


def progress_of(progress: pb.CoresetProgress, plan: CoresetPlan) -> CoresetProgress:
    """Where a job is."""
    return CoresetProgress(
        phase=progress.phase,
        share=progress.share,
        objective=progress.objective if progress.HasField("objective") else None,
        plan=plan,
    )


def coreset_of(
    plan: CoresetPlan, chunks: Sequence[pb.CoresetChunk], summary: pb.CoresetSummary
) -> Coreset:
    """A core-set of all its chunks."""
    return Coreset(
        item_ids=StringColumn.joined(chunk.item_ids for chunk in chunks),
        ranks=_column([chunk.ranks for chunk in chunks], "u4"),
        scores=_column([chunk.scores for chunk in chunks], "f8"),
        weights=_optional([chunk.weights for chunk in chunks], "f8"),
        buckets=_optional([chunk.buckets for chunk in chunks], "u4"),
        plan=plan,
        summary=_summary(summary),
    )


def _summary(summary: pb.CoresetSummary) -> CoresetSummary:
    def measured(name: str) -> float | None:
        return getattr(summary, name) if summary.HasField(name) else None  # type: ignore[arg-type]

    return CoresetSummary(
        count=summary.count,
        covering_radius=measured("covering_radius"),
        mean_max_similarity=measured("mean_max_similarity"),
        measured_items=summary.measured_items,
        objective=measured("objective"),
        class_counts=dict(sorted(summary.class_counts.items())),
        details=dict(sorted(summary.details.items())),
        durations={phase: spent.ToTimedelta() for phase, spent in summary.durations.items()},
        uri=summary.uri,
        content_hash=summary.content_hash,
    )


def _column(pieces: list[bytes], dtype: str) -> npt.NDArray[Any]:
    return array(b"".join(pieces), dtype, -1)


def _optional(pieces: list[bytes], dtype: str) -> npt.NDArray[Any] | None:
    return _column(pieces, dtype) if any(pieces) else None
