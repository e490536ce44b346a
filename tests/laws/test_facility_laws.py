"""Laws of facility location and the targeted query: slow twins, bounds, order, edges."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.coresets import a_problem
from tests.fixtures.pools import make_pool

from coresift.server.coreset import coverings, facility_location, lazy_greedy, query
from coresift.server.coreset.facility_location import FacilityLocation
from coresift.server.coreset.graph import neighbour_graph
from coresift.server.coreset.items import unit
from coresift.server.coreset.problem import Problem, Selection, Selector
from coresift.server.coreset.query import Query
from coresift.server.pool.pool import Pool

Floats = npt.NDArray[np.float64]
DENSE = FacilityLocation(graph="dense")
SPARSE = FacilityLocation(graph="neighbours", neighbours=6)


def directions(problem: Problem) -> Floats:
    return problem.items.directions(np.arange(len(problem.items))).astype(np.float64)


def dense_edges(problem: Problem) -> Floats:
    """[i, j]: how well j covers i, from all cosines."""
    V = directions(problem)
    cosines = np.array([[(v * w).sum() for w in V] for v in V])
    np.fill_diagonal(cosines, 1)
    return np.maximum(cosines, 0)


def sparse_edges(problem: Problem, k: int) -> Floats:
    """The same, 0 where j is no neighbour of i."""
    graph = neighbour_graph(problem, k)
    edges = np.eye(len(problem.items))
    for i, (neighbours, similarities) in enumerate(
        zip(graph.neighbours, graph.similarities, strict=True)
    ):
        for j, similarity in zip(neighbours, similarities, strict=True):
            edges[i, j] = min(max(float(similarity), 0), 1)
    return edges


def facility_value(edges: Floats) -> Callable[[list[int]], float]:
    return lambda chosen: float(edges[:, chosen].max(axis=1).sum()) if chosen else 0.0


def query_value(problem: Problem, eta: float, nu: float) -> Callable[[list[int]], float]:
    V = directions(problem)

    def similar(targets: Any) -> Floats:
        if targets is None:
            return np.zeros((len(V), 1))
        return np.maximum(V @ unit(targets, problem.items.are_unit).astype(np.float64).T, 0)

    near, bad = similar(problem.query), similar(problem.avoid)
    own = eta * near.max(axis=1) - nu * bad.max(axis=1)

    def value(chosen: list[int]) -> float:
        return float(near[chosen].max(axis=0).sum() + own[chosen].sum()) if chosen else 0.0

    return value


def check_greedy(
    value: Callable[[list[int]], float], n: int, found: Selection, tolerance: float
) -> None:
    """Each pick has the largest gain by the definition, the first of clear equals."""
    chosen: list[int] = []
    for position, score in zip(found.positions.tolist(), found.scores, strict=True):
        before = value(chosen)
        gains = {j: value([*chosen, j]) - before for j in range(n) if j not in chosen}
        largest = max(gains.values())
        assert gains[position] >= largest - tolerance
        assert score == pytest.approx(gains[position], abs=tolerance)
        clear = [j for j, gain in gains.items() if gain >= largest - tolerance]
        if all(gains[j] == largest for j in clear):
            assert position == clear[0]
        chosen.append(position)
    assert found.objective == pytest.approx(value(chosen), rel=1e-9, abs=tolerance)
    assert found.scores.sum() == pytest.approx(value(chosen), rel=1e-7, abs=1e-6)


def check_whole(found: Selection, budget: int, n: int) -> None:
    assert found.positions.dtype == np.int64
    assert len(np.unique(found.positions)) == len(found.positions) == budget
    assert found.positions.min() >= 0
    assert found.positions.max() < n
    assert found.scores.shape == (budget,)


@st.composite
def vectors(draw: st.DrawFn) -> npt.NDArray[np.float32]:
    """Few distinct values, copies, zero vectors, and pools of a few items."""
    n, d = draw(st.one_of(st.integers(1, 5), st.integers(6, 40))), draw(st.integers(1, 6))
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([1, 2, 1_000]))
    X = chance.integers(-levels, levels + 1, (n, d)).astype(np.float32)
    return X[chance.integers(0, n, n)] if draw(st.booleans()) else X


def made(folder: str, X: npt.NDArray[np.float32], metric: str) -> Pool:
    if metric == "cosine":
        X = np.where((X == 0).all(axis=1, keepdims=True), np.float32(1), X)
    return make_pool(Path(folder), X, metric=metric)


@settings(max_examples=60, deadline=None)
@given(
    X=vectors(),
    metric=st.sampled_from(["cosine", "ip", "l2"]),
    method=st.sampled_from([DENSE, SPARSE]),
    small=st.booleans(),
    data=st.data(),
)
def test_facility_location_is_its_definition(
    X: Any, metric: str, method: FacilityLocation, small: bool, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(coverings, "BLOCK", 5)
            patch.setattr(coverings, "SELECTED", 2)
            patch.setattr(coverings, "LISTS", 7)
            patch.setattr(lazy_greedy, "MOST", 4)
            patch.setattr(lazy_greedy, "FRONTIER", 3)
            patch.setattr(lazy_greedy, "FIRST", 1)
        pool = made(folder, X, metric)
        rows = np.arange(0, len(X), data.draw(st.integers(1, 2)))
        budget = data.draw(st.integers(1, len(rows)))
        problem = a_problem(pool, budget, rows=rows)
        edges = dense_edges(problem) if method is DENSE else sparse_edges(problem, 6)
        found = method.select(problem)
        check_whole(found, budget, len(rows))
        check_greedy(facility_value(edges), len(rows), found, 1e-8)
        assert (np.diff(found.scores) <= 0).all()
        check_weights(problem, found)


def check_weights(problem: Problem, found: Selection) -> None:
    """Of the most similar selected item, where that is clear."""
    V = directions(problem)
    cosines = V @ V[found.positions].T
    assert found.weights is not None
    assert found.weights.sum() == len(V)
    assert found.weights.min() >= 1
    low, high = np.zeros(len(found.positions)), np.zeros(len(found.positions))
    for i, row in enumerate(cosines):
        if i in found.positions:
            low[found.positions.tolist().index(i)] += 1
            high[found.positions.tolist().index(i)] += 1
            continue
        near = np.flatnonzero(row >= row.max() - 1e-6)
        high[near] += 1
        if len(near) == 1:
            low[near] += 1
    assert (found.weights >= low).all()
    assert (found.weights <= high).all()
    whole = np.maximum(cosines.max(axis=1), 0)
    whole[found.positions] = 1
    assert found.details.get("all_pairs_objective", whole.sum()) == pytest.approx(
        whole.sum(), abs=1e-4
    )


@settings(max_examples=40, deadline=None)
@given(
    X=vectors(),
    metric=st.sampled_from(["cosine", "ip", "l2"]),
    small=st.booleans(),
    weights=st.sampled_from([(1.0, 1.0), (0.0, 0.0), (0.3, 5.0)]),
    targets=st.tuples(st.integers(1, 9), st.integers(0, 3)),
    data=st.data(),
)
def test_query_is_its_definition(
    X: Any,
    metric: str,
    small: bool,
    weights: tuple[float, float],
    targets: tuple[int, int],
    data: st.DataObject,
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(query, "TARGETS", 2)
            patch.setattr(lazy_greedy, "FRONTIER", 3)
            patch.setattr(lazy_greedy, "FIRST", 1)
        pool = made(folder, X, metric)
        chance = np.random.default_rng(data.draw(st.integers(0, 1_000)))
        given = [
            pool.normalise(chance.integers(1, 4, (count, X.shape[1]))) if count else None
            for count in targets
        ]
        rows = np.arange(0, len(X), data.draw(st.integers(1, 2)))
        budget = data.draw(st.integers(1, len(rows)))
        problem = a_problem(pool, budget, rows=rows, query=given[0], avoid=given[1])
        found = Query(*weights).select(problem)
        check_whole(found, budget, len(rows))
        check_greedy(query_value(problem, *weights), len(rows), found, 1e-7)
        assert (np.diff(found.scores) <= 0).all()
        assert found.weights is None


@pytest.mark.parametrize("seed", range(6))
def test_greedy_is_within_its_bound_of_the_optimum(tmp_path: Path, seed: int) -> None:
    X = np.random.default_rng(seed).standard_normal((11, 3)).astype(np.float32)
    pool = make_pool(tmp_path, X)
    for budget in (2, 3, 5):
        problem = a_problem(pool, budget, query=pool.fetch(np.arange(3)))
        cases: list[tuple[Selector, Callable[[list[int]], float]]] = [
            (DENSE, facility_value(dense_edges(problem))),
            (SPARSE, facility_value(sparse_edges(problem, 6))),
            (Query(), query_value(problem, 1, 1)),
        ]
        for method, value in cases:
            best = max(value(list(chosen)) for chosen in combinations(range(11), budget))
            objective = method.select(problem).objective
            assert objective is not None
            assert best + 1e-6 >= objective >= (1 - 1 / np.e) * best


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Clusters of Zipf sizes; the last hundred are copies."""
    chance = np.random.default_rng(1)
    centres = chance.standard_normal((40, 16))
    shares = 1 / np.arange(1, 41)
    X = centres[chance.choice(40, 2_000, p=shares / shares.sum())]
    X = (X + 0.6 * chance.standard_normal(X.shape)).astype(np.float32)
    X[1_900:] = X[:100]
    return make_pool(tmp_path_factory.mktemp("pool"), X)


@pytest.mark.parametrize("graph", ["dense", "neighbours"])
@pytest.mark.parametrize("budget", [20, 200])
def test_stochastic_is_near_lazy(pool: Pool, graph: Any, budget: int) -> None:
    lazy, chance = (
        FacilityLocation(graph=graph, optimizer=optimizer).select(a_problem(pool, budget))
        for optimizer in ("lazy", "stochastic")
    )
    assert lazy.objective is not None
    assert chance.objective is not None
    assert chance.objective > 0.95 * lazy.objective
    other = FacilityLocation(graph=graph, optimizer="stochastic").select(
        a_problem(pool, budget, seed=8)
    )
    assert other.positions.tolist() != chance.positions.tolist()


def test_the_graph_reaches_nearly_all_of_the_dense_objective(pool: Pool) -> None:
    for budget in (20, 200):
        problem = a_problem(pool, budget)
        value = facility_value(dense_edges_of(pool))
        dense, sparse = (
            value(method.select(problem).positions.tolist())
            for method in (DENSE, FacilityLocation(graph="neighbours"))
        )
        assert sparse > 0.93 * dense


def dense_edges_of(pool: Pool) -> Floats:
    X = pool.fetch(np.arange(2_000)).astype(np.float64)
    return np.maximum(X @ X.T, 0)


def test_auto_is_dense_for_few_items(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = a_problem(pool, 20)
    dense, sparse = (
        method.select(problem).positions.tolist()
        for method in (DENSE, FacilityLocation(graph="neighbours"))
    )
    assert dense != sparse
    assert FacilityLocation().select(problem).positions.tolist() == dense
    monkeypatch.setattr(facility_location, "DENSE_ITEMS", 1_999)
    assert FacilityLocation().select(problem).positions.tolist() == sparse


def test_copies_gain_nothing_and_come_last(tmp_path: Path) -> None:
    X = np.eye(4, dtype=np.float32)[[0, 0, 1, 1, 1, 2, 3]]
    pool = make_pool(tmp_path, X)
    for method in (DENSE, FacilityLocation(graph="neighbours", neighbours=3)):
        found = method.select(a_problem(pool, 7))
        assert found.positions.tolist() == [2, 0, 5, 6, 1, 3, 4]
        assert found.scores.tolist() == [3, 2, 1, 1, 0, 0, 0]


def test_a_query_draws_near_and_an_avoid_target_keeps_away(pool: Pool) -> None:
    X = pool.fetch(np.arange(2_000)).astype(np.float64)
    like, unlike = X[[700]].astype(np.float32), X[[1_200]].astype(np.float32)
    near = Query().select(a_problem(pool, 50, query=like))
    assert near.positions[0] == 700
    assert (X[near.positions] @ X[700]).mean() > np.sort(X @ X[700])[-60:].mean() - 0.05
    kept = Query(nu=4).select(a_problem(pool, 50, query=like, avoid=unlike))
    assert (X[kept.positions] @ X[1_200]).max() < 0.2
    both = Query().select(a_problem(pool, 2_000, query=like, avoid=unlike))
    assert both.scores.min() < 0
