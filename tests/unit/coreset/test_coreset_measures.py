"""Covering radius and similarity of a core-set, against one distance at a time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.coresets import a_problem, rows_of
from tests.fixtures.pools import make_pool

from coresift.server.coreset import measures
from coresift.server.coreset.measures import measure
from coresift.server.coreset.problem import Problem
from coresift.server.pool.failures import Cancelled
from coresift.server.selection.priority import priorities

N = 300


def cosine(x: Any, y: Any) -> float:
    lengths = math.sqrt(math.fsum(x * x) * math.fsum(y * y))
    return math.fsum(x * y) / lengths if lengths else 0.0


def slow_radius(problem: Problem, selected: Any) -> float:
    X = rows_of(problem.items.pool)
    centres = [*problem.items.rows[selected], *problem.start]
    return max(min(math.dist(X[row], X[c]) for c in centres) for row in problem.items.rows)


def slow_similarity(problem: Problem, selected: Any, rows: Any) -> float:
    X = rows_of(problem.items.pool)
    best = []
    for row in rows:
        others = [cosine(X[row], X[c]) for c in problem.items.rows[selected] if c != row]
        if others:
            best.append(max(others))
    return math.fsum(best) / len(best)


def vectors(kind: str) -> Any:
    X = np.random.default_rng(4).standard_normal((N, 5)) * 3
    match kind:
        case "copies":
            X[200:] = X[:100]
        case "far from the origin":
            X += 1_000
        case "with zeros":
            X[::7] = 0
    return X.astype(np.float32)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "TILE", 64)
    monkeypatch.setattr(measures, "REFINED", 8)


@pytest.mark.parametrize("start", [(), (3, 50, 51)])
@pytest.mark.parametrize(
    ("metric", "kind"),
    [
        ("cosine", "plain"),
        ("cosine", "copies"),
        ("l2", "plain"),
        ("l2", "far from the origin"),
        ("ip", "with zeros"),
    ],
)
def test_measures_are_their_definitions(
    tmp_path: Path, metric: str, kind: str, start: tuple[int, ...]
) -> None:
    pool = make_pool(tmp_path, vectors(kind), metric=metric)
    for count in (1, 2, 70, N - len(start)):
        problem = a_problem(pool, count, start=start)
        selected = np.random.default_rng(count).permutation(len(problem.items))[:count]
        found = measure(problem, selected)
        assert found.items == len(problem.items)
        assert found.covering_radius == pytest.approx(slow_radius(problem, selected), abs=1e-9)
        similarity = slow_similarity(problem, selected, problem.items.rows)
        assert found.mean_max_similarity == pytest.approx(similarity, abs=1e-6)


def test_an_item_selected_alone_has_no_other(tmp_path: Path) -> None:
    X = np.array([[1, 0], [1, 1], [0, 1]], np.float32)
    pool = make_pool(tmp_path, X)
    found = measure(a_problem(pool, 1), np.array([0]))
    assert found.mean_max_similarity == pytest.approx(math.sqrt(0.5) / 2)
    assert found.covering_radius == pytest.approx(math.sqrt(2))
    alone = measure(a_problem(pool, 1, rows=[2]), np.array([0]))
    assert alone.mean_max_similarity is None
    assert alone.covering_radius == 0


def test_where_all_would_take_too_long_a_random_sample_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(tmp_path, vectors("plain"))
    problem = a_problem(pool, 40, seed=3)
    selected = np.arange(0, 200, 5)
    monkeypatch.setattr(measures, "WORK", 90.5 * 40 * (2 * 5 + measures.UNIT_PAIR_WORK))
    found = measure(problem, selected)
    assert found.items == 90
    assert found.covering_radius is None
    keys = priorities(3, "measure", problem.items.rows)
    rows = np.argsort(-keys)[:90]
    similarity = slow_similarity(problem, selected, rows)
    assert found.mean_max_similarity == pytest.approx(similarity, abs=1e-6)
    monkeypatch.setattr(measures, "WORK", 1.0)
    assert measure(problem, selected).items == 1


def test_it_reports_and_can_be_cancelled(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, vectors("plain"))
    told: list[tuple[str, float]] = []
    problem = a_problem(pool, 9, report=lambda phase, share, _: told.append((phase, share)))
    measure(problem, np.arange(9))
    shares = [share for phase, share in told if phase == "measure"]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    with pytest.raises(Cancelled):
        measure(a_problem(pool, 9, stop=lambda: True), np.arange(9))
