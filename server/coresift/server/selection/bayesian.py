"""Information that a label is expected to carry, under a posterior of the head's weights.

The posterior is the Laplace approximation of the last layer (`laplace`); expectations are means
over draws from it, the same draws for every candidate. All values are in nats and none is
negative.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import expit

from coresift.server.arrays import Float64s
from coresift.server.head import Task
from coresift.server.pool.canonical import matrix_products
from coresift.server.selection.laplace import objection_to, posterior_draws
from coresift.server.selection.parameters import parameter
from coresift.server.selection.priority import random_order
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

EPS32 = float(np.finfo(np.float32).eps)
COLUMN_LIPSCHITZ = 2 * 0.2239
"""Change of `column_information` when every draw's logit moves by at most 1.

Its slopes sum to ``mean_s v_s |z_s - logit(p)|`` with ``v_s = p_s (1 - p_s)`` and p the mean of
p_s. ``v |z|`` is at most 0.2239, and the mean of v_s at most p (1 - p) (Jensen).
"""
_CELLS = 1 << 17
"""Numbers at work at a time: they stay in the cache."""


@dataclass(frozen=True, slots=True)
class Bald:
    """Mutual information of the label and the weights (Houlsby et al., 2011; Gal et al., 2017).

    ``H(mean_s p_s) - mean_s H(p_s)`` over the draws p_s of the class probabilities; multilabel:
    the mean over the columns.

    The draws err: the standard error of a binary value is about ``0.5 / sqrt(samples)`` nats at
    most, and the value is too small by ``1 / (2 samples)`` at most on average, since an entropy
    is concave. Most of the error is common to similar items, so that their order suffers less.
    """

    samples: int = parameter(64, "draws of the weights", low=8, high=256)
    needs_head: ClassVar[bool] = True
    tasks: ClassVar[frozenset[Task]] = EVERY_TASK

    def objection(self, setting: Setting) -> str | None:
        return objection_to(setting, self.samples)

    def prepare(self, situation: Situation) -> Scorer:
        draws = posterior_draws(situation, self.samples)
        return BaldScorer(draws, self.samples, situation.task is Task.MULTICLASS)


@dataclass(frozen=True, slots=True)
class Epig:
    """Expected predictive information gain (Bickford Smith et al., 2023): mutual information of
    the label and the label of another item, in the mean over a sample of the pool.

    ``mean_x* sum_{y,y*} P(y,y*) log(P(y,y*) / (P(y) P(y*)))`` with ``P(y,y*) = mean_s p_s(y|x)
    p_s(y*|x*)``. The targets x* are the first rows of the pool in a fixed hash order, the same at
    every revision.
    """

    samples: int = parameter(64, "draws of the weights", low=8, high=256)
    targets: int = parameter(128, "items whose labels are to be learnt", low=1, high=512)
    needs_head: ClassVar[bool] = True
    tasks: ClassVar[frozenset[Task]] = frozenset({Task.BINARY})

    def objection(self, setting: Setting) -> str | None:
        return objection_to(setting, self.samples)

    def prepare(self, situation: Situation) -> Scorer:
        draws, pool = posterior_draws(situation, self.samples), situation.pool
        rows = random_order(situation.seed, "epig", pool.manifest.items, self.targets)
        logits = matrix_products(pool.fetch(np.sort(rows)), draws.weights) + draws.offset
        return EpigScorer(draws, expit(logits), expit(-logits))


@dataclass(frozen=True, slots=True)
class BaldScorer:
    """Mutual information from the logits of draws, columns ``k * samples + s``."""

    projection: Projection
    samples: int
    is_softmax: bool
    needs_head: ClassVar[bool] = False
    needs_rows: ClassVar[bool] = False

    def score(self, part: Part) -> Floats:
        formula = softmax_information if self.is_softmax else _mean_column_information
        return _by_blocks(lambda logits: formula(self._draws(logits)), part.projected)

    def error(self, errors: Errors) -> float:
        classes = len(self.projection.weights) // self.samples
        # Sums over draws and classes, of numbers of size log K.
        rounding = 8 * EPS32 * (classes + 32) * (1 + float(np.log(classes + 1)))
        # The two entropies of a softmax: as for one, by Jensen in the variance of log p.
        slope = 2 * entropy_lipschitz(classes) if self.is_softmax else COLUMN_LIPSCHITZ
        return slope * errors.projected + rounding

    def slopes(self, part: Part) -> Slopes:
        Z = self._draws(part.projected.astype(np.float64))
        if self.is_softmax:
            log_p = Z - Z.max(axis=1, keepdims=True)
            log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
            P = np.exp(log_p)
            # p = 0 makes the product 0 whatever the ratio.
            ratio = log_p - _log(P.mean(axis=2, keepdims=True))
            slopes = P * (ratio - (P * ratio).sum(axis=1, keepdims=True))
        else:
            P, Q = expit(Z), expit(-Z)
            mean_logit = _log(P.mean(axis=2, keepdims=True)) - _log(Q.mean(axis=2, keepdims=True))
            slopes = P * Q * (Z - mean_logit) / Z.shape[1]
        return Slopes(np.zeros(part.logits.shape), (slopes / self.samples).reshape(len(Z), -1))

    def _draws(self, projected: Floats) -> Floats:
        """[n, K', samples]."""
        return projected.reshape(len(projected), -1, self.samples)


def column_information(logits: Floats) -> Floats:
    """Mutual information [...] of a two-sided label and the draw, of logits [..., samples]."""
    P, Q = _sides(logits)
    inner = (_entropy_terms(P) + _entropy_terms(Q)).mean(axis=-1)
    outer = _entropy_terms(P.mean(axis=-1)) + _entropy_terms(Q.mean(axis=-1))
    return np.asarray(np.maximum(outer - inner, 0))


def _mean_column_information(logits: Floats) -> Floats:
    return np.asarray(column_information(logits).mean(axis=1))


def softmax_information(logits: Floats) -> Floats:
    """Mutual information [n] of a class and the draw, of logits [n, K', samples]."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    weights = np.exp(shifted)
    total = weights.sum(axis=1)
    shifted *= weights
    inner = np.log(total) - shifted.sum(axis=1) / total
    weights /= total[:, None]
    outer = _entropy_terms(weights.mean(axis=2)).sum(axis=1)
    return np.asarray(np.maximum(outer - inner.mean(axis=1), 0))


@dataclass(frozen=True, slots=True)
class EpigScorer:
    """Information about targets from the logits of draws.

    Attributes:
        projection: ``samples`` columns.
        present, absent: probabilities of the targets' two sides, float64 [t, samples].
    """

    projection: Projection
    present: Float64s
    absent: Float64s
    needs_head: ClassVar[bool] = False
    needs_rows: ClassVar[bool] = False

    def score(self, part: Part) -> Floats:
        dtype, samples = part.projected.dtype, self.present.shape[1]
        present = np.ascontiguousarray(self.present.T / samples, dtype)
        marginal = self.present.mean(axis=1)
        known = float((_entropy_terms(marginal) + _entropy_terms(self.absent.mean(axis=1))).mean())
        marginal = marginal.astype(dtype)

        def information(logits: Floats) -> Floats:
            P, Q = _sides(logits)
            p, q = P.mean(axis=1), Q.mean(axis=1)
            both = _product(P, present)
            # -p log p forgives an absolute error in p: the other cells need no product.
            other = marginal - both
            cells = (both, other, p[:, None] - both, q[:, None] - other)
            joint = sum(_entropy_terms(cell).mean(axis=1) for cell in cells)
            own = _entropy_terms(p) + _entropy_terms(q)
            return np.asarray(np.maximum(own + known - joint, 0))

        return _by_blocks(information, part.projected, len(self.present))

    def error(self, errors: Errors) -> float:
        # The joint entropy given y* is that of one label: the same bound, by Jensen over the
        # draws weighted with p_s(y*|x*). And products of length ``samples`` round.
        samples = int(self.present.shape[1])
        return COLUMN_LIPSCHITZ * errors.projected + 3 * EPS32 * (samples + 64)

    def slopes(self, part: Part) -> Slopes:
        P, Q = _sides(part.projected.astype(np.float64))
        samples, targets = P.shape[1], len(self.present)
        sides = np.concatenate([self.present, self.absent])
        log_odds = _log(_product(P, sides.T)) - _log(_product(Q, sides.T))
        own = _log(Q.mean(axis=1)) - _log(P.mean(axis=1))
        slopes = P * Q * (own[:, None] + log_odds @ sides / targets) / samples
        return Slopes(np.zeros(part.logits.shape), slopes)


def _sides(logits: Floats) -> tuple[Floats, Floats]:
    """Probabilities of presence and absence, each exact where it is small."""
    present, absent = np.exp(np.minimum(logits, 0)), np.exp(-np.maximum(logits, 0))
    total = present + absent
    return present / total, absent / total


def _product(P: Floats, sides: Floats) -> Floats:
    """``P @ sides``; in float64 row by row, so that a row's bits depend on that row alone."""
    if P.dtype == np.float32:
        return np.asarray(P @ sides)
    return np.asarray(np.matmul(P[:, None, :], sides)[:, 0, :])


def _log(p: Floats) -> Floats:
    """Logarithm that stays finite at 0."""
    return np.asarray(np.log(np.maximum(p, np.finfo(p.dtype).tiny)))


def _entropy_terms(p: Floats) -> Floats:
    """``-p log p``, 0 at 0 and where rounding left less."""
    some = np.maximum(p, np.finfo(p.dtype).tiny)
    return np.asarray(-some * np.log(some))


def _by_blocks(formula: Callable[[Floats], Floats], columns: Floats, width: int = 0) -> Floats:
    """``formula`` [n] of columns [n, m] a few rows at a time; it makes ``width`` numbers of a row
    if those are more than m."""
    scores = np.empty(len(columns), columns.dtype)
    step = max(1, _CELLS // max(columns.shape[1], width))
    for start in range(0, len(columns), step):
        scores[start : start + step] = formula(columns[start : start + step])
    return scores
