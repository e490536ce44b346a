"""Accuracy and average precision, with intervals that are honest on few items."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import average_precision_score

from coresift.server.estimates import validation
from coresift.server.estimates.validation import (
    accuracy,
    average_precision,
    mean_average_precision,
)


@settings(max_examples=200, deadline=None)
@given(
    items=st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=1, max_size=60),
)
def test_average_precision_is_scikit_learns(items: list[tuple[int, bool]]) -> None:
    scores = np.array([score / 3 for score, _ in items])
    truth = np.array([positive for _, positive in items])
    found = average_precision(scores, truth)
    if truth.any():
        assert found == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
    else:
        assert found is None


def test_infinite_scores_are_thresholds_too() -> None:
    scores = np.array([np.inf, np.inf, 0.0, -np.inf, -np.inf])
    truth = np.array([True, False, True, False, True])
    finite = np.array([2.0, 2.0, 1.0, 0.0, 0.0])
    assert average_precision(scores, truth) == average_precision(finite, truth)


@pytest.mark.parametrize(("right", "count"), [(0, 5), (3, 5), (5, 5), (90, 100)])
def test_accuracy_is_exact(right: int, count: int) -> None:
    truth = np.ones(count, np.int64)
    measured = accuracy(np.arange(count) < right, truth, 0.1)
    assert measured is not None
    assert measured.value == right / count
    if right:
        assert binom.sf(right - 1, count, measured.low) == pytest.approx(0.05)
    else:
        assert measured.low == 0
    if right < count:
        assert binom.cdf(right, count, measured.high) == pytest.approx(0.05)
    else:
        assert measured.high == 1


def test_nothing_to_measure() -> None:
    nothing = np.empty(0, np.int64)
    assert accuracy(nothing, nothing) is None
    scores, known = np.zeros((4, 1)), np.ones((4, 1), np.bool_)
    for truth in (np.zeros((4, 1), np.bool_), np.ones((4, 1), np.bool_)):
        assert mean_average_precision(scores, truth, known, 1) is None
    assert mean_average_precision(scores[:0], known[:0], known[:0], 1) is None


def labelled(seed: int, items: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.random((items, classes)) < 0.2
    scores = truth + generator.standard_normal((items, classes))
    return scores, truth, generator.random((items, classes)) < 0.8


def test_the_mean_is_over_columns_with_both_sides() -> None:
    scores, truth, known = labelled(1, 80, 5)
    truth[:, 1] = False
    known[:, 2] = False
    truth[:, 3] = True
    measured = mean_average_precision(scores, truth, known, 7)
    expected = [
        average_precision_score(truth[known[:, k], k], scores[known[:, k], k]) for k in (0, 4)
    ]
    assert measured is not None
    assert measured.value == pytest.approx(np.mean(expected))
    assert measured.low < measured.value < measured.high
    truth = np.where(known, truth, ~truth)  # the unknown is not read
    assert mean_average_precision(scores, truth, known, 7) == measured


def test_the_interval_depends_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, truth, known = labelled(2, 50, 2)
    first = mean_average_precision(scores, truth, known, 7)
    monkeypatch.setattr(validation, "_BLOCK", 130)
    assert mean_average_precision(scores, truth, known, 7) == first


def test_the_bootstrap_is_that_of_a_loop() -> None:
    scores, truth, known = labelled(5, 400, 1)
    known[:] = True
    measured = mean_average_precision(scores, truth, known, 3, alpha=0.5)
    generator = np.random.default_rng(0)
    looped = []
    for _ in range(500):
        drawn = generator.integers(0, 400, 400)
        looped.append(average_precision_score(truth[drawn, 0], scores[drawn, 0]))
    low, high = np.quantile(looped, [0.25, 0.75])
    assert measured is not None
    assert measured.low <= low + 0.01
    assert measured.high >= high - 0.01


def test_a_perfect_ranking_of_few_positives_is_no_certainty() -> None:
    scores = np.arange(100.0)[:, None]
    truth, known = scores >= 96, np.ones((100, 1), np.bool_)
    measured = mean_average_precision(scores, truth, known, 0)
    assert measured is not None
    assert (measured.value, measured.high) == (1, 1)
    assert measured.low == pytest.approx(0.025 ** (1 / 4))
