"""The canonical top of many candidates: a fast float32 pass proposes, float64 decides.

Fast scores may be off by a proven bound. Everything within twice that bound of the last place
is scored again row by row in float64 and sorted by (score, row), so that the result is that of
a full float64 scan, whatever the order, blocking or number of threads of the fast pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coresift.server.arrays import Float32s, Float64s, Rows
from coresift.server.head import Head, Task
from coresift.server.selection.strategies import Strategy

EPS32 = float(np.finfo(np.float32).eps)
PIECE = 16_384
"""Rows scored again at a time: a saturated head may leave much of a pool on the shortlist."""


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


def fast_weights(head: Head) -> tuple[Float32s, Float32s]:
    """float32 weights [d, K'] and bias [K'] of the fitted columns."""
    return (
        np.ascontiguousarray(head.weights[head.fitted].T, np.float32),
        head.bias[head.fitted].astype(np.float32),
    )


def logit_error(head: Head, max_norm: float) -> float:
    """A bound of the error of a float32 logit: gamma_d |x| |w| for any order of summation."""
    weights, bias = head.weights[head.fitted], head.bias[head.fitted]
    size = max_norm * float(np.linalg.norm(weights, axis=1).max()) + float(np.abs(bias).max())
    return float((weights.shape[1] + 16) * EPS32 * size)


def top(
    strategy: Strategy,
    head: Head | None,
    blocks: Iterable[tuple[Rows, Float32s]],
    fetch: Callable[[Rows], Float32s],
    excluded: Rows,
    depth: int,
    max_norm: float,
) -> Scored:
    """The best ``depth`` candidates (or all) in canonical order.

    Args:
        head: None only for strategies that need none.
        blocks: rows int32 [m] and their fast logits float32 [m, K'] ([m, 0] without head).
        fetch: vectors float32 [n, d] of rows.
        excluded: ascending rows that may not be chosen.
        max_norm: largest norm of a row, for the error bound.
    """
    bound = 0.0
    if head is not None and strategy.needs_head:
        classes = int(head.fitted.sum())
        # The score's own arithmetic in float32 adds a few roundings of numbers of size log K.
        bound = strategy.error(logit_error(head, max_norm), classes)
        bound += 64 * EPS32 * (1 + np.log(1 + classes))
    kept_rows: list[Rows] = []
    kept_scores: list[npt.NDArray[np.floating]] = []
    threshold, held = -np.inf, 0
    for rows, logits in blocks:
        scores = strategy.score(rows, logits)
        near = np.flatnonzero(scores >= threshold - 2 * bound)
        near = near[~contains(excluded, rows[near])]
        kept_rows.append(rows[near])
        kept_scores.append(scores[near])
        held += len(near)
        if held > 4 * depth + 4096:
            rows_so_far, scores_so_far = np.concatenate(kept_rows), np.concatenate(kept_scores)
            threshold = float(np.partition(scores_so_far, held - depth)[held - depth])
            near = np.flatnonzero(scores_so_far >= threshold - 2 * bound)
            kept_rows, kept_scores = [rows_so_far[near]], [scores_so_far[near]]
            held = len(near)
    candidates = np.concatenate(kept_rows) if kept_rows else np.empty(0, np.int32)
    complete = threshold == -np.inf
    if len(candidates) > depth:
        fast = np.concatenate(kept_scores)
        cut = np.partition(fast, len(fast) - depth)[len(fast) - depth]
        candidates = candidates[fast >= cut - 2 * bound]
        complete = complete and len(candidates) == len(fast)
    best = canonical(strategy, head, candidates[:PIECE], fetch)
    for start in range(PIECE, len(candidates), PIECE):
        piece = canonical(strategy, head, candidates[start : start + PIECE], fetch)
        best = _best_of(best, piece, len(candidates) if complete else depth)
    if complete:
        return best
    return Scored(best.rows[:depth], best.scores[:depth], best.predicted[:depth], False)


def _best_of(one: Scored, other: Scored, most: int) -> Scored:
    """The first ``most`` rows of both, in canonical order."""
    rows, scores, predicted = (
        np.concatenate([getattr(one, name), getattr(other, name)])
        for name in ("rows", "scores", "predicted")
    )
    order = np.lexsort((rows, -scores))[:most]
    return Scored(rows[order], scores[order], predicted[order], True)


def canonical(
    strategy: Strategy,
    head: Head | None,
    rows: Rows,
    fetch: Callable[[Rows], Float32s],
) -> Scored:
    """All ``rows`` scored in float64 and sorted by decreasing score, then row."""
    if head is None:
        logits = np.empty((len(rows), 0))
        predicted = np.full(len(rows), -1, np.int16)
    else:
        full = head.logits(fetch(rows))
        logits = full[:, head.fitted]
        predicted = predicted_classes(head, full)
    scores = strategy.score(rows, logits).astype(np.float64)
    order = np.lexsort((rows, -scores))
    return Scored(rows[order], scores[order], predicted[order], True)


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
