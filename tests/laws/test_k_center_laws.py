"""Laws of k-center as a core-set: greedy as defined, however it is computed."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fixtures.coresets import a_problem, rows_of
from tests.fixtures.pools import make_pool

from coresift.server.coreset.k_center import KCenter
from coresift.server.coreset.problem import Problem, Selection
from coresift.server.pool.failures import Cancelled
from coresift.server.pool.pool import Pool
from coresift.server.selection import coverage, nearest_centres, traversal
from coresift.server.selection.coverage import distances
from coresift.server.selection.priority import priorities

SEED = 7
KINDS = ["random", "copies", "clustered", "lattice", "almost", "offset", "alike", "zeros"]
METRICS = ["cosine", "l2", "ip"]


def drawn(kind: str, n: int, d: int, seed: int) -> Any:
    """Vectors, float32 [n, d]."""
    chance = np.random.default_rng(seed)
    X = chance.standard_normal((n, d))
    if kind == "copies":
        X = X[chance.integers(0, 1 + n // 3, n)]
    if kind == "clustered":
        X = 5 * X[chance.integers(0, min(5, n), n)] + 0.1 * chance.standard_normal((n, d))
    if kind == "lattice":
        X = chance.integers(0, 3, (n, d)).astype(np.float64)
    if kind == "almost":  # ties that float32 products cannot tell from others
        X = chance.integers(0, 3, (n, d)) + 1e-6 * X
    if kind == "offset":
        X += 3e4
    if kind == "alike":
        X = np.ones((n, d))
    if kind == "zeros":
        X = X * (chance.random((n, 1)) < 0.5)
    return X.astype(np.float32)


def a_pool(folder: Path, X: Any, metric: str) -> Pool:
    """A pool of rows; a cosine pool has no zero rows."""
    if metric == "cosine":
        X = np.where((X == 0).all(axis=1)[:, None], 1, X).astype(X.dtype)
    return make_pool(folder, X, metric=metric)


def twin(problem: Problem) -> Selection:
    """The definition: after each centre the distances of all items to it."""
    X, rows = rows_of(problem.items.pool), problem.items.rows
    left, owner = np.full(len(rows), np.inf), np.zeros(len(rows), np.int64)
    centres: list[int] = []

    def add(row: int) -> None:
        away = distances(X[rows], X[row])
        owner[away < left] = len(centres)
        np.minimum(left, away, out=left)
        centres.append(row)

    for row in problem.start.tolist():
        add(row)
    places: list[int] = []
    scores: list[float] = []
    is_open = np.ones(len(rows), np.bool_)
    for _ in range(problem.size()):
        place = int(priorities(problem.seed, "k_center", rows).argmax())
        if centres:
            place = int(np.where(is_open, left, -1).argmax())
        is_open[place] = False
        places.append(place)
        scores.append(left[place])
        add(int(rows[place]))
    sizes = np.bincount(owner, minlength=len(centres))[len(problem.start) :]
    radius = float(left.max())
    return Selection(np.array(places), np.array(scores), sizes.astype(float), -radius, radius)


def agree(found: Selection, expected: Selection) -> None:
    """To the last bit."""
    assert found.positions.tolist() == expected.positions.tolist()
    assert found.scores.tolist() == expected.scores.tolist()
    assert found.weights is not None
    assert expected.weights is not None
    assert found.weights.tolist() == expected.weights.tolist()
    assert found.covering_radius == expected.covering_radius
    assert found.objective == expected.objective


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(KINDS),
    metric=st.sampled_from(METRICS),
    dtype=st.sampled_from([np.float16, np.float32]),
    seed=st.integers(0, 10**6),
    n=st.integers(1, 120),
    d=st.integers(1, 40),
    share=st.floats(0, 1),
    starts=st.integers(0, 30),
    narrow=st.booleans(),
)
def test_k_center_is_its_definition(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    metric: str,
    dtype: type[np.floating],
    seed: int,
    n: int,
    d: int,
    share: float,
    starts: int,
    narrow: bool,
) -> None:
    chance = np.random.default_rng(seed)
    X = drawn(kind, n, d, seed).astype(dtype)
    pool = a_pool(tmp_path_factory.mktemp("pool"), X, metric)
    start = np.sort(chance.choice(n, min(starts, n - 1), replace=False))
    rest = np.setdiff1d(np.arange(n), start)
    rows = np.sort(chance.choice(rest, max(1, int(share * len(rest))), replace=False))
    budget = int(chance.integers(1, len(rows) + 1))
    problem = a_problem(pool, budget, start=start, rows=rows, seed=SEED)
    with pytest.MonkeyPatch.context() as patch:
        if narrow:
            patch.setattr(traversal, "FRONTIER", 4)
            patch.setattr(traversal, "MOST", 16)
            patch.setattr(nearest_centres, "BLOCK", 5)
            patch.setattr(nearest_centres, "CENTRES", 3)
            patch.setattr(traversal, "AHEAD", 7)
            patch.setattr(nearest_centres, "PAIRS", 30)
            patch.setattr(nearest_centres, "NEAR", 1)
            patch.setattr(coverage, "PAIRS", 3)
        found = KCenter().select(problem)
    agree(found, twin(problem))


@pytest.mark.parametrize("starts", [0, 300])
@pytest.mark.parametrize("kind", ["random", "copies", "clustered", "lattice", "almost"])
def test_many_frontiers_and_blocks(tmp_path: Path, kind: str, starts: int) -> None:
    pool = make_pool(tmp_path, drawn(kind, 6_000, 6, 3), metric="l2")
    problem = a_problem(pool, 250, start=np.arange(starts))
    agree(KCenter().select(problem), twin(problem))


@pytest.mark.parametrize("kind", ["random", "copies", "lattice", "alike"])
def test_a_smaller_core_set_is_the_beginning_of_a_larger(tmp_path: Path, kind: str) -> None:
    pool = make_pool(tmp_path, drawn(kind, 400, 5, 4), metric="l2")
    whole = KCenter().select(a_problem(pool, 400))
    assert sorted(whole.positions.tolist()) == list(range(400))
    assert whole.covering_radius == 0
    assert (np.diff(whole.scores) <= 0).all()
    for budget in (1, 2, 77, 399):
        some = KCenter().select(a_problem(pool, budget))
        assert some.positions.tolist() == whole.positions[:budget].tolist()
        assert some.scores.tolist() == whole.scores[:budget].tolist()
        assert some.covering_radius == whole.scores[budget]
        assert some.weights is not None
        assert some.weights.sum() == 400


def test_other_row_numbers_change_nothing_else(tmp_path: Path) -> None:
    """Without equal distances: the rows decide ties, and the seed's first item."""
    X = drawn("random", 500, 8, 5)
    order = np.random.default_rng(6).permutation(500)
    place_of = np.argsort(order)
    one = make_pool(tmp_path / "one", X, metric="l2")
    other = make_pool(tmp_path / "other", X[order], metric="l2")
    start = np.array([3, 50, 401])
    first = a_problem(one, 100, start=start)
    second = a_problem(other, 100, start=np.sort(place_of[start]))
    found, moved = KCenter().select(first), KCenter().select(second)
    rows = second.items.rows[moved.positions]
    assert order[rows].tolist() == first.items.rows[found.positions].tolist()
    agree(replace(moved, positions=found.positions), found)


@pytest.mark.parametrize("seed", range(6))
def test_the_radius_is_at_most_twice_the_best(tmp_path: Path, seed: int) -> None:
    """The best of all choices of as many centres beside the same start (Gonzalez, 1985)."""
    X = drawn("random", 14, 2, seed)
    pool = make_pool(tmp_path, X, metric="l2")
    for start in ([0], [2, 9]):
        problem = a_problem(pool, 3, start=start)
        found = KCenter().select(problem)
        best = min(
            max(min(math.dist(x, X[c]) for c in [*start, *chosen]) for x in X)
            for chosen in itertools.combinations(problem.items.rows.tolist(), 3)
        )
        assert found.covering_radius is not None
        assert found.covering_radius <= 2 * best * (1 + 1e-6)


def test_progress_rises_and_so_does_the_objective(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, drawn("clustered", 3_000, 8, 1))
    told: list[tuple[str, float, float | None]] = []
    found = KCenter().select(a_problem(pool, 200, report=lambda *news: told.append(news)))
    phases = [phase for phase, _, _ in told]
    assert phases == sorted(phases)
    assert set(phases) == {"select", "weigh"}
    for phase in set(phases):
        shares = [share for name, share, _ in told if name == phase]
        assert shares == sorted(shares)
        assert 0 <= shares[0] <= shares[-1] == 1
    objectives = [objective for _, _, objective in told if objective is not None]
    assert objectives == sorted(objectives)
    assert objectives[-1] == found.objective


@pytest.mark.parametrize("starts", [0, 1_500])
def test_a_stop_ends_it_soon(tmp_path: Path, starts: int) -> None:
    """Asked again and again, in every phase, and never more than a few times once it is true."""
    pool = make_pool(tmp_path, drawn("random", 4_000, 8, 2))
    asked = 0
    last = math.inf

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > last

    def problem() -> Problem:
        return a_problem(pool, 300, start=np.arange(starts), stop=stop)

    KCenter().select(problem())
    whole = asked
    assert whole > 300
    for last in np.linspace(0, whole - 20, 6).astype(int).tolist():
        asked = 0
        with pytest.raises(Cancelled):
            KCenter().select(problem())
        assert asked <= last + 16  # what other threads had begun


def test_memory_is_linear(tmp_path: Path) -> None:
    """Neither items x budget nor items x start rows: 320 MB here, and 64 MB."""
    pool = make_pool(tmp_path, drawn("random", 40_000, 16, 1))
    pool.fetch(np.arange(40_000))
    tracemalloc.start()
    KCenter().select(a_problem(pool, 1_000, start=np.arange(400)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6
