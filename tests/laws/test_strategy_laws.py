"""Laws of every strategy: the canonical top, its slow twin, its error bound, its invariances."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.pools import make_pool

from coresift.server.head import Head, Task
from coresift.server.pool.pool import Pool
from coresift.server.selection.priority import priorities
from coresift.server.selection.shortlist import (
    PIECE,
    Scored,
    canonical,
    fast_weights,
    logit_error,
    predicted_classes,
    top,
)
from coresift.server.selection.strategies import ONLY_BINARY, STRATEGIES, Strategy

N, D, SEED = 700, 12, 11
CASES = [
    (name, task)
    for name in STRATEGIES
    for task in Task
    if name not in ONLY_BINARY or task is Task.BINARY
]
Rows = npt.NDArray[np.int32]


@pytest.fixture(scope="module", params=["float32", "float16", "ip"])
def pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """A flat pool in which a seventh of the rows are copies of others."""
    chance = np.random.default_rng(3)
    X = chance.standard_normal((N, D)).astype(np.float32)
    X[600:] = X[chance.integers(0, 600, 100)]
    metric = "ip" if request.param == "ip" else "cosine"
    dtype = np.float16 if request.param == "float16" else np.float32
    return make_pool(tmp_path_factory.mktemp("pool"), X.astype(dtype), metric=metric)


@pytest.fixture(scope="module")
def large_pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """A pool of several pieces."""
    X = np.random.default_rng(4).standard_normal((50_000, D)).astype(np.float32)
    return make_pool(tmp_path_factory.mktemp("large"), X)


def a_head(task: Task, seed: int = 0, scale: float = 3.0) -> Head:
    """Random weights; multiclass with a class never seen, multilabel with constant columns."""
    chance = np.random.default_rng(seed)
    count = 1 if task is Task.BINARY else 5
    weights, bias = scale * chance.standard_normal((count, D)), chance.standard_normal(count)
    fitted = np.ones(count, np.bool_)
    if task is not Task.BINARY:
        fitted[2], weights[2], bias[2] = False, 0, -np.inf
    if task is Task.MULTILABEL:
        fitted[4], weights[4], bias[4] = False, 0, np.inf
    return Head(task, weights, bias, fitted)


def twin_logits(head: Head, x: npt.NDArray[Any]) -> list[float]:
    columns = [k for k in range(len(head.bias)) if head.fitted[k]]
    return [
        math.fsum(float(w) * float(v) for w, v in zip(head.weights[k], x, strict=True))
        + float(head.bias[k])
        for k in columns
    ]


def twin_sides(logit: float) -> tuple[float, float]:
    """Probabilities of presence and absence, the larger first."""
    small = math.exp(-abs(logit)) / (1 + math.exp(-abs(logit)))
    return 1 - small, small


def twin_score(name: str, task: Task, row: int, logits: list[float]) -> float:
    """The documented score of one item, from the textbook formulas."""
    if name == "random":
        return float(priorities(SEED, "random", np.array([row], np.int32))[0])
    if name == "most_likely_positive":
        return logits[0]
    if task is Task.BINARY:
        return -abs(logits[0])
    if task is Task.MULTILABEL:
        sides = [twin_sides(logit) for logit in logits]
        each = {
            "max_entropy": [-sum(p * math.log(p) for p in pair if p) for pair in sides],
            "margin": [small - large for large, small in sides],
            "least_confidence": [small for _, small in sides],
        }
        return sum(each[name]) / len(sides)
    best = max(logits)
    total = math.fsum(math.exp(z - best) for z in logits)
    p = sorted((math.exp(z - best) / total for z in logits), reverse=True)
    if name == "max_entropy":
        return -math.fsum(q * math.log(q) for q in p if q)
    return p[1] - p[0] if name == "margin" else 1 - p[0]


def blocks_of(
    pool: Pool, head: Head | None, candidates: Rows, size: int
) -> Iterator[tuple[Rows, npt.NDArray[np.float32]]]:
    for start in range(0, len(candidates), size):
        rows = candidates[start : start + size]
        if head is None:
            yield rows, np.empty((len(rows), 0), np.float32)
        else:
            weights, bias = fast_weights(head)
            yield rows, pool.fetch(rows) @ weights + bias


def best(
    pool: Pool,
    strategy: Strategy,
    head: Head | None,
    candidates: Rows,
    depth: int,
    *,
    size: int = 256,
    excluded: Rows | None = None,
) -> Scored:
    none = np.empty(0, np.int32)
    used = none if excluded is None else excluded
    blocks = blocks_of(pool, head, candidates, size)
    return top(strategy, head, blocks, pool.fetch, used, depth, pool.max_norm)


def chosen_rows(candidates: str) -> Rows:
    everything = np.arange(N, dtype=np.int32)
    return everything if candidates == "all" else everything[::3]


@pytest.mark.parametrize("candidates", ["all", "some"])
@pytest.mark.parametrize(("name", "task"), CASES)
@pytest.mark.parametrize("scale", [3.0, 3e3])
def test_the_top_is_that_of_the_slow_twin(
    pool: Pool, name: str, task: Task, candidates: str, scale: float
) -> None:
    strategy, head = STRATEGIES[name](task, SEED), a_head(task, 1, scale)
    rows = chosen_rows(candidates)
    excluded = np.unique(np.random.default_rng(5).integers(0, N, 90)).astype(np.int32)
    free = np.setdiff1d(rows, excluded)
    X = pool.fetch(np.arange(N))
    logits = {row: twin_logits(head, X[row]) for row in free.tolist()}
    twin = {row: twin_score(name, task, row, logits[row]) for row in logits}
    tolerance = 1e-13 * (1 + max(abs(z) for some in logits.values() for z in some))
    for depth in (1, 40, N):
        found = best(pool, strategy, head, rows, depth, excluded=excluded)
        picked = found.rows.tolist()
        # Where the bound tells nothing apart, all come, scored; else as many as were asked for.
        assert len(picked) == (len(free) if found.complete else depth)
        assert len(set(picked)) == len(picked)
        assert set(picked) <= set(free.tolist())
        assert found.complete or depth < len(free)
        assert np.isfinite(found.scores).all()
        keys = [(-score, row) for score, row in zip(found.scores.tolist(), picked, strict=True)]
        assert keys == sorted(keys)
        np.testing.assert_allclose(found.scores, [twin[row] for row in picked], atol=tolerance)
        left = [twin[row] for row in set(twin) - set(picked)]
        assert max(left, default=-math.inf) <= found.scores[-1] + tolerance
        clear = sorted(twin, key=lambda row: (-twin[row], row))[: len(picked)]
        for mine, theirs in zip(picked, clear, strict=True):
            assert mine == theirs or abs(twin[mine] - twin[theirs]) <= 2 * tolerance


@pytest.mark.parametrize(("name", "task"), CASES)
def test_neither_blocks_nor_order_nor_depth_matter(pool: Pool, name: str, task: Task) -> None:
    strategy, head = STRATEGIES[name](task, SEED), a_head(task, 2)
    rows = chosen_rows("all")
    whole = canonical(strategy, head, rows, pool.fetch)
    shuffled = np.random.default_rng(1).permutation(rows)
    for candidates, size in ((rows, N), (rows, 7), (shuffled, 64), (rows[::-1].copy(), 1)):
        for depth in (1, 30, 300, 5 * N):
            found = best(pool, strategy, head, candidates, depth, size=size)
            count = N if found.complete else depth
            assert found.rows.tolist() == whole.rows[:count].tolist()
            assert found.scores.tobytes() == whole.scores[:count].tobytes()
            assert found.predicted.tolist() == whole.predicted[:count].tolist()


@pytest.mark.parametrize(("name", "task"), CASES)
def test_a_scan_of_the_pool_gives_the_same(pool: Pool, name: str, task: Task) -> None:
    strategy, head = STRATEGIES[name](task, SEED), a_head(task, 3, 30.0)
    weights, bias = fast_weights(head)
    scan = pool.scan(lambda block: (block.rows, block.product(weights) + bias))
    none = np.empty(0, np.int32)
    found = top(strategy, head, scan, pool.fetch, none, 50, pool.max_norm)
    whole = canonical(strategy, head, np.arange(N, dtype=np.int32), pool.fetch)
    assert found.rows[:50].tolist() == whole.rows[:50].tolist()


def test_many_candidates_are_trimmed_on_the_way(tmp_path: Any) -> None:
    """More candidates than are held at once, in which a hundred rows tie for each place."""
    chance = np.random.default_rng(8)
    X = chance.standard_normal((200, D)).astype(np.float32)[chance.integers(0, 200, 20_000)]
    pool = make_pool(tmp_path, X)
    rows = np.arange(len(X), dtype=np.int32)
    for name, task in CASES:
        strategy, head = STRATEGIES[name](task, SEED), a_head(task, 4)
        whole = canonical(strategy, head, rows, pool.fetch)
        found = best(pool, strategy, head, rows, 150, size=1_000)
        assert not found.complete
        assert found.rows.tolist() == whole.rows[:150].tolist()


def test_random_needs_no_head(pool: Pool) -> None:
    strategy = STRATEGIES["random"](Task.MULTICLASS, SEED)
    rows = chosen_rows("some")
    found = best(pool, strategy, None, rows, 20)
    order = sorted(rows.tolist(), key=lambda row: -twin_score("random", Task.BINARY, row, []))
    assert found.rows.tolist() == order[:20]
    assert (found.predicted == -1).all()


UNCERTAIN = ("max_entropy", "margin", "least_confidence")


def test_binary_uncertainty_is_one_order(pool: Pool) -> None:
    head, rows = a_head(Task.BINARY, 5), chosen_rows("all")
    orders = {
        best(pool, STRATEGIES[name](Task.BINARY, SEED), head, rows, N).rows.tobytes()
        for name in UNCERTAIN
    }
    assert len(orders) == 1
    probabilities = head.probabilities(head.logits(pool.fetch(rows)))[:, 0]
    first = np.frombuffer(orders.pop(), np.int32)
    assert (np.diff(np.abs(probabilities - 0.5)[first]) >= -1e-12).all()


def test_three_classes_tell_the_strategies_apart() -> None:
    p = np.array([[0.5, 0.5, 1e-9], [0.45, 0.275, 0.275], [0.49, 0.48, 0.03]])
    rows = np.arange(3, dtype=np.int32)
    first = {
        name: int(STRATEGIES[name](Task.MULTICLASS, 0).score(rows, np.log(p)).argmax())
        for name in UNCERTAIN
    }
    assert first == {"max_entropy": 1, "margin": 0, "least_confidence": 1}
    p[1] = [0.52, 0.24, 0.24]
    first["least_confidence"] = int(
        STRATEGIES["least_confidence"](Task.MULTICLASS, 0).score(rows, np.log(p)).argmax()
    )
    assert first["least_confidence"] == 2


@settings(max_examples=150, deadline=None)
@given(
    case=st.sampled_from(CASES),
    classes=st.integers(2, 40),
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([1e-3, 1.0, 10.0, 100.0]),
    noise=st.sampled_from([1e-6, 1e-3, 0.3]),
    shape=st.sampled_from(["random", "two leaders", "all alike", "one leads"]),
)
def test_a_score_moves_no_further_than_its_bound(
    case: tuple[str, Task], classes: int, seed: int, size: float, noise: float, shape: str
) -> None:
    name, task = case
    chance = np.random.default_rng(seed)
    width = 1 if task is Task.BINARY else classes
    logits = size * chance.standard_normal((60, width))
    if shape == "all alike":
        logits[:] = chance.standard_normal((60, 1))
    elif shape != "random":
        logits[:, : 2 if shape == "two leaders" else 1] += np.log(classes)
    rows = np.arange(60, dtype=np.int32)
    strategy = STRATEGIES[name](task, SEED)
    exact = strategy.score(rows, logits)
    bound = strategy.error(noise, width)
    for push in (
        noise * chance.choice([-1.0, 1.0], logits.shape),
        noise * chance.uniform(-1, 1, logits.shape),
        noise * np.sign(logits - logits.max(axis=1, keepdims=True) + 1e-300),
    ):
        moved = strategy.score(rows, logits + push)
        assert np.abs(moved - exact).max() <= bound * (1 + 1e-9) + 1e-12 * (1 + size)


@settings(max_examples=60, deadline=None)
@given(
    case=st.sampled_from([case for case in CASES if case[0] != "random"]),
    seed=st.integers(0, 2**32 - 1),
    dimension=st.integers(1, 300),
    scale=st.sampled_from([1e-2, 1.0, 100.0, 1e4]),
    adverse=st.booleans(),
)
def test_float32_scores_keep_the_bound_of_the_shortlist(
    case: tuple[str, Task], seed: int, dimension: int, scale: float, adverse: bool
) -> None:
    """Also where large terms cancel, which is where float32 is worst."""
    name, task = case
    chance = np.random.default_rng(seed)
    width = 1 if task is Task.BINARY else 4
    X = chance.standard_normal((80, dimension))
    weights = scale * chance.standard_normal((width, dimension))
    if adverse and dimension > 1:
        X[:, 1::2] = X[:, : dimension - dimension // 2 : 1][:, : X[:, 1::2].shape[1]]
        weights[:, 1::2] = -weights[:, : X[:, 1::2].shape[1]]
    X = X.astype(np.float32)
    head = Head(task, weights, scale * chance.standard_normal(width), np.ones(width, np.bool_))
    strategy, rows = STRATEGIES[name](task, SEED), np.arange(80, dtype=np.int32)
    matrix, bias = fast_weights(head)
    fast = strategy.score(rows, X @ matrix + bias)
    exact = strategy.score(rows, head.logits(X))
    worst = logit_error(head, float(np.linalg.norm(X.astype(np.float64), axis=1).max()))
    assert np.abs((X @ matrix + bias) - head.logits(X)).max() <= worst
    own = 64 * np.finfo(np.float32).eps * (1 + np.log(1 + width))
    assert np.abs(fast.astype(np.float64) - exact).max() <= strategy.error(worst, width) + own


def test_predicted_classes_are_the_most_probable(pool: Pool) -> None:
    X = pool.fetch(np.arange(50))
    for task in Task:
        head = a_head(task, 6)
        logits = head.logits(X)
        expected = head.probabilities(logits)
        found = predicted_classes(head, logits)
        if task is Task.BINARY:
            assert found.tolist() == (expected[:, 0] > 0.5).astype(int).tolist()
        else:
            fitted = np.where(head.fitted, expected, -1.0)
            assert found.tolist() == fitted.argmax(axis=1).tolist()


@pytest.mark.parametrize(("name", "task"), [case for case in CASES if case[0] != "random"])
def test_a_saturated_head_is_judged_piece_by_piece(large_pool: Pool, name: str, task: Task) -> None:
    """The error bound then tells nothing apart: much of the pool is scored again in float64."""
    pool, strategy, head = large_pool, STRATEGIES[name](task, SEED), a_head(task, 7, 1e5)
    rows = np.arange(pool.manifest.items, dtype=np.int32)
    sizes: list[int] = []

    def fetch(some: Rows) -> npt.NDArray[np.float32]:
        sizes.append(len(some))
        return pool.fetch(some)

    none = np.empty(0, np.int32)
    blocks = list(blocks_of(pool, head, rows, 8_192))
    tracemalloc.start()
    try:
        found = top(strategy, head, blocks, fetch, none, 300, pool.max_norm)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    whole = canonical(strategy, head, rows, pool.fetch)
    count = len(found.rows)
    assert found.rows.tolist() == whole.rows[:count].tolist()
    assert found.scores.tobytes() == whole.scores[:count].tobytes()
    assert found.predicted.tolist() == whole.predicted[:count].tolist()
    assert max(sizes) <= PIECE
    # Of a piece: vectors, and five numbers of 8 bytes for each column; of the pool: a few columns.
    assert peak < PIECE * (4 * D + 40 * len(head.bias)) + 40 * len(rows)
