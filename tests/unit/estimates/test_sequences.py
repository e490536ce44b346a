"""Confidence sequences against enumeration, and as exact as they claim to be."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import comb, exp, log

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom, hypergeom

from coresift.server.estimates.sequences import (
    PRIOR,
    draws_needed,
    most_positives,
    positives_bounds,
)


def bounds_by_listing(population: int, drawn: int, found: int, alpha: float) -> tuple[int, int]:
    """The definition: all K whose prior-posterior ratio is below 1 / alpha. One that equals it, as
    in 1 draw of 25 without a positive for alpha 0.3, is kept: rounding must not exclude it."""
    every = np.arange(population + 1)
    prior = betabinom.logpmf(every, population, *PRIOR)
    posterior = np.full(len(every), -np.inf)
    rest = every - found
    inside = (rest >= 0) & (rest <= population - drawn)
    a, b = PRIOR[0] + found, PRIOR[1] + drawn - found
    posterior[inside] = betabinom.logpmf(rest[inside], population - drawn, a, b)
    kept = every[inside][(prior - posterior)[inside] < 1e-9 - log(alpha)]
    assert kept.tolist() == list(range(kept[0], kept[-1] + 1))
    return int(kept[0]), int(kept[-1])


@st.composite
def samples(draw: st.DrawFn) -> tuple[int, int, int]:
    population = draw(st.integers(1, 120))
    drawn = draw(st.integers(0, population))
    return population, drawn, draw(st.integers(0, drawn))


@settings(max_examples=300, deadline=None)
@given(sample=samples(), alpha=st.sampled_from([0.3, 0.05, 0.003]))
@example(sample=(25, 1, 0), alpha=0.3)
def test_bounds_are_those_of_the_definition(sample: tuple[int, int, int], alpha: float) -> None:
    population, drawn, found = sample
    low, high = positives_bounds(population, drawn, found, alpha)
    assert (low, high) == bounds_by_listing(population, drawn, found, alpha)
    assert found <= low <= high <= population - drawn + found
    assert most_positives(population, drawn, found, alpha) == high


@pytest.mark.parametrize("population", [1, 7, 1000])
def test_nothing_drawn_and_everything_drawn(population: int) -> None:
    assert positives_bounds(population, 0, 0, 0.05) == (0, population)
    for found in {0, 1, population}:
        assert positives_bounds(population, population, found, 0.05) == (found, found)


@pytest.mark.parametrize("positives", range(9))
def test_ville_by_enumeration_of_all_orders(positives: int) -> None:
    """Over all orders of 8 items, the truth ever leaves the bounds in at most alpha of them."""
    alpha, population = 0.2, 8
    failed = total = 0
    for order in product([0, 1], repeat=population):
        if sum(order) == positives:
            total += 1
            found = np.concatenate([[0], np.cumsum(order)]).tolist()
            bounds = [positives_bounds(population, n, k, alpha) for n, k in enumerate(found)]
            failed += any(not low <= positives <= high for low, high in bounds)
    assert total == comb(population, positives)
    assert Fraction(failed, total) <= Fraction(1, 5)


def test_ten_million_items() -> None:
    population, drawn, found, alpha = 10_000_000, 20_000, 12, 0.05
    low, high = positives_bounds(population, drawn, found, alpha)
    marginal = betabinom.logpmf(found, drawn, *PRIOR)

    def ratio(positives: int) -> float:
        return float(exp(marginal - hypergeom.logpmf(found, population, positives, drawn)))

    assert ratio(low) == pytest.approx(1 / alpha, rel=0.02)
    assert ratio(high) == pytest.approx(1 / alpha, rel=0.02)
    assert low < found * population // drawn < high
    assert draws_needed(population, 0, 0, 10_000, alpha) is not None


@settings(max_examples=150, deadline=None)
@given(sample=samples(), most=st.integers(0, 40), alpha=st.sampled_from([0.2, 0.05]))
def test_draws_needed_is_the_least_number(
    sample: tuple[int, int, int], most: int, alpha: float
) -> None:
    population, drawn, found = sample
    suffices = [
        most_positives(population, drawn + more, found, alpha) - found <= most
        for more in range(population - drawn + 1)
    ]
    assert draws_needed(population, drawn, found, most, alpha) == suffices.index(True)


def test_what_no_draws_can_show() -> None:
    assert draws_needed(100, 10, 2, -1, 0.05) is None
    assert draws_needed(100, 100, 2, 0, 0.05) == 0


@pytest.mark.parametrize("numbers", [(10, 11, 0), (10, 5, 6), (10, 5, -1)])
def test_contradictions_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="positives in"):
        positives_bounds(*numbers, 0.05)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -1.0])
def test_an_alpha_out_of_range_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        positives_bounds(10, 5, 1, alpha)
