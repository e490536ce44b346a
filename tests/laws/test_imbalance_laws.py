"""Laws of DIRECT: the threshold is the best one, found on labels that did not train it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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

from coresift.server.head import HeadConfig, Task, TrainingSet, fit
from coresift.server.head.cross_fitting import cross_fitted_logits
from coresift.server.pool.pool import Pool
from coresift.server.selection.imbalance import (
    Direct,
    separation,
    stratified_folds,
)
from coresift.server.selection.strategy import Setting

N, D = 500, 8


@pytest.fixture(scope="module", params=["cosine", "ip", "l2"])
def pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    X = clustered_rows(N, D)
    return make_pool(tmp_path_factory.mktemp("pool"), X, metric=request.param)


@pytest.fixture(scope="module")
def cosine(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return make_pool(tmp_path_factory.mktemp("cosine"), clustered_rows(N, D))


def twin_separation(logits: list[float], present: list[float], absent: list[float]) -> float:
    """Every threshold tried in turn."""
    values = sorted(set(logits))

    def error(threshold: float) -> float:
        pairs = list(zip(logits, present, absent, strict=True))
        missed = sum(p for z, p, _ in pairs if z < threshold) / sum(present)
        false = sum(a for z, _, a in pairs if z > threshold) / sum(absent)
        return round((missed + false) / 2, 12)

    middles = [(low + high) / 2 for low, high in pairwise(values)]
    least = min(map(error, middles), default=0.5)
    if least >= 0.5:
        return 0.0
    return min((t for t in middles if error(t) == least), key=lambda t: (abs(t), t))


@settings(max_examples=200, deadline=None)
@given(
    items=st.lists(
        st.tuples(st.integers(-8, 8), st.sampled_from([(1, 0), (0, 1), (0.25, 0.75), (0, 0)])),
        max_size=30,
    )
)
def test_the_threshold_is_the_best_of_all(items: list[tuple[int, Any]]) -> None:
    logits, sides = [float(z) / 3 for z, _ in items], [side for _, side in items]
    present, absent = [float(p) for p, _ in sides], [float(a) for _, a in sides]
    found = separation(np.array(logits), np.array(present), np.array(absent))
    if sum(present) == 0 or sum(absent) == 0:
        assert found == 0
    else:
        assert found == twin_separation(logits, present, absent)


def test_the_threshold_goes_where_the_rare_side_is() -> None:
    """Fifty absent items above three of five present ones would be one error each."""
    chance = np.random.default_rng(0)
    absent = chance.normal(-6, 1, 1_000)
    present = np.array([-3.0, -2.5, -2.0, -1.5, 2.0])
    logits = np.concatenate([absent, present])
    is_present = np.arange(len(logits)) >= len(absent)
    found = separation(logits, is_present.astype(np.float64), (~is_present).astype(np.float64))
    assert -4 < found < -3


def test_a_useless_head_keeps_its_line() -> None:
    logits = np.array([-2.0, -1.0, 1.0, 2.0])
    worst, other = np.array([1.0, 1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0, 1.0])
    assert separation(logits, worst, other) == 0
    assert separation(np.zeros(4), worst, other) == 0
    assert separation(np.empty(0), np.empty(0), np.empty(0)) == 0


def test_each_side_is_dealt_out_evenly(cosine: Pool) -> None:
    situation = situation_of(cosine, Task.BINARY, labels=83)
    positive = situation.training.targets[:, 0] > 0
    folds = stratified_folds(situation, positive, 5)
    for side in (positive, ~positive):
        counts = np.bincount(folds[side], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert (stratified_folds(situation, positive, 5) == folds).all()
    assert (stratified_folds(replace(situation, seed=6), positive, 5) != folds).any()
    assert (stratified_folds(replace(situation, revision=8), positive, 5) != folds).any()


def test_no_label_reads_itself(cosine: Pool) -> None:
    situation = situation_of(cosine, Task.BINARY)
    training, config = situation.training, situation.head_config
    folds = stratified_folds(situation, training.targets[:, 0] > 0, 5)
    logits = cross_fitted_logits(Task.BINARY, config, training, folds)[:, 0]
    assert np.isfinite(logits).all()
    for item in (0, 7, 31):
        flip = (np.arange(len(folds)) == item)[:, None]
        flipped = TrainingSet(
            training.vectors,
            np.where(flip, training.opposed, training.targets),
            np.where(flip, training.targets, training.opposed),
        )
        other = cross_fitted_logits(Task.BINARY, config, flipped, folds)[:, 0]
        assert other[folds == folds[item]].tobytes() == logits[folds == folds[item]].tobytes()
        assert (other != logits).any()


def test_scores_are_distances_to_the_threshold(cosine: Pool) -> None:
    situation = situation_of(cosine, Task.BINARY, labels=120)
    training = situation.training
    folds = stratified_folds(situation, training.targets[:, 0] > 0, 5)
    logits = np.empty(len(folds))
    for item, fold in enumerate(folds):
        held = folds != fold
        others = TrainingSet(training.vectors[held], training.targets[held], training.opposed[held])
        head = fit(Task.BINARY, situation.head_config, others)
        assert head is not None
        logits[item] = head.logits(training.vectors[item : item + 1])[0, 0]
    sides = training.targets[:, 0].tolist(), training.opposed[:, 0].tolist()
    threshold = twin_separation(logits.tolist(), *sides)
    scorer, rows = prepared(Direct(), situation), free_rows(situation)
    part = exact_part(scorer, situation, rows)
    assert threshold != 0
    expected = -np.abs(part.logits[:, 0] - threshold)
    np.testing.assert_allclose(scorer.score(part), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_the_top_is_canonical(pool: Pool, scale: float) -> None:
    situation = situation_of(pool, Task.BINARY, scale=scale)
    check_top(prepared(Direct(), situation), situation)


@pytest.mark.parametrize("scale", [0.1, 1.0, 100.0])
def test_scores_keep_their_bounds(cosine: Pool, scale: float) -> None:
    situation = situation_of(cosine, Task.BINARY, scale=scale)
    check_bounds(prepared(Direct(), situation), situation)


def test_slopes_are_differences(cosine: Pool) -> None:
    situation = situation_of(cosine, Task.BINARY)
    scorer = prepared(Direct(), situation)
    check_slopes(scorer, exact_part(scorer, situation, free_rows(situation)))


@pytest.mark.parametrize("side", ["targets", "opposed"])
def test_with_one_label_of_a_side_the_head_decides(cosine: Pool, side: str) -> None:
    situation = situation_of(cosine, Task.BINARY, labels=20)
    one = (np.arange(20) == 4).astype(np.float64)[:, None]
    targets, opposed = (one, 1 - one) if side == "targets" else (1 - one, one)
    rows, _, _ = situation.lessons
    situation = replace(situation, learned=lambda: (rows, targets, opposed))
    scorer, rows = prepared(Direct(), situation), free_rows(situation)
    part = exact_part(scorer, situation, rows)
    assert (scorer.score(part) == -np.abs(part.logits[:, 0])).all()
    assert len(best(scorer, situation, rows, N).rows) == len(rows)


def test_any_metric_and_setting_serves(pool: Pool) -> None:
    assert Direct().objection(Setting(Task.BINARY, 1, pool)) is None
    for config in (HeadConfig(0.01), HeadConfig(1e4), HeadConfig(100.0, "balanced")):
        situation = situation_of(pool, Task.BINARY, config=config)
        scorer = prepared(Direct(), situation)
        assert np.isfinite(scorer.score(exact_part(scorer, situation, free_rows(situation)))).all()


def test_folds_are_a_parameter(cosine: Pool) -> None:
    situation = situation_of(cosine, Task.BINARY, labels=30)
    positive = situation.training.targets[:, 0] > 0
    for folds in (2, 20):
        assert len(np.unique(stratified_folds(situation, positive, folds))) == min(folds, 21)
        scorer = prepared(Direct(folds), situation)
        assert np.isfinite(scorer.score(exact_part(scorer, situation, free_rows(situation)))).all()
