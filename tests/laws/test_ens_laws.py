"""Laws of nonmyopic search: pruned and incremental, it is the enumeration of the formula."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.pools import make_pool

from coresift.server.arrays import Float64s, Rows
from coresift.server.errors import CoresiftError, Reason
from coresift.server.head import HeadConfig, Task
from coresift.server.pool.pool import Pool
from coresift.server.selection import neighbour_votes, nonmyopic
from coresift.server.selection.nonmyopic import Ens
from coresift.server.selection.registry import Choice, check_strategy
from coresift.server.selection.strategy import Ranked, Setting, Situation

N, D, K = 160, 5, 12
NONE = np.empty(0, np.int32)


@pytest.fixture(scope="module", params=["cosine", "l2"])
def pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """A few dense groups and copies: some rows are neighbours of many, some of none."""
    chance = np.random.default_rng(1)
    centres = 3 * chance.standard_normal((5, D))
    X = centres[chance.integers(0, 5, N)] + chance.standard_normal((N, D))
    X[140:] = X[chance.integers(0, 20, N - 140)]
    folder = tmp_path_factory.mktemp("pool")
    return make_pool(folder, X.astype(np.float32), metric=request.param, neighbours=K)


def labels(seed: int, count: int) -> tuple[Rows, Float64s]:
    """Rows and the positive votes of two annotators, 0 to 2; one item nobody was sure of."""
    chance = np.random.default_rng(seed)
    rows = np.sort(chance.choice(N, count, replace=False)).astype(np.int32)
    return rows, chance.choice([0.0, 0.0, 1.0, 2.0], (count, 1))


def situation(pool: Pool, rows: Rows, positive: Float64s, budget: int | None = None) -> Situation:
    opposed = 2 - positive
    if len(rows) > 3:
        positive, opposed = positive.copy(), opposed.copy()
        positive[3] = opposed[3] = 0
    learned = rows, positive, opposed
    return Situation(pool, Task.BINARY, 3, 1, None, HeadConfig(), rows, lambda: learned, budget)


def free(rows: Rows, every: int = 1) -> Rows:
    return np.setdiff1d(np.arange(0, N, every, dtype=np.int32), rows)


def rank(strategy: Ens, at: Situation, candidates: Rows, depth: int) -> Ranked:
    ranker = strategy.prepare(at)
    assert not hasattr(ranker, "score")
    return ranker.rank(candidates, depth)


def twin(
    strategy: Ens, at: Situation, candidates: Rows, depth: int
) -> tuple[list[int], list[float]]:
    """Every candidate, both labels, all probabilities anew, sorted."""
    table = at.pool.neighbour_table
    assert table is not None
    near = {row: table[row, : strategy.neighbours].tolist() for row in candidates.tolist()}
    rows, positive, opposed = at.lessons
    known = {
        row: pro / (pro + con)
        for row, pro, con in zip(rows.tolist(), positive[:, 0], opposed[:, 0], strict=True)
        if pro + con > 0
    }

    def p(row: int, votes: dict[int, float]) -> float:
        heard = [votes[other] for other in near[row] if other in votes]
        return (strategy.prior + sum(heard)) / (1 + len(heard))

    left, rows, scores = candidates.tolist(), [], []
    budget = strategy.horizon if at.budget is None else min(strategy.horizon, at.budget)
    for number in range(min(depth, len(candidates))):
        later = 0 if strategy.one_step else max(0, budget - 1 - number)
        value = {}
        for row in left:
            own, rest = p(row, known), [other for other in left if other != row]
            found, missed = (
                sum(sorted((p(other, known | {row: y}) for other in rest), reverse=True)[:later])
                if later
                else 0.0
                for y in (1.0, 0.0)
            )
            value[row] = own + own * found + (1 - own) * missed
        rounded = {row: round(value[row] * 2**30) for row in left}
        best = max(left, key=lambda row: (rounded[row], -row))
        rows.append(best)
        scores.append(value[best])
        known = known | {best: 1.0 if p(best, known) > 0.5 else 0.0}
        left.remove(best)
    return rows, scores


def agree(strategy: Ens, at: Situation, candidates: Rows, depth: int) -> None:
    found = rank(strategy, at, candidates, depth)
    rows, scores = twin(strategy, at, candidates, depth)
    assert found.rows.tolist() == rows
    np.testing.assert_allclose(found.scores, scores, atol=2.0**-30)


@pytest.mark.parametrize("loose", [1, 3, nonmyopic.LOOSE])
@pytest.mark.parametrize("budget", [None, 1, 3, 9, 1_000])
@pytest.mark.parametrize("count", [0, 1, 20])
def test_choices_are_those_of_the_enumeration(
    pool: Pool, count: int, budget: int | None, loose: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nonmyopic, "LOOSE", loose)
    rows, positive = labels(count, count)
    strategy = Ens(neighbours=8, horizon=25)
    agree(strategy, situation(pool, rows, positive, budget), free(rows, 2), 5)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 60),
    every=st.sampled_from([2, 3, 5]),
    strategy=st.builds(
        Ens,
        neighbours=st.integers(1, K),
        prior=st.sampled_from([0.001, 0.1, 0.5, 0.9]),
        horizon=st.integers(1, 120),
        one_step=st.booleans(),
    ),
    loose=st.integers(1, 5),
)
def test_choices_are_those_of_the_enumeration_anywhere(
    pool: Pool, seed: int, count: int, every: int, strategy: Ens, loose: int
) -> None:
    rows, positive = labels(seed, count)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(nonmyopic, "LOOSE", loose)
        agree(strategy, situation(pool, rows, positive), free(rows, every), 6)


@pytest.mark.parametrize("one_step", [False, True])
@pytest.mark.parametrize("count", [0, 25])
def test_an_order_ranks_every_candidate_once(
    pool: Pool, count: int, one_step: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, positive = labels(9, count)
    strategy, at = Ens(neighbours=K, one_step=one_step), situation(pool, rows, positive, 40)
    for candidates in (free(rows), free(rows, 9), free(rows)[:1], NONE):
        whole = rank(strategy, at, candidates, N + 10)
        assert sorted(whole.rows.tolist()) == candidates.tolist()
        assert whole.rows.dtype == np.int32
        assert whole.scores.dtype == np.float64
        assert np.isfinite(whole.scores).all()
        for depth in (0, 1, 2, 50, len(candidates)):
            some = rank(strategy, at, candidates, depth)
            assert some.rows.tolist() == whole.rows[:depth].tolist()
            assert some.scores.tobytes() == whole.scores[:depth].tobytes()
    whole = rank(strategy, at, free(rows), N)
    monkeypatch.setattr(nonmyopic, "BLOCK", 7)
    monkeypatch.setattr(neighbour_votes, "BLOCK", 11)
    assert rank(strategy, at, free(rows), N).rows.tobytes() == whole.rows.tobytes()


def test_one_step_is_the_greedy_choice_and_the_last_label_too(pool: Pool) -> None:
    rows, positive = labels(2, 30)
    at = situation(pool, rows, positive)
    greedy = rank(Ens(K, one_step=True), at, free(rows), 30)
    assert greedy.rows.tolist() == rank(Ens(K, horizon=1), at, free(rows), 30).rows.tolist()
    spent = replace(at, budget=0)
    assert greedy.rows.tolist() == rank(Ens(K), spent, free(rows), 30).rows.tolist()
    assert greedy.rows.tolist() != rank(Ens(K, horizon=50), at, free(rows), 30).rows.tolist()


def test_looking_ahead_finds_the_hidden_cluster(tmp_path: Path) -> None:
    """Two equally likely candidates: one tells of nobody, the other of many."""
    chance = np.random.default_rng(0)
    crowd = 0.05 * chance.standard_normal((30, 3))
    X = np.concatenate([[[40.0, 0, 0]], crowd]).astype(np.float32)
    pool = make_pool(tmp_path, X, metric="l2", neighbours=5)
    at = situation(pool, NONE, np.empty((0, 1)))
    candidates = np.arange(len(X), dtype=np.int32)
    assert rank(Ens(5, one_step=True), at, candidates, 1).rows[0] == 0
    assert rank(Ens(5, horizon=5), at, candidates, 1).rows[0] > 0


def test_only_binary_sessions_on_pools_with_neighbours(tmp_path: Path, pool: Pool) -> None:
    assert Ens.tasks == {Task.BINARY}
    assert not Ens.needs_head
    assert Ens(neighbours=K).needs_neighbours == K
    check_strategy(Choice("ens", (("neighbours", K),)), Setting(Task.BINARY, 1, pool))
    with pytest.raises(CoresiftError, match=f"the pool has {K}") as few:
        check_strategy(Choice("ens", (("neighbours", K + 1),)), Setting(Task.BINARY, 1, pool))
    assert few.value.reason is Reason.POOL_LACKS_NEIGHBOURS
    bare = make_pool(tmp_path, np.eye(4, dtype=np.float32))
    with pytest.raises(CoresiftError, match="table of 50, the pool has none"):
        check_strategy(Choice("ens"), Setting(Task.BINARY, 1, bare))
