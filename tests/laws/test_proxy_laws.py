"""The proxy: its record against plain Python, an item at a time, and what must not change it."""

from __future__ import annotations

import math
from dataclasses import astuple, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.fixtures.coresets import a_problem, rows_of
from tests.fixtures.pools import make_pool
from tests.fixtures.threads import on_one_thread

from coresift.server.coreset import proxy
from coresift.server.coreset.methods import method_of
from coresift.server.coreset.problem import Problem, Rater, Setting
from coresift.server.coreset.proxy import Dynamics, Training
from coresift.server.pool.failures import Cancelled
from coresift.server.pool.pool import Pool
from coresift.server.selection.priority import priorities

Classes = npt.NDArray[np.int32]

ITEMS, CLASSES = 84, 3


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    X = np.random.default_rng(1).standard_normal((ITEMS, 5)).astype(np.float32)
    return make_pool(tmp_path_factory.mktemp("pool"), X)


def noisy_classes(pool: Pool) -> Classes:
    """By the largest of the first coordinates, and a fifth by chance."""
    chance = np.random.default_rng(2)
    classes = rows_of(pool)[:, :CLASSES].argmax(axis=1)
    wrong = chance.random(len(classes)) < 0.2
    return np.where(wrong, chance.integers(0, CLASSES, len(classes)), classes).astype(np.int32)


def record(problem: Problem, epochs: int = 6, runs: int = 2) -> Dynamics:
    return Training(epochs, runs).record(problem)


def same(one: Dynamics, other: Dynamics) -> bool:
    return all(
        a.tobytes() == b.tobytes() for a, b in zip(astuple(one), astuple(other), strict=True)
    )


def slow_run(problem: Problem, run: int, epochs: int) -> list[dict[str, Any]]:
    """What one run says of each item: lists by epoch, from the formulas, in float64."""
    X, items = rows_of(problem.items.pool)[problem.items.rows], problem.items
    n, classes = len(items), problem.item_classes().tolist()
    count = max(classes) + 1
    size = min(max(n // 64, 8), 256)
    starts = list(range(0, n, size))
    W = np.zeros((count, X.shape[1] + 1))
    speed = np.zeros_like(W)
    said: list[dict[str, Any]] = [{"correct": [], "aum": [], "el2n": [], "p": []} for _ in range(n)]
    step = 0
    for epoch in range(epochs):
        hashed = priorities(problem.seed, f"proxy/{run}/{epoch}", items.rows)
        order = sorted(range(n), key=lambda i: (math.floor(hashed[i] * 2**32), i))
        for start in starts:
            gradient = np.zeros_like(W)
            for i in order[start : start + size]:
                x = [*X[i].tolist(), 1.0]
                z = [math.fsum(w * v for w, v in zip(row, x, strict=True)) for row in W.tolist()]
                total = math.fsum(math.exp(v) for v in z)
                p = [math.exp(v) / total for v in z]
                y = classes[i]
                other = max(v for c, v in enumerate(z) if c != y)
                slope = [q - (c == y) for c, q in enumerate(p)]
                said[i]["correct"].append(z[y] > other)
                said[i]["aum"].append(z[y] - other)
                said[i]["el2n"].append(math.hypot(*slope))
                said[i]["p"].append(p)
                gradient += np.outer(slope, x)
            rate = 0.04 * (1 + math.cos(math.pi * step / (epochs * len(starts)))) / 2
            speed = 0.9 * speed + rate * gradient
            W = W - speed
            step += 1
    return said


def slow_record(problem: Problem, epochs: int, runs: int) -> list[list[float]]:
    """Columns of the recorder for each item, an item at a time."""
    said = [slow_run(problem, run, epochs) for run in range(runs)]
    found = []
    for i in range(len(problem.items)):
        of_item = [run[i] for run in said]
        events = []
        for run in of_item:
            correct = run["correct"]
            count = sum(before and not after for before, after in pairwise(correct))
            events.append(count if any(correct) else epochs // 2 + 1)
        ever = any(any(run["correct"]) for run in of_item)
        last = [sorted(run["p"][-1], reverse=True) for run in of_item]
        found.append(
            [
                sum(events) / runs if ever else math.inf,
                sum(sum(run["el2n"][:3]) / min(3, epochs) for run in of_item) / runs,
                sum(sum(run["aum"]) / epochs for run in of_item) / runs,
                sum(-math.fsum(q * math.log(q) for q in p) for p in last) / runs,
                sum(p[0] - p[1] for p in last) / runs,
                sum(p[0] for p in last) / runs,
            ]
        )
    return found


@pytest.mark.parametrize(("epochs", "runs", "seed"), [(7, 2, 0), (1, 1, 1), (2, 3, 2), (4, 1, 3)])
def test_the_record_is_that_of_plain_python(pool: Pool, epochs: int, runs: int, seed: int) -> None:
    problem = a_problem(pool, 1, classes=noisy_classes(pool), seed=seed)
    found = np.column_stack(astuple(record(problem, epochs, runs)))
    expected = np.array(slow_record(problem, epochs, runs))
    assert found[:, 0].tolist() == expected[:, 0].tolist()
    np.testing.assert_allclose(found[:, 1:], expected[:, 1:], atol=2e-5)
    if epochs == 7:
        assert len(np.unique(found[:, 0])) > 3
        assert np.isinf(found[:, 0]).any()


def test_methods_read_their_column(pool: Pool) -> None:
    problem = a_problem(pool, 1, classes=noisy_classes(pool))
    dynamics = record(problem, 4, 1)
    expected = {
        "forgetting": dynamics.forgetting,
        "el2n": dynamics.el2n,
        "aum": dynamics.aum,
        "max_entropy": dynamics.entropy,
        "margin": dynamics.margin,
        "least_confidence": 1 - dynamics.confidence,
        "grand": dynamics.el2n * np.sqrt((rows_of(pool) ** 2).sum(axis=1) + 1),
    }
    for name, scores in expected.items():
        method = method_of(name, (("source", "proxy"), ("epochs", 4), ("runs", 1)))
        assert isinstance(method, Rater)
        np.testing.assert_allclose(method.rate(problem), scores, rtol=1e-12)


def test_a_record_depends_on_the_seed_alone(pool: Pool) -> None:
    given: dict[str, Any] = {"classes": noisy_classes(pool)}
    first = record(a_problem(pool, 1, **given), runs=5)
    assert same(first, record(a_problem(pool, 1, **given), runs=5))
    assert not same(first, record(a_problem(pool, 1, seed=8, **given), runs=5))

    assert same(first, on_one_thread(lambda: record(a_problem(pool, 1, **given), runs=5)))


def test_items_outside_play_no_part(pool: Pool, tmp_path: Path) -> None:
    rows = np.arange(0, ITEMS, 2, dtype=np.int32)
    classes = noisy_classes(pool)
    some = record(a_problem(pool, 1, rows=rows, classes=classes))
    elsewhere = classes.copy()
    elsewhere[1::2] = 0
    assert same(some, record(a_problem(pool, 1, rows=rows, classes=elsewhere)))


def test_numbers_of_classes_mean_nothing(pool: Pool) -> None:
    classes = noisy_classes(pool)
    renamed = np.array([1_000_000_000, 5, 7], np.int32)[classes]
    one, other = (record(a_problem(pool, 1, classes=c)) for c in (classes, renamed))
    for a, b in zip(astuple(one), astuple(other), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_unit_of_length_means_nothing(tmp_path: Path) -> None:
    X = np.random.default_rng(3).standard_normal((ITEMS, 5)).astype(np.float32)
    pools = [
        make_pool(tmp_path / str(factor), np.float32(factor) * X, metric="l2")
        for factor in (1, 1024, 2.0**-20)
    ]
    classes = noisy_classes(pools[0])
    found = [record(a_problem(pool, 1, classes=classes)) for pool in pools]
    assert same(found[0], found[1])
    assert same(found[0], found[2])


@pytest.mark.parametrize("n", [2, 3, 9])
@pytest.mark.parametrize("factor", [0.0, 1e-43, 1e-15, 1e14])
def test_extreme_pools_give_numbers(tmp_path: Path, n: int, factor: float) -> None:
    X = np.random.default_rng(4).standard_normal((n, 3)).astype(np.float32)
    X[0] *= np.float32(1000)
    pool = make_pool(tmp_path, np.float32(factor) * X, metric="ip")
    problem = a_problem(pool, 1, classes=np.arange(n, dtype=np.int32))
    found = record(problem, 3, 1)
    for column in astuple(found)[1:]:
        assert np.isfinite(column).all()
    assert not np.isnan(found.forgetting).any()


def test_a_flipped_label_is_harder(clinc150: Path, tmp_path: Path) -> None:
    """Ten intents, one label in twenty flipped: each score finds them."""
    labels = np.load(clinc150 / "labels.npy")
    rows = np.flatnonzero(labels < 10)
    pool = make_pool(tmp_path, np.load(clinc150 / "embeddings.npy")[rows])
    chance = np.random.default_rng(5)
    flipped = chance.random(len(rows)) < 0.05
    shifts = np.where(flipped, chance.integers(1, 10, len(rows)), 0)
    classes = ((labels[rows] + shifts) % 10).astype(np.int32)
    found = record(a_problem(pool, 1, classes=classes), proxy.EPOCHS, proxy.RUNS)
    for difficulty in (found.forgetting, found.el2n, -found.aum):
        hardest = np.argsort(-difficulty, kind="stable")[: flipped.sum()]
        assert flipped[hardest].mean() > 0.9


def test_progress_rises_to_one(pool: Pool) -> None:
    said: list[tuple[str, float]] = []
    given: dict[str, Any] = {"classes": noisy_classes(pool)}
    record(a_problem(pool, 1, report=lambda p, s, o: said.append((p, s)), **given), 40, 1)
    shares = [share for phase, share in said if phase == "train"]
    assert len(shares) == len(said) > 3
    assert shares == sorted(shares)
    assert shares[-1] == 1


@pytest.mark.parametrize("checks", [1, 2, 50, 200])
def test_a_stopped_training_ends_cancelled(pool: Pool, checks: int) -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked >= checks

    with pytest.raises(Cancelled):
        record(a_problem(pool, 1, classes=noisy_classes(pool), stop=stop), 10, 3)
    assert asked < checks + 10


def test_the_estimate_grows_with_the_work() -> None:
    setting = Setting(1_000_000, 256, 1, classes=10)
    cost = Training(10, 2).cost(setting)
    assert Training(10, 2).cost(replace(setting, classes=150)).flops == 15 * cost.flops
    assert cost.held < 2.5e8
    assert Training(20, 2).cost(setting).flops == 2 * cost.flops
    assert Training(10, 4).cost(setting).held > cost.held
