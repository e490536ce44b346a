"""Scores of candidates, fast in float32 within a proven bound, and canonical in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coresift.server.arrays import Float32s, Float64s, Rows
from coresift.server.head import Head, Task
from coresift.server.pool.canonical import matrix_products
from coresift.server.selection.strategy import Errors, Part, Scorer

EPS32 = float(np.finfo(np.float32).eps)
UNIT32 = 2.0**-24
"""Relative error of one float32 rounding."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Rows in canonical order with their scores and predicted classes.

    Attributes:
        rows: int32 [n].
        scores: float64 [n].
        predicted: int16 [n]; the most probable class (binary: 0 or 1), -1 without a head.
        complete: no candidate is missing.
    """

    rows: Rows
    scores: Float64s
    predicted: npt.NDArray[np.int16]
    complete: bool


@dataclass(frozen=True, slots=True)
class Columns:
    """What a fast pass multiplies vectors with: the fitted columns of the head, if the scorer
    reads them, then the scorer's projection.

    Attributes:
        weights: float32 [d, K' + m]; None where the scorer reads neither.
        offset: float32 [K' + m].
        logits: K'.
    """

    weights: Float32s | None
    offset: Float32s
    logits: int

    @classmethod
    def of(cls, scorer: Scorer, head: Head | None) -> Columns:
        """The columns of a scorer."""
        weights, offsets, logits = [], [], 0
        if scorer.needs_head and head is not None:
            weights.append(head.weights[head.fitted])
            offsets.append(head.bias[head.fitted])
            logits = len(weights[0])
        if scorer.projection is not None:
            weights.append(scorer.projection.weights)
            offsets.append(scorer.projection.offset)
        if not weights:
            return cls(None, np.empty(0, np.float32), 0)
        matrix = np.ascontiguousarray(np.concatenate(weights).T, np.float32)
        return cls(matrix, np.concatenate(offsets).astype(np.float32), logits)

    @classmethod
    def joined(cls, several: Sequence[Columns]) -> Columns:
        """The columns of several side by side, for one product; all of them count as logits."""
        matrices = [columns.weights for columns in several if columns.weights is not None]
        offset = np.concatenate([columns.offset for columns in several])
        matrix = np.concatenate(matrices, axis=1) if matrices else None
        return cls(matrix, offset, len(offset))

    def part(self, rows: Rows, product: Callable[[Float32s], Float32s] | None) -> Part:
        """The part of ``rows``; ``product`` multiplies their vectors with a matrix, if there is
        one to multiply with."""
        if self.weights is None or product is None:
            return self.split(rows, np.empty((len(rows), 0), np.float32))
        # Scores go through column after column: each lies in one piece.
        return self.split(rows, np.add(product(self.weights), self.offset, order="F"))

    def split(self, rows: Rows, products: Float32s) -> Part:
        """The part of ``rows`` whose columns are ``products``, float32 [n, K' + m]."""
        return Part(rows, products[:, : self.logits], products[:, self.logits :])


def column_error(weights: Float64s, offset: Float64s, max_norm: float) -> float:
    """A bound of the error of a float32 column: gamma_d |x| |w| for any order of summation."""
    if not len(weights):
        return 0.0
    size = max_norm * float(np.linalg.norm(weights, axis=1).max()) + float(np.abs(offset).max())
    return float((weights.shape[1] + 16) * UNIT32 * size)


def logit_error(head: Head, max_norm: float) -> float:
    """A bound of the error of a float32 logit."""
    return column_error(head.weights[head.fitted], head.bias[head.fitted], max_norm)


def score_error(scorer: Scorer, head: Head | None, max_norm: float) -> float:
    """A bound of the error of a score from a fast part."""
    if not scorer.needs_head and scorer.projection is None:
        return 0.0
    logit, projected, classes = 0.0, 0.0, 1
    if scorer.needs_head and head is not None:
        logit, classes = logit_error(head, max_norm), int(head.fitted.sum())
    if (projection := scorer.projection) is not None:
        projected = column_error(projection.weights, projection.offset, max_norm)
    bound = scorer.error(Errors(logit, projected, classes))
    # The score's own arithmetic in float32 adds a few roundings of numbers of size log K.
    return bound + 64 * EPS32 * (1 + float(np.log(1 + classes)))


def canonical(
    scorer: Scorer,
    head: Head | None,
    rows: Rows,
    fetch: Callable[[Rows], Float32s],
) -> Scored:
    """All ``rows`` scored in float64 and sorted by decreasing score, then row."""
    vectors = fetch(rows) if head is not None or scorer.projection is not None else None
    part, predicted = canonical_part(scorer, head, rows, vectors)
    scores = scorer.score(part).astype(np.float64)
    order = np.lexsort((rows, -scores))
    return Scored(rows[order], scores[order], predicted[order], True)


def canonical_part(
    scorer: Scorer, head: Head | None, rows: Rows, vectors: Float32s | None
) -> tuple[Part, npt.NDArray[np.int16]]:
    """Vectors [n, d] as a float64 part, each row's bits its own; and predicted classes int16 [n].

    ``vectors`` may be None where neither a head nor a projection reads them.
    """
    logits = projected = np.empty((len(rows), 0))
    predicted = np.full(len(rows), -1, np.int16)
    if head is not None and vectors is not None:
        full = head.logits(vectors)
        predicted = predicted_classes(head, full)
        if scorer.needs_head:
            logits = full[:, head.fitted]
    if scorer.projection is not None and vectors is not None:
        projected = matrix_products(vectors, scorer.projection.weights)
        projected += scorer.projection.offset
    return Part(rows, logits, projected), predicted


def predicted_classes(head: Head, logits: Float64s) -> npt.NDArray[np.int16]:
    """Most probable class of each row, int16 [n]; binary: 1 where the log-odds are positive."""
    if logits.shape[1] == 1 and head.task is Task.BINARY:
        return (logits[:, 0] > 0).astype(np.int16)
    # A constant column says nothing of an item; a softmax never favours one.
    return np.asarray(np.where(head.fitted, logits, -np.inf).argmax(axis=1), np.int16)


def contains(ascending: Rows, rows: Rows) -> npt.NDArray[np.bool_]:
    """Which of ``rows`` stand in ``ascending``, bool [n]."""
    if not len(ascending):
        return np.zeros(len(rows), np.bool_)
    place = np.searchsorted(ascending, rows)
    return np.asarray(ascending[np.minimum(place, len(ascending) - 1)] == rows)
