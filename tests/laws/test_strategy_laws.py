"""Laws of every scorer: the canonical top, its slow twin, its error bound, its invariances."""

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
from tests.fixtures.scorer_laws import check_slopes

from coresift.server.head import Head, HeadConfig, Task
from coresift.server.pool.pool import Pool
from coresift.server.selection.circular_scan import show_pool
from coresift.server.selection.leaders import PIECE, Leaders, show
from coresift.server.selection.plain import Signal, signal_key
from coresift.server.selection.priority import priorities
from coresift.server.selection.registry import STRATEGIES, Choice, strategy_of
from coresift.server.selection.scoring import (
    Columns,
    Scored,
    canonical,
    canonical_part,
    logit_error,
    predicted_classes,
    score_error,
)
from coresift.server.selection.strategy import (
    Differentiable,
    Errors,
    Part,
    Ranker,
    Scorer,
    Setting,
    Situation,
)
from coresift.server.selection.uncertainty import LogitScorer

N, D, SEED, LABELLED = 700, 12, 11, 60
PART = 8_192
Rows = npt.NDArray[np.int32]
Case = tuple[Choice, Task]

UNCERTAIN = ("max_entropy", "margin", "least_confidence")
OVER_MAX = [Choice(name, (("over", "max"),)) for name in UNCERTAIN]
LOSS = ("name", "loss")
PLAIN = [
    Choice("random"),
    *map(Choice, UNCERTAIN),
    *OVER_MAX,
    Choice("most_likely_positive"),
    Choice("signal", (LOSS,)),
    Choice("signal", (LOSS, ("order", "smallest"))),
]
"""Those with a twin here; the others have theirs in files of their own."""
OTHERS = [
    Choice("information_density"),
    Choice("information_density", (("beta", 3.0),)),
    Choice("bald", (("samples", 8.0),)),
    Choice("epig", (("samples", 8.0), ("targets", 16.0))),
    Choice("direct"),
]
RANKERS = {"ens", "typiclust", "probcover", "k_center"}
"""These order candidates by what was chosen before: their laws are in files of their own."""


def cases_of(choices: list[Choice]) -> list[Case]:
    return [
        (choice, task)
        for choice in choices
        for task in Task
        if task in STRATEGIES[choice.name].tasks
        and (choice not in OVER_MAX or task is Task.MULTILABEL)
    ]


TWINS, CASES = cases_of(PLAIN), cases_of([*PLAIN, *OTHERS])
OF_LOGITS = [case for case in TWINS if case[0].name not in {"random", "signal"}]
OF_HEADS = [case for case in CASES if case[0].name not in {"random", "signal"}]


def said(value: object) -> str | None:
    """Ids of tests."""
    if isinstance(value, Choice):
        return "-".join([value.name, *(f"{name}={given}" for name, given in value.params)])
    return value.name.lower() if isinstance(value, Task) else None


of_case = pytest.mark.parametrize(("choice", "task"), CASES, ids=said)


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
def unit_pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """A pool that every strategy takes: unit rows, neighbours known."""
    X = np.random.default_rng(3).standard_normal((200, D)).astype(np.float32)
    return make_pool(tmp_path_factory.mktemp("unit"), X, neighbours=60)


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


def losses(items: int) -> npt.NDArray[np.float32]:
    """An uploaded column in which numbers repeat."""
    return np.random.default_rng(9).integers(-50, 50, items).astype(np.float32) / 7


def situation_of(pool: Pool, head: Head) -> Situation:
    """Labels of the first rows; nothing names what the head has never seen."""
    chance, columns = np.random.default_rng(1), len(head.bias)
    if head.task is Task.MULTICLASS:
        targets = np.eye(columns)[chance.choice(np.flatnonzero(head.fitted), LABELLED)]
        opposed = np.zeros_like(targets)
    else:
        targets = chance.integers(0, 2, (LABELLED, columns)).astype(np.float64)
        targets[:, ~head.fitted] = np.isposinf(head.bias[~head.fitted])
        opposed = 1 - targets
    rows = np.arange(LABELLED, dtype=np.int32)
    signals = {signal_key(Signal("loss")): losses(pool.manifest.items)}
    return Situation(
        pool=pool,
        task=head.task,
        seed=SEED,
        revision=1,
        head=head,
        head_config=HeadConfig(),
        labelled=rows,
        learned=lambda: (rows, targets, opposed),
        signals=signals,
    )


def scorer_of(pool: Pool, choice: Choice, head: Head) -> Scorer:
    strategy = strategy_of(choice)
    classes = int(head.fitted.sum())
    if (objection := strategy.objection(Setting(head.task, classes, pool))) is not None:
        pytest.skip(objection)
    prepared = strategy.prepare(situation_of(pool, head))
    assert not isinstance(prepared, Ranker)
    return prepared


def part_of(logits: npt.NDArray[Any]) -> Part:
    """Logits without rows behind them."""
    return Part(np.arange(len(logits), dtype=np.int32), logits, np.empty((len(logits), 0)))


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


def twin_score(choice: Choice, task: Task, row: int, logits: list[float]) -> float:
    """The documented score of one item, from the textbook formulas."""
    name, params = choice.name, dict(choice.params)
    if name == "random":
        return float(priorities(SEED, "random", np.array([row], np.int32))[0])
    if name == "signal":
        return float(losses(N)[row]) * (-1 if params.get("order") == "smallest" else 1)
    if task is Task.BINARY:
        return logits[0] if name == "most_likely_positive" else -abs(logits[0])
    if task is Task.MULTILABEL:
        sides = [twin_sides(logit) for logit in logits]
        each = {
            "max_entropy": [-sum(p * math.log(p) for p in pair if p) for pair in sides],
            "margin": [small - large for large, small in sides],
            "least_confidence": [small for _, small in sides],
        }
        return max(each[name]) if params else sum(each[name]) / len(sides)
    best = max(logits)
    total = math.fsum(math.exp(z - best) for z in logits)
    p = sorted((math.exp(z - best) / total for z in logits), reverse=True)
    if name == "max_entropy":
        return -math.fsum(q * math.log(q) for q in p if q)
    return p[1] - p[0] if name == "margin" else 1 - p[0]


def parts_of(
    pool: Pool, scorer: Scorer, head: Head | None, candidates: Rows, size: int
) -> Iterator[Part]:
    columns = Columns.of(scorer, head)
    for start in range(0, len(candidates), size):
        rows = candidates[start : start + size]
        yield columns.part(rows, pool.fetch(rows).__matmul__)


def best(
    pool: Pool,
    scorer: Scorer,
    head: Head | None,
    candidates: Rows,
    depth: int,
    *,
    size: int = 256,
    blocked: Rows | None = None,
) -> Scored:
    refused = np.zeros(pool.manifest.items, np.bool_)
    if blocked is not None:
        refused[blocked] = True
    leaders = Leaders(scorer, head, refused, depth, pool.max_norm)
    show(leaders, parts_of(pool, scorer, head, candidates, size))
    return leaders.best(pool.fetch)


def chosen_rows(candidates: str) -> Rows:
    everything = np.arange(N, dtype=np.int32)
    return everything if candidates == "all" else everything[::3]


def test_every_strategy_is_tried_here_or_orders_for_itself(unit_pool: Pool) -> None:
    assert {choice.name for choice in [*PLAIN, *OTHERS]} | RANKERS == set(STRATEGIES)
    for name in RANKERS:
        situation = situation_of(unit_pool, a_head(Task.BINARY))
        assert isinstance(strategy_of(Choice(name)).prepare(situation), Ranker)


@pytest.mark.parametrize("candidates", ["all", "some"])
@pytest.mark.parametrize(("choice", "task"), TWINS, ids=said)
@pytest.mark.parametrize("scale", [3.0, 3e3])
def test_the_top_is_that_of_the_slow_twin(
    pool: Pool, choice: Choice, task: Task, candidates: str, scale: float
) -> None:
    head = a_head(task, 1, scale)
    scorer, rows = scorer_of(pool, choice, head), chosen_rows(candidates)
    blocked = np.unique(np.random.default_rng(5).integers(0, N, 90)).astype(np.int32)
    free = np.setdiff1d(rows, blocked)
    X = pool.fetch(np.arange(N))
    logits = {row: twin_logits(head, X[row]) for row in free.tolist()}
    twin = {row: twin_score(choice, task, row, logits[row]) for row in logits}
    tolerance = 1e-13 * (1 + max(abs(z) for some in logits.values() for z in some))
    for depth in (1, 40, N):
        found = best(pool, scorer, head, rows, depth, blocked=blocked)
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


@of_case
def test_neither_blocks_nor_order_nor_depth_matter(pool: Pool, choice: Choice, task: Task) -> None:
    head = a_head(task, 2)
    scorer, rows = scorer_of(pool, choice, head), chosen_rows("all")
    whole = canonical(scorer, head, rows, pool.fetch)
    shuffled = np.random.default_rng(1).permutation(rows)
    for candidates, size in ((rows, N), (rows, 7), (shuffled, 64), (rows[::-1].copy(), 1)):
        for depth in (1, 30, 300, 5 * N):
            found = best(pool, scorer, head, candidates, depth, size=size)
            count = N if found.complete else depth
            assert found.rows.tolist() == whole.rows[:count].tolist()
            assert found.scores.tobytes() == whole.scores[:count].tobytes()
            assert found.predicted.tolist() == whole.predicted[:count].tolist()


@of_case
def test_what_is_blocked_is_never_chosen(pool: Pool, choice: Choice, task: Task) -> None:
    """Not even where all that is best is blocked; and nothing else is left out."""
    head = a_head(task, 2)
    scorer, rows = scorer_of(pool, choice, head), chosen_rows("all")
    whole = canonical(scorer, head, rows, pool.fetch).rows
    for blocked in (whole[:200], whole[::2], whole[:-1], whole):
        free = [row for row in whole.tolist() if row not in set(blocked.tolist())]
        for depth in (1, 50, N):
            found = best(pool, scorer, head, rows, depth, blocked=blocked)
            count = len(free) if found.complete else depth
            assert found.rows.tolist() == free[:count]
            assert not found.complete or count == len(free)


@of_case
def test_a_scan_of_the_pool_gives_the_same(pool: Pool, choice: Choice, task: Task) -> None:
    head = a_head(task, 3, 30.0)
    scorer = scorer_of(pool, choice, head)
    leaders = Leaders(scorer, head, np.zeros(N, np.bool_), 50, pool.max_norm)
    show_pool(pool, [leaders])
    found = leaders.best(pool.fetch)
    whole = canonical(scorer, head, np.arange(N, dtype=np.int32), pool.fetch)
    assert found.rows[:50].tolist() == whole.rows[:50].tolist()


def test_many_candidates_are_trimmed_on_the_way(tmp_path: Any) -> None:
    """More candidates than are held at once, in which a hundred rows tie for each place."""
    chance = np.random.default_rng(8)
    X = chance.standard_normal((200, D)).astype(np.float32)[chance.integers(0, 200, 20_000)]
    pool = make_pool(tmp_path, X)
    rows = np.arange(len(X), dtype=np.int32)
    for choice, task in CASES:
        head = a_head(task, 4)
        scorer = scorer_of(pool, choice, head)
        whole = canonical(scorer, head, rows, pool.fetch)
        found = best(pool, scorer, head, rows, 150, size=1_000)
        assert not found.complete
        assert found.rows.tolist() == whole.rows[:150].tolist()


def test_random_needs_no_head(pool: Pool) -> None:
    scorer = scorer_of(pool, Choice("random"), a_head(Task.MULTICLASS))
    rows = chosen_rows("some")
    found = best(pool, scorer, None, rows, 20)
    order = sorted(rows.tolist(), key=lambda row: -twin_score(PLAIN[0], Task.BINARY, row, []))
    assert found.rows.tolist() == order[:20]
    assert (found.predicted == -1).all()


@pytest.mark.parametrize("order", ["largest", "smallest"])
def test_a_signal_needs_no_head(pool: Pool, order: str) -> None:
    choice = Choice("signal", (LOSS, ("order", order)))
    scorer, rows = scorer_of(pool, choice, a_head(Task.MULTICLASS)), chosen_rows("some")
    found = best(pool, scorer, None, rows, 40)
    sign = 1 if order == "largest" else -1
    expected = sorted(rows.tolist(), key=lambda row: (-sign * losses(N)[row], row))
    assert found.rows[:40].tolist() == expected[:40]
    assert (found.predicted == -1).all()


def test_what_does_not_read_the_vector_has_no_slopes(unit_pool: Pool) -> None:
    for choice in (Choice("random"), Choice("signal", (LOSS,))):
        assert not isinstance(scorer_of(unit_pool, choice, a_head(Task.BINARY)), Differentiable)


def test_binary_uncertainty_is_one_order(pool: Pool) -> None:
    head, rows = a_head(Task.BINARY, 5), chosen_rows("all")
    orders = {
        best(pool, scorer_of(pool, Choice(name), head), head, rows, N).rows.tobytes()
        for name in UNCERTAIN
    }
    assert len(orders) == 1
    probabilities = head.probabilities(head.logits(pool.fetch(rows)))[:, 0]
    first = np.frombuffer(orders.pop(), np.int32)
    assert (np.diff(np.abs(probabilities - 0.5)[first]) >= -1e-12).all()


def test_three_classes_tell_the_strategies_apart(unit_pool: Pool) -> None:
    p = np.array([[0.5, 0.5, 1e-9], [0.45, 0.275, 0.275], [0.49, 0.48, 0.03]])
    head = Head(Task.MULTICLASS, np.zeros((3, D)), np.zeros(3), np.ones(3, np.bool_))
    scorers = {name: scorer_of(unit_pool, Choice(name), head) for name in UNCERTAIN}
    first = {name: int(each.score(part_of(np.log(p))).argmax()) for name, each in scorers.items()}
    assert first == {"max_entropy": 1, "margin": 0, "least_confidence": 1}
    p[1] = [0.52, 0.24, 0.24]
    assert int(scorers["least_confidence"].score(part_of(np.log(p))).argmax()) == 2


@settings(max_examples=150, deadline=None)
@given(
    case=st.sampled_from(OF_LOGITS),
    classes=st.integers(2, 40),
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([1e-3, 1.0, 10.0, 100.0]),
    noise=st.sampled_from([1e-6, 1e-3, 0.3]),
    shape=st.sampled_from(["random", "two leaders", "all alike", "one leads"]),
)
def test_a_score_moves_no_further_than_its_bound(
    unit_pool: Pool, case: Case, classes: int, seed: int, size: float, noise: float, shape: str
) -> None:
    choice, task = case
    chance = np.random.default_rng(seed)
    width = 1 if task is Task.BINARY else classes
    logits = size * chance.standard_normal((60, width))
    if shape == "all alike":
        logits[:] = chance.standard_normal((60, 1))
    elif shape != "random":
        logits[:, : 2 if shape == "two leaders" else 1] += np.log(classes)
    scorer = scorer_of(unit_pool, choice, a_head(task))
    exact = scorer.score(part_of(logits))
    bound = scorer.error(Errors(noise, 0.0, width))
    for push in (
        noise * chance.choice([-1.0, 1.0], logits.shape),
        noise * chance.uniform(-1, 1, logits.shape),
        noise * np.sign(logits - logits.max(axis=1, keepdims=True) + 1e-300),
    ):
        moved = scorer.score(part_of(logits + push))
        assert np.abs(moved - exact).max() <= bound * (1 + 1e-9) + 1e-12 * (1 + size)


@settings(max_examples=60, deadline=None)
@given(
    case=st.sampled_from(OF_LOGITS),
    seed=st.integers(0, 2**32 - 1),
    dimension=st.integers(1, 300),
    scale=st.sampled_from([1e-2, 1.0, 100.0, 1e4]),
    adverse=st.booleans(),
)
def test_float32_scores_keep_the_bound_of_the_shortlist(
    unit_pool: Pool, case: Case, seed: int, dimension: int, scale: float, adverse: bool
) -> None:
    """Also where large terms cancel, which is where float32 is worst."""
    choice, task = case
    chance = np.random.default_rng(seed)
    width = 1 if task is Task.BINARY else 4
    X = chance.standard_normal((80, dimension))
    weights = scale * chance.standard_normal((width, dimension))
    if adverse and dimension > 1:
        X[:, 1::2] = X[:, : dimension - dimension // 2 : 1][:, : X[:, 1::2].shape[1]]
        weights[:, 1::2] = -weights[:, : X[:, 1::2].shape[1]]
    X = X.astype(np.float32)
    head = Head(task, weights, scale * chance.standard_normal(width), np.ones(width, np.bool_))
    # What it makes of logits does not depend on the pool.
    scorer, rows = scorer_of(unit_pool, choice, a_head(task)), np.arange(80, dtype=np.int32)
    part = Columns.of(scorer, head).part(rows, X.__matmul__)
    assert part.logits.dtype == np.float32
    fast, exact = scorer.score(part), scorer.score(part_of(head.logits(X)))
    largest = float(np.linalg.norm(X.astype(np.float64), axis=1).max())
    worst = logit_error(head, largest)
    assert np.abs(part.logits - head.logits(X)).max() <= worst
    bound = score_error(scorer, head, largest)
    own = 64 * np.finfo(np.float32).eps * (1 + np.log(1 + width))
    assert bound <= scorer.error(Errors(worst, 0.0, width)) + own * (1 + 1e-9)
    assert np.abs(fast.astype(np.float64) - exact).max() <= bound


@pytest.mark.parametrize(("choice", "task"), OF_HEADS, ids=said)
@pytest.mark.parametrize("scale", [0.3, 1.0, 10.0])
def test_slopes_are_those_of_finite_differences(
    unit_pool: Pool, choice: Choice, task: Task, scale: float
) -> None:
    head = a_head(task, 6, scale)
    scorer, rows = scorer_of(unit_pool, choice, head), np.arange(200, dtype=np.int32)
    assert isinstance(scorer, Differentiable)
    part, _ = canonical_part(scorer, head, rows, unit_pool.fetch(rows))
    check_slopes(scorer, part, step=1e-6, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(("choice", "task"), OF_HEADS, ids=said)
@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_slopes_stay_finite(unit_pool: Pool, choice: Choice, task: Task, scale: float) -> None:
    """Of a head that knows nothing, and of one that doubts nothing."""
    head = a_head(task, 6, scale)
    scorer, rows = scorer_of(unit_pool, choice, head), np.arange(200, dtype=np.int32)
    assert isinstance(scorer, Differentiable)
    part, _ = canonical_part(scorer, head, rows, unit_pool.fetch(rows))
    assert np.isfinite(scorer.score(part)).all()
    slopes = scorer.slopes(part)
    assert np.isfinite(slopes.logits).all()
    assert np.isfinite(slopes.projected).all()


@settings(max_examples=60, deadline=None)
@given(case=st.sampled_from(OF_LOGITS), seed=st.integers(0, 2**32 - 1), width=st.integers(2, 12))
def test_slopes_of_any_logits(unit_pool: Pool, case: Case, seed: int, width: int) -> None:
    choice, task = case
    logits = np.random.default_rng(seed).standard_normal((20, 1 if task is Task.BINARY else width))
    scorer = scorer_of(unit_pool, choice, a_head(task))
    assert isinstance(scorer, LogitScorer)
    order = np.sort(np.abs(logits), axis=1)
    gaps = np.diff(np.sort(logits, axis=1), axis=1)
    # Near a kink a difference is of neither side.
    clear = (order[:, 0] > 1e-4) & (np.diff(order, axis=1) > 1e-4).all(axis=1)
    clear &= (gaps > 1e-4).all(axis=1)
    check_slopes(scorer, part_of(logits[clear]), rtol=1e-4, atol=1e-8)


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


@pytest.mark.parametrize(("choice", "task"), OF_HEADS, ids=said)
def test_a_saturated_head_is_judged_piece_by_piece(
    large_pool: Pool, choice: Choice, task: Task
) -> None:
    """The error bound then tells nothing apart: much of the pool is scored again in float64."""
    pool, head = large_pool, a_head(task, 7, 1e5)
    scorer = scorer_of(pool, choice, head)
    rows = np.arange(pool.manifest.items, dtype=np.int32)
    sizes: list[int] = []

    def fetch(some: Rows) -> npt.NDArray[np.float32]:
        sizes.append(len(some))
        return pool.fetch(some)

    none = np.zeros(len(rows), np.bool_)
    parts = list(parts_of(pool, scorer, head, rows, PART))
    tracemalloc.start()
    try:
        leaders = Leaders(scorer, head, none, 300, pool.max_norm)
        show(leaders, parts)
        found = leaders.best(fetch)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    whole = canonical(scorer, head, rows, pool.fetch)
    count = len(found.rows)
    assert found.rows.tolist() == whole.rows[:count].tolist()
    assert found.scores.tobytes() == whole.scores[:count].tobytes()
    assert found.predicted.tolist() == whole.predicted[:count].tolist()
    assert max(sizes) <= PIECE <= PART
    # Of a part: vectors, and five numbers of 8 bytes for each column; of the pool: a few columns.
    # What a score takes beside them (EPIG: its targets) is bounded whatever the pool.
    projected = 0 if scorer.projection is None else len(scorer.projection.offset)
    columns = len(head.bias) + projected
    beside = 4 << 20 if choice.name == "epig" else 0
    assert peak < PART * (4 * D + 40 * columns) + 40 * len(rows) + beside
