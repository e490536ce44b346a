"""Scores that compare with the true classes: el2n and grand of heads against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.coresets import a_head, a_problem, rows_of
from tests.fixtures.ratings import ITEMS, Floats, a_pool, classes_of, error, groups, rate, softmax

from coresift.server.head import Head, HeadConfig, Task, TrainingSet, fit
from coresift.server.pool.pool import Pool


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return a_pool(tmp_path_factory.mktemp("pool"))


@pytest.fixture(scope="module")
def unit_pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return a_pool(tmp_path_factory.mktemp("unit"), "cosine")


@settings(max_examples=25, deadline=None)
@given(
    task=st.sampled_from([Task.BINARY, Task.MULTICLASS]),
    seed=st.integers(0, 1_000),
    scale=st.floats(0, 20),
)
def test_el2n_and_grand_of_a_head_are_their_formulas(
    pool: Pool, task: Task, seed: int, scale: float
) -> None:
    head = a_head(6, task, seed)
    head = Head(task, scale * head.weights, head.bias, head.fitted)
    classes = classes_of(2 if task is Task.BINARY else 4)
    problem = a_problem(pool, 1, head=head, classes=classes)
    twin = [
        error(groups(head, x)[0], y) for x, y in zip(rows_of(pool), classes.tolist(), strict=True)
    ]
    np.testing.assert_allclose(rate("el2n", problem, source="head"), twin, atol=1e-12)
    longer = [e * math.hypot(*x, 1) for e, x in zip(twin, rows_of(pool), strict=True)]
    np.testing.assert_allclose(rate("grand", problem), longer, rtol=1e-12, atol=1e-12)


def test_grand_is_the_length_of_the_gradient(pool: Pool) -> None:
    """Of -log p_y in every weight and bias, by differences."""
    head, classes = a_head(6), classes_of(4)
    scores = rate("grand", a_problem(pool, 1, head=head, classes=classes))
    step = 1e-6
    for position, x in list(enumerate(rows_of(pool)))[:8]:
        row, y = np.append(x, 1.0), int(classes[position])
        theta = np.column_stack([head.weights, head.bias])

        def loss(theta: Floats, row: Floats = row, y: int = y) -> float:
            return -math.log(softmax(list(theta @ row))[y])

        slopes = []
        for place in np.ndindex(theta.shape):
            ahead, behind = theta.copy(), theta.copy()
            ahead[place] += step
            behind[place] -= step
            slopes.append((loss(ahead) - loss(behind)) / (2 * step))
        assert scores[position] == pytest.approx(math.hypot(*slopes), abs=1e-6)


def test_grand_is_el2n_times_a_constant_on_unit_rows(unit_pool: Pool) -> None:
    problem = a_problem(unit_pool, 1, head=a_head(6), classes=classes_of(4))
    errors = rate("el2n", problem, source="head")
    np.testing.assert_allclose(rate("grand", problem), math.sqrt(2) * errors, rtol=1e-6)


@pytest.mark.parametrize("task", [Task.BINARY, Task.MULTICLASS])
@pytest.mark.parametrize("name", ["el2n", "grand"])
def test_another_label_makes_an_item_harder(pool: Pool, name: str, task: Task) -> None:
    """On a head that was fitted to the labels and agrees with them."""
    count = 2 if task is Task.BINARY else 3
    X = pool.fetch(np.arange(ITEMS))
    classes = X[:, :count].argmax(axis=1).astype(np.int32)
    one_hot = np.eye(count)[classes]
    targets, opposed = one_hot, np.zeros_like(one_hot)
    if task is Task.BINARY:
        targets, opposed = one_hot[:, 1:], one_hot[:, :1]
    head = fit(task, HeadConfig(c=10), TrainingSet(X, targets, opposed))
    assert head is not None
    logits = head.logits(X)
    predicted = logits[:, 0] > 0 if task is Task.BINARY else logits.argmax(axis=1)
    sure = predicted == classes
    assert sure.mean() > 0.9
    agreed = rate(name, a_problem(pool, 1, head=head, classes=classes), source="head")
    for shift in range(1, count):
        other = ((classes + shift) % count).astype(np.int32)
        flipped = rate(name, a_problem(pool, 1, head=head, classes=other), source="head")
        assert (flipped > agreed)[sure].all()


def test_tiny_errors_are_not_rounded_away(pool: Pool) -> None:
    """1 - p would be 0 from a logit of 37 on; the sum of the others is not."""
    head = Head(Task.BINARY, np.zeros((1, 6)), np.array([60.0]), np.ones(1, np.bool_))
    problem = a_problem(pool, 1, head=head, classes=np.ones(ITEMS, np.int32))
    expected = math.exp(-60)
    assert rate("least_confidence", problem)[0] == pytest.approx(expected, rel=1e-12)
    found = rate("el2n", problem, source="head")[0]
    assert found == pytest.approx(math.sqrt(2) * expected, rel=1e-12)
