"""Greedy maximisation of submodular functions: lazily, or on samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np

from coresift.server.arrays import Float64s, Int64s
from coresift.server.coreset.ranking import first_of
from coresift.server.selection.priority import priorities

QUANTUM = 2.0**-30
"""Gains are compared as multiples of this (about 1e-9): equal gains that were summed in different
orders stay equal, and ties go by position."""

FRONTIER = 1_024
"""Positions that may lead; all others have smaller bounds."""
FIRST = 16
"""Gains computed at once at first in each step; twice as many each time that does not decide."""
MOST = 256
"""Gains computed at once at most."""

Told = Callable[[int, float], None]
"""Told how many positions are selected, and the sum of their gains."""


class Objective(Protocol):
    """A submodular function of the selected positions: gains only fall as these grow."""

    def gains(self, positions: Int64s) -> Float64s:
        """What each position would add, float64 [m]."""
        ...

    def add(self, position: int) -> None:
        """Select a position."""
        ...


def lazy_greedy(
    objective: Objective, bounds: Float64s, budget: int, told: Told
) -> tuple[Int64s, Float64s]:
    """The greedy order, each step the largest gain, ties by position (Minoux, 1978).

    Gains only fall, so an old one is an upper bound: positions are looked at again in the order of
    their bounds until the largest gain is no smaller than any bound. Departure: a block of them is
    looked at together, in one product.

    Args:
        bounds: float64 [n], no smaller than the gains; overwritten.
        budget: 1..n.

    Returns:
        positions, int64 [budget], and gains, float64, multiples of `QUANTUM` that never rise.
    """
    queue = _Queue(bounds)
    positions = np.empty(budget, np.int64)
    gains, total = np.empty(budget), 0.0
    for step in range(budget):
        positions[step], gains[step] = queue.take_largest(objective)
        objective.add(int(positions[step]))
        total += gains[step]
        told(step + 1, total)
    return positions, gains


def stochastic_greedy(
    objective: Objective, n: int, budget: int, epsilon: float, seed: int, told: Told
) -> tuple[Int64s, Float64s]:
    """Each step the largest gain in a random sample of the rest (Mirzasoleiman et al., 2015).

    Samples of n / budget ln(1 / epsilon) positions, drawn with replacement by the keyed hash of
    step and draw, give 1 - 1/e - epsilon of the optimum in expectation. They are drawn from what
    is not selected, so that none is ever empty.

    Returns:
        positions, int64 [budget], and gains, float64, multiples of `QUANTUM`.
    """
    draws = np.arange(math.ceil(n / budget * math.log(1 / epsilon)), dtype=np.int32)
    rest = np.arange(n)
    positions = np.empty(budget, np.int64)
    gains, total = np.empty(budget), 0.0
    for step in range(budget):
        left = n - step
        keys = priorities(seed, f"stochastic_greedy:{step}", draws)
        places = np.unique((keys * left).astype(np.int64))
        sample = rest[places]
        found = gains_of(objective, sample)
        at = np.lexsort((sample, -found))[0]
        positions[step], gains[step] = sample[at], found[at]
        rest[places[at]] = rest[left - 1]
        objective.add(int(positions[step]))
        total += gains[step]
        told(step + 1, total)
    return positions, gains


def gains_of(
    objective: Objective, positions: Int64s, done: Callable[[float], None] | None = None
) -> Float64s:
    """Gains of many positions as multiples of `QUANTUM`, float64 [m]; ``done`` is told shares."""
    gains = np.empty(len(positions))
    for start in range(0, len(positions), MOST):
        part = slice(start, start + MOST)
        gains[part] = objective.gains(positions[part])
        if done is not None:
            done(min(start + MOST, len(positions)) / len(positions))
    return np.asarray(np.round(gains / QUANTUM) * QUANTUM)


class _Queue:
    """Positions by gain, as far as it is known.

    ``bounds[position]`` is never below the gain; it is the gain where ``looked[position]`` is the
    number of the step. Positions that were taken have the bound -inf.
    """

    def __init__(self, bounds: Float64s) -> None:
        self._bounds = bounds
        self._looked = np.full(len(bounds), -1, np.int32)
        self._step = 0
        self._refill()

    def _refill(self) -> None:
        """Set the frontier, ascending positions with the largest bounds, and what lies outside:
        the largest bound, and the first position that has it."""
        self._frontier = np.sort(first_of(-self._bounds, FRONTIER))
        others = self._bounds.copy()
        others[self._frontier] = -np.inf
        self._outside = float(others.max()), int(others.argmax())

    def take_largest(self, objective: Objective) -> tuple[int, float]:
        """The position with the largest gain, and its gain."""
        many = FIRST
        while True:
            bounds = self._bounds[self._frontier]
            at = int(bounds.argmax())  # the first of equals: positions ascend
            position, gain = int(self._frontier[at]), float(bounds[at])
            if (-gain, position) > (-self._outside[0], self._outside[1]):
                self._refill()
            elif self._looked[position] == self._step:
                self._bounds[position] = -np.inf
                self._step += 1
                return position, gain
            else:
                self._look(objective, bounds, many)
                many = min(2 * many, MOST)

    def _look(self, objective: Objective, bounds: Float64s, many: int) -> None:
        """Compute the gains of those with the largest bounds that are not up to date."""
        stale = np.flatnonzero((self._looked[self._frontier] < self._step) & (bounds > -np.inf))
        if len(stale) > many:
            stale = stale[np.argsort(-bounds[stale], kind="stable")[:many]]
        places = np.sort(self._frontier[stale])
        gains = gains_of(objective, places)
        # Rounding must not make a gain rise.
        self._bounds[places] = np.minimum(self._bounds[places], gains)
        self._looked[places] = self._step
