"""The score methods: slow float64 twins from the formulas, their sources, what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.coresets import a_head, a_problem, rows_of
from tests.fixtures.pools import make_pool

from coresift.server.coreset.items import Items
from coresift.server.coreset.methods import method_of
from coresift.server.coreset.problem import Needs, Problem, Rater, Setting, SignalColumns
from coresift.server.errors import CoresiftError, Reason
from coresift.server.head import Head, HeadConfig, Task, TrainingSet, fit
from coresift.server.pool.failures import Cancelled
from coresift.server.pool.pool import Pool

Floats = npt.NDArray[np.float64]

ORIENTATION = {
    "max_entropy": "harder",
    "margin": "easier",
    "least_confidence": "harder",
    "forgetting": "harder",
    "el2n": "harder",
    "grand": "harder",
    "aum": "easier",
}
DOUBTS = ("max_entropy", "margin", "least_confidence")
RECORDED = ("forgetting", "el2n", "aum", "entropy", "margin", "confidence")
ITEMS = 90


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Rows of many lengths."""
    X = np.random.default_rng(1).standard_normal((ITEMS, 6)).astype(np.float32)
    return make_pool(tmp_path_factory.mktemp("pool"), X, metric="ip")


@pytest.fixture(scope="module")
def unit_pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    X = np.random.default_rng(2).standard_normal((ITEMS, 6)).astype(np.float32)
    return make_pool(tmp_path_factory.mktemp("unit"), X)


def classes_of(count: int) -> npt.NDArray[np.int32]:
    return np.random.default_rng(3).integers(0, count, ITEMS).astype(np.int32)


def rater(name: str, **params: Any) -> Rater:
    method = method_of(name, tuple(params.items()))
    assert isinstance(method, Rater)
    return method


def rate(name: str, problem: Problem, **params: Any) -> Floats:
    scores = rater(name, **params).rate(problem)
    assert scores.dtype == np.float64
    assert scores.shape == (len(problem.items),)
    assert not np.isnan(scores).any()
    return scores


# --- twins --------------------------------------------------------------------------------------


def softmax(logits: Sequence[float]) -> list[float]:
    top = max(logits)
    weights = [math.exp(z - top) for z in logits]
    return [w / math.fsum(weights) for w in weights]


def entropy(p: Sequence[float]) -> float:
    return -math.fsum(q * math.log(q) for q in p if q > 0)


def gap(p: Sequence[float]) -> float:
    first, second = sorted(p, reverse=True)[:2]
    return first - second


TWINS: dict[str, Callable[[Sequence[float]], float]] = {
    "max_entropy": entropy,
    "margin": gap,
    "least_confidence": lambda p: 1 - max(p),
}


def error(p: Sequence[float], y: int) -> float:
    return math.sqrt(math.fsum((q - (c == y)) ** 2 for c, q in enumerate(p)))


def logits_of(head: Head, x: Floats) -> list[float]:
    return [math.fsum(w * x) + b for w, b in zip(head.weights, head.bias, strict=True)]


def groups(head: Head, x: Floats) -> list[list[float]]:
    """Class probabilities; of a multilabel head two sides of each column."""
    if head.task is Task.MULTICLASS:
        return [softmax(logits_of(head, x))]
    return [softmax([0.0, z]) for z in logits_of(head, x)]


@settings(max_examples=25, deadline=None)
@given(task=st.sampled_from(list(Task)), seed=st.integers(0, 1_000), scale=st.floats(0, 20))
@pytest.mark.parametrize("name", DOUBTS)
def test_doubt_of_a_head_is_its_formula(
    pool: Pool, name: str, task: Task, seed: int, scale: float
) -> None:
    head = a_head(6, task, seed)
    head = Head(task, scale * head.weights, head.bias, head.fitted)
    twin = [np.mean([TWINS[name](p) for p in groups(head, x)]) for x in rows_of(pool)]
    np.testing.assert_allclose(rate(name, a_problem(pool, 1, head=head)), twin, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    task=st.sampled_from([Task.BINARY, Task.MULTICLASS]),
    seed=st.integers(0, 1_000),
    scale=st.floats(0, 20),
)
def test_el2n_and_grand_of_a_head_are_their_formulas(
    pool: Pool, task: Task, seed: int, scale: float
) -> None:
    head = a_head(6, task, seed)
    head = Head(task, scale * head.weights, head.bias, head.fitted)
    classes = classes_of(2 if task is Task.BINARY else 4)
    problem = a_problem(pool, 1, head=head, classes=classes)
    twin = [
        error(groups(head, x)[0], y) for x, y in zip(rows_of(pool), classes.tolist(), strict=True)
    ]
    np.testing.assert_allclose(rate("el2n", problem, source="head"), twin, atol=1e-12)
    longer = [e * math.hypot(*x, 1) for e, x in zip(twin, rows_of(pool), strict=True)]
    np.testing.assert_allclose(rate("grand", problem), longer, rtol=1e-12, atol=1e-12)


def test_grand_is_the_length_of_the_gradient(pool: Pool) -> None:
    """Of -log p_y in every weight and bias, by differences."""
    head, classes = a_head(6), classes_of(4)
    scores = rate("grand", a_problem(pool, 1, head=head, classes=classes))
    step = 1e-6
    for position, x in list(enumerate(rows_of(pool)))[:8]:
        row, y = np.append(x, 1.0), int(classes[position])
        theta = np.column_stack([head.weights, head.bias])

        def loss(theta: Floats, row: Floats = row, y: int = y) -> float:
            return -math.log(softmax(list(theta @ row))[y])

        slopes = []
        for place in np.ndindex(theta.shape):
            ahead, behind = theta.copy(), theta.copy()
            ahead[place] += step
            behind[place] -= step
            slopes.append((loss(ahead) - loss(behind)) / (2 * step))
        assert scores[position] == pytest.approx(math.hypot(*slopes), abs=1e-6)


def test_grand_is_el2n_times_a_constant_on_unit_rows(unit_pool: Pool) -> None:
    problem = a_problem(unit_pool, 1, head=a_head(6), classes=classes_of(4))
    errors = rate("el2n", problem, source="head")
    np.testing.assert_allclose(rate("grand", problem), math.sqrt(2) * errors, rtol=1e-6)


# --- laws of heads ------------------------------------------------------------------------------


def test_every_score_method_states_its_orientation() -> None:
    assert {name: rater(name).higher for name in ORIENTATION} == ORIENTATION


def test_binary_doubts_are_one_order(pool: Pool) -> None:
    problem = a_problem(pool, 1, head=a_head(6, Task.BINARY))
    by_entropy, by_gap, by_confidence = (rate(name, problem) for name in DOUBTS)
    assert np.argsort(by_entropy).tolist() == np.argsort(-by_gap).tolist()
    assert np.argsort(by_entropy).tolist() == np.argsort(by_confidence).tolist()
    np.testing.assert_allclose(by_gap, 1 - 2 * by_confidence, atol=1e-15)


@pytest.mark.parametrize("task", [Task.BINARY, Task.MULTICLASS])
@pytest.mark.parametrize("name", ["el2n", "grand"])
def test_another_label_makes_an_item_harder(pool: Pool, name: str, task: Task) -> None:
    """On a head that was fitted to the labels and agrees with them."""
    count = 2 if task is Task.BINARY else 3
    X = pool.fetch(np.arange(ITEMS))
    classes = X[:, :count].argmax(axis=1).astype(np.int32)
    one_hot = np.eye(count)[classes]
    targets, opposed = one_hot, np.zeros_like(one_hot)
    if task is Task.BINARY:
        targets, opposed = one_hot[:, 1:], one_hot[:, :1]
    head = fit(task, HeadConfig(c=10), TrainingSet(X, targets, opposed))
    assert head is not None
    logits = head.logits(X)
    predicted = logits[:, 0] > 0 if task is Task.BINARY else logits.argmax(axis=1)
    sure = predicted == classes
    assert sure.mean() > 0.9
    agreed = rate(name, a_problem(pool, 1, head=head, classes=classes), source="head")
    for shift in range(1, count):
        other = ((classes + shift) % count).astype(np.int32)
        flipped = rate(name, a_problem(pool, 1, head=head, classes=other), source="head")
        assert (flipped > agreed)[sure].all()


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("name", [*DOUBTS, "el2n", "grand"])
def test_saturated_heads_score_finite_numbers(pool: Pool, name: str, task: Task) -> None:
    """Huge logits, and a column that could not be fitted."""
    if task is Task.MULTILABEL and name in ("el2n", "grand"):
        return
    head = a_head(6, task)
    weights, bias, fitted = 1e6 * head.weights, head.bias.copy(), head.fitted.copy()
    if task is not Task.BINARY:
        weights[2], bias[2], fitted[2] = 0, -np.inf, False
    saturated = Head(task, weights, bias, fitted)
    classes = classes_of(2 if task is Task.BINARY else 4)
    scores = rate(name, a_problem(pool, 1, head=saturated, classes=classes), source="head")
    assert np.isfinite(scores).all()
    assert (scores >= 0).all()
    if name == "el2n":
        assert (scores <= math.sqrt(2) + 1e-15).all()
        unseen = classes == 2 if task is Task.MULTICLASS else np.zeros(ITEMS, np.bool_)
        assert (scores[unseen] >= 1).all()


def test_tiny_errors_are_not_rounded_away(pool: Pool) -> None:
    """1 - p would be 0 from a logit of 37 on; the sum of the others is not."""
    head = Head(Task.BINARY, np.zeros((1, 6)), np.array([60.0]), np.ones(1, np.bool_))
    problem = a_problem(pool, 1, head=head, classes=np.ones(ITEMS, np.int32))
    expected = math.exp(-60)
    assert rate("least_confidence", problem)[0] == pytest.approx(expected, rel=1e-12)
    found = rate("el2n", problem, source="head")[0]
    assert found == pytest.approx(math.sqrt(2) * expected, rel=1e-12)


def test_a_column_without_labels_is_no_part_of_a_multilabel_score(pool: Pool) -> None:
    head = a_head(6, Task.MULTILABEL)
    kept = Head(head.task, head.weights[:3], head.bias[:3], head.fitted[:3])
    weights, bias = head.weights.copy(), head.bias.copy()
    weights[3], bias[3] = 0, 0
    partly = Head(head.task, weights, bias, np.array([True, True, True, False]))
    for name in DOUBTS:
        expected = rate(name, a_problem(pool, 1, head=kept))
        assert rate(name, a_problem(pool, 1, head=partly)).tolist() == expected.tolist()


@pytest.mark.parametrize("name", [*DOUBTS, "el2n", "grand"])
def test_a_score_depends_on_its_item_alone(tmp_path_factory: Any, name: str) -> None:
    """Same bits alone, among some, among all, and in every block of a longer pool."""
    X = np.random.default_rng(5).standard_normal((3_000, 17)).astype(np.float32)
    large = make_pool(tmp_path_factory.mktemp("large"), X, metric="l2")
    classes = np.random.default_rng(6).integers(0, 7, 3_000).astype(np.int32)
    given = {"head": a_head(17, classes=7), "classes": classes}
    whole = rate(name, a_problem(large, 1, **given), source="head")
    again = rate(name, a_problem(large, 1, **given), source="head")
    assert whole.tobytes() == again.tobytes()
    for rows in (np.arange(1, 3_000), np.arange(0, 3_000, 7), np.array([2_047]), np.arange(5)):
        part = rate(name, a_problem(large, 1, rows=rows, **given), source="head")
        assert part.tobytes() == whole[rows].tobytes()


def test_progress_rises_to_one(pool: Pool) -> None:
    said: list[tuple[str, float]] = []
    problem = a_problem(pool, 1, head=a_head(6), report=lambda p, s, o: said.append((p, s)))
    rate("max_entropy", problem)
    assert {phase for phase, _ in said} == {"score"}
    shares = [share for _, share in said]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_a_stopped_rating_ends_cancelled(pool: Pool) -> None:
    for name in DOUBTS:
        with pytest.raises(Cancelled):
            rate(name, a_problem(pool, 1, head=a_head(6), stop=lambda: True))
    for signal in (recorded(), probabilities(a_head(6), pool)):
        given = {"stop": lambda: True, "signals": {"s": signal}}
        with pytest.raises(Cancelled):
            rate("margin", a_problem(pool, 1, **given), source="signal", signal="s")


# --- signals ------------------------------------------------------------------------------------


def probabilities(head: Head, pool: Pool) -> SignalColumns:
    """The head's, as a user would upload them."""
    values = np.array([groups(head, x)[0] for x in rows_of(pool)], np.float32)
    return SignalColumns("probabilities", tuple("abcd"[: values.shape[1]]), values)


def recorded() -> SignalColumns:
    """As the client's recorder uploads them."""
    values = np.random.default_rng(8).random((ITEMS, 6)).astype(np.float32)
    values[3, 0] = np.inf
    return SignalColumns("number", RECORDED, values)


@pytest.mark.parametrize("task", [Task.BINARY, Task.MULTICLASS])
def test_uploaded_probabilities_score_as_the_head_that_made_them(pool: Pool, task: Task) -> None:
    head = a_head(6, task)
    classes = classes_of(2 if task is Task.BINARY else 4)
    problem = a_problem(
        pool, 1, head=head, classes=classes, signals={"mine": probabilities(head, pool)}
    )
    for name in (*DOUBTS, "el2n"):
        by_head = rate(name, problem, source="head")
        uploaded = rate(name, problem, source="signal", signal="mine")
        np.testing.assert_allclose(uploaded, by_head, atol=2e-6)


def test_uploaded_probabilities_are_scaled_to_a_sum_of_one(pool: Pool) -> None:
    values = np.tile(np.array([[0.5005, 0.3003, 0.2002]], np.float32), (ITEMS, 1))
    problem = a_problem(
        pool,
        1,
        classes=classes_of(3),
        signals={"p": SignalColumns("probabilities", (*"abc",), values)},
    )
    p = [0.5, 0.3, 0.2]
    for name in DOUBTS:
        found = rate(name, problem, source="signal", signal="p")
        np.testing.assert_allclose(found, TWINS[name](p), atol=1e-6)
    certain = np.tile(np.array([[0, 1, 0]], np.float32), (ITEMS, 1))
    problem = a_problem(pool, 1, signals={"p": SignalColumns("probabilities", (*"abc",), certain)})
    expected = {"max_entropy": 0, "margin": 1, "least_confidence": 0}
    for name in DOUBTS:
        assert set(rate(name, problem, source="signal", signal="p")) == {expected[name]}


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("forgetting", "forgetting"),
        ("el2n", "el2n"),
        ("aum", "aum"),
        ("max_entropy", "entropy"),
        ("margin", "margin"),
        ("least_confidence", "confidence"),
    ],
)
def test_each_method_finds_its_column_of_the_recorder(pool: Pool, name: str, column: str) -> None:
    signal = recorded()
    there = signal.values[:, RECORDED.index(column)].astype(np.float64)
    rows = np.arange(0, ITEMS, 3)
    problem = a_problem(pool, 1, rows=rows, signals={"run": signal})
    assert rater(name, source="signal", signal="run").objection(on("number", RECORDED)) is None
    found = rate(name, problem, source="signal", signal="run")
    expected = 1 - there if column == "confidence" else there
    assert found.tolist() == expected[rows].tolist()
    assert np.isinf(found).any() == (name == "forgetting")


@pytest.mark.parametrize("name", ORIENTATION)
def test_a_named_or_single_column_of_numbers_is_the_score(pool: Pool, name: str) -> None:
    signal = recorded()
    own = signal.values[:, 2].astype(np.float64)
    single = SignalColumns("number", ("any",), signal.values[:, 2:3])
    problem = a_problem(pool, 1, signals={"run": signal, "one": single})
    named = rate(name, problem, source="signal", signal="run", column="aum")
    assert named.tolist() == own.tolist()
    assert rate(name, problem, source="signal", signal="one").tolist() == own.tolist()


# --- what they need and refuse ------------------------------------------------------------------


def on(kind: str, columns: tuple[str, ...], **given: Any) -> Setting:
    """A setting with the signal "run"."""
    more = given.pop("more", {})
    return Setting(ITEMS, 6, 10, columns={"run": (kind, columns)} | more, **given)


def test_needs_follow_the_source() -> None:
    for name in DOUBTS:
        assert rater(name).needs() == Needs(head=True)
    for name in ("el2n", "grand"):
        assert rater(name, source="head").needs() == Needs(
            head=True, classes=True, true_classes=True
        )
    for name in ORIENTATION:
        assert rater(name, source="signal", signal="s").needs() == Needs(signals=("s",))
        assert rater(name, source="proxy").needs() == Needs(classes=True, true_classes=True)
    for name in ("forgetting", "el2n", "aum"):
        assert rater(name, signal="s").needs() == Needs(signals=("s",))


@pytest.mark.parametrize("name", ["forgetting", "aum"])
def test_one_head_is_no_training_run(name: str) -> None:
    with pytest.raises(CoresiftError, match="source must be one of signal, proxy"):
        rater(name, source="head")


PROBABILITIES = ("a", "b", "c")
OF_SIGNAL = {"source": "signal", "signal": "run"}


@pytest.mark.parametrize(
    ("name", "params", "setting", "objection"),
    [
        ("aum", {}, Setting(9, 6, 1), "params.signal names it"),
        ("max_entropy", {"signal": "run"}, Setting(9, 6, 1), "only with source signal"),
        ("max_entropy", {"column": "a"}, Setting(9, 6, 1), "only with source signal"),
        ("margin", {"runs": 5}, Setting(9, 6, 1), "only with source proxy"),
        ("aum", OF_SIGNAL | {"epochs": 3}, on("number", ("aum",)), "only with source proxy"),
        ("aum", OF_SIGNAL, on("number", ("a", "b")), "no column 'aum' in 'run': it has a, b"),
        ("aum", OF_SIGNAL | {"column": "x"}, on("number", ("aum",)), "no column 'x'"),
        ("aum", OF_SIGNAL, on("probabilities", PROBABILITIES), "'run' holds probabilities"),
        ("grand", OF_SIGNAL, on("probabilities", PROBABILITIES), "'run' holds probabilities"),
        ("margin", OF_SIGNAL, on("class", ("class",)), "'run' holds classes"),
        ("margin", OF_SIGNAL | {"column": "a"}, on("probabilities", PROBABILITIES), "only of num"),
        ("margin", OF_SIGNAL, on("probabilities", ("a",)), "probabilities of two classes"),
        ("el2n", OF_SIGNAL, on("probabilities", PROBABILITIES), "needs a class_signal"),
        ("el2n", {"source": "head"}, Setting(9, 6, 1, Task.MULTILABEL), "one class an item"),
        ("grand", {}, Setting(9, 6, 1, Task.MULTILABEL, unit=False), "one class an item"),
        ("grand", {}, Setting(9, 6, 1, Task.MULTICLASS), "use el2n"),
        ("grand", {"source": "proxy"}, Setting(9, 6, 1), "use el2n"),
    ],
)
def test_refusals_say_why(
    name: str, params: dict[str, Any], setting: Setting, objection: str
) -> None:
    assert objection in (rater(name, **params).objection(setting) or "")


@pytest.mark.parametrize(
    ("name", "params", "setting"),
    [
        ("margin", {}, Setting(9, 6, 1, Task.MULTILABEL)),
        ("el2n", {"source": "head"}, Setting(9, 6, 1, Task.BINARY)),
        (
            "el2n",
            OF_SIGNAL,
            on("probabilities", PROBABILITIES, more={"classes": ("class", ("class",))}),
        ),
        ("grand", {}, Setting(9, 6, 1, Task.MULTICLASS, unit=False)),
        ("grand", OF_SIGNAL, on("number", ("grand",))),
        ("aum", {"source": "proxy", "epochs": 3, "runs": 1}, Setting(9, 6, 1)),
    ],
)
def test_what_fits_is_served(name: str, params: dict[str, Any], setting: Setting) -> None:
    assert rater(name, **params).objection(setting) is None


def test_classes_that_the_model_does_not_know_are_refused(pool: Pool) -> None:
    classes = classes_of(4)
    classes[7] = 4
    head = a_head(6)
    given = {"head": head, "signals": {"run": probabilities(head, pool)}, "classes": classes}
    for params in ({"source": "head"}, OF_SIGNAL):
        with pytest.raises(CoresiftError, match=r"'item-7' class 4; .* knows 0\.\.3") as caught:
            rate("el2n", a_problem(pool, 1, **given), **params)
        assert (caught.value.reason, caught.value.field) == (Reason.INVALID_FIELD, "class_signal")
    rows = np.setdiff1d(np.arange(ITEMS), [7])
    rate("el2n", a_problem(pool, 1, rows=rows, **given), source="head")  # it is no item
    binary = a_head(6, Task.BINARY)
    with pytest.raises(CoresiftError, match=r"the head knows 0\.\.1"):
        rate("el2n", a_problem(pool, 1, head=binary, classes=classes), source="head")


def test_ratings_read_rows_and_not_positions(pool: Pool) -> None:
    """Items in the middle of the pool: their own classes, numbers and vectors."""
    rows = np.arange(40, 60, dtype=np.int32)
    head = a_head(6)
    given = {"head": head, "classes": classes_of(4), "signals": {"run": probabilities(head, pool)}}
    some, whole = a_problem(pool, 1, rows=rows, **given), a_problem(pool, 1, **given)
    assert isinstance(some.items, Items)
    for params in ({"source": "head"}, OF_SIGNAL):
        expected = rate("el2n", whole, **params)[rows]
        assert rate("el2n", some, **params).tolist() == expected.tolist()
