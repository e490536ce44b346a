"""What the labels leave open about the head: a normal posterior of its weights.

The Laplace approximation (MacKay, 1992): the head's optimum is the mean, the inverse curvature
of the loss there the covariance. In the head's units, ``0.5 |w|^2 / C + sum_i s_i logloss_i``,
the precision is ``X'SX + I/C`` with ``S = s_i p_i (1 - p_i)``; the weights ``s_i`` are those of
the fit, class weights included. The intercept has a flat prior in the fit and a normal one of
standard deviation 1,000 here: a saturated head would leave it undetermined.

Departures: label weights of fractional votes count as fractional observations, and a
class-weighted fit as if it had seen as many labels as its weights sum to.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import expit, ndtri, softmax

from coresift.server.arrays import Float64s
from coresift.server.head import Task, TrainingSet, class_scale
from coresift.server.head.newton import factored
from coresift.server.selection.priority import priorities
from coresift.server.selection.strategy import Projection, Setting, Situation

MAX_WEIGHTS = 4_096
"""Weights of one factor: the dimension, for a softmax times the classes. It takes n^3 / 3 steps
and 8 n^2 bytes (128 MiB)."""
MAX_COLUMNS = 4_096
"""Draws times classes: columns that every candidate is multiplied with."""
INTERCEPT_PRECISION = 1e-6
_CHUNK = 1_024
"""Training rows widened at a time."""


def objection_to(setting: Setting, samples: int) -> str | None:
    """Why ``samples`` draws of the posterior cannot be had, or None."""
    weights = setting.pool.manifest.dimension
    if setting.task is Task.MULTICLASS:
        weights *= setting.classes
    if weights > MAX_WEIGHTS:
        of = "dimension x classes" if setting.task is Task.MULTICLASS else "dimension"
        return f"needs {of} of at most {MAX_WEIGHTS:,}; here it is {weights:,}"
    if samples * setting.classes > MAX_COLUMNS:
        most = MAX_COLUMNS // setting.classes
        return f"needs samples x classes of at most {MAX_COLUMNS:,}: samples of at most {most} here"
    return None


def posterior_draws(situation: Situation, samples: int) -> Projection:
    """Heads drawn from the posterior, as columns that give their logits.

    A pure function of head, labels, seed and revision. The draws of more samples begin with
    those of fewer.

    Returns:
        For the K' fitted columns of the head K' * samples columns: those of the first class
        first, ``k * samples + s`` is class k of draw s. The heads of a softmax are centred over
        the classes, which changes none of its probabilities.
    """
    head = situation.fitted()
    means = np.column_stack([head.weights, head.bias])[head.fitted]
    if situation.task is Task.MULTICLASS:
        factor = factored(_softmax_precision(situation, means))[0]
        draws = means[:, None] + _normals(situation, 0, factor, samples).reshape(
            samples, *means.shape
        ).transpose(1, 0, 2)
        draws -= draws.mean(axis=0)
    else:
        draws = np.empty((len(means), samples, means.shape[1]))
        for place, column in enumerate(np.flatnonzero(head.fitted).tolist()):
            factor = factored(_column_precision(situation, column, means[place]))[0]
            draws[place] = means[place] + _normals(situation, column, factor, samples)
    columns = draws.reshape(-1, means.shape[1])
    return Projection(np.ascontiguousarray(columns[:, :-1]), columns[:, -1].copy())


def _normals(situation: Situation, column: int, factor: Float64s, samples: int) -> Float64s:
    """Draws [samples, P] with mean 0 and covariance inv(U'U), for the factor U [P, P]."""
    width = len(factor)
    purpose = f"laplace:{situation.revision}:{column}"
    uniform = priorities(situation.seed, purpose, np.arange(samples * width, dtype=np.int32))
    # Half a step up: ndtri(0) is minus infinity.
    normal = ndtri(uniform + 2.0**-54).reshape(samples, width)
    return np.ascontiguousarray(solve_triangular(factor, normal.T, lower=False).T)


def _blocks(training: TrainingSet) -> Iterator[tuple[slice, Float64s]]:
    """Training rows with a last column of ones, float64 [m, d + 1], by blocks."""
    for start in range(0, len(training.vectors), _CHUNK):
        X = training.vectors[start : start + _CHUNK].astype(np.float64)
        yield slice(start, start + len(X)), np.column_stack([X, np.ones(len(X))])


def _prior(situation: Situation, width: int) -> Float64s:
    """Precisions of the weights, then of the intercept, [width]."""
    prior = np.full(width, 1 / situation.head_config.c)
    prior[-1] = INTERCEPT_PRECISION
    return prior


def _column_precision(situation: Situation, column: int, theta: Float64s) -> Float64s:
    """``X'SX + I/C`` [d + 1, d + 1] of a binary head at ``theta`` [d + 1]."""
    training = situation.training
    present, absent = training.targets[:, column], training.opposed[:, column]
    scale = class_scale(situation.head_config, np.array([absent.sum(), present.sum()]))
    observed = present * scale[1] + absent * scale[0]
    precision = np.diag(_prior(situation, len(theta)))
    for part, X in _blocks(training):
        logits = X @ theta
        rooted = X * np.sqrt(observed[part] * expit(logits) * expit(-logits))[:, None]
        precision += rooted.T @ rooted
    return precision


def _softmax_precision(situation: Situation, theta: Float64s) -> Float64s:
    """The same [K'(d + 1), K'(d + 1)] of a softmax at ``theta`` [K', d + 1], class by class.

    ``sum_i s_i (diag(p_i) - p_i p_i') (x) x_i x_i' + I/C``.
    """
    training, fitted = situation.training, situation.fitted().fitted
    targets = training.targets[:, fitted]
    observed = (targets * class_scale(situation.head_config, targets.sum(axis=0))).sum(axis=1)
    classes, width = theta.shape
    precision = np.diag(np.tile(_prior(situation, width), classes))
    for part, X in _blocks(training):
        P = softmax(X @ theta.T, axis=1)
        root = np.sqrt(observed[part])[:, None]
        outer = ((root * P)[:, :, None] * X[:, None, :]).reshape(len(X), classes * width)
        precision -= outer.T @ outer
        for k in range(classes):
            own = slice(k * width, (k + 1) * width)
            rooted = X * (root[:, 0] * np.sqrt(P[:, k]))[:, None]
            precision[own, own] += rooted.T @ rooted
    return precision
