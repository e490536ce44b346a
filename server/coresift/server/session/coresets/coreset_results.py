"""The result of a core-set job: a table for whoever reads it, numbers for the summary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from coresift.server.artifacts import Artifact
from coresift.server.coreset.measures import Measures, measure
from coresift.server.coreset.problem import Problem, Selection
from coresift.server.coreset.select import Recipe, pacing_buckets
from coresift.server.session.coresets.coreset_records import Summary


@dataclass(frozen=True, slots=True)
class Result:
    """A finished job.

    ``table`` has item_id (large_string), rank (uint32, from 0), score (float64), and where there
    are any weight (float64) and bucket (uint32).
    """

    summary: Summary
    table: pa.Table


@dataclass(frozen=True, slots=True)
class Found:
    """A selection as a table, and what was measured on it."""

    table: pa.Table
    selection: Selection
    measures: Measures
    class_counts: dict[int, int]

    def summary(self, seconds: dict[str, float], artifact: Artifact) -> Summary:
        """What is said of it, once it is stored."""
        selection, measures = self.selection, self.measures
        radius = selection.covering_radius
        return Summary(
            count=len(selection.positions),
            objective=selection.objective,
            covering_radius=measures.covering_radius if radius is None else radius,
            mean_max_similarity=measures.mean_max_similarity,
            measured_items=measures.items,
            class_counts=self.class_counts,
            details=dict(selection.details),
            seconds=seconds,
            uri=artifact.uri,
            content_hash=artifact.content_hash,
        )


def carry_out(recipe: Recipe, problem: Problem, buckets: int) -> Found:
    """Select, measure, and tabulate; ``buckets`` of the order are numbered, none for 0."""
    problem.report("select", 0.0, None)
    selection = recipe.select(problem)
    problem.report("measure", 0.0, selection.objective)
    measures = measure(problem, selection.positions)
    rows = problem.items.rows[selection.positions]
    counts: dict[int, int] = {}
    if problem.classes is not None:
        numbers, sizes = np.unique(problem.classes[rows], return_counts=True)
        counts = dict(zip(numbers.tolist(), sizes.tolist(), strict=True))
    columns: dict[str, Any] = {
        "item_id": problem.items.pool.ids.strings.take(pa.array(rows, pa.int32())),
        "rank": np.arange(len(rows), dtype=np.uint32),
        "score": selection.scores,
    }
    if selection.weights is not None:
        columns["weight"] = selection.weights
    if buckets:
        columns["bucket"] = pacing_buckets(len(rows), buckets).astype(np.uint32)
    return Found(pa.table(columns), selection, measures, counts)
