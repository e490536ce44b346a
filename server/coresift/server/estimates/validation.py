"""How good the head is, on items that it was not fitted on, with the doubt that their number
leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from coresift.server.arrays import Bools, Float64s, Int64s
from coresift.server.selection.priority import priorities

RESAMPLES, LEAST_RESAMPLES = 500, 50
DRAWS = 5_000_000
"""Scores drawn in all resamples together: fewer resamples of many items, which differ less."""
_BLOCK = 1 << 20
"""Weights that are held at once, in resamples times items."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A number with its confidence interval."""

    value: float
    low: float
    high: float


def accuracy(predicted: Int64s, truth: Int64s, alpha: float = 0.05) -> Measured | None:
    """Share of items, int64 [n] each, whose class is right, with its Clopper-Pearson interval.

    None without items. The interval (Clopper and Pearson, 1934) covers at least 1 - alpha of the
    time, at one look fixed in advance.
    """
    if not len(truth):
        return None
    right = int(np.count_nonzero(predicted == truth))
    return Measured(right / len(truth), *_clopper_pearson(right, len(truth), alpha))


def average_precision(scores: Float64s, truth: Bools) -> float | None:
    """Sum over thresholds of precision times gained recall; scores and truth of items, [n] each.

    scikit-learn's definition: equal scores are one threshold, nothing is interpolated. None
    where no item is positive.
    """
    if not truth.any():
        return None
    return float(_weighted_precisions(scores, truth, np.ones((1, len(scores))))[0])


def mean_average_precision(
    scores: Float64s, truth: Bools, known: Bools, seed: int, alpha: float = 0.05
) -> Measured | None:
    """Mean over the columns of their average precision, with a confidence interval.

    For binary tasks there is one column, for multilabel one a class. A column counts where known
    items have both sides; None where none does.

    The interval is the wider, at each end, of two. The percentile bootstrap (Efron, 1979) of
    whole items, 50 to 500 resamples by the keyed hash, in which a column without positives is
    left out of the mean: it collapses to a point on a perfect ranking. And the binomial
    interval of Boyd, Eng and Page (2013), exact as Clopper-Pearson's, which takes the positives
    as the sample; for a mean of columns with P_k positives they are as good as
    K^2 / sum(1 / P_k).

    Args:
        scores: float64 [n, K], larger is more likely present.
        truth, known: bool [n, K]; truth where not known is not read.
    """
    positives = np.count_nonzero(truth & known, axis=0)
    columns = np.flatnonzero((positives > 0) & (positives < known.sum(axis=0)))
    if not len(columns):
        return None
    scores, known = scores[:, columns], known[:, columns]
    truth = truth[:, columns] & known
    value = float(_mean_precisions(scores, truth, known, np.ones((1, len(scores))))[0])
    resampled = np.concatenate(
        [
            _mean_precisions(scores, truth, known, weights)
            for weights in _resamples(len(scores), seed, scores.size)
        ]
    )
    low, high = np.nanquantile(resampled, [alpha / 2, 1 - alpha / 2])
    count = len(columns) ** 2 / float(np.sum(1 / positives[columns]))
    exact_low, exact_high = _clopper_pearson(value * count, count, alpha)
    return Measured(value, min(float(low), exact_low), max(float(high), exact_high))


def _mean_precisions(scores: Float64s, truth: Bools, known: Bools, weights: Float64s) -> Float64s:
    """Means over the columns, float64 [r], for item weights [r, n]; nan where no column counts."""
    total, counted = np.zeros(len(weights)), np.zeros(len(weights))
    for column in range(scores.shape[1]):
        rows = np.flatnonzero(known[:, column])
        found = _weighted_precisions(scores[rows, column], truth[rows, column], weights[:, rows])
        counted += np.isfinite(found)
        total += np.nan_to_num(found)
    mean = np.divide(total, counted, out=np.full(len(total), np.nan), where=counted > 0)
    return np.asarray(mean)


def _weighted_precisions(scores: Float64s, truth: Bools, weights: Float64s) -> Float64s:
    """Average precision, float64 [r], under item weights [r, n]; nan without a positive."""
    order = np.argsort(-scores, kind="stable")
    falls = scores[order][1:] != scores[order][:-1]
    thresholds = np.append(np.flatnonzero(falls), len(scores) - 1)
    weights = weights[:, order]
    retrieved = np.cumsum(weights, axis=1)[:, thresholds]
    hits = np.cumsum(weights * truth[order], axis=1)[:, thresholds]
    precision = np.divide(hits, retrieved, out=np.zeros(hits.shape), where=retrieved > 0)
    summed = np.sum(precision * np.diff(hits, axis=1, prepend=0.0), axis=1)
    positives = hits[:, -1]
    mean = np.divide(summed, positives, out=np.full(len(hits), np.nan), where=positives > 0)
    return np.asarray(mean)


def _resamples(items: int, seed: int, scores: int) -> Iterator[Float64s]:
    """How often each item is drawn in each resample, float64 [block, n], over all resamples."""
    count = min(RESAMPLES, max(LEAST_RESAMPLES, DRAWS // scores))
    rows = np.arange(items, dtype=np.int32)
    block = max(1, _BLOCK // items)
    for first in range(0, count, block):
        draws = [
            (priorities(seed, f"bootstrap {resample}", rows) * items).astype(np.int64)
            for resample in range(first, min(first + block, count))
        ]
        yield np.stack([np.bincount(drawn, minlength=items) for drawn in draws]).astype(np.float64)


def _clopper_pearson(right: float, count: float, alpha: float) -> tuple[float, float]:
    low = float(beta.ppf(alpha / 2, right, count - right + 1)) if right > 0 else 0.0
    high = float(beta.ppf(1 - alpha / 2, right + 1, count - right)) if right < count else 1.0
    return low, high
