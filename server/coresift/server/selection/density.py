"""Information density: doubtful items in dense regions first."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from coresift.server.arrays import Float64s
from coresift.server.head import Task
from coresift.server.selection.doubt import column_sum
from coresift.server.selection.parameters import parameter
from coresift.server.selection.strategy import (
    EVERY_TASK,
    Errors,
    Floats,
    Part,
    Projection,
    Scorer,
    Setting,
    Situation,
    Slopes,
)
from coresift.server.selection.uncertainty import entropy_lipschitz

LOWEST_SIMILARITY = 1e-6
LOWEST_LOG = -30.0
"""Where the score goes over into its tangent, in nats of its logarithm."""


@dataclass(frozen=True, slots=True)
class InformationDensity:
    """Entropy in nats times mean similarity to the power of beta (Settles and Craven, 2008).

    The mean similarity of x to the pool is ``x . mean(X)``, exact at any size since rows are
    unit vectors. Multilabel: the mean entropy of the columns.

    Departures: a mean similarity below 1e-6, negative ones too, counts as 1e-6, so that such
    items come last by their entropy. Where the product P falls below exp(-30) the score goes on
    along its tangent in log P, ``exp(-30) (31 + log P)``, tiny and negative in the end: the items
    of a saturated head keep their order instead of tying at 0.
    """

    beta: float = parameter(1.0, "weight of the density", low=0, high=10)
    needs_head: ClassVar[bool] = True
    tasks: ClassVar[frozenset[Task]] = EVERY_TASK

    def objection(self, setting: Setting) -> str | None:
        metric = setting.pool.manifest.metric
        return None if metric == "cosine" else f"needs a cosine pool; this one's metric is {metric}"

    def prepare(self, situation: Situation) -> Scorer:
        match situation.task:
            case Task.BINARY | Task.MULTILABEL:
                entropy = LogEntropy(_mean_column, _mean_column_slope, lambda classes: 0.25)
            case Task.MULTICLASS:
                entropy = LogEntropy(softmax_log_entropy, _softmax_slope, entropy_lipschitz)
        return DensityScorer(
            Projection(situation.pool.mean()[None], np.zeros(1)), entropy, self.beta
        )


@dataclass(frozen=True, slots=True)
class LogEntropy:
    """The logarithm of an entropy H.

    Attributes:
        formula: log H [n] of logits [n, K'].
        slope: derivatives [n, K'] of log H.
        lipschitz: of H itself, for K' logits, in the largest change of a logit.
    """

    formula: Callable[[Floats], Floats]
    slope: Callable[[Float64s], Float64s]
    lipschitz: Callable[[int], float]


@dataclass(frozen=True, slots=True)
class DensityScorer:
    """Entropy times a power of the one projected column."""

    projection: Projection
    entropy: LogEntropy
    beta: float
    needs_head: ClassVar[bool] = True
    needs_rows: ClassVar[bool] = False

    def score(self, part: Part) -> Floats:
        level = self._log_product(part)
        # exp and its tangent meet in value and slope.
        tangent = np.minimum(level - LOWEST_LOG, 0)
        return np.asarray(np.exp(np.maximum(level, LOWEST_LOG)) + math.exp(LOWEST_LOG) * tangent)

    def error(self, errors: Errors) -> float:
        # Similarities are at most 1. On the tangent slopes are below these by e^-30.
        largest = math.log(max(errors.classes, 2))
        steepest = self.beta * max(1.0, LOWEST_SIMILARITY ** (self.beta - 1)) if self.beta else 0.0
        by_logit = self.entropy.lipschitz(errors.classes) * errors.logit
        return by_logit + largest * steepest * errors.projected

    def slopes(self, part: Part) -> Slopes:
        logits, similarity = part.logits.astype(np.float64), part.projected.astype(np.float64)
        level = self._log_product(Part(part.rows, logits, similarity))
        outer = np.exp(np.maximum(level, LOWEST_LOG))[:, None]
        inside = similarity > LOWEST_SIMILARITY
        by_similarity = inside * self.beta / np.maximum(similarity, LOWEST_SIMILARITY)
        return Slopes(outer * self.entropy.slope(logits), outer * by_similarity)

    def _log_product(self, part: Part) -> Floats:
        similarity = np.maximum(part.projected[:, 0], LOWEST_SIMILARITY)
        return self.entropy.formula(part.logits) + self.beta * np.log(similarity)


def column_log_entropy(logits: Floats) -> Floats:
    """Logarithm of the entropy of each column's two sides, [n, K']; finite for any logit."""
    size = np.abs(logits)
    return np.asarray(np.log(_column_rest(size)) - size)


def _column_rest(size: Floats) -> Floats:
    """``exp(|z|) H(z)``, which neither over- nor underflows."""
    tail = np.exp(-size)
    return np.asarray(_log1p_ratio(tail) + size / (1 + tail))


def _log1p_ratio(tail: Floats) -> Floats:
    """``log(1 + t) / t``, 1 at 0."""
    some = np.maximum(tail, np.finfo(tail.dtype).tiny)
    return np.asarray(np.log1p(some) / some)


def _column_slope(logits: Float64s) -> Float64s:
    """``-z p (1 - p) / H``."""
    size = np.abs(logits)
    return np.asarray(-logits / ((1 + np.exp(-size)) ** 2 * _column_rest(size)))


def _mean_column(logits: Floats) -> Floats:
    logs = column_log_entropy(logits)
    best = logs.max(axis=1)
    return np.asarray(best + np.log(column_sum(np.exp(logs - best[:, None])) / logs.shape[1]))


def _mean_column_slope(logits: Float64s) -> Float64s:
    logs = column_log_entropy(logits)
    shares = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True) * _column_slope(logits))


@dataclass(frozen=True, slots=True)
class _Runners:
    """A softmax as its best class sees the others.

    Attributes:
        gap: from the best logit to the second, [n].
        shares: exp(z_k - second) of the other classes [n, K'], 0 for the best.
        behind: best - z_k [n, K'], 0 for the best.
        odds: sum of the others' probabilities over the best's, [n].
        rest: exp(gap) times the entropy, [n].
    """

    gap: Floats
    shares: Floats
    behind: Floats
    odds: Floats
    rest: Floats

    @classmethod
    def of(cls, logits: Floats) -> _Runners:
        behind = logits.max(axis=1, keepdims=True) - logits
        others = np.arange(logits.shape[1]) != logits.argmax(axis=1)[:, None]
        gap = np.where(others, behind, np.inf).min(axis=1)
        shares = np.exp(np.where(others, gap[:, None] - behind, -np.inf))
        total = column_sum(shares)
        odds = np.exp(-gap) * total
        rest = _log1p_ratio(odds) * total + column_sum(shares * behind) / (1 + odds)
        return cls(gap, shares, behind, odds, rest)


def softmax_log_entropy(logits: Floats) -> Floats:
    """Logarithm of the entropy of the softmax, [n] of [n, K']; finite for any logits."""
    runners = _Runners.of(logits)
    return np.asarray(np.log(runners.rest) - runners.gap)


def _softmax_slope(logits: Float64s) -> Float64s:
    """``-p_k (log p_k + H) / H``; the best class's is minus the sum of the others'."""
    runners = _Runners.of(logits)
    entropy = np.exp(-runners.gap) * runners.rest
    surprise = runners.behind + np.log1p(runners.odds)[:, None]
    slopes = runners.shares * (surprise - entropy[:, None])
    slopes /= ((1 + runners.odds) * runners.rest)[:, None]
    slopes[np.arange(len(slopes)), logits.argmax(axis=1)] = -slopes.sum(axis=1)
    return np.asarray(slopes)
