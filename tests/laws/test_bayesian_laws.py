"""Laws of the posterior of the head, and of the information that labels carry under it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax
from tests.fixtures.pools import make_pool
from tests.fixtures.scorer_laws import (
    best,
    check_bounds,
    check_slopes,
    check_top,
    clustered_rows,
    exact_part,
    free_rows,
    prepared,
    situation_of,
)

from coresift.server.head import HeadConfig, Task
from coresift.server.pool.pool import Pool
from coresift.server.selection.bayesian import (
    Bald,
    BaldScorer,
    Epig,
    EpigScorer,
    column_information,
)
from coresift.server.selection.laplace import (
    INTERCEPT_PRECISION,
    MAX_COLUMNS,
    objection_to,
    posterior_draws,
)
from coresift.server.selection.priority import random_order
from coresift.server.selection.strategy import (
    Errors,
    Part,
    Projection,
    Setting,
    Situation,
    Strategy,
)

N, D = 400, 6
CASES: list[tuple[Strategy, Task]] = [
    (Bald(8), Task.BINARY),
    (Bald(8), Task.MULTICLASS),
    (Bald(8), Task.MULTILABEL),
    (Epig(8, 16), Task.BINARY),
]
Floats = npt.NDArray[np.float64]


@pytest.fixture(scope="module", params=["cosine", "ip", "l2"])
def pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    X = clustered_rows(N, D)
    return make_pool(tmp_path_factory.mktemp("pool"), X, metric=request.param)


@pytest.fixture(scope="module")
def cosine(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return make_pool(tmp_path_factory.mktemp("cosine"), clustered_rows(N, D))


def loss(situation: Situation, theta: Floats, scales: Floats) -> float:
    """The head's objective over C, the intercept's prior added, for weights [K', d + 1]."""
    head, training = situation.fitted(), situation.training
    total = 0.5 * (theta[:, :-1] ** 2).sum() / situation.head_config.c
    total += 0.5 * INTERCEPT_PRECISION * (theta[:, -1] ** 2).sum()
    for x, target, opposed in zip(
        training.vectors, training.targets[:, head.fitted], training.opposed, strict=True
    ):
        z = theta[:, :-1] @ x + theta[:, -1]
        if situation.task is Task.MULTICLASS:
            log_p = z - z.max() - np.log(np.exp(z - z.max()).sum())
            total -= (target * scales) @ log_p
        else:
            total += scales[1] * target[0] * np.logaddexp(0, -z[0])
            total += scales[0] * opposed[0] * np.logaddexp(0, z[0])
    return float(total)


def curvature(situation: Situation, theta: Floats, scales: Floats) -> Floats:
    """Second differences of the loss, one pair of weights at a time."""
    flat, step = theta.ravel(), 1e-3
    size = len(flat)

    def at(*moves: tuple[int, float]) -> float:
        moved = flat.copy()
        for place, by in moves:
            moved[place] += by
        return loss(situation, moved.reshape(theta.shape), scales)

    hessian = np.empty((size, size))
    for i in range(size):
        for j in range(i + 1):
            up = at((i, step), (j, step)) + at((i, -step), (j, -step))
            down = at((i, step), (j, -step)) + at((i, -step), (j, step))
            hessian[i, j] = hessian[j, i] = (up - down) / (4 * step * step)
    return hessian


@pytest.mark.parametrize("task", [Task.BINARY, Task.MULTICLASS])
@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_draws_have_the_inverse_curvature_as_covariance(
    cosine: Pool, task: Task, class_weight: Any
) -> None:
    config = HeadConfig(2.0, class_weight)
    situation = situation_of(cosine, task, classes=3, labels=25, config=config)
    head, training = situation.fitted(), situation.training
    theta = np.column_stack([head.weights, head.bias])
    sides = training.targets if task is Task.MULTICLASS else None
    totals = (
        sides.sum(axis=0)
        if sides is not None
        else np.array([training.opposed.sum(), training.targets.sum()])
    )
    weighted = class_weight == "balanced"
    scales = totals.sum() / (len(totals) * totals) if weighted else np.ones(len(totals))
    covariance = np.linalg.inv(curvature(situation, theta, scales))
    if task is Task.MULTICLASS:  # draws are centred over the classes
        centre = np.kron(np.eye(3) - 1 / 3, np.eye(D + 1))
        covariance = centre @ covariance @ centre.T
        theta = theta - theta.mean(axis=0)
    many = 20_000
    found = posterior_draws(situation, many)
    columns = np.column_stack([found.weights, found.offset])
    draws = columns.reshape(len(theta), many, D + 1).transpose(1, 0, 2).reshape(many, -1)
    size = np.sqrt(np.diag(covariance))
    # Five standard errors of an empirical mean and covariance.
    assert (np.abs(draws.mean(axis=0) - theta.ravel()) <= 5 * size / math.sqrt(many)).all()
    apart = np.abs(np.cov(draws.T) - covariance) / np.outer(size, size)
    assert apart.max() <= 5 * math.sqrt(2 / many)


def test_draws_are_a_function_of_labels_seed_and_revision(cosine: Pool) -> None:
    for task in Task:
        situation = situation_of(cosine, task)
        draws = posterior_draws(situation, 8)
        again = posterior_draws(situation, 8)
        assert draws.weights.tobytes() == again.weights.tobytes()
        assert draws.offset.tobytes() == again.offset.tobytes()
        for other in (replace(situation, seed=6), replace(situation, revision=8)):
            assert (posterior_draws(other, 8).weights != draws.weights).any()
        columns = len(draws.weights) // 8
        more = posterior_draws(situation, 16).weights.reshape(columns, 16, -1)
        np.testing.assert_allclose(more[:, :8].reshape(-1, D), draws.weights, rtol=1e-12)


def test_a_column_that_was_never_fitted_has_no_draws(cosine: Pool) -> None:
    situation = situation_of(cosine, Task.MULTILABEL, classes=3)
    head = situation.fitted()
    gone = np.array([True, False, True])
    some = replace(situation, head=replace(head, fitted=gone))
    assert len(posterior_draws(some, 8).weights) == 16
    whole = posterior_draws(situation, 8).weights.reshape(3, 8, D)
    assert posterior_draws(some, 8).weights.tobytes() == whole[gone].tobytes()


def test_too_large_a_posterior_is_refused(cosine: Pool) -> None:
    def objection(task: Task, classes: int, samples: int) -> str | None:
        return objection_to(Setting(task, classes, cosine), samples)

    assert objection(Task.MULTICLASS, 682, 6) is None
    assert "4,098" in str(objection(Task.MULTICLASS, 683, 1))
    assert objection(Task.MULTILABEL, MAX_COLUMNS // 64, 64) is None
    assert "at most 63" in str(objection(Task.MULTILABEL, MAX_COLUMNS // 64 + 1, 64))
    assert Bald(256).objection(Setting(Task.BINARY, 1, cosine)) is None
    assert Epig().objection(Setting(Task.BINARY, 1, cosine)) is None


def entropy(p: Floats) -> float:
    return -math.fsum(q * math.log(q) for q in p.tolist() if q)


def twin_bald(task: Task, logits: Floats) -> float:
    """From the formula, for logits [K', samples] of one item."""
    if task is Task.MULTICLASS:
        p: Floats = softmax(logits, axis=0)
        return entropy(p.mean(axis=1)) - math.fsum(map(entropy, p.T)) / len(p.T)
    sides = [twin_bald(Task.MULTICLASS, np.stack([0 * z, z])) for z in logits]
    return math.fsum(sides) / len(sides)


def twin_epig(logits: Floats, targets: Floats) -> float:
    """From the formula, for logits [samples] of one item and [t, samples] of the targets."""
    total = 0.0
    for other in targets:
        for side in (1, -1):
            for other_side in (1, -1):
                p, q = expit(side * logits), expit(other_side * other)
                joint = float((p * q).mean())
                if joint:
                    total += joint * math.log(joint / (p.mean() * q.mean()))
    return total / len(targets)


@pytest.mark.parametrize(("strategy", "task"), CASES)
def test_scores_are_those_of_the_slow_twin(pool: Pool, strategy: Strategy, task: Task) -> None:
    situation = situation_of(pool, task)
    scorer, rows = prepared(strategy, situation), free_rows(situation)[::9]
    draws = posterior_draws(situation, 8)
    columns = pool.fetch(rows).astype(np.float64) @ draws.weights.T + draws.offset
    if isinstance(strategy, Epig):
        aims = random_order(situation.seed, "epig", N, strategy.targets)
        targets = pool.fetch(aims).astype(np.float64) @ draws.weights.T + draws.offset
        twin = [twin_epig(z, targets) for z in columns]
    else:
        twin = [twin_bald(task, z.reshape(-1, 8)) for z in columns]
    found = scorer.score(exact_part(scorer, situation, rows))
    np.testing.assert_allclose(found, twin, rtol=1e-9, atol=1e-13)
    assert max(twin) > 1e-3


@pytest.mark.parametrize(("strategy", "task"), CASES)
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_the_top_is_canonical(pool: Pool, strategy: Strategy, task: Task, scale: float) -> None:
    situation = situation_of(pool, task, scale=scale)
    whole = check_top(prepared(strategy, situation), situation)
    assert whole.scores.min() >= 0


@pytest.mark.parametrize(("strategy", "task"), CASES)
@pytest.mark.parametrize("scale", [0.1, 1.0, 100.0])
def test_scores_keep_their_bounds(
    cosine: Pool, strategy: Strategy, task: Task, scale: float
) -> None:
    situation = situation_of(cosine, task, scale=scale)
    check_bounds(prepared(strategy, situation), situation)


@settings(max_examples=60, deadline=None)
@given(
    classes=st.integers(1, 12),
    samples=st.sampled_from([2, 8, 33]),
    is_softmax=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([0.1, 1.0, 5.0, 40.0, 1e4]),
)
def test_information_of_any_logits(
    classes: int, samples: int, is_softmax: bool, seed: int, size: float
) -> None:
    """Finite, between 0 and log K, alike in both precisions, and a law of its slopes."""
    chance, width = np.random.default_rng(seed), classes * samples
    columns = size * (chance.standard_normal((30, width)) + chance.standard_normal((30, 1)))
    projection = Projection(np.zeros((width, 1)), np.zeros(width))
    rows, nothing = np.arange(30, dtype=np.int32), np.empty((30, 0))
    information = BaldScorer(projection, samples, is_softmax)
    sides = expit(chance.standard_normal((9, samples)) * 3)
    epig = EpigScorer(Projection(np.zeros((samples, 1)), np.zeros(samples)), sides, 1 - sides)
    for scorer, some in ((information, columns), (epig, columns[:, :samples])):
        wide = some.astype(np.float32).astype(np.float64)
        part = Part(rows, nothing, wide)
        scores = scorer.score(part)
        assert (scores >= 0).all()
        assert (scores <= math.log(max(classes, 2)) + 1e-12).all()
        fast = scorer.score(Part(rows, nothing, wide.astype(np.float32)))
        assert np.abs(fast - scores).max() <= scorer.error(_no_errors())
        steep = np.abs(scorer.slopes(part).projected).sum(axis=1)
        assert (steep <= scorer.error(_no_errors(1.0)) + 1e-12).all()
        if size <= 5:
            check_slopes(scorer, part, atol=1e-8)


def _no_errors(projected: float = 0.0) -> Errors:
    return Errors(0.0, projected, 1)


def test_bald_is_near_the_exact_information_of_a_normal_logit() -> None:
    """Quadrature is the judge; the error is as documented, bias and spread.

    The trapezoidal rule: Gauss and Hermite's nodes are too far apart for a steep head.
    """
    nodes = np.linspace(-9, 9, 4_001)
    weights = np.exp(-0.5 * nodes**2)
    weights /= weights.sum()
    chance = np.random.default_rng(4)
    for mean in (0.0, 1.0, 8.0):
        for spread in (0.3, 2.0, 10.0):
            p = expit(mean + spread * nodes)
            inner = [entropy(np.array([q, 1 - q])) for q in p]
            middle = float(weights @ p)
            exact = entropy(np.array([middle, 1 - middle])) - float(weights @ inner)
            for samples in (64, 256):
                draws = mean + spread * chance.standard_normal((2_000, samples))
                found = column_information(draws)
                error = 0.02 / math.sqrt(2_000)
                assert -1 / (2 * samples) - error <= found.mean() - exact <= error
                assert found.std() <= 0.5 / math.sqrt(samples)


def test_epig_asks_about_the_targets(cosine: Pool) -> None:
    """An item like the targets is worth more than one whose label says nothing of theirs."""
    draws = np.random.default_rng(0).standard_normal((3, 64)) * 3
    projection = Projection(np.zeros((64, 1)), np.zeros(64))
    target = draws[:1]
    scorer = EpigScorer(projection, expit(target), expit(-target))
    rows = np.arange(3, dtype=np.int32)
    scores = scorer.score(Part(rows, np.empty((3, 0)), draws))
    bald = column_information(draws)
    assert scores[0] > 3 * scores[1:].max()
    assert bald.max() < 3 * bald.min()


def test_copies_tie_and_go_by_row(cosine: Pool) -> None:
    for strategy, task in CASES:
        situation = situation_of(cosine, task)
        scorer = prepared(strategy, situation)
        whole = best(scorer, situation, free_rows(situation), N)
        X = cosine.fetch(whole.rows)
        same = (X[1:] == X[:-1]).all(axis=1)
        assert same.sum() > 20
        assert (whole.scores[1:][same] == whole.scores[:-1][same]).all()
        assert (whole.rows[1:][same] > whole.rows[:-1][same]).all()
