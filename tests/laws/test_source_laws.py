"""Where scores come from: heads and uploaded signals, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.fixtures.coresets import a_head, a_problem
from tests.fixtures.pools import make_pool
from tests.fixtures.ratings import (
    DOUBTS,
    ITEMS,
    RECORDED,
    TWINS,
    a_pool,
    classes_of,
    on,
    probabilities,
    rate,
    rater,
    recorded,
)

from coresift.server.coreset.items import Items
from coresift.server.coreset.problem import Needs, Setting, SignalColumns
from coresift.server.errors import CoresiftError
from coresift.server.head import Head, Task
from coresift.server.pool.failures import Cancelled
from coresift.server.pool.pool import Pool


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return a_pool(tmp_path_factory.mktemp("pool"))


ORIENTATION = {
    "max_entropy": "harder",
    "margin": "easier",
    "least_confidence": "harder",
    "forgetting": "harder",
    "el2n": "harder",
    "grand": "harder",
    "aum": "easier",
}


def test_every_score_method_states_its_orientation() -> None:
    assert {name: rater(name).higher for name in ORIENTATION} == ORIENTATION


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


def known(sizes: dict[int, int], **given: Any) -> dict[str, Any]:
    """Of a setting: a class signal with so many items of each class."""
    return {"class_signal": True, "class_sizes": sizes, "classes": len(sizes), **given}


HEAD = Setting(9, 6, 1, Task.MULTICLASS, head_classes=4, **known({0: 5, 3: 4}))
MULTILABEL = Setting(9, 6, 1, Task.MULTILABEL, head_classes=4, **known({0: 5, 3: 4}))


@pytest.mark.parametrize(
    ("name", "params", "setting", "field", "words"),
    [
        ("aum", {}, Setting(9, 6, 1), "params.signal", "is required"),
        ("max_entropy", {"signal": "run"}, HEAD, "params.signal", "source signal alone"),
        ("max_entropy", {"column": "a"}, HEAD, "params.column", "source signal alone"),
        ("margin", {"runs": 5}, HEAD, "params.runs", "source proxy alone"),
        ("aum", OF_SIGNAL | {"epochs": 3}, on("number", ("aum",)), "params.epochs", "proxy alone"),
        ("aum", OF_SIGNAL, on("number", ("a", "b")), "params.column", "'aum'; give one of a, b"),
        ("aum", OF_SIGNAL | {"column": "x"}, on("number", ("aum",)), "params.column", "one of aum"),
        ("aum", OF_SIGNAL, on("probabilities", PROBABILITIES), "params.signal", "one of numbers"),
        ("grand", OF_SIGNAL, on("probabilities", PROBABILITIES), "params.signal", "of numbers"),
        ("margin", OF_SIGNAL, on("class", ("class",)), "params.signal", "or class probabilities"),
        (
            "margin",
            OF_SIGNAL | {"column": "a"},
            on("probabilities", PROBABILITIES),
            "params.column",
            "leave it out",
        ),
        ("margin", OF_SIGNAL, on("probabilities", ("a",)), "params.signal", "two classes or more"),
        ("el2n", OF_SIGNAL, on("probabilities", PROBABILITIES), "class_signal", "is required"),
        (
            "el2n",
            OF_SIGNAL,
            on("probabilities", PROBABILITIES, **known({0: 5, 3: 4})),
            "class_signal",
            "gives items class 3, and signal 'run' knows 0..2",
        ),
        (
            "el2n",
            {"source": "head"},
            Setting(9, 6, 1, Task.BINARY, head_classes=2, **known({0: 5, 2: 4})),
            "class_signal",
            "gives items class 2, and the head knows 0..1",
        ),
        ("el2n", {"source": "head"}, MULTILABEL, "params.source", "give signal or proxy"),
        (
            "grand",
            {},
            Setting(9, 6, 1, Task.MULTILABEL, unit=False),
            "params.source",
            "give signal or proxy",
        ),
        ("grand", {}, HEAD, "method", "give 'el2n'"),
        ("grand", {"source": "proxy"}, HEAD, "method", "give 'el2n'"),
        (
            "aum",
            {"source": "proxy"},
            Setting(9, 6, 1, **known({4: 9})),
            "class_signal",
            "gives every item class 4: a proxy needs two classes",
        ),
    ],
)
def test_refusals_name_the_field_and_what_to_give(
    name: str, params: dict[str, Any], setting: Setting, field: str, words: str
) -> None:
    objection = rater(name, **params).objection(setting)
    assert objection is not None
    assert objection[0] == field
    assert words in objection[1]


@pytest.mark.parametrize(
    ("name", "params", "setting"),
    [
        ("margin", {}, Setting(9, 6, 1, Task.MULTILABEL)),
        ("margin", {}, HEAD),
        ("el2n", {"source": "head"}, HEAD),
        ("el2n", OF_SIGNAL, on("probabilities", PROBABILITIES, **known({1: 4, 2: 5}))),
        ("grand", {}, replace(HEAD, unit=False)),
        ("grand", OF_SIGNAL, on("number", ("grand",))),
        ("aum", {"source": "proxy", "epochs": 3, "runs": 1}, HEAD),
    ],
)
def test_what_fits_is_served(name: str, params: dict[str, Any], setting: Setting) -> None:
    assert rater(name, **params).objection(setting) is None


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
