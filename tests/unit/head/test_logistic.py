"""The optimiser of heads: losses, descent, refinement, and the slow way for what is extreme."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logsumexp, softmax

from coresift.server.head import HeadConfig, Task, TrainingSet, fit, logistic
from coresift.server.head.descent import Evaluate, descend, no_pairs
from coresift.server.head.logistic import Problem
from coresift.server.head.losses import BinaryLoss, Loss, SoftmaxLoss
from coresift.server.head.newton import newton

Floats = npt.NDArray[np.float64]


def binary(generator: np.random.Generator, count: int) -> BinaryLoss:
    """Rows on one side, on both, and on neither."""
    present, absent = generator.choice([0.0, 0.5, 1.0, 3.0], (2, 1, count))
    return BinaryLoss(present, absent)


def multinomial(generator: np.random.Generator, count: int, classes: int = 4) -> SoftmaxLoss:
    targets = generator.choice([0.0, 0.5, 1.0], (classes, count))
    return SoftmaxLoss(targets, targets.sum(axis=0))


def slow_loss(loss: Loss, logits: Floats) -> float:
    """The definition, term by term."""
    if isinstance(loss, BinaryLoss):
        terms = loss.present * np.logaddexp(0, -logits) + loss.absent * np.logaddexp(0, logits)
    else:
        assert isinstance(loss, SoftmaxLoss)
        terms = loss.targets * (logsumexp(logits, axis=0) - logits)
    return float(terms.sum())


def slow_slopes(loss: Loss, logits: Floats) -> Floats:
    if isinstance(loss, BinaryLoss):
        p = expit(logits)
        return np.asarray(loss.absent * p - loss.present * (1 - p))
    assert isinstance(loss, SoftmaxLoss)
    return np.asarray(loss.totals * softmax(logits, axis=0) - loss.targets)


LOSSES = pytest.mark.parametrize("make", [binary, multinomial])


@LOSSES
@given(seed=st.integers(0, 1000), size=st.sampled_from([0.1, 3.0, 100.0]))
def test_losses_are_their_definitions(make: Any, seed: int, size: float) -> None:
    generator = np.random.default_rng(seed)
    loss = make(generator, 7)
    logits = size * generator.standard_normal((1 if make is binary else 4, 7))
    value, slopes = loss.slopes(logits.copy())
    np.testing.assert_allclose(value, slow_loss(loss, logits), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(slopes, slow_slopes(loss, logits), rtol=1e-12, atol=1e-12)
    step = 1e-5
    for k in range(len(logits)):
        moved = np.zeros_like(logits)
        moved[k] = step
        bend = (slow_slopes(loss, logits + moved) - slow_slopes(loss, logits - moved))[k] / 2
        np.testing.assert_allclose(loss.curvatures(logits)[k], bend / step, rtol=1e-4, atol=1e-6)
    narrow_value, narrow_slopes = loss.narrow().slopes(logits.astype(np.float32))
    assert narrow_slopes.dtype == np.float32
    np.testing.assert_allclose(narrow_value, value, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(narrow_slopes, slopes, rtol=1e-4, atol=1e-4)


def bowl(generator: np.random.Generator, steepest: float) -> tuple[Evaluate, Floats, Floats]:
    """A quadratic with curvatures from 1 to ``steepest``, its lowest point, and its Hessian."""
    lowest = generator.standard_normal((3, 5))
    axes, _ = np.linalg.qr(generator.standard_normal((15, 15)))
    hessian = axes * np.geomspace(1, steepest, 15) @ axes.T

    def evaluate(theta: Floats) -> tuple[float, Floats]:
        off = (theta - lowest).ravel()
        return 0.5 * float(off @ hessian @ off), (hessian @ off).reshape(3, 5)

    return evaluate, lowest, hessian


@pytest.mark.parametrize("steepest", [1.0, 1e2, 1e5])
def test_a_descent_finds_the_lowest_point(steepest: float) -> None:
    evaluate, lowest, hessian = bowl(np.random.default_rng(1), steepest)
    start = np.zeros((3, 5))
    found = descend(evaluate, start, 1e-8, most=500, slack=1e-15, pairs=no_pairs())
    np.testing.assert_allclose(found, lowest, atol=1e-7)
    calls = 0

    def counted(theta: Floats) -> tuple[float, Floats]:
        nonlocal calls
        calls += 1
        return evaluate(theta)

    inverse = np.linalg.inv(hessian)
    found = descend(
        counted,
        start,
        1e-6,
        most=500,
        slack=1e-15,
        pairs=no_pairs(),
        precondition=lambda gradient: (inverse @ gradient.ravel()).reshape(3, 5),
    )
    np.testing.assert_allclose(found, lowest, atol=1e-5)
    assert calls <= 3


@given(most=st.integers(1, 12))
def test_a_descent_stops_in_time_and_never_ends_higher(most: int) -> None:
    evaluate, _, _ = bowl(np.random.default_rng(2), 1e4)
    calls = 0

    def counted(theta: Floats) -> tuple[float, Floats]:
        nonlocal calls
        calls += 1
        return evaluate(theta)

    start = np.zeros((3, 5))
    found = descend(counted, start, 0.0, most=most, slack=0.0, pairs=no_pairs())
    assert calls <= most
    assert evaluate(found)[0] <= evaluate(start)[0]


def test_a_descent_goes_by_slopes_where_values_say_nothing() -> None:
    """Near the optimum of a large sum: its values are rounded away."""
    evaluate, lowest, _ = bowl(np.random.default_rng(3), 10.0)

    def rounded(theta: Floats) -> tuple[float, Floats]:
        value, gradient = evaluate(theta)
        return float(np.round(1e3 + value, 1)), gradient

    found = descend(rounded, lowest + 0.01, 1e-8, most=200, slack=1e-3, pairs=no_pairs())
    np.testing.assert_allclose(found, lowest, atol=1e-7)


def problem_of(make: Any, seed: int, count: int, dimension: int, c: float) -> Problem:
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((count, dimension))
    rows *= generator.uniform(0.1, 5.0) / np.linalg.norm(rows, axis=1).max()
    vectors = rows.astype(np.float32)
    scale = float(np.linalg.norm(vectors, axis=1).max())
    return Problem(vectors, scale, make(generator, count), c)


def slow_gradient(problem: Problem, theta: Floats) -> Floats:
    X = problem.vectors.astype(np.float64) / problem.scale
    slopes = slow_slopes(problem.loss, theta[:, :-1] @ X.T + theta[:, -1:])
    of_weights = problem.c * slopes @ X + problem.ridge * theta[:, :-1]
    return np.column_stack([of_weights, problem.c * slopes.sum(axis=1)])


@LOSSES
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    count=st.sampled_from([10, 100, logistic.WIDENED, 2 * logistic.WIDENED + 3]),
    dimension=st.sampled_from([1, 8, 60]),
    c=st.sampled_from([0.1, 100.0, 3_000.0]),
)
def test_the_gradient_vanishes_where_the_optimum_is_found(
    make: Any, seed: int, count: int, dimension: int, c: float
) -> None:
    problem = problem_of(make, seed, count, dimension, c)
    tolerance = 1e-6 * c * min(1.0, problem.ridge)
    theta, is_found = problem.solve(1 if make is binary else 4, tolerance)
    assert is_found
    assert np.linalg.norm(slow_gradient(problem, theta)) <= 1.01 * tolerance + 1e-10 * c
    again, _ = problem.solve(len(theta), tolerance)
    assert (again == theta).all()


@LOSSES
def test_the_optimum_is_found_without_hessians_too(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = problem_of(make, 5, 300, 24, 100.0)
    classes = 1 if make is binary else 4
    theta, _ = problem.solve(classes, 1e-5)
    monkeypatch.setattr(logistic, "MOST_FACTORED", 0)
    other, is_found = problem.solve(classes, 1e-5)
    assert is_found
    np.testing.assert_allclose(other, theta, atol=1e-5)


@LOSSES
def test_all_forms_of_the_function_agree(make: Any) -> None:
    problem = problem_of(make, 6, 2 * logistic.WIDENED + 3, 12, 10.0)
    theta = np.random.default_rng(0).standard_normal((1 if make is binary else 4, 13))
    theta[:, :-1] -= theta[:, :-1].mean(axis=0) * (len(theta) > 1)
    value, gradient = problem.wide()(theta)
    np.testing.assert_allclose(gradient, slow_gradient(problem, theta), rtol=1e-10, atol=1e-9)
    nearby = theta + 1e-3
    nearby[:, :-1] = theta[:, :-1]  # all intercepts alike change no softmax
    for evaluate in (problem.narrow(), problem.around(problem.anchor(nearby))):
        about, gradient_about = evaluate(theta)
        np.testing.assert_allclose(about, value, rtol=1e-4)
        np.testing.assert_allclose(gradient_about, gradient, atol=1e-3 * problem.c)


def test_newtons_method_finds_the_same_optimum() -> None:
    problem = problem_of(binary, 7, 200, 16, 100.0)
    theta, is_found = problem.solve(1, 1e-6)
    assert is_found
    assert isinstance(problem.loss, BinaryLoss)
    present, absent = problem.loss.present[0], problem.loss.absent[0]
    found = newton(problem.vectors, present, absent, 100.0, np.zeros(17), 1e-7)
    expected = np.append(theta[0, :-1] / problem.scale, theta[0, -1])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_rows_next_to_nothing_are_no_training_but_no_trouble_either() -> None:
    chance = np.random.default_rng(0)
    X = (chance.standard_normal((400, 48)) * 1e-23).astype(np.float32)
    y = (chance.random(400) > 0.3).astype(np.float64)[:, None]
    head = fit(Task.BINARY, HeadConfig(), TrainingSet(X, y, 1 - y))
    assert head is not None
    shares = head.probabilities(head.logits(X))
    np.testing.assert_allclose(shares, y.mean(), atol=1e-4)
