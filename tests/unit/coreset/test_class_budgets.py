"""How a budget is divided among classes, and in which order the classes' items come."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coresift.server.coreset.class_budgets import ClassBudgets
from coresift.server.coreset.shares import by_turns, even_shares, proportional_shares
from coresift.server.errors import CoresiftError


@st.composite
def divisions(draw: st.DrawFn) -> tuple[list[int], int]:
    """Sizes of some classes, of which many are equal or small, and a budget they can give."""
    sizes = draw(st.lists(st.one_of(st.integers(1, 6), st.integers(1, 10**7)), min_size=1))
    return sizes, draw(st.integers(1, sum(sizes)))


@given(divisions())
def test_even_shares_are_equal_as_far_as_there_is_room(division: tuple[list[int], int]) -> None:
    sizes, budget = division
    shares = even_shares(np.array(sizes), budget).tolist()
    assert sum(shares) == budget
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    short = [share for share, size in zip(shares, sizes, strict=True) if share == size]
    others = [share for share, size in zip(shares, sizes, strict=True) if share < size]
    assert max(others, default=0) - min(others, default=0) <= 1
    assert max(short, default=0) <= min(others, default=budget) + 1


@pytest.mark.parametrize(
    ("sizes", "budget", "shares"),
    [
        ([100, 100, 100], 10, [3, 3, 4]),
        ([2, 100, 50], 30, [2, 14, 14]),
        ([5, 1, 3], 9, [5, 1, 3]),
        ([10**7, 1], 1, [1, 0]),
    ],
)
def test_even_shares_of_small_divisions(sizes: list[int], budget: int, shares: list[int]) -> None:
    assert even_shares(np.array(sizes), budget).tolist() == shares


@given(divisions())
def test_proportional_shares_are_those_of_largest_remainders(
    division: tuple[list[int], int],
) -> None:
    sizes, budget = division
    quotas = [Fraction(size * budget, sum(sizes)) for size in sizes]
    shares = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(sizes)), key=lambda c: (shares[c] - quotas[c], c))
    for number in by_remainder[: budget - sum(shares)]:
        shares[number] += 1
    found = proportional_shares(np.array(sizes), budget).tolist()
    assert found == shares
    assert all(share <= size for share, size in zip(found, sizes, strict=True))


def test_classes_without_a_share_are_left_out() -> None:
    sizes = {7: 1, 2: 1_000, 0: 3}
    assert ClassBudgets("balanced").divide(sizes, 1) == {2: 1}
    assert ClassBudgets("balanced").divide(sizes, 104) == {0: 3, 2: 100, 7: 1}
    assert ClassBudgets("proportional").divide(sizes, 100) == {2: 100}
    assert ClassBudgets("counts", ((7, 1), (0, 0), (2, 4))).divide(sizes, 5) == {2: 4, 7: 1}


@pytest.mark.parametrize(
    ("counts", "field", "words"),
    [
        (((0, 4),), "class_budgets.counts[0]", "asks for 4, class 0 has 3 items"),
        (((9, 5),), "class_budgets.counts[9]", "asks for 5, class 9 has 0 items"),
        (((2, 4),), "class_budgets.counts", "add up to 4, the budget is 5"),
        (((0, 3), (2, 1_500)), "class_budgets.counts", "add up to 1,503, the budget is 5"),
    ],
)
def test_counts_that_do_not_fit_are_refused(
    counts: tuple[tuple[int, int], ...], field: str, words: str
) -> None:
    with pytest.raises(CoresiftError, match=words) as refused:
        ClassBudgets("counts", counts).divide({0: 3, 2: 2_000}, 5)
    assert refused.value.field == field


@given(st.lists(st.one_of(st.integers(0, 3), st.integers(0, 300)), min_size=1, max_size=40))
def test_every_beginning_has_about_the_share_of_each_part(lengths: list[int]) -> None:
    order = by_turns(lengths)
    assert sorted(order.tolist()) == list(range(sum(lengths)))
    parts = np.repeat(np.arange(len(lengths)), lengths)[order]
    bound = 1.5 + np.log2(len(lengths))
    for number, length in enumerate(lengths):
        mine = order[parts == number]
        assert (np.diff(mine) == 1).all()
        share = np.arange(1, len(order) + 1) * length / max(1, len(order))
        assert np.abs(np.cumsum(parts == number) - share).max(initial=0) <= bound
