"""Newton's method for one output of a logistic regression, in float64: dear and sure."""

from __future__ import annotations

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.special import expit

from coresift.server.arrays import Float32s, Float64s


def newton(
    vectors: Float32s,
    present: Float64s,
    absent: Float64s,
    c: float,
    theta: Float64s,
    tolerance: float,
) -> Float64s:
    """Newton's method with backtracking, to the optimum or as near as float64 can come.

    Minimises ``0.5 |w|^2 + c * loss`` over theta = (w, b), float64 [d + 1].

    Args:
        vectors: float32 [n, d].
        present, absent: weights of both sides, float64 [n].
        theta: where to begin.
        tolerance: norm of the gradient that suffices.
    """
    X = np.column_stack([vectors.astype(np.float64), np.ones(len(vectors))])
    ridge = np.ones(X.shape[1])
    ridge[-1] = 0

    def evaluate(theta: Float64s) -> tuple[float, Float64s, Float64s]:
        logits = X @ theta
        value, slope = _loss(logits, present, absent)
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
    return theta


def _loss(logits: Float64s, present: Float64s, absent: Float64s) -> tuple[float, Float64s]:
    """Sum of weighted log-losses, and its slope in each logit."""
    loss = present @ np.logaddexp(0, -logits) + absent @ np.logaddexp(0, logits)
    probability = expit(logits)
    return float(loss), absent * probability - present * (1 - probability)


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
