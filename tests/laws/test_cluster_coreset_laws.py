"""Laws of the core-set methods that work by clusters: k-means medoids and SemDeDup."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.coresets import a_problem, rows_of
from tests.fixtures.pools import make_pool

from coresift.server.coreset import items, k_means_medoids, semdedup
from coresift.server.coreset.k_means_medoids import KMeansMedoids, medoids
from coresift.server.coreset.methods import method_of
from coresift.server.coreset.semdedup import SemDeDup
from coresift.server.pool.compute import HostCompute
from coresift.server.pool.pool import Pool
from coresift.server.selection.priority import priorities

N, D = 230, 7


@pytest.fixture(scope="module", params=["cosine", "ip", "l2", "float16"])
def pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """A sixth of the rows are copies; where the metric allows it, two are zero."""
    chance = np.random.default_rng(1)
    X = 2 * chance.standard_normal((6, D))[chance.integers(0, 6, N)]
    X = (X + chance.standard_normal((N, D))).astype(np.float32)
    X[190:] = X[chance.integers(0, 40, 40)]
    folder = tmp_path_factory.mktemp("pool")
    if request.param == "float16":
        return make_pool(folder, X.astype(np.float16), index="ivf")
    if request.param != "cosine":
        X[[50, 60]] = 0
    return make_pool(folder, X, metric=request.param)


@pytest.fixture(params=["one block", "small blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything in one block, or several of everything."""
    if request.param == "small blocks":
        monkeypatch.setattr(HostCompute, "block_bytes", 1)
        monkeypatch.setattr(items, "BLOCK_BYTES", 1)
        monkeypatch.setattr(k_means_medoids, "PRODUCT", 64)
        monkeypatch.setattr(semdedup, "ROWS", 7)
        monkeypatch.setattr(semdedup, "COLUMNS", 5)


def slow_k_means(X: Any, rows: Any, k: int, rounds: int, sample: int, seed: int) -> Any:
    """Lloyd's algorithm, one point and one centre at a time; clusters and squares of all."""

    def squares(x: Any, centres: Any) -> list[float]:
        return [float(((x - c) ** 2).sum()) for c in centres]

    def farthest(points: list[int], nearest: dict[int, float], count: int) -> list[int]:
        return sorted(points, key=lambda p: (-nearest[p], p))[:count]

    key = priorities(seed, "k_means_medoids", rows)
    points = sorted(range(len(X)), key=lambda p: (-key[p], p))[: sample * k]
    centres = [X[p] for p in points[:k]]
    before: list[int] = []
    for _ in range(rounds):
        owner = {p: int(np.argmin(squares(X[p], centres))) for p in points}
        nearest = {p: min(squares(X[p], centres)) for p in points}
        if list(owner.values()) == before:
            break
        before = list(owner.values())
        empty = [c for c in range(k) if c not in owner.values()]
        moved = farthest(points, nearest, len(empty))
        for c in range(k):
            members = sorted(p for p in points if owner[p] == c)
            centres[c] = X[members].mean(axis=0) if members else X[moved[empty.index(c)]]
    all_squares = [squares(x, centres) for x in X]
    return [int(np.argmin(own)) for own in all_squares], [min(own) for own in all_squares]


def slow_medoids(clusters: list[int], squares: list[float], k: int) -> list[int]:
    """The nearest of each cluster; an empty one takes the farthest item that is no medoid."""

    def nearest(c: int) -> int:
        members = [p for p in range(len(clusters)) if clusters[p] == c]
        return min(members, key=lambda p: (round(squares[p], 11), p))

    empty = [c for c in range(k) if c not in clusters]
    taken = [nearest(c) for c in range(k) if c not in empty]
    others = [p for p in range(len(clusters)) if p not in taken]
    for c, p in zip(empty, sorted(others, key=lambda p: (-squares[p], p)), strict=False):
        clusters[p], squares[p] = c, 0.0
    return [nearest(c) for c in range(k)]


@pytest.mark.parametrize(
    ("budget", "rounds", "sample"), [(1, 3, 32), (12, 10, 32), (12, 4, 5), (30, 2, 2)]
)
@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("is_part", [False, True])
def test_k_means_medoids_are_their_definition(
    pool: Pool, budget: int, rounds: int, sample: int, is_part: bool
) -> None:
    rows = np.flatnonzero(np.arange(N) % 5 != 2) if is_part else np.arange(N)
    X = rows_of(pool)[rows]
    for seed in (3, 4):
        method = KMeansMedoids(iterations=rounds, sample=sample)
        found = method.select(a_problem(pool, budget, rows=rows, seed=seed))
        clusters, squares = slow_k_means(X, rows, budget, rounds, sample, seed)
        chosen = slow_medoids(clusters, squares, budget)
        members = [[p for p in range(len(X)) if clusters[p] == c] for c in range(budget)]
        order = sorted(range(budget), key=lambda c: (-len(members[c]), chosen[c]))
        assert found.positions.tolist() == [chosen[c] for c in order]
        assert found.weights is not None
        assert found.weights.tolist() == [len(members[c]) for c in order]
        np.testing.assert_allclose(
            found.scores, [-math.sqrt(squares[chosen[c]]) for c in order], atol=1e-7
        )
        assert found.objective == pytest.approx(-sum(squares))


def test_empty_clusters_take_the_farthest_items() -> None:
    """Of clusters 0, 1, 2, 3 two are empty; the farthest item that is no medoid comes first."""
    clusters, squares = np.array([2, 2, 2, 0, 2]), np.array([1.0, 5.0, 5.0, 9.0, 2.0])
    assert medoids(clusters, squares, 4).tolist() == [3, 1, 0, 2]
    assert clusters.tolist() == [2, 1, 3, 0, 2]
    assert squares.tolist() == [1.0, 0.0, 0.0, 9.0, 2.0]


def test_k_means_of_few_distinct_items(tmp_path: Path) -> None:
    X = np.repeat(np.eye(3, dtype=np.float32), 20, axis=0)
    for budget in (2, 3, 10, 60):
        found = KMeansMedoids().select(a_problem(make_pool(tmp_path / str(budget), X), budget))
        assert len(set(found.positions.tolist())) == budget
        assert found.weights is not None
        assert found.weights.sum() == 60
        if budget >= 3:
            assert set(found.positions // 20) == {0, 1, 2}
            assert found.objective == 0


def test_more_rounds_and_more_clusters_lie_nearer(tmp_path: Path) -> None:
    X = np.random.default_rng(2).standard_normal((3_000, 16)).astype(np.float32)
    pool = make_pool(tmp_path, X, metric="l2")
    found = [
        KMeansMedoids(iterations=rounds).select(a_problem(pool, budget)).objective or 0.0
        for rounds, budget in ((1, 40), (3, 40), (10, 40), (10, 80))
    ]
    assert found == sorted(found)


def test_k_means_far_from_the_origin(tmp_path: Path) -> None:
    """What is common to all items does not blur which centroid is nearest."""
    X = np.random.default_rng(5).integers(-8, 9, (500, 4)).astype(np.float32) / 4
    near, far = (make_pool(tmp_path / str(c), X + np.float32(c), metric="l2") for c in (0, 512))
    found = [KMeansMedoids().select(a_problem(pool, 25)) for pool in (near, far)]
    assert found[1].objective == pytest.approx(found[0].objective, rel=0.02)


def slow_redundancy(pool: Pool, rows: Any, keep: str, seed: int) -> list[float]:
    """Largest cosine to any item of the cluster that comes before; -1 where none does."""
    vectors = pool.fetch(rows).astype(np.float64)
    X = [x / math.sqrt((x**2).sum()) if x.any() else x for x in vectors]
    clusters = pool.clusters[rows]
    key = {
        "far": [float(x @ pool.centroids[c]) for x, c in zip(X, clusters, strict=True)],
        "near": [-float(x @ pool.centroids[c]) for x, c in zip(X, clusters, strict=True)],
        "random": (-priorities(seed, "semdedup", rows)).tolist(),
    }[keep]
    place = [(round(own, 13), p) for p, own in enumerate(key)]
    return [
        max(
            (
                round(float(X[p] @ X[q]), 12)
                for q in range(len(X))
                if clusters[q] == clusters[p] and place[q] < place[p]
            ),
            default=-1.0,
        )
        for p in range(len(X))
    ]


@pytest.mark.parametrize("keep", ["far", "near", "random"])
@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("is_part", [False, True])
def test_semdedup_is_its_definition(pool: Pool, keep: Any, is_part: bool) -> None:
    rows = np.flatnonzero(np.arange(N) % 3) if is_part else np.arange(N)
    redundancy = slow_redundancy(pool, rows, keep, seed=7)
    order = sorted(range(len(rows)), key=lambda p: (redundancy[p], p))
    for budget in (1, 40, len(rows)):
        found = SemDeDup(keep=keep).select(a_problem(pool, budget, rows=rows))
        assert found.positions.tolist() == order[:budget]
        assert found.scores.tolist() == [1 - redundancy[p] for p in order[:budget]]
        assert found.details == {"threshold": redundancy[order[budget - 1]]}
    for threshold in (0.3, 0.9, 0.999, 1.0):
        found = SemDeDup(threshold, keep).select(a_problem(pool, None, rows=rows))
        assert found.positions.tolist() == [p for p in order if redundancy[p] <= threshold]
        assert found.details == {"threshold": threshold}
    assert len(found.positions) == len(rows)  # no cosine is above 1


@pytest.mark.parametrize("keep", ["far", "near", "random"])
def test_semdedup_of_copies_is_its_definition(tmp_path: Path, keep: Any) -> None:
    """Of five directions, one the double of another, and of zero vectors."""
    X = np.random.default_rng(3).standard_normal((6, 3)).astype(np.float32)
    X[1], X[5] = 2 * X[0], 0
    pool = make_pool(tmp_path, X[np.random.default_rng(4).integers(0, 6, 120)], metric="ip")
    redundancy = slow_redundancy(pool, np.arange(120), keep, seed=7)
    order = sorted(range(120), key=lambda p: (redundancy[p], p))
    found = SemDeDup(keep=keep).select(a_problem(pool, 120))
    assert found.positions.tolist() == order
    assert found.scores.tolist() == [1 - redundancy[p] for p in order]


@pytest.mark.parametrize("keep", ["far", "random"])
def test_semdedup_compares_copies_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: Any
) -> None:
    X = np.random.default_rng(5).standard_normal((2_000, 8)).astype(np.float32)
    X[200:1_400], X[1_400:] = X[0], 0
    pool = make_pool(tmp_path, X, metric="ip")
    compared: list[int] = []
    largest_before = semdedup._largest_before

    def counted(problem_items: Any, places: Any, start: int) -> Any:
        compared.append(len(places))
        return largest_before(problem_items, places, start)

    monkeypatch.setattr(semdedup, "_largest_before", counted)
    found = SemDeDup(keep=keep).select(a_problem(pool, 2_000))
    assert sum(compared) <= 201
    assert (found.scores[-1_199:] == 0).all()


def test_equal_prints_are_not_taken_for_copies(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is the first with its print is compared with the others, vector by vector."""
    expected = SemDeDup().select(a_problem(pool, N))
    scanned = semdedup._scanned

    def coarse(problem: Any) -> Any:
        similarities, prints = scanned(problem)
        return similarities, np.sign(prints)

    monkeypatch.setattr(semdedup, "_scanned", coarse)
    found = SemDeDup().select(a_problem(pool, N))
    assert found.positions.tolist() == expected.positions.tolist()
    assert found.scores.tolist() == expected.scores.tolist()


@pytest.mark.parametrize("threshold", [0.5, 0.95, 0.9999])
def test_no_two_kept_items_of_a_cluster_are_alike(pool: Pool, threshold: float) -> None:
    """And whatever is removed is alike to an item of its cluster that comes before it."""
    found = SemDeDup(threshold).select(a_problem(pool, None))
    X = rows_of(pool)
    X = X / np.maximum(np.sqrt((X**2).sum(axis=1)), 1e-30)[:, None]
    alike = (threshold < X @ X.T) & (pool.clusters[:, None] == pool.clusters)
    np.fill_diagonal(alike, False)
    assert not alike[np.ix_(found.positions, found.positions)].any()
    removed = np.setdiff1d(np.arange(N), found.positions)
    assert len(removed)
    assert alike[removed].any(axis=1).all()


def test_the_threshold_of_a_budget_keeps_the_same(pool: Pool) -> None:
    by_budget = SemDeDup().select(a_problem(pool, 100))
    reached = by_budget.details["threshold"]
    by_threshold = SemDeDup(reached).select(a_problem(pool, None))
    assert by_threshold.positions[:100].tolist() == by_budget.positions.tolist()
    assert (by_threshold.scores[100:] == by_budget.scores[-1]).all()


def test_a_threshold_decides_the_size() -> None:
    assert method_of("semdedup", ()).needs().budget
    assert not method_of("semdedup", (("threshold", 0.9),)).needs().budget
    assert not method_of("semdedup", (("threshold", 1.0),)).needs().budget


def test_what_comes_first_of_a_cluster(tmp_path: Path) -> None:
    """One cluster: a fan of directions; copies of the first or the last are removed."""
    angles = np.repeat(np.linspace(0, 0.5, 4), 2)
    X = np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    pool = make_pool(tmp_path, X)
    one = np.flatnonzero(pool.clusters == pool.clusters[0])
    far, near = (
        SemDeDup(keep=keep).select(a_problem(pool, 1, rows=one)).positions
        for keep in ("far", "near")
    )
    similarity = rows_of(pool)[one] @ pool.centroids[pool.clusters[0]]
    assert far.tolist() == [int(similarity.argmin())]
    assert near.tolist() == [int(similarity.argmax())]
