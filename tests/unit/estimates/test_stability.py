"""Kappa is Cohen's, and an undefined one never counts as stable."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from coresift.server.estimates.stability import is_stable, kappa


@settings(max_examples=200, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_kappa_is_cohens(pairs: list[tuple[int, int]]) -> None:
    before, after = np.array(pairs).T
    found = kappa(before, after)
    if len(np.unique(pairs)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(cohen_kappa_score(before, after), abs=1e-12)


def test_one_class_says_nothing() -> None:
    nothing = np.empty(0, np.int64)
    assert kappa(nothing, nothing) is None
    assert kappa(np.ones(9, np.int64), np.ones(9, np.int64)) is None
    assert kappa(np.ones(9, np.int64), np.zeros(9, np.int64)) == 0


@pytest.mark.parametrize(
    ("kappas", "expected"),
    [
        ([], False),
        ([1.0, 1.0], False),
        ([0.1, 0.99, 1.0, 0.995], True),
        ([1.0, 0.98, 1.0], True),
        ([1.0, 0.98, 0.98], False),
        ([1.0, 1.0, None], False),
        ([None, 1.0, 1.0, 1.0], True),
    ],
)
def test_stable_is_a_high_mean_of_the_last_windows(
    kappas: list[float | None], expected: bool
) -> None:
    assert is_stable(kappas) is expected


def test_other_rules() -> None:
    assert is_stable([0.9], threshold=0.9, windows=1)
    assert not is_stable([0.9, 0.8], threshold=0.9, windows=2)
