"""Down a smooth convex function of a matrix by L-BFGS. Pure: no randomness, no clock.

Nocedal and Wright, Numerical Optimization (2006), algorithms 7.4 and 7.5.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
from scipy.linalg.blas import daxpy, ddot

from coresift.server.arrays import Float64s

Evaluate = Callable[[Float64s], tuple[float, Float64s]]
"""The function and its gradient at a matrix, float64 [K, m]."""
Precondition = Callable[[Float64s], Float64s]
"""About the inverse of the Hessian times a matrix, float64 [K, m]."""
Pairs = deque[tuple[Float64s, Float64s, float]]
"""Steps, the gradient's changes by them, both flat, and 1 over their products."""

MEMORY = 20
SUFFICIENT = 1e-4
"""Share of the decrease promised by the slope that a step must bring."""
PASSED = 0.8
"""Where values no longer tell, the share of the slope that may rise behind the lowest point (the
approximate Wolfe condition of Hager and Zhang, 2005)."""
SHORTEST = 1e-4
"""Share of a step below which there is no descent left in the function's precision."""


def no_pairs() -> Pairs:
    """What `descend` begins with."""
    return deque(maxlen=MEMORY)


def descend(
    evaluate: Evaluate,
    start: Float64s,
    tolerance: float,
    *,
    most: int,
    slack: float,
    pairs: Pairs,
    precondition: Precondition | None = None,
) -> Float64s:
    """Follow a function down from ``start`` until its gradient is short enough.

    Args:
        tolerance: norm of the gradient that suffices.
        most: evaluations.
        slack: relative error of the function's values; within it, slopes decide.
        pairs: of a descent before, of much the same function; this one's are added.

    Returns:
        The last matrix, also where ``tolerance`` was not reached.
    """
    theta = start
    value, gradient = evaluate(theta)
    left = most - 1
    while (norm := float(np.linalg.norm(gradient))) > tolerance:
        step = _direction(gradient, norm, pairs, precondition)
        slope, size = ddot(gradient.ravel(), step.ravel()), 1.0
        while left > 0 and size > SHORTEST:
            there = theta - size * step
            value_there, gradient_there = evaluate(there)
            left -= 1
            if value_there <= value - SUFFICIENT * size * slope:
                break
            slope_there = -ddot(gradient_there.ravel(), step.ravel())
            if value_there <= value + slack * abs(value) and slope_there <= PASSED * slope:
                break
            # To where the slope along the step is 0, if it grows evenly.
            size *= min(0.5, max(0.1, slope / (slope + max(0.0, slope_there))))
        else:
            break
        moved, turned = (there - theta).ravel(), (gradient_there - gradient).ravel()
        if (bend := ddot(moved, turned)) > 0:  # but for rounding it always is
            pairs.append((moved, turned, 1 / bend))
        theta, value, gradient = there, value_there, gradient_there
    return theta


def _direction(
    gradient: Float64s, norm: float, pairs: Pairs, precondition: Precondition | None
) -> Float64s:
    """The two-loop recursion; with neither pair nor preconditioner a step of length 1."""
    flat = gradient.ravel().copy()
    shares = []
    for moved, turned, inverse in reversed(pairs):
        shares.append(inverse * ddot(moved, flat))
        daxpy(turned, flat, a=-shares[-1])
    if precondition is not None:
        flat = precondition(flat.reshape(gradient.shape)).ravel()
    elif pairs:
        _, turned, inverse = pairs[-1]
        flat /= inverse * ddot(turned, turned)
    else:
        flat /= norm
    for (moved, turned, inverse), share in zip(pairs, reversed(shares), strict=True):
        daxpy(moved, flat, a=share - inverse * ddot(turned, flat))
    return flat.reshape(gradient.shape)
