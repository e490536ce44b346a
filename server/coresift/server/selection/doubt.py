"""Doubt in numbers: formulas of logits with their slopes, and of class probabilities.

"softmax" ones are of classes that exclude each other, "column" ones of classes that are there or
not, each by itself. Those of logits saturate nowhere: no log(0), no 1 - p. They go through the
columns one after the other: fast where each lies in one piece, and an item's bits are its own.
"""

from __future__ import annotations

import numpy as np
from scipy.special import entr

from coresift.server.arrays import Float64s
from coresift.server.selection.strategy import Floats


def column_sum(columns: Floats) -> Floats:
    """Sums [n] of columns [n, K], in pairs: NumPy adds those of a single row in another order."""
    while (count := columns.shape[1]) > 1:
        half = count // 2
        pairs = columns[:, :half] + columns[:, half : 2 * half]
        if count % 2:
            pairs[:, 0] += columns[:, -1]
        columns = pairs
    return columns[:, 0]


def _behind_best(logits: Floats) -> Floats:
    """How far the others are behind the largest logit, [n, K' - 1], at most 0."""
    best, others = logits[:, 0], np.empty_like(logits[:, 1:])
    for column, other in zip(logits.T[1:], others.T, strict=True):
        np.minimum(best, column, out=other)
        best = np.maximum(best, column)
    others -= best[:, None]
    return others


def softmax_entropy(logits: Floats) -> Floats:
    """Entropy in nats, [n], of the softmax of logits [n, K']."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    weights = np.exp(shifted)
    total = column_sum(weights)
    weights *= shifted
    return np.asarray(np.log(total) - column_sum(weights) / total)


def _softmax(logits: Float64s) -> Float64s:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def softmax_entropy_slope(logits: Float64s) -> Float64s:
    """Derivatives of `softmax_entropy` by the logits, [n, K']."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return np.asarray(-np.exp(log_p) * (log_p + softmax_entropy(logits)[:, None]))


def column_entropy(logits: Floats) -> Floats:
    """Entropy in nats of each column's two sides, [n, K']."""
    size = np.abs(logits)
    tail = np.exp(-size)
    return np.asarray(np.log1p(tail) + size * tail / (1 + tail))


def _variance(logits: Float64s) -> Float64s:
    """p (1 - p) of each column."""
    tail = np.exp(-np.abs(logits))
    return np.asarray(tail / (1 + tail) ** 2)


def column_entropy_slope(logits: Float64s) -> Float64s:
    """Derivatives of `column_entropy`, each by its logit, [n, K']."""
    return -logits * _variance(logits)


def softmax_margin(logits: Floats) -> Floats:
    """Minus the gap between the two largest softmax probabilities of logits [n, K'], [n]."""
    behind = _behind_best(logits)
    return np.asarray(np.expm1(behind.max(axis=1)) / (1 + column_sum(np.exp(behind))))


def softmax_margin_slope(logits: Float64s) -> Float64s:
    """Derivatives of `softmax_margin` by the logits, [n, K']."""
    p = _softmax(logits)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :2]
    first, second = (np.take_along_axis(p, order[:, i : i + 1], axis=1) for i in (0, 1))
    slopes = p * (first - second)
    for place, value, sign in ((0, first, -1.0), (1, second, 1.0)):
        column = order[:, place : place + 1]
        there = np.take_along_axis(slopes, column, axis=1)
        np.put_along_axis(slopes, column, there + sign * value, axis=1)
    return slopes


def column_margin(logits: Floats) -> Floats:
    """Minus |p - (1 - p)| of each column, [n, K']."""
    return np.asarray(-np.tanh(np.abs(logits) / 2))


def column_margin_slope(logits: Float64s) -> Float64s:
    """Derivatives of `column_margin`, each by its logit, [n, K']."""
    return -np.sign(logits) * 2 * _variance(logits)


def softmax_doubt(logits: Floats) -> Floats:
    """One minus the largest softmax probability of logits [n, K'], [n]."""
    # The rest over the total: 1 - 1/total would lose the small ones to rounding.
    rest = column_sum(np.exp(_behind_best(logits)))
    return np.asarray(rest / (1 + rest))


def softmax_doubt_slope(logits: Float64s) -> Float64s:
    """Derivatives of `softmax_doubt` by the logits, [n, K']."""
    p = _softmax(logits)
    column = logits.argmax(axis=1)[:, None]
    best = np.take_along_axis(p, column, axis=1)
    slopes = p * best
    np.put_along_axis(slopes, column, best * best - best, axis=1)
    return slopes


def column_doubt(logits: Floats) -> Floats:
    """The smaller of p and 1 - p of each column, [n, K']."""
    tail = np.exp(-np.abs(logits))
    return np.asarray(tail / (1 + tail))


def column_doubt_slope(logits: Float64s) -> Float64s:
    """Derivatives of `column_doubt`, each by its logit, [n, K']."""
    return -np.sign(logits) * _variance(logits)


def shares(probabilities: Floats) -> Float64s:
    """Uploaded class probabilities [n, K], scaled to sums of 1: float64."""
    wide = probabilities.astype(np.float64)
    return np.asarray(wide / wide.sum(axis=1, keepdims=True))


def entropy_of(p: Floats) -> Floats:
    """Entropy in nats, [n], of class probabilities [n, K]."""
    return np.asarray(entr(p).sum(axis=1))


def gap_of(p: Floats) -> Floats:
    """Gap between the two largest of class probabilities [n, K], [n]; 1 where K is 1."""
    if p.shape[1] == 1:
        return np.ones(len(p))
    top = np.partition(p, p.shape[1] - 2, axis=1)[:, -2:]
    return np.asarray(top[:, 1] - top[:, 0])


def doubt_of(p: Floats) -> Floats:
    """One minus the largest of class probabilities [n, K], [n]."""
    return np.asarray(1 - p.max(axis=1))
