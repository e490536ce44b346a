"""Comparisons of two methods, campaign by campaign: paired differences with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from coresift.client.simulation.campaign import Run

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences and its interval of Student's t."""

    mean: float
    low: float
    """Not a number for a single pair."""
    high: float
    pairs: int

    @property
    def verdict(self) -> str:
        """Whether the interval lies above 0, below it, or holds it."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "not told apart"


def value(run: Run, measure: str, n: int) -> float:
    """A measure of a run after n labels. ValueError: it was not measured there."""
    return float(getattr(run, measure)[run.n.index(n)])


def by_pair(runs: Sequence[Run], measure: str, n: int) -> dict[tuple[int, int], float]:
    """A method's measure by (concept number, seed), the mean over its draws."""
    found: dict[tuple[int, int], list[float]] = {}
    for run in runs:
        pair = (run.plan.concept.number, run.plan.seed)
        found.setdefault(pair, []).append(value(run, measure, n))
    return {pair: fmean(values) for pair, values in found.items()}


def difference(ours: Sequence[Run], theirs: Sequence[Run], measure: str, n: int) -> Difference:
    """Ours less theirs after n labels, over the concepts and seeds of both.

    Pairs share concept and seed set, so that what makes a concept hard cancels. The interval takes
    the pairs for independent: it speaks of these concepts, not of all that there could be.
    """
    a, b = by_pair(ours, measure, n), by_pair(theirs, measure, n)
    return interval([a[pair] - b[pair] for pair in sorted(a.keys() & b.keys())])


def interval(differences: Sequence[float]) -> Difference:
    """The mean of differences with its 95 % interval."""
    mean, count = fmean(differences), len(differences)
    if count < 2:
        return Difference(mean, math.nan, math.nan, count)
    half = t_quantile(count - 1) * stdev(differences) / math.sqrt(count)
    return Difference(mean, mean - half, mean + half, count)


def spread(runs: Sequence[Run], measure: str, n: int) -> tuple[float, float]:
    """The mean of a measure over concepts, seeds and draws, and the standard deviation between
    seeds of the mean over concepts (0 for a single seed)."""
    by_seed: dict[int, list[float]] = {}
    for (_, seed), mean in by_pair(runs, measure, n).items():
        by_seed.setdefault(seed, []).append(mean)
    means = [fmean(values) for values in by_seed.values()]
    return fmean(means), stdev(means) if len(means) > 1 else 0.0


def t_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """Half the width of the central interval of Student's t: P(|t| < it) = confidence."""
    low, high = 0.0, 1.0
    while _within(high, freedom) < confidence:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """P(|T| < t) for whole degrees of freedom, by the finite sums of Abramowitz and Stegun,
    26.7.3 and 26.7.4."""
    angle = math.atan2(t, math.sqrt(freedom))
    cosine, term, total = math.cos(angle), 1.0, 0.0
    odd = freedom % 2
    if odd:
        term = cosine
    for j in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine**2 * (j - 1) / j
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total
