"""Laws of the neighbour graph: the exact form against brute force, the self-join by recall."""

from __future__ import annotations

import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.coresets import a_problem
from tests.fixtures.pools import make_pool

from coresift.server.coreset import graph as module
from coresift.server.coreset.graph import Graph, neighbour_graph
from coresift.server.coreset.problem import Problem
from coresift.server.pool import self_join as joins
from coresift.server.pool.failures import Cancelled
from coresift.server.pool.pool import Pool
from coresift.server.pool.self_join import HostProducts, self_join


def slow_graph(problem: Problem, k: int) -> list[list[int]]:
    """The definition: all cosines of one item, sorted; one item at a time."""
    V = problem.items.directions(np.arange(len(problem.items))).astype(np.float64)
    lists = []
    for i, v in enumerate(V):
        cosines = [float((w * v).sum()) for w in V]
        others = [j for j in range(len(V)) if j != i]
        lists.append(sorted(others, key=lambda j: (-cosines[j], j))[:k])
    return lists


@st.composite
def vectors(draw: st.DrawFn) -> npt.NDArray[np.float32]:
    """Few distinct values, copies, multiples, and zero vectors."""
    n, d = draw(st.integers(1, 60)), draw(st.integers(1, 6))
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([1, 2, 1_000]))
    X = chance.integers(-levels, levels + 1, (n, d)).astype(np.float32)
    if draw(st.booleans()):
        X = X[chance.integers(0, n, n)]
    if draw(st.booleans()):
        X *= chance.random((n, 1), np.float32)
    return X


@settings(max_examples=40, deadline=None)
@given(
    X=vectors(),
    metric=st.sampled_from(["cosine", "ip", "l2"]),
    k=st.sampled_from([1, 3, 100]),
    block=st.sampled_from([7, 128]),
    some=st.booleans(),
)
def test_the_exact_graph_is_its_definition(
    X: Any, metric: str, k: int, block: int, some: bool
) -> None:
    if metric == "cosine":
        X[(X == 0).all(axis=1)] = 1
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        patch.setattr(module, "PAIRS", 9)
        pool = make_pool(Path(folder), X, metric=metric)
        problem = a_problem(pool, 1, rows=np.arange(0, len(X), 2) if some else None)
        graph = neighbour_graph(problem, k)
        assert graph.exact
        assert graph.neighbours.tolist() == slow_graph(problem, k)
        check_similarities(problem, graph)


def check_similarities(problem: Problem, graph: Graph) -> None:
    n = len(problem.items)
    V = problem.items.directions(np.arange(n)).astype(np.float64)
    assert graph.neighbours.dtype == np.int32
    assert graph.similarities.dtype == np.float32
    for i in range(n):
        cosines = V[graph.neighbours[i]] @ V[i]
        np.testing.assert_allclose(graph.similarities[i], cosines, atol=1e-6)


@pytest.mark.parametrize("width", [20, 8])
def test_the_pools_table_gives_the_same_graph(tmp_path: Path, width: int) -> None:
    X = np.random.default_rng(3).standard_normal((400, 12)).astype(np.float32)
    X[300:350] = X[:50]
    pool = make_pool(tmp_path / "with", X, neighbours=width)
    bare = make_pool(tmp_path / "without", X)
    found, expected = (neighbour_graph(a_problem(p, 1), 8) for p in (pool, bare))
    assert found.neighbours.tolist() == expected.neighbours.tolist()
    assert found.similarities.tobytes() == expected.similarities.tobytes()
    part = a_problem(pool, 1, rows=np.arange(100))
    assert neighbour_graph(part, 8).neighbours.max() < 100


def test_a_graph_is_as_exact_as_the_table_it_is_from(tmp_path: Path) -> None:
    X = np.random.default_rng(3).standard_normal((400, 12)).astype(np.float32)
    for recall in (1.0, 0.8):
        pool = make_pool(tmp_path / str(recall), X, neighbours=8, neighbours_recall=recall)
        assert neighbour_graph(a_problem(pool, 1), 8).exact is (recall == 1)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return make_pool(tmp_path_factory.mktemp("mixture"), a_mixture(6_000), metric="cosine")


def a_mixture(n: int) -> npt.NDArray[np.float32]:
    """Clusters of Zipf sizes with noise as large as what they share, a tenth of it copies."""
    chance = np.random.default_rng(5)
    centres = chance.standard_normal((60, 8)) @ chance.standard_normal((8, 32))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    shares = 1 / np.arange(1, 61)
    noise = chance.standard_normal((n, 32))
    noise *= 0.7 / np.linalg.norm(noise, axis=1, keepdims=True)
    X = centres[chance.choice(60, n, p=shares / shares.sum())] + noise
    X[-n // 10 :] = X[: n // 10]
    return X.astype(np.float32)


def check_shape(graph: Graph, n: int, k: int) -> None:
    assert graph.neighbours.shape == graph.similarities.shape == (n, k)
    assert graph.neighbours.min() >= 0
    assert graph.neighbours.max() < n
    assert not (graph.neighbours == np.arange(n)[:, None]).any()
    ordered = np.sort(graph.neighbours, axis=1)
    assert (np.diff(ordered, axis=1) > 0).all()
    assert (np.diff(graph.similarities, axis=1) <= 0).all()


@pytest.mark.parametrize("k", [1, 16, 32])
def test_the_self_join_recalls_nine_in_ten(
    mixture: Pool, monkeypatch: pytest.MonkeyPatch, k: int
) -> None:
    problem = a_problem(mixture, 1)
    exact = neighbour_graph(problem, k)
    monkeypatch.setattr(module, "EXACT_ITEMS", 0)
    found = neighbour_graph(problem, k)
    assert not found.exact
    check_shape(found, 6_000, k)
    check_similarities(problem, found)
    # By similarity: which of several copies is listed is no matter.
    last = exact.similarities[:, -1:] - 1e-6
    assert (found.similarities >= last).mean() > 0.9
    again = neighbour_graph(problem, k)
    assert found.neighbours.tobytes() == again.neighbours.tobytes()
    assert found.similarities.tobytes() == again.similarities.tobytes()


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_the_self_join_is_of_directions_whatever_the_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str
) -> None:
    lengths = np.random.default_rng(6).uniform(0.5, 2, (3_000, 1)).astype(np.float32)
    X = a_mixture(3_000) * lengths
    X[17:20] = 0
    problem = a_problem(make_pool(tmp_path, X, metric=metric), 1, rows=np.arange(0, 3_000, 2))
    exact = neighbour_graph(problem, 8)
    monkeypatch.setattr(module, "EXACT_ITEMS", 0)
    found = neighbour_graph(problem, 8)
    check_shape(found, 1_500, 8)
    check_similarities(problem, found)
    assert (found.similarities >= exact.similarities[:, -1:] - 1e-6).mean() > 0.85


@pytest.mark.parametrize("k", [1, 5, 299])
@pytest.mark.parametrize("clusters", [1, 7, 150])
def test_a_join_of_all_lists_is_exact(
    monkeypatch: pytest.MonkeyPatch, k: int, clusters: int
) -> None:
    """In many blocks, with empty and single-item clusters, one of them most of the items."""
    monkeypatch.setattr(joins, "ROWS", 13)
    monkeypatch.setattr(joins, "COLUMNS", 40)
    chance = np.random.default_rng(8)
    X = chance.standard_normal((300, 9)).astype(np.float32)
    numbers = chance.integers(0, clusters, 300).astype(np.int32)
    numbers[50:250] = 0
    centroids = chance.standard_normal((clusters + 3, 9)).astype(np.float32)
    expected = np.argsort(-(X @ X.T) + 1e9 * np.eye(300), axis=1)[:, :k]
    found = np.full((300, k), -1)
    for positions, neighbours, products in self_join(
        HostProducts(X.__getitem__), numbers, centroids, k, probes=400
    ):
        assert (found[positions] == -1).all()
        found[positions] = neighbours
        twin = np.einsum("ikd,id->ik", X[neighbours], X[positions])
        np.testing.assert_allclose(products, twin, rtol=1e-5, atol=1e-5)
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("k", [1, 4, 40])
@pytest.mark.parametrize("levels", [0, 1])
def test_ties_of_a_join_go_to_the_first_positions(
    monkeypatch: pytest.MonkeyPatch, k: int, levels: int
) -> None:
    """Whole numbers: products are exact, and nearly all tie."""
    monkeypatch.setattr(joins, "ROWS", 13)
    monkeypatch.setattr(joins, "COLUMNS", 64)
    chance = np.random.default_rng(10)
    X = chance.integers(-levels, levels + 1, (300, 3)).astype(np.float32)
    X[chance.permutation(300)[:150]] = 1
    numbers = chance.integers(0, 5, 300).astype(np.int32)
    others = X @ X.T
    np.fill_diagonal(others, -np.inf)
    expected = np.argsort(-others, axis=1, kind="stable")[:, :k]
    found = np.full((300, k), -1)
    for positions, neighbours, products in self_join(
        HostProducts(X.__getitem__), numbers, X[:5], k, probes=400
    ):
        found[positions] = neighbours
        assert (products == np.take_along_axis(others[positions], neighbours, axis=1)).all()
    assert found.tolist() == expected.tolist()


def test_a_join_of_copies_looks_again_at_a_few_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joins, "COLUMNS", 500)
    monkeypatch.setattr(joins, "in_order", map)  # on one thread
    X = np.ones((4_000, 4), np.float32)
    X[::2] = np.random.default_rng(11).standard_normal((2_000, 4))
    tracemalloc.start()
    for _ in self_join(HostProducts(X.__getitem__), np.zeros(4_000, np.int32), X[1:2] / 2, 8):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6  # all that tie: 256 rows of 2,000 pairs of 20 bytes, and their order


def test_a_join_of_small_lists_widens(monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.random.default_rng(9).standard_normal((200, 4)).astype(np.float32)
    numbers = np.arange(200, dtype=np.int32)  # a list for each item
    for _, neighbours, _ in self_join(HostProducts(X.__getitem__), numbers, X, 50, probes=1):
        assert neighbours.shape[1] == 50
        assert (np.diff(np.sort(neighbours, axis=1), axis=1) > 0).all()


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("checks", [1, 4])
def test_a_stopped_graph_ends_cancelled(
    mixture: Pool, monkeypatch: pytest.MonkeyPatch, exact: bool, checks: int
) -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked >= checks

    if not exact:
        monkeypatch.setattr(module, "EXACT_ITEMS", 0)
    with pytest.raises(Cancelled):
        neighbour_graph(a_problem(mixture, 1, stop=stop), 8)


def test_shares_of_the_graph_rise_to_one(mixture: Pool) -> None:
    told: list[tuple[str, float]] = []
    problem = a_problem(mixture, 1, report=lambda phase, share, _: told.append((phase, share)))
    neighbour_graph(problem, 4)
    assert {phase for phase, _ in told} == {"graph"}
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1
