"""Laws of information density: its formula at any saturation, its bound, its slopes."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.pools import make_pool
from tests.fixtures.scorer_laws import (
    Sloped,
    check_bounds,
    check_slopes,
    check_top,
    clustered_rows,
    exact_part,
    free_rows,
    prepared,
    situation_of,
)

from coresift.server.head import Task
from coresift.server.pool.pool import Pool
from coresift.server.selection.density import (
    LOWEST_LOG,
    LOWEST_SIMILARITY,
    InformationDensity,
)
from coresift.server.selection.strategy import Part, Setting

N, D = 500, 12
TASKS = list(Task)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return make_pool(tmp_path_factory.mktemp("pool"), clustered_rows(N, D))


def scorer_of(pool: Pool, task: Task, beta: float = 1.0, scale: float = 1.0) -> Sloped:
    return prepared(InformationDensity(beta), situation_of(pool, task, scale=scale))


def twin_entropy(task: Task, logits: list[float]) -> Decimal:
    """From the textbook, with numbers that do not underflow."""
    if task is Task.MULTICLASS:
        odds = [Decimal(z).exp() for z in logits]
        shares = [each / sum(odds) for each in odds]
        return -sum((p * p.ln() for p in shares), Decimal(0))
    sides = (twin_entropy(Task.MULTICLASS, [0.0, z]) for z in logits)
    return sum(sides, Decimal(0)) / len(logits)


def twin_score(task: Task, beta: float, logits: list[float], similarity: float) -> float:
    with localcontext() as context:
        context.prec = 250
        context.Emin, context.Emax = -(10**9), 10**9
        dense = Decimal(max(similarity, LOWEST_SIMILARITY))
        level = float(twin_entropy(task, logits).ln() + Decimal(beta) * dense.ln())
    if level >= LOWEST_LOG:
        return math.exp(level)
    return math.exp(LOWEST_LOG) * (1 + level - LOWEST_LOG)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("beta", "scale"), [(1.0, 1.0), (0.0, 1.0), (2.5, 8.0), (0.5, 1.0)])
def test_scores_are_those_of_the_slow_twin(
    pool: Pool, task: Task, beta: float, scale: float
) -> None:
    situation = situation_of(pool, task, scale=scale)
    scorer, rows = scorer_of(pool, task, beta, scale), free_rows(situation)[::24]
    X = pool.fetch(np.arange(N)).astype(np.float64)
    logits = situation.fitted().logits(pool.fetch(rows))
    twin = [
        twin_score(task, beta, z, float(np.mean([X[row] @ x for x in X])))
        for row, z in zip(rows.tolist(), logits.tolist(), strict=True)
    ]
    found = scorer.score(exact_part(scorer, situation, rows))
    np.testing.assert_allclose(found, twin, rtol=1e-9, atol=1e-24)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_the_top_is_canonical(pool: Pool, task: Task, scale: float) -> None:
    situation = situation_of(pool, task, scale=scale)
    check_top(prepared(InformationDensity(), situation), situation)


@pytest.mark.parametrize("task", TASKS)
def test_a_saturated_head_leaves_no_ties(pool: Pool, task: Task) -> None:
    situation = situation_of(pool, task, scale=1e4)
    scorer, rows = scorer_of(pool, task, scale=1e4), np.arange(N - N // 10, dtype=np.int32)
    scores = scorer.score(exact_part(scorer, situation, rows))
    assert np.isfinite(scores).all()
    assert len(np.unique(scores)) == len(rows)
    assert np.abs(scores).min() < 1e-6


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 3.0])
def test_items_away_from_the_pool_come_last_by_entropy(pool: Pool, beta: float) -> None:
    logits = np.array([[0.0], [1.0], [2.0], [2.0]])
    similarity = np.array([[-0.5], [-0.1], [0.0], [0.4]])
    part = Part(np.arange(4, dtype=np.int32), logits, similarity)
    scores = scorer_of(pool, Task.BINARY, beta).score(part)
    assert scores[0] > scores[1] > scores[2]
    assert scores[3] > scores[0] if beta else scores[3] == scores[2]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 10.0])
@pytest.mark.parametrize("scale", [0.1, 1.0, 100.0])
def test_scores_keep_their_bounds(pool: Pool, task: Task, beta: float, scale: float) -> None:
    situation = situation_of(pool, task, scale=scale)
    check_bounds(scorer_of(pool, task, beta, scale), situation)


@settings(max_examples=15, deadline=None)
@given(
    task=st.sampled_from(TASKS),
    beta=st.sampled_from([0.0, 0.7, 1.0, 4.0]),
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([0.1, 1.0, 8.0]),
)
def test_slopes_are_differences(
    pool: Pool, task: Task, beta: float, seed: int, size: float
) -> None:
    chance, width = np.random.default_rng(seed), 1 if task is Task.BINARY else 5
    logits = size * chance.standard_normal((20, width))
    part = Part(np.arange(20, dtype=np.int32), logits, chance.uniform(0.05, 1, (20, 1)))
    check_slopes(scorer_of(pool, task, beta), part)


@pytest.mark.parametrize("task", TASKS)
def test_slopes_go_on_where_the_head_is_saturated(pool: Pool, task: Task) -> None:
    width = 1 if task is Task.BINARY else 5
    logits = 1e4 * np.random.default_rng(0).standard_normal((20, width))
    part = Part(np.arange(20, dtype=np.int32), logits, np.full((20, 1), 0.4))
    check_slopes(scorer_of(pool, task), part, step=1e-4, atol=1e-20)


def test_other_metrics_are_refused(tmp_path_factory: pytest.TempPathFactory, pool: Pool) -> None:
    assert InformationDensity().objection(Setting(Task.BINARY, 1, pool)) is None
    for metric in ("ip", "l2"):
        other = make_pool(tmp_path_factory.mktemp(metric), clustered_rows(60, 4), metric=metric)
        objection = InformationDensity().objection(Setting(Task.BINARY, 1, other))
        assert objection is not None
        assert metric in objection
