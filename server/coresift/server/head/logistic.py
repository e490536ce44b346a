"""Logistic regression at its float64 optimum, mostly by float32 products.

Logits and gradients are linear in the vectors, so that only their *changes* since an anchor need
products, and in float32: at the anchor they are known in float64, and a change's error is small
as the change is (iterative refinement; Higham, Accuracy and Stability of Numerical Algorithms,
chapter 12). L-BFGS comes near from zero. From there on it is preconditioned by a Hessian of each
class, made of the rows that bend the loss most.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg.blas import strsv
from scipy.linalg.lapack import spotrf

from coresift.server.arrays import Float32s, Float64s
from coresift.server.head.descent import Evaluate, Precondition, descend, no_pairs
from coresift.server.head.losses import Loss

NEAR = 0.3
"""Norm of the gradient, in units of C, from which Hessians save more than they cost."""
COARSE_STEPS = 100
"""Evaluations at most until then, and from one anchor where there are no Hessians."""
REFINED = 3e-4
"""How much shorter a gradient gets by changes in float32."""
FINE_STEPS = 12
"""Evaluations from one anchor: most need fewer; where they do not suffice, the Hessians are of a
place too far away and are made anew."""
ROUNDS = 20
"""Anchors at most; three suffice for unit rows and C = 100."""
SLACK = 1e-6
"""Relative error of the function's values by float32 products."""
BENT = 0.25
"""Rows of less than this share of the mean curvature are left out of a Hessian: two thirds of
1,000 labels' rows, and 7 % of their curvature."""
MOST_RIDGE = 1e30
MOST_FACTORED = 1 << 24
"""Numbers in the Hessians of all classes; where they would be more there are none."""
WIDENED = 256
"""Rows widened to float64 together: they stay in the cache."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """What is known in float64 at ``theta``: logits and slopes of the rows [K, n], value, and the
    gradient of the losses [K, d + 1]."""

    theta: Float64s
    logits: Float64s
    slopes: Float64s
    value: float
    gradient: Float64s


@dataclass(frozen=True, slots=True)
class Problem:
    """Minimise ``0.5 ridge |W|^2 + c * loss(W vectors / scale + b)`` over theta = [W b], float64
    [K, d + 1].

    Attributes:
        vectors: float32 [n, d].
        scale: their largest norm, so that one tolerance suits all pools.
        loss: in float64.
    """

    vectors: Float32s
    scale: float
    loss: Loss
    c: float

    @property
    def ridge(self) -> float:
        """Weights are W / scale: of them the ridge is 1."""
        return self.scale**-2

    def solve(self, classes: int, tolerance: float) -> tuple[Float64s, bool]:
        """Theta, and whether its gradient's norm is at most ``tolerance``."""
        theta = np.zeros((classes, self.vectors.shape[1] + 1))
        theta = descend(
            self.narrow(),
            theta,
            NEAR * self.c,
            most=COARSE_STEPS,
            slack=SLACK,
            pairs=no_pairs(),
        )
        precondition, pairs, target = None, no_pairs(), 0.0
        for _ in range(ROUNDS):
            anchor = self.anchor(theta)
            norm = float(np.linalg.norm(self._penalised(theta, anchor.gradient)))
            if norm <= tolerance:
                return theta, True
            if norm > 2 * target:
                precondition, pairs = self._preconditioner(anchor), no_pairs()
            target = max(tolerance / 2, REFINED * norm)
            theta = descend(
                self.around(anchor),
                theta,
                target,
                most=COARSE_STEPS if precondition is None else FINE_STEPS,
                slack=SLACK,
                pairs=pairs,
                precondition=precondition,
            )
        return theta, False

    def narrow(self) -> Evaluate:
        """The function in float32."""
        loss = self.loss.narrow()

        def evaluate(theta: Float64s) -> tuple[float, Float64s]:
            value, slopes = loss.slopes(self._logits(theta))
            return self._value(theta, value), self._penalised(theta, self._gradient(slopes))

        return evaluate

    def around(self, anchor: Anchor) -> Evaluate:
        """The function in float64, but for products with changes since the anchor."""

        def evaluate(theta: Float64s) -> tuple[float, Float64s]:
            logits = anchor.logits + self._logits(theta - anchor.theta)
            value, slopes = self.loss.slopes(logits)
            slopes -= anchor.slopes
            gradient = anchor.gradient + self._gradient(slopes.astype(np.float32))
            return self._value(theta, value), self._penalised(theta, gradient)

        return evaluate

    def wide(self) -> Evaluate:
        """The function in float64."""

        def evaluate(theta: Float64s) -> tuple[float, Float64s]:
            anchor = self.anchor(theta)
            return anchor.value, self._penalised(theta, anchor.gradient)

        return evaluate

    def anchor(self, theta: Float64s) -> Anchor:
        """Everything at ``theta`` in float64."""
        logits = np.empty((len(theta), len(self.vectors)))
        gradient = np.zeros_like(theta)
        wide = np.empty((min(WIDENED, len(self.vectors)), self.vectors.shape[1]))
        for rows, vectors in self._widened(wide):
            logits[:, rows] = theta[:, :-1] @ vectors.T
        logits /= self.scale
        logits += theta[:, -1:]
        value, slopes = self.loss.slopes(logits.copy())
        for rows, vectors in self._widened(wide):
            gradient[:, :-1] += slopes[:, rows] @ vectors
        gradient[:, :-1] /= self.scale
        gradient[:, -1] = slopes.sum(axis=1)
        gradient = self.c * _centred(gradient)
        return Anchor(theta, logits, slopes, self._value(theta, value), gradient)

    def _widened(self, wide: Float64s) -> Iterator[tuple[slice, Float64s]]:
        """Runs of rows with their vectors, in the memory of ``wide``."""
        for start in range(0, len(self.vectors), WIDENED):
            rows = slice(start, start + WIDENED)
            narrow = self.vectors[rows]
            np.copyto(wide[: len(narrow)], narrow)
            yield rows, wide[: len(narrow)]

    def _logits(self, theta: Float64s) -> Float32s:
        weights = (theta[:, :-1].T / self.scale).astype(np.float32)
        # A product of few rows would leave the kernels half idle.
        logits: Float32s = np.ascontiguousarray((self.vectors @ weights).T)
        logits += theta[:, -1:].astype(np.float32)
        return logits

    def _gradient(self, slopes: Float32s) -> Float64s:
        gradient = np.empty((len(slopes), self.vectors.shape[1] + 1))
        gradient[:, :-1] = slopes @ self.vectors
        gradient[:, :-1] /= self.scale
        gradient[:, -1] = slopes.sum(axis=1, dtype=np.float64)
        return self.c * _centred(gradient)

    def _value(self, theta: Float64s, loss: float) -> float:
        return self.c * loss + 0.5 * self.ridge * float(np.vdot(theta[:, :-1], theta[:, :-1]))

    def _penalised(self, theta: Float64s, gradient: Float64s) -> Float64s:
        """The gradient with the ridge's part."""
        whole = gradient.copy()
        whole[:, :-1] += self.ridge * theta[:, :-1]
        return whole

    def _preconditioner(self, anchor: Anchor) -> Precondition | None:
        """The inverse of each class's own part of the Hessian; None where they would be large, or
        rows next to nothing make the ridge more than float32 holds."""
        classes, size = anchor.theta.shape
        if classes * size**2 > MOST_FACTORED or self.ridge > MOST_RIDGE:
            return None
        curvatures = (self.c * self.loss.curvatures(anchor.logits)).astype(np.float32)
        factors = [self._factor(of_class) for of_class in curvatures]

        def precondition(gradient: Float64s) -> Float64s:
            step, narrow = np.empty_like(gradient), gradient.astype(np.float32)
            for number, factor in enumerate(factors):
                # LAPACK's own solver is made for many columns: three times as long for one.
                half_way = strsv(factor, narrow[number], trans=1)
                step[number] = strsv(factor, half_way)
            return _centred(step)

        return precondition

    def _factor(self, curvatures: Float32s) -> Float32s:
        """Of the Hessian [d + 1, d + 1] by Cholesky, the upper one, with more ridge where rounding
        demands it."""
        count, dimension = self.vectors.shape
        # And what is left out bends no direction more than the ridge does, on average.
        least = min(BENT * float(curvatures.mean()), self.ridge * dimension / count)
        bent = np.flatnonzero(curvatures >= least)
        roots = np.sqrt(curvatures[bent])
        rows = np.empty((len(bent), dimension + 1), np.float32)
        scales = roots / np.float32(self.scale)
        np.multiply(self.vectors[bent], scales[:, None], out=rows[:, :-1])
        rows[:, -1] = roots
        hessian = rows.T @ rows
        diagonal = np.einsum("ii->i", hessian)
        diagonal[:-1] += self.ridge
        diagonal[-1] = curvatures.sum()
        factor, failed = spotrf(hessian)
        more = float(np.finfo(np.float32).eps * diagonal.mean())
        while failed and np.isfinite(more):
            diagonal += more
            more *= 10
            factor, failed = spotrf(hessian)
        return np.asarray(factor)


def _centred(theta: Float64s) -> Float64s:
    """Over a softmax's classes steps and gradients sum to 0 but for rounding, and rounding errors
    of the sum would stay: their curvature is none of a class's own."""
    return theta if len(theta) == 1 else theta - theta.mean(axis=0)
