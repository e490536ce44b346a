"""Confidence sequences for the positives of a finite population, drawn without replacement.

Items are drawn in an order that was fixed at random beforehand. After n draws with k positives
the prior-posterior ratio at the true number of positives is a nonnegative martingale that starts
at 1, so by Ville's inequality it ever reaches 1 / alpha with probability at most alpha
(Waudby-Smith and Ramdas, 2020, section 2). The numbers K whose ratio is below 1 / alpha therefore
hold the truth at all n together, with probability at least 1 - alpha: looks may come at any time
and for any reason.

The prior is beta-binomial, hence the ratio is

    BetaBinomial(k; n, a, b) / Hypergeometric(k; N, K, n),

whose numerator does not depend on K. The paper's examples take a uniform prior (a = b = 1); a
prior that leans towards rare positives is as valid and bounds them much closer: after 300 draws
without a positive it costs a factor of 5 where the uniform prior costs 301.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from math import lgamma, log

PRIOR = (0.25, 1.0)
"""a and b of the beta-binomial prior; fixed, since it may not depend on the data."""

_ROUNDING = 1e-6
"""Above the error of lgamma's differences for 2^31 items: rounding never excludes a K."""


def positives_bounds(population: int, drawn: int, found: int, alpha: float) -> tuple[int, int]:
    """Least and greatest number of positives in the population, both included.

    Args:
        population: items there are.
        drawn: items drawn so far, 0..population, in the random order.
        found: positives among them.
        alpha: probability that the bounds fail at any number of draws, in (0, 1).

    Raises:
        ValueError: numbers that contradict each other.
    """
    _check(population, drawn, found, alpha)
    is_kept, mode = _kept(population, drawn, found, alpha), _mode(population, drawn, found)
    low = found + bisect_left(range(found, mode + 1), True, key=is_kept)
    return low, most_positives(population, drawn, found, alpha)


def most_positives(population: int, drawn: int, found: int, alpha: float) -> int:
    """The upper one of `positives_bounds`."""
    _check(population, drawn, found, alpha)
    is_kept, mode = _kept(population, drawn, found, alpha), _mode(population, drawn, found)
    above = range(mode + 1, population - drawn + found + 1)
    return mode + bisect_left(above, True, key=lambda positives: not is_kept(positives))


def draws_needed(population: int, drawn: int, found: int, most: int, alpha: float) -> int | None:
    """Further draws, none of them positive, until at most ``most`` undrawn items can be positive.

    The best case: any positive among them makes it longer. 0 where the bound holds already, None
    where ``most`` is negative, which no number of draws can show.
    """
    if most < 0:
        return None
    return bisect_left(
        range(population - drawn + 1),
        True,
        key=lambda more: most_positives(population, drawn + more, found, alpha) - found <= most,
    )


def _check(population: int, drawn: int, found: int, alpha: float) -> None:
    if not 0 <= found <= drawn <= population:
        raise ValueError(f"{found} positives in {drawn} draws from {population} items")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha {alpha} is not between 0 and 1")


def _mode(population: int, drawn: int, found: int) -> int:
    """The number of positives of greatest likelihood; the likelihood falls to both its sides."""
    likeliest = found * (population + 1) // drawn if drawn else 0
    return max(found, min(likeliest, population - drawn + found))


def _kept(population: int, drawn: int, found: int, alpha: float) -> Callable[[int], bool]:
    """Whether a number of positives, found..population - drawn + found, has a small ratio."""
    a, b = PRIOR
    marginal = _log_choose(drawn, found)
    marginal += _log_beta(a + found, b + drawn - found) - _log_beta(a, b)
    least = log(alpha) + marginal + _log_choose(population, drawn) - _ROUNDING

    def is_kept(positives: int) -> bool:
        ways = _log_choose(positives, found)
        return ways + _log_choose(population - positives, drawn - found) > least

    return is_kept


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)
