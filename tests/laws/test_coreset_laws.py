"""Laws of every core-set method, and the slow obvious twins."""

from __future__ import annotations

import math
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.pools import make_pool

from coresift.server.coreset import k_center
from coresift.server.coreset.methods import METHODS
from coresift.server.coreset.selection import Request, Selection
from coresift.server.head import Head, Task
from coresift.server.pool.failures import Cancelled
from coresift.server.pool.pool import Pool
from coresift.server.selection.priority import priorities

Rows = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


def a_head(dimension: int, task: Task = Task.MULTICLASS, seed: int = 0) -> Head:
    chance = np.random.default_rng(seed)
    count = 1 if task is Task.BINARY else 4
    weights = 5 * chance.standard_normal((count, dimension))
    return Head(task, weights, chance.standard_normal(count), np.ones(count, np.bool_))


def a_request(
    budget: int, *, seed: int = 7, start: Any = (), head: Head | None = None, **hooks: Any
) -> Request:
    hooks = {"progress": lambda share: None, "stop": lambda: False} | hooks
    return Request(budget, seed, head, np.array(start, np.int32), **hooks)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """A pool with a tenth of its rows copied."""
    chance = np.random.default_rng(1)
    X = chance.standard_normal((3_000, 16)).astype(np.float32)
    X[2_700:] = X[chance.integers(0, 2_700, 300)]
    return make_pool(tmp_path_factory.mktemp("pool"), X)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("budget", [1, 37, 2_999, 3_000])
def test_a_selection_is_whole_distinct_and_repeatable(pool: Pool, name: str, budget: int) -> None:
    shares: list[float] = []
    head = a_head(16)
    found = METHODS[name].select(pool, a_request(budget, head=head, progress=shares.append))
    assert found.rows.dtype == np.int32
    assert len(found.rows) == len(np.unique(found.rows)) == budget
    assert found.scores.shape == (budget,)
    assert shares == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)
    again = METHODS[name].select(pool, a_request(budget, head=head))
    assert found.rows.tobytes() == again.rows.tobytes()
    assert found.scores.tobytes() == again.scores.tobytes()
    assert found.covering_radius == again.covering_radius
    if found.weights is not None:
        assert again.weights is not None
        assert found.weights.tobytes() == again.weights.tobytes()


@pytest.mark.parametrize("name", METHODS)
def test_a_smaller_budget_selects_the_first_of_a_larger(pool: Pool, name: str) -> None:
    small, large = (
        METHODS[name].select(pool, a_request(budget, head=a_head(16))) for budget in (40, 400)
    )
    assert small.rows.tolist() == large.rows[:40].tolist()
    assert small.scores.tolist() == large.scores[:40].tolist()


@pytest.mark.parametrize("name", ["k_center", "max_entropy"])
@pytest.mark.parametrize("checks", [1, 2, 3])
def test_a_stopped_selection_ends_cancelled(pool: Pool, name: str, checks: int) -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked >= checks

    request = a_request(600, head=a_head(16), stop=stop)
    if name == "max_entropy" and checks > 1:
        METHODS[name].select(pool, request)  # one block: it was asked once only
        return
    with pytest.raises(Cancelled):
        METHODS[name].select(pool, request)


def test_random_is_the_hash_order_and_extends(pool: Pool) -> None:
    found = METHODS["random"].select(pool, a_request(500, seed=12))
    rows = np.arange(3_000, dtype=np.int32)
    priority = priorities(12, "coreset", rows)
    assert found.rows.tolist() == sorted(rows.tolist(), key=lambda r: (-priority[r], r))[:500]
    assert found.scores.tolist() == priority[found.rows].tolist()
    assert found.weights is None
    other = METHODS["random"].select(pool, a_request(500, seed=13))
    assert 40 < len(np.intersect1d(found.rows, other.rows)) < 130


@pytest.mark.parametrize("task", list(Task))
def test_max_entropy_is_its_twin(pool: Pool, task: Task) -> None:
    head = a_head(16, task, seed=4)
    found = METHODS["max_entropy"].select(pool, a_request(200, head=head))
    twin = []
    for x in pool.fetch(np.arange(3_000)).astype(np.float64):
        logits = [math.fsum(w * x) + b for w, b in zip(head.weights, head.bias, strict=True)]
        if task is Task.MULTICLASS:
            total = math.fsum(math.exp(z) for z in logits)
            groups = [[math.exp(z) / total for z in logits]]
        else:
            groups = [[1 / (1 + math.exp(z)), 1 / (1 + math.exp(-z))] for z in logits]
        entropies = [-math.fsum(p * math.log(p) for p in group) for group in groups]
        twin.append(sum(entropies) / len(entropies))
    expected = sorted(range(3_000), key=lambda row: (-round(twin[row], 11), row))[:200]
    assert found.rows.tolist() == expected
    np.testing.assert_allclose(found.scores, [twin[row] for row in expected], atol=1e-12)


def slow_k_center(X: Floats, first: list[int], budget: int, given: bool) -> tuple[Any, ...]:
    """The definition: all distances of every centre, one centre at a time."""
    centres, rows, scores = list(first), [], []
    distances = [np.sqrt(((X - X[c]) ** 2).sum(axis=1)) for c in centres]
    to_nearest = np.min(distances, axis=0)
    if not given:
        rows, scores = list(first), [math.inf]
    while len(rows) < budget:
        open_ones = to_nearest.copy()
        open_ones[centres] = -1
        farthest = int(open_ones.argmax())
        rows.append(farthest)
        scores.append(float(open_ones[farthest]))
        centres.append(farthest)
        distances.append(np.sqrt(((X - X[farthest]) ** 2).sum(axis=1)))
        to_nearest = np.minimum(to_nearest, distances[-1])
    return rows, scores, np.array(distances)


@st.composite
def inputs(draw: st.DrawFn) -> np.ndarray:
    """Few distinct values, repeated rows, and offsets that dwarf the distances."""
    n, d = draw(st.integers(1, 50)), draw(st.integers(1, 7))
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([1, 2, 4, 1_000]))
    X = chance.integers(1, levels + 1, (n, d)) / levels * chance.choice([-1, 1], (n, d))
    if draw(st.booleans()):
        X = X[chance.integers(0, n, n)]
    return (X + draw(st.sampled_from([0.0, 0.0, 1_000.0]))).astype(
        draw(st.sampled_from([np.float16, np.float32]))
    )


@settings(max_examples=60, deadline=None)
@given(
    X=inputs(),
    metric=st.sampled_from(["cosine", "ip", "l2"]),
    frontier=st.sampled_from([1_024, 5]),
    ties=st.sampled_from([16_384, 3]),
    data=st.data(),
)
def test_k_center_is_its_definition(
    X: Any, metric: str, frontier: int, ties: int, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(k_center, "FRONTIER", frontier)
        patch.setattr(k_center, "TIES", ties)
        patch.setattr(k_center, "PRODUCT", 8 * frontier)
        pool = make_pool(Path(folder), X, metric=metric)
        n = len(X)
        given_rows = data.draw(st.lists(st.integers(0, n - 1), max_size=min(6, n - 1), unique=True))
        start = sorted(given_rows)
        budget = data.draw(st.integers(1, n - len(start)))
        seed = data.draw(st.integers(0, 100))
        found = METHODS["k_center"].select(pool, a_request(budget, seed=seed, start=start))
        check_k_center(pool, found, start, budget, seed)


def check_k_center(pool: Pool, found: Selection, start: list[int], budget: int, seed: int) -> None:
    n = pool.manifest.items
    X = pool.fetch(np.arange(n)).astype(np.float64)
    hashed = priorities(seed, "k_center", np.arange(n, dtype=np.int32))
    first = start or [int(hashed.argmax())]
    rows, scores, distances = slow_k_center(X, first, budget, bool(start))
    assert found.rows.tolist() == rows
    assert found.scores.tolist() == scores
    assert found.covering_radius == distances.min(axis=0).max()
    weights = np.bincount(distances.argmin(axis=0), minlength=len(distances))
    assert found.weights is not None
    assert found.weights.tolist() == weights[len(start) :].tolist()


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("given", [0, 30])
def test_k_center_of_a_pool_larger_than_its_frontier(
    tmp_path: Path, metric: str, given: int
) -> None:
    """Several frontiers deep, with many rows at equal distances."""
    chance = np.random.default_rng(2)
    X = chance.integers(-3, 4, (2_000, 3)).astype(np.float32) + np.float32(0.5)
    pool = make_pool(tmp_path, X, metric=metric)
    start = np.sort(chance.choice(2_000, given, replace=False)).tolist()
    found = METHODS["k_center"].select(pool, a_request(420, seed=3, start=start))
    check_k_center(pool, found, start, 420, 3)


def test_k_center_weights_are_the_items_nearest(pool: Pool) -> None:
    found = METHODS["k_center"].select(pool, a_request(50))
    assert found.weights is not None
    assert found.weights.sum() == 3_000
    assert found.covering_radius is not None
    assert 0 < found.covering_radius <= found.scores[1:].min()


def test_k_center_keeps_its_centres_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linear memory: no frontier outlives the centres that were taken from it."""
    X = np.random.default_rng(6).standard_normal((8_000, 64)).astype(np.float32)
    pool, budget = make_pool(tmp_path, X), 2_000
    monkeypatch.setattr(k_center, "PRODUCT", 2**16)  # products of blocks are no matter here
    tracemalloc.start()
    try:
        METHODS["k_center"].select(pool, a_request(budget))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    centres, vectors = 8 * 64 * budget, X.nbytes
    assert peak < 2 * centres + 4 * vectors
