"""Scores of doubt: entropy, margin and confidence of heads against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.coresets import a_head, a_problem, rows_of
from tests.fixtures.ratings import DOUBTS, TWINS, a_pool, groups, rate

from coresift.server.head import Head, Task
from coresift.server.pool.pool import Pool


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return a_pool(tmp_path_factory.mktemp("pool"))


@settings(max_examples=25, deadline=None)
@given(task=st.sampled_from(list(Task)), seed=st.integers(0, 1_000), scale=st.floats(0, 20))
@pytest.mark.parametrize("name", DOUBTS)
def test_doubt_of_a_head_is_its_formula(
    pool: Pool, name: str, task: Task, seed: int, scale: float
) -> None:
    head = a_head(6, task, seed)
    head = Head(task, scale * head.weights, head.bias, head.fitted)
    twin = [np.mean([TWINS[name](p) for p in groups(head, x)]) for x in rows_of(pool)]
    np.testing.assert_allclose(rate(name, a_problem(pool, 1, head=head)), twin, atol=1e-12)


def test_binary_doubts_are_one_order(pool: Pool) -> None:
    problem = a_problem(pool, 1, head=a_head(6, Task.BINARY))
    by_entropy, by_gap, by_confidence = (rate(name, problem) for name in DOUBTS)
    assert np.argsort(by_entropy).tolist() == np.argsort(-by_gap).tolist()
    assert np.argsort(by_entropy).tolist() == np.argsort(by_confidence).tolist()
    np.testing.assert_allclose(by_gap, 1 - 2 * by_confidence, atol=1e-15)


def test_a_column_without_labels_is_no_part_of_a_multilabel_score(pool: Pool) -> None:
    head = a_head(6, Task.MULTILABEL)
    kept = Head(head.task, head.weights[:3], head.bias[:3], head.fitted[:3])
    weights, bias = head.weights.copy(), head.bias.copy()
    weights[3], bias[3] = 0, 0
    partly = Head(head.task, weights, bias, np.array([True, True, True, False]))
    for name in DOUBTS:
        expected = rate(name, a_problem(pool, 1, head=kept))
        assert rate(name, a_problem(pool, 1, head=partly)).tolist() == expected.tolist()
