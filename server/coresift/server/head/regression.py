"""The model head: L2-regularised logistic regression on embeddings, at its optimum.

Minimises ``0.5 |w|^2 + C * sum_i s_i * logloss_i`` with a free intercept, where ``s_i`` are the
weights of the labels. A fit is a pure function of its training set: it never starts from an
earlier head, so every replica gets the same bits. Nearly all are fitted by `logistic`; where
rows are so long, or C so large, that float32 products do not lead to the optimum, Newton's method
or L-BFGS in float64 goes on from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import msgpack
import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, softmax

from coresift.server.arrays import Bools, Float32s, Float64s, Int64s
from coresift.server.head.logistic import Problem
from coresift.server.head.losses import BinaryLoss, SoftmaxLoss
from coresift.server.head.newton import newton
from coresift.server.pool.canonical import matrix_products

GRADIENT_TOLERANCE = 1e-6
"""Largest gradient norm at the optimum, in units of C."""


class Task(IntEnum):
    """What a label says about an item; the numbers of ``Task`` on the wire."""

    BINARY = 1
    MULTICLASS = 2
    MULTILABEL = 3


ClassWeight = Literal["none", "balanced"]


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """How heads of a session are fitted."""

    c: float = 100.0
    class_weight: ClassWeight = "none"


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Labels as the fit sees them.

    Attributes:
        vectors: float32 [n, d], one row a training item.
        targets: float64 [n, K] (binary: K = 1). For multiclass the weight of each class in the
            item's votes; otherwise the weight of votes that say "present".
        opposed: float64 [n, K], the weight of votes that say "absent"; unused for multiclass.
            Where both are 0 the item says nothing about the column.
    """

    vectors: Float32s
    targets: Float64s
    opposed: Float64s


@dataclass(frozen=True, slots=True)
class Head:
    """A fitted head.

    Attributes:
        weights: float64 [K, d] (binary: K = 1, the positive class).
        bias: float64 [K]. Columns that could not be fitted have zero weights and a constant:
            -inf (never seen, or only absent), +inf (only present), 0 (multilabel, nothing known).
        fitted: bool [K].
    """

    task: Task
    weights: Float64s
    bias: Float64s
    fitted: Bools

    def logits(self, vectors: Float32s) -> Float64s:
        """Canonical float64 logits [n, K]: a row's bits depend on that row alone."""
        return matrix_products(vectors, self.weights) + self.bias

    def probabilities(self, logits: Float64s) -> Float64s:
        """Class probabilities [n, K] of logits [n, K]."""
        if self.task is Task.MULTICLASS:
            return np.asarray(softmax(logits, axis=1))
        return np.asarray(expit(logits))

    def pack(self) -> bytes:
        """As bytes, for other replicas."""
        return bytes(
            msgpack.packb(
                [
                    int(self.task),
                    self.weights.shape,
                    self.weights.tobytes(),
                    self.bias.tobytes(),
                    self.fitted.tobytes(),
                ]
            )
        )

    @classmethod
    def unpack(cls, data: bytes) -> Head:
        """The inverse of `pack`."""
        task, shape, weights, bias, fitted = msgpack.unpackb(data)
        return cls(
            Task(task),
            np.frombuffer(weights, np.float64).reshape(shape),
            np.frombuffer(bias, np.float64),
            np.frombuffer(fitted, np.bool_),
        )


def fit(task: Task, config: HeadConfig, training: TrainingSet) -> Head | None:
    """Fit a head; None where the labels do not determine one.

    Binary needs a label on both sides, multiclass two seen classes, multilabel one column with
    both sides. Probabilities are within 1e-4 of the float64 optimum.
    """
    if task is Task.MULTICLASS:
        return _fit_multiclass(config, training)
    return _fit_columns(task, config, training)


def _fit_columns(task: Task, config: HeadConfig, training: TrainingSet) -> Head | None:
    """Binary and one-vs-rest: each column on the rows that know it."""
    count, dimension = training.targets.shape[1], training.vectors.shape[1]
    weights, bias = np.zeros((count, dimension)), np.zeros(count)
    fitted = np.zeros(count, np.bool_)
    for column in range(count):
        present, absent = training.targets[:, column], training.opposed[:, column]
        known = np.flatnonzero(present + absent > 0)
        positives, negatives = present.sum(), absent.sum()
        if positives > 0 and negatives > 0:
            sides = np.array([negatives, positives])
            scale = class_scale(config, sides)
            weights[column], bias[column] = _fit_binary(
                _only(training.vectors, known),
                present[known] * scale[1],
                absent[known] * scale[0],
                config.c,
            )
            fitted[column] = True
        elif positives + negatives > 0:
            bias[column] = np.inf if positives else -np.inf
    return Head(task, weights, bias, fitted) if fitted.any() else None


def class_scale(config: HeadConfig, totals: Float64s) -> Float64s:
    """Weight of each class: 1, or inverse to its share ("balanced", as scikit-learn has it)."""
    if config.class_weight == "none":
        return np.ones(len(totals))
    return np.asarray(totals.sum() / (len(totals) * totals))


def _only(vectors: Float32s, places: Int64s) -> Float32s:
    """The vectors at ascending places; themselves where that is all of them."""
    return vectors if len(places) == len(vectors) else vectors[places]


def _longest(vectors: Float32s) -> float:
    """The largest norm, 1 if there is none."""
    return float(np.sqrt(np.einsum("ij,ij->i", vectors, vectors).max())) or 1.0


def _fit_binary(
    vectors: Float32s, present: Float64s, absent: Float64s, c: float
) -> tuple[Float64s, float]:
    """Weights [d] and bias for label weights ``present`` and ``absent``, float64 [n] each."""
    scale = _longest(vectors)
    problem = Problem(vectors, scale, BinaryLoss(present[None], absent[None]), c)
    # The flattest direction is curved by the ridge alone: then logits are off by 1e-5 at most.
    theta, is_found = problem.solve(1, min(0.1 * GRADIENT_TOLERANCE * c, 1e-5 * problem.ridge))
    weights, bias = theta[0, :-1] / scale, float(theta[0, -1])
    if not is_found:
        tolerance = min(1e-3 * GRADIENT_TOLERANCE * c, 1e-5 / scale)  # quadratic: nearly free
        found = newton(vectors, present, absent, c, np.append(weights, bias), tolerance)
        weights, bias = found[:-1], float(found[-1])
    return weights, bias


def _fit_multiclass(config: HeadConfig, training: TrainingSet) -> Head | None:
    """Softmax over the classes seen; the others have probability 0."""
    totals = training.targets.sum(axis=0)
    seen = totals > 0
    if seen.sum() < 2:
        return None
    targets = training.targets[:, seen] * class_scale(config, totals[seen])
    used = targets.sum(axis=1) > 0
    vectors = _only(training.vectors, np.flatnonzero(used))
    weights, bias = _fit_softmax(vectors, targets[used], config.c)
    head_weights = np.zeros((len(seen), training.vectors.shape[1]))
    head_bias = np.full(len(seen), -np.inf)
    head_weights[seen], head_bias[seen] = weights, bias
    return Head(Task.MULTICLASS, head_weights, head_bias, seen)


def _fit_softmax(vectors: Float32s, targets: Float64s, c: float) -> tuple[Float64s, Float64s]:
    """Weights [K, d] and bias [K] for class weights ``targets``, float64 [n, K]."""
    scale, by_class = _longest(vectors), np.ascontiguousarray(targets.T)
    problem = Problem(vectors, scale, SoftmaxLoss(by_class, by_class.sum(axis=0)), c)
    # The flattest direction is curved by the ridge alone.
    tolerance = min(GRADIENT_TOLERANCE * c, 1e-4 * problem.ridge)
    theta, is_found = problem.solve(len(by_class), tolerance)
    if not is_found:
        theta = _lbfgs(problem, theta, tolerance / np.sqrt(theta.size))
    return theta[:, :-1] / scale, theta[:, -1]


def _lbfgs(problem: Problem, theta: Float64s, tolerance: float) -> Float64s:
    """On to the optimum in float64, or as near as it can come."""
    evaluate = problem.wide()

    def flat(theta_flat: Float64s) -> tuple[float, Float64s]:
        value, gradient = evaluate(theta_flat.reshape(theta.shape))
        return value, gradient.ravel()

    result = minimize(  # ftol 0: only the gradient may end the run
        flat,
        theta.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 10_000, "maxfun": 20_000, "ftol": 0.0, "gtol": tolerance, "maxcor": 20},
    )
    return np.asarray(result.x).reshape(theta.shape)
