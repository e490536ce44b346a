"""Laws of the strategies that cover the pool: each is its formula, however it is computed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.pools import make_pool
from tests.fixtures.threads import on_one_thread

from coresift.server.arrays import Float64s, Rows
from coresift.server.head import HeadConfig, Task
from coresift.server.pool.pool import Pool
from coresift.server.selection import (
    coverage,
    nearest_centres,
    probcover,
    traversal,
    typiclust,
)
from coresift.server.selection.coverage import distances, nearest, slack, squares, within
from coresift.server.selection.farthest import KCenter
from coresift.server.selection.priority import priorities
from coresift.server.selection.probcover import ProbCover
from coresift.server.selection.strategy import Ranked, Setting, Situation, Strategy
from coresift.server.selection.typiclust import TypiClust

N, D, SEED = 240, 9, 5
NONE = np.empty(0, np.int32)
STRATEGIES: list[Strategy] = [
    KCenter(),
    TypiClust(),
    TypiClust(neighbours=3),
    ProbCover(sample=150),
    ProbCover(radius=1.1, sample=1_000),
]
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)


def clustered(seed: int) -> Any:
    """Points around a few centres; a sixth are copies of others, more than one of some."""
    chance = np.random.default_rng(seed)
    centres = 2 * chance.standard_normal((6, D))
    X = centres[chance.integers(0, 6, N)] + chance.standard_normal((N, D))
    X[200:] = X[chance.integers(0, 40, N - 200)]
    return X.astype(np.float32)


@pytest.fixture(scope="module", params=["cosine", "ip", "l2", "float16"])
def pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    X = clustered(1)
    folder = tmp_path_factory.mktemp("pool")
    if request.param == "float16":
        return make_pool(folder, X.astype(np.float16), index="ivf")
    return make_pool(folder, X, metric=request.param)


def situation(pool: Pool, labelled: Rows, seed: int = SEED, task: Task = Task.BINARY) -> Situation:
    nothing = np.empty((0, 1))
    learned = NONE, nothing, nothing
    return Situation(pool, task, seed, 1, None, HeadConfig(), labelled, lambda: learned)


def drawn(seed: int, count: int, rows: int = N) -> Rows:
    chance = np.random.default_rng(seed)
    return np.sort(chance.choice(rows, count, replace=False)).astype(np.int32)


def rank(
    strategy: Strategy, pool: Pool, labelled: Rows, candidates: Rows, depth: int, seed: int = SEED
) -> Ranked:
    ranker = strategy.prepare(situation(pool, labelled, seed))
    assert not hasattr(ranker, "score")
    return ranker.rank(candidates, depth)


def free(labelled: Rows, every: int = 1) -> Rows:
    return np.setdiff1d(np.arange(0, N, every, dtype=np.int32), labelled)


def same(one: Ranked, other: Ranked) -> bool:
    return (one.rows.tobytes(), one.scores.tobytes(), one.details) == (
        other.rows.tobytes(),
        other.scores.tobytes(),
        other.details,
    )


def vectors(pool: Pool) -> list[list[float]]:
    everything: list[list[float]] = pool.fetch(np.arange(N)).astype(np.float64).tolist()
    return everything


def twin_k_center(pool: Pool, labelled: Rows, candidates: Rows) -> list[tuple[int, float]]:
    X, centres, left = vectors(pool), labelled.tolist(), candidates.tolist()
    found = []
    if not centres:
        first = max(left, key=lambda row: priorities(SEED, "k_center", np.array([row]))[0])
        found.append((first, 2 * pool.max_norm))
        left.remove(first)
        centres = [first]
    while left:
        gap = {row: min(math.dist(X[row], X[centre]) for centre in centres) for row in left}
        best = max(left, key=lambda row: (gap[row], -row))
        found.append((best, gap[best]))
        left.remove(best)
        centres.append(best)
    return found


def twin_typiclust(
    pool: Pool, labelled: Rows, candidates: Rows, k: int, members: int
) -> list[tuple[int, float]]:
    X, clusters, left = vectors(pool), pool.clusters.tolist(), set(candidates.tolist())
    labels = {c: sum(clusters[row] == c for row in labelled.tolist()) for c in set(clusters)}
    rows_of = {c: [row for row in range(N) if clusters[row] == c] for c in set(clusters)}

    def typicality(row: int) -> float:
        others = rows_of[clusters[row]]
        if len(others) > members:
            priority = priorities(SEED, "typiclust", np.array(others))
            others = [others[place] for place in np.argsort(-priority)[:members]]
        gaps = sorted(math.dist(X[row], X[other]) for other in others if other != row)
        gaps = gaps[: min(k, len(others) - 1)]
        return 1 / (1e-5 + sum(gaps) / len(gaps)) if gaps else 0.0

    found = []
    while left:
        cluster = min(
            {clusters[row] for row in left}, key=lambda c: (labels[c], -len(rows_of[c]), c)
        )
        mine = sorted(row for row in left if clusters[row] == cluster)
        typical = {row: typicality(row) for row in mine}
        most = max(typical.values())
        best = next(row for row in mine if typical[row] >= most * (1 - 1e-12))
        found.append((best, typical[best]))
        left.remove(best)
        labels[cluster] += 1
    return found


def twin_probcover(
    pool: Pool, labelled: Rows, candidates: Rows, size: int, radius: float
) -> list[tuple[int, float]]:
    X = vectors(pool)

    def hash_order(rows: list[int]) -> list[int]:
        return sorted(rows, key=lambda row: -priorities(SEED, "probcover", np.array([row]))[0])

    sample = hash_order(list(range(N)))[:size]
    near = {
        row: {other for other in sample if math.dist(X[row], X[other]) <= radius}
        for row in [*labelled.tolist(), *candidates.tolist()]
    }
    bare = set(sample).difference(*(near[row] for row in labelled.tolist()))
    choosers = sorted(hash_order(candidates.tolist())[:size])
    found = []
    while True:
        best = max(choosers, key=lambda row: (len(near[row] & bare), -row))
        if not near[best] & bare:
            break
        found.append((best, len(near[best] & bare) / len(sample)))
        bare -= near[best]
    chosen = {row for row, _ in found}
    rest = [row for row in hash_order(candidates.tolist()) if row not in chosen]
    return found + [(row, 0.0) for row in rest]


LABELLED = [NONE, drawn(3, 1), drawn(4, 40), drawn(5, 110)]


def agree(found: Ranked, twin: list[tuple[int, float]]) -> None:
    assert found.rows.tolist() == [row for row, _ in twin]
    np.testing.assert_allclose(found.scores, [score for _, score in twin], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("labelled", LABELLED, ids=len)
def test_k_center_takes_the_farthest(pool: Pool, labelled: Rows) -> None:
    candidates = free(labelled, 2)
    found = rank(KCenter(), pool, labelled, candidates, N)
    agree(found, twin_k_center(pool, labelled, candidates))
    assert (np.diff(found.scores) <= 0).all()


@pytest.mark.parametrize("members", [typiclust.MEMBERS, 11])
@pytest.mark.parametrize("labelled", LABELLED, ids=len)
def test_typiclust_takes_turns(
    pool: Pool, labelled: Rows, members: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(typiclust, "MEMBERS", members)
    candidates = free(labelled, 2)
    for k in (1, 4, 20):
        if k < members:
            found = rank(TypiClust(k), pool, labelled, candidates, N)
            agree(found, twin_typiclust(pool, labelled, candidates, k, members))


@pytest.mark.parametrize("labelled", LABELLED, ids=len)
@pytest.mark.parametrize(("size", "radius"), [(150, 0.0), (150, 1.0), (1_000, 0.3), (1_000, 9.0)])
def test_probcover_covers_most(pool: Pool, labelled: Rows, size: int, radius: float) -> None:
    candidates = free(labelled, 2)
    found = rank(ProbCover(radius=radius, sample=size), pool, labelled, candidates, N)
    used = found.details["radius"]
    assert used == min(radius, 3 * pool.max_norm) or radius == 0
    twin = twin_probcover(pool, labelled, candidates, min(size, N), used)
    agree(found, twin)
    covered = sum(score for _, score in twin) + found.details["covered"]
    assert covered <= 1 + 1e-9


@pytest.mark.parametrize("purity", [0.5, 0.9, 0.95, 1.0])
def test_the_radius_is_the_largest_that_is_pure(pool: Pool, purity: float) -> None:
    found = rank(ProbCover(purity=purity, sample=200), pool, NONE, free(NONE), 1)
    X, clusters = vectors(pool), pool.clusters.tolist()
    priority = priorities(SEED, "probcover", np.arange(N, dtype=np.int32))
    sample = np.argsort(-priority)[:200].tolist()

    def pure(radius: float) -> float:
        balls = (
            all(
                clusters[row] == clusters[other]
                for other in sample
                if math.dist(X[row], X[other]) <= radius
            )
            for row in sample
        )
        return sum(balls) / len(sample)

    assert pure(found.details["radius"]) >= purity
    assert pure(found.details["radius"] * (1 + 1e-9)) < purity


@every_strategy
@pytest.mark.parametrize("labelled", LABELLED, ids=len)
def test_an_order_ranks_every_candidate_once(
    pool: Pool, strategy: Strategy, labelled: Rows
) -> None:
    for candidates in (free(labelled), free(labelled, 7), free(labelled)[:1], NONE):
        whole = rank(strategy, pool, labelled, candidates, N + 10)
        assert sorted(whole.rows.tolist()) == candidates.tolist()
        assert whole.rows.dtype == np.int32
        assert whole.scores.dtype == np.float64
        assert np.isfinite(whole.scores).all()
        for depth in (0, 1, 2, 33, len(candidates)):
            some = rank(strategy, pool, labelled, candidates, depth)
            assert some.rows.tolist() == whole.rows[:depth].tolist()
            assert some.scores.tobytes() == whole.scores[:depth].tobytes()
            assert some.details == whole.details


@every_strategy
def test_neither_blocks_nor_threads_matter(
    pool: Pool, strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled = drawn(6, 30)
    candidates = free(labelled)
    whole = rank(strategy, pool, labelled, candidates, N)
    alone = on_one_thread(lambda: rank(strategy, pool, labelled, candidates, N))
    assert same(alone, whole)
    monkeypatch.setattr(coverage, "PRODUCT", 1)
    monkeypatch.setattr(coverage, "PAIRS", 7)
    monkeypatch.setattr(nearest_centres, "BLOCK", 13)
    monkeypatch.setattr(nearest_centres, "CENTRES", 5)
    monkeypatch.setattr(traversal, "MOST", 80)
    for frontier in (1, 9, 80):
        monkeypatch.setattr(traversal, "FRONTIER", frontier)
        assert same(rank(strategy, pool, labelled, candidates, N), whole)


@every_strategy
def test_every_task_is_served_alike(pool: Pool, strategy: Strategy) -> None:
    assert not strategy.needs_head
    rankers = []
    for task in Task:
        assert task in strategy.tasks
        assert strategy.objection(Setting(task, 3, pool)) is None
        ranker = strategy.prepare(situation(pool, drawn(7, 9), task=task))
        assert not hasattr(ranker, "score")
        rankers.append(ranker.rank(free(drawn(7, 9)), 50))
    assert all(same(ranked, rankers[0]) for ranked in rankers)


@every_strategy
def test_a_pool_of_copies(tmp_path: Path, strategy: Strategy) -> None:
    X = np.ones((300, 4), np.float32)
    copies = make_pool(tmp_path, X, metric="l2")
    for labelled in (NONE, np.array([4], np.int32)):
        candidates = np.setdiff1d(np.arange(300, dtype=np.int32), labelled)
        found = rank(strategy, copies, labelled, candidates, 300)
        assert sorted(found.rows.tolist()) == candidates.tolist()
        assert np.isfinite(found.scores).all()


@every_strategy
def test_a_pool_of_zeros_and_one_of_a_single_item(tmp_path: Path, strategy: Strategy) -> None:
    for rows in (1, 120):
        folder = tmp_path / str(rows)
        zeros = make_pool(folder, np.zeros((rows, 3), np.float32), metric="ip")
        candidates = np.arange(rows, dtype=np.int32)
        found = rank(strategy, zeros, NONE, candidates, rows)
        assert sorted(found.rows.tolist()) == candidates.tolist()
        assert np.isfinite(found.scores).all()


def test_seeds_draw_other_samples_and_starts(pool: Pool) -> None:
    for strategy in (KCenter(), ProbCover(sample=100, radius=1.0)):
        firsts = {
            rank(strategy, pool, NONE, free(NONE), 20, seed).rows.tobytes() for seed in range(4)
        }
        assert len(firsts) == 4


def test_a_larger_pool_is_ranked_within_bounds(tmp_path: Path) -> None:
    """Many blocks, many frontiers: k-center equals the plain farthest-first loop."""
    chance = np.random.default_rng(2)
    X = chance.standard_normal((9_000, 6)).astype(np.float32)
    large = make_pool(tmp_path, X, metric="l2")
    labelled, candidates = np.arange(50, dtype=np.int32), np.arange(50, 9_000, dtype=np.int32)
    found = rank(KCenter(), large, labelled, candidates, 300)
    wide = X.astype(np.float64)
    gaps = np.min([distances(wide, wide[row]) for row in labelled], axis=0)
    for row, score in zip(found.rows.tolist(), found.scores.tolist(), strict=True):
        gaps[labelled] = -1
        assert (row, score) == (int(gaps.argmax()), float(gaps.max()))
        gaps = np.minimum(gaps, distances(wide, wide[row]))


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dimension=st.integers(1, 200),
    scale=st.sampled_from([1e-3, 1.0, 1e4]),
    spread=st.sampled_from([0.0, 1e-7, 1e-3, 1.0]),
)
def test_products_keep_their_bound(seed: int, dimension: int, scale: float, spread: float) -> None:
    """Also where points all but coincide, which is where a product is worst."""
    chance = np.random.default_rng(seed)
    offset = scale * chance.standard_normal(dimension)

    def some(count: int) -> Float64s:
        noise = scale * spread * chance.standard_normal((count, dimension))
        return np.asarray((offset + noise).astype(np.float32).astype(np.float64))

    X, Y = some(12), some(17)
    most = float(np.sqrt(max((X**2).sum(axis=1).max(), (Y**2).sum(axis=1).max())))
    exact = np.array([distances(Y, x) for x in X])
    assert np.abs(squares(X, Y) - exact**2).max() <= slack(dimension, most)
    which, least = nearest(X, Y, most)
    assert least.tolist() == exact.min(axis=1).tolist()
    assert which.tolist() == exact.argmin(axis=1).tolist()
    for radius in (float(exact[3, 4]), float(np.nextafter(exact[3, 4], 0)), 2 * most):
        assert (within(X, Y, radius, most) == (exact <= radius)).all()


def test_coverage_ends_where_nothing_is_left_to_add() -> None:
    near = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0], [1, 1, 1, 0]], np.bool_)
    graph, bare = probcover.pack(near), probcover.pack(np.ones((1, 4), np.bool_))[0]
    picked, gains = probcover.greedy_coverage(graph, bare, 4)
    assert (picked.tolist(), gains.tolist()) == ([1], [3])
