"""Laws of herding and the moderate core-set: slow twins, ties, blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.coresets import a_problem, rows_of
from tests.fixtures.pools import make_pool

from coresift.server.coreset import herding, items
from coresift.server.coreset.class_budgets import ClassBudgets
from coresift.server.coreset.herding import Herding
from coresift.server.coreset.moderate import Moderate, from_median
from coresift.server.coreset.problem import Problem, Selection, Selector
from coresift.server.coreset.select import Recipe
from coresift.server.pool.compute import HostCompute
from coresift.server.pool.pool import Pool

N, D = 240, 9
every_method = pytest.mark.parametrize("method", [Herding(), Moderate()], ids=repr)


def clustered(seed: int, n: int = N) -> Any:
    """Points around a few centres; a sixth are copies of others, more than one of some."""
    chance = np.random.default_rng(seed)
    centres = 2 * chance.standard_normal((6, D))
    X = centres[chance.integers(0, 6, n)] + chance.standard_normal((n, D))
    X[n - n // 6 :] = X[chance.integers(0, n // 6, n // 6)]
    return X.astype(np.float32)


def classes_of(n: int) -> Any:
    """Classes of unequal sizes; number 1 has no items."""
    return np.array([0, 2, 2, 5, 5, 5, 5, 7], np.int32)[np.random.default_rng(8).integers(0, 8, n)]


@pytest.fixture(scope="module", params=["cosine", "ip", "l2", "float16"])
def pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    folder = tmp_path_factory.mktemp("pool")
    if request.param == "float16":
        return make_pool(folder, clustered(1).astype(np.float16), index="ivf")
    return make_pool(folder, clustered(1), metric=request.param)


def problem(pool: Pool, budget: int | None, **given: Any) -> Problem:
    return a_problem(pool, budget, classes=classes_of(pool.manifest.items), **given)


def same(one: Selection, other: Selection) -> bool:
    columns = [(s.positions.tolist(), s.scores.tolist()) for s in (one, other)]
    return columns[0] == columns[1]


@every_method
def test_some_items_are_a_pool_of_their_own(pool: Pool, method: Selector, tmp_path: Path) -> None:
    rows = np.flatnonzero(np.random.default_rng(3).random(N) < 0.4)
    found = method.select(problem(pool, 30, rows=rows))
    assert len(np.unique(found.positions)) == 30
    assert found.positions.max() < len(rows)
    own = make_pool(tmp_path, rows_of(pool)[rows].astype(np.float32), metric="l2")
    alone = method.select(a_problem(own, 30, classes=classes_of(N)[rows]))
    assert found.positions.tolist() == alone.positions.tolist()
    np.testing.assert_allclose(found.scores, alone.scores, atol=1e-12)


def slow_herding(X: Any, budget: int) -> tuple[list[int], list[float]]:
    """The definition: w grows by mu - x."""
    mean = X.sum(axis=0) / len(X)
    w = mean
    chosen: list[int] = []
    scores: list[float] = []
    for _ in range(budget):
        products = [float((w * x).sum()) for x in X]
        best = max(set(range(len(X))) - set(chosen), key=lambda place: (products[place], -place))
        chosen.append(best)
        scores.append(products[best])
        w = w + mean - X[best]
    return chosen, scores


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans of several blocks, whose rows are out of order on ivf pools."""
    monkeypatch.setattr(HostCompute, "block_bytes", 1)
    monkeypatch.setattr(items, "BLOCK_BYTES", 1)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kept_bytes", [herding.KEPT_BYTES, 0])
def test_herding_is_its_definition(
    pool: Pool, kept_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(herding, "KEPT_BYTES", kept_bytes)
    monkeypatch.setattr(herding, "_BLOCK", 50)
    some = np.arange(3, N, 2)
    for rows in (np.arange(N), some):
        X = rows_of(pool)[rows]
        found = Herding().select(problem(pool, 110, rows=rows))
        chosen, scores = slow_herding(X, 110)
        assert found.positions.tolist() == chosen
        np.testing.assert_allclose(found.scores, scores, atol=1e-11)
        off = X[chosen].mean(axis=0) - X.mean(axis=0)
        assert found.objective == pytest.approx(-(off**2).sum(), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), size=st.sampled_from([1, 2, 4, 8, 32]), levels=st.integers(1, 3)
)
def test_herding_breaks_ties_by_row(
    tmp_path_factory: pytest.TempPathFactory, seed: int, size: int, levels: int
) -> None:
    """Whole numbers and a size that is a power of two: every sum is exact, and many tie."""
    X = np.random.default_rng(seed).integers(-levels, levels + 1, (size, 3)).astype(np.float32)
    pool = make_pool(tmp_path_factory.mktemp("pool"), X, metric="ip")
    found = Herding().select(a_problem(pool, size))
    chosen, scores = slow_herding(X.astype(np.float64), size)
    assert found.positions.tolist() == chosen
    assert found.scores.tolist() == scores


@pytest.mark.parametrize("huge", [False, True], ids=["copies", "one huge row"])
def test_herding_fetches_what_is_near_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, huge: bool
) -> None:
    """All copies tie, and within the error of one huge row all others do."""
    X = np.ones((300, 2), np.float32)
    if huge:
        X = clustered(5, 300)
        X[170] *= 1e8
    pool = make_pool(tmp_path, X, metric="ip")
    fetched: list[int] = []
    fetch = items.Items.fetch

    def counted(own: items.Items, positions: Any) -> Any:
        fetched.append(len(positions))
        return fetch(own, positions)

    monkeypatch.setattr(items.Items, "fetch", counted)
    monkeypatch.setattr(herding, "_NEAR", 32)
    found = Herding().select(a_problem(pool, 20))
    assert max(fetched) == 32
    chosen, scores = slow_herding(rows_of(pool), 20)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-9)
    if not huge:
        assert found.positions.tolist() == chosen == list(range(20))


def test_the_mean_of_a_herd_comes_near_the_mean_of_all(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, clustered(4, 3_000))
    errors = [-float(Herding().select(a_problem(pool, b)).objective or 0) for b in (10, 100, 400)]
    assert errors[1] < errors[0] / 25
    assert errors[2] < errors[1] / 4
    X = rows_of(pool)
    spread = ((X - X.mean(axis=0)) ** 2).sum(axis=1).mean()
    assert errors[1] < spread / 100 / 25  # a random sample of 100 is off by spread / 100


def test_a_smaller_herd_is_the_beginning_of_a_larger(pool: Pool) -> None:
    small, large = (Herding().select(problem(pool, budget)) for budget in (20, 120))
    assert small.positions.tolist() == large.positions[:20].tolist()


@every_method
def test_permuting_the_rows_permutes_the_result(
    pool: Pool, method: Selector, tmp_path: Path
) -> None:
    order = np.random.default_rng(6).permutation(N)
    metric = pool.manifest.metric
    X = rows_of(pool).astype(np.float32)
    one = make_pool(tmp_path / "one", X, metric=metric)
    other = make_pool(tmp_path / "other", X[order], metric=metric)
    found = method.select(a_problem(one, 50, classes=classes_of(N)))
    again = method.select(a_problem(other, 50, classes=classes_of(N)[order]))
    # What ties is ordered by row, which is another one now.
    results = [
        sorted((-round(score, 11), *x) for score, x in zip(f.scores, rows, strict=True))
        for f, rows in (
            (found, rows_of(one)[found.positions]),
            (again, rows_of(other)[again.positions]),
        )
    ]
    np.testing.assert_allclose(results[0], results[1], atol=1e-10)


def slow_moderate(X: Any, classes: Any, shares: dict[int, int]) -> dict[int, list[int]]:
    """Of each class the items nearest to the median distance; of an even class the two in the
    middle are equally near."""
    chosen = {}
    for number, share in shares.items():
        members = [place for place in range(len(X)) if classes[place] == number]
        mean = X[members].sum(axis=0) / len(members)
        distance = {place: np.sqrt(((X[place] - mean) ** 2).sum()) for place in members}
        median = float(np.median(list(distance.values())))
        gap = {place: round(abs(distance[place] - median), 11) for place in members}
        chosen[number] = sorted(members, key=lambda place: (gap[place], place))[:share]
    return chosen


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("budget", [3, 50, N])
def test_moderate_is_its_definition(pool: Pool, budget: int) -> None:
    X, classes = rows_of(pool), classes_of(N)
    found = Moderate().select(problem(pool, budget))
    sizes = {int(number): int((classes == number).sum()) for number in np.unique(classes)}
    shares = ClassBudgets("proportional").divide(sizes, budget)
    twin = slow_moderate(X, classes, shares)
    for number, expected in twin.items():
        own = classes[found.positions] == number
        assert found.positions[own].tolist() == expected
        assert (np.diff(found.scores[own]) <= 0).all()
        assert abs(len(expected) - budget * sizes[number] / N) < 1
    assert found.objective == pytest.approx(found.scores.sum())
    for beginning in range(1, budget + 1):
        counts = [(classes[found.positions[:beginning]] == number).sum() for number in shares]
        wanted = [beginning * share / budget for share in shares.values()]
        assert np.abs(np.subtract(counts, wanted)).max() < len(shares)


def test_moderate_with_budgets_by_class(pool: Pool) -> None:
    """The method sees a class at a time; the request's budgets stand."""
    classes = classes_of(N)
    found = Recipe(Moderate(), None, ClassBudgets("balanced")).select(problem(pool, 40))
    twin = slow_moderate(rows_of(pool), classes, {0: 10, 2: 10, 5: 10, 7: 10})
    for number, expected in twin.items():
        assert found.positions[classes[found.positions] == number].tolist() == expected


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_from_median_is_the_distance_to_the_median(values: list[float]) -> None:
    array = np.array(values)
    gaps = from_median(array)
    np.testing.assert_allclose(gaps, np.abs(array - np.median(array)), rtol=1e-9, atol=1e-8)
    low, high = sorted(values)[(len(values) - 1) // 2], sorted(values)[len(values) // 2]
    assert gaps[values.index(low)] == gaps[values.index(high)] == gaps.min()
