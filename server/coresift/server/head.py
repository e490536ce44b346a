"""The model head: L2-regularised logistic regression on embeddings, at its optimum.

Minimises ``0.5 |w|^2 + C * sum_i s_i * logloss_i`` with a free intercept, where ``s_i`` are the
weights of the labels. A fit is a pure function of its training set: it never starts from an
earlier head, so every replica gets the same bits. A fast float32 L-BFGS run is followed by a
float64 polish: Newton steps for one output, L-BFGS for a softmax.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

import msgpack
import numpy as np
import numpy.typing as npt
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.special import expit, softmax

from coresift.server.arrays import Bools, Float32s, Float64s
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
                training.vectors[known],
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


Objective = Callable[[Float64s], tuple[float, Float64s]]


def _lbfgs(objective: Objective, start: Float64s, tolerance: float) -> Float64s:
    result = minimize(  # ftol 0: only the gradient may end the run
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 10_000, "maxfun": 20_000, "ftol": 0.0, "gtol": tolerance, "maxcor": 20},
    )
    return np.asarray(result.x)


def _fit_binary(
    vectors: Float32s, present: Float64s, absent: Float64s, c: float
) -> tuple[Float64s, float]:
    """Weights [d] and bias for label weights ``present`` and ``absent``, float64 [n] each."""
    start = np.zeros(vectors.shape[1] + 1)

    def coarse(theta: Float64s) -> tuple[float, Float64s]:
        logits = vectors @ theta[:-1].astype(np.float32) + np.float32(theta[-1])
        value, slope = _binary_loss(logits.astype(np.float64), present, absent)
        gradient = np.append(c * (slope.astype(np.float32) @ vectors) + theta[:-1], c * slope.sum())
        return c * value + 0.5 * float(theta[:-1] @ theta[:-1]), gradient

    theta = _lbfgs(coarse, start, 1e-4 * c)
    return _newton(vectors.astype(np.float64), present, absent, c, theta)


def _binary_loss(logits: Float64s, present: Float64s, absent: Float64s) -> tuple[float, Float64s]:
    """Sum of weighted log-losses, and its slope in each logit."""
    loss = present @ np.logaddexp(0, -logits) + absent @ np.logaddexp(0, logits)
    probability = expit(logits)
    return float(loss), absent * probability - present * (1 - probability)


def _newton(
    X: Float64s, present: Float64s, absent: Float64s, c: float, theta: Float64s
) -> tuple[Float64s, float]:
    """Newton's method with backtracking from ``theta`` to the float64 optimum."""
    # The flattest direction is curved by the ridge alone: then logits are off by 1e-5 at most.
    longest = float(np.linalg.norm(X, axis=1).max()) or 1.0
    tolerance = min(1e-3 * GRADIENT_TOLERANCE * c, 1e-5 / longest)  # quadratic: nearly free
    X = np.column_stack([X, np.ones(len(X))])
    ridge = np.ones(X.shape[1])
    ridge[-1] = 0

    def evaluate(theta: Float64s) -> tuple[float, Float64s, Float64s]:
        logits = X @ theta
        value, slope = _binary_loss(logits, present, absent)
        penalty = ridge * theta
        return c * value + 0.5 * float(penalty @ theta), c * (slope @ X) + penalty, logits

    value, gradient, logits = evaluate(theta)
    factor = None
    for _ in range(200):
        before = float(np.linalg.norm(gradient))
        if before <= tolerance:
            break
        if factor is None:
            probability = expit(logits)
            curvature = c * (present + absent) * probability * (1 - probability)
            hessian = (X * curvature[:, None]).T @ X
            hessian[np.diag_indices_from(hessian)] += ridge
            hessian[-1, -1] += 1e-12 * c  # the intercept's curvature may vanish when saturated
            factor = factored(hessian)
        step = cho_solve(factor, gradient)
        slope, size = float(gradient @ step), 1.0
        while size > 1e-10:
            trial = evaluate(theta - size * step)
            if trial[0] <= value - 1e-4 * size * slope:
                break
            # Below the value's rounding only the gradient tells better from worse.
            is_flat = abs(trial[0] - value) <= 1e-13 * abs(value)
            if is_flat and np.linalg.norm(trial[1]) < before:
                break
            size /= 2
        else:
            break  # no descent left in float64
        theta = theta - size * step
        value, gradient, logits = trial
        # Near the optimum an old Hessian still gains a digit a step, for a hundredth of its cost.
        if np.linalg.norm(gradient) > 0.1 * before:
            factor = None
    return theta[:-1], float(theta[-1])


def factored(hessian: Float64s) -> tuple[Float64s, bool]:
    """A Cholesky factor, of the matrix with a growing ridge where rounding made it indefinite.

    Then steps are shorter than Newton's; the line search still makes them descend.
    """
    ridge = np.finfo(np.float64).eps * float(np.trace(hessian)) / len(hessian)
    while True:
        try:
            factor, lower = cho_factor(hessian)
            return np.asarray(factor), bool(lower)
        except LinAlgError:
            hessian[np.diag_indices_from(hessian)] += ridge
            ridge *= 10


def _fit_multiclass(config: HeadConfig, training: TrainingSet) -> Head | None:
    """Softmax over the classes seen; the others have probability 0."""
    totals = training.targets.sum(axis=0)
    seen = totals > 0
    if seen.sum() < 2:
        return None
    targets = training.targets[:, seen] * class_scale(config, totals[seen])
    used = targets.sum(axis=1) > 0
    weights, bias = _fit_softmax(training.vectors[used], targets[used], config.c)
    head_weights = np.zeros((len(seen), training.vectors.shape[1]))
    head_bias = np.full(len(seen), -np.inf)
    head_weights[seen], head_bias[seen] = weights, bias
    return Head(Task.MULTICLASS, head_weights, head_bias, seen)


def _fit_softmax(vectors: Float32s, targets: Float64s, c: float) -> tuple[Float64s, Float64s]:
    """Weights [K, d] and bias [K] for class weights ``targets``, float64 [n, K].

    Rows are scaled to norms of at most 1 meanwhile: then one tolerance suits all pools.
    """
    classes, dimension = targets.shape[1], vectors.shape[1]
    scale = float(np.linalg.norm(vectors.astype(np.float64), axis=1).max()) or 1.0
    vectors, ridge = (vectors / scale).astype(np.float32), scale**-2

    def objective(dtype: type[np.float32] | type[np.float64]) -> Objective:
        X: npt.NDArray[Any] = vectors.astype(dtype)
        T: npt.NDArray[Any] = targets.astype(dtype)
        totals = T.sum(axis=1, keepdims=True)

        def evaluate(theta: Float64s) -> tuple[float, Float64s]:
            W = theta[:-classes].reshape(classes, dimension)
            logits = X @ W.astype(dtype).T + theta[-classes:].astype(dtype)
            logits -= logits.max(axis=1, keepdims=True)
            P = np.exp(logits)
            norm = P.sum(axis=1, keepdims=True)
            loss = float(np.sum(totals * np.log(norm), dtype=np.float64)) - float(
                np.sum(T * logits, dtype=np.float64)
            )
            P *= totals / norm
            P -= T
            gradient = np.empty_like(theta)
            gradient[:-classes] = (c * (P.T @ X) + ridge * W).ravel()
            gradient[-classes:] = c * P.sum(axis=0, dtype=np.float64)
            return c * loss + 0.5 * ridge * float(np.vdot(W, W)), gradient

        return evaluate

    theta = _lbfgs(objective(np.float32), np.zeros(classes * (dimension + 1)), 1e-4 * c)
    # The flattest direction is curved by the ridge alone.
    tolerance = min(GRADIENT_TOLERANCE * c, 1e-4 * ridge)
    theta = _lbfgs(objective(np.float64), theta, tolerance / np.sqrt(len(theta)))
    return theta[:-classes].reshape(classes, dimension) / scale, theta[-classes:]
