"""Laws of every core-set method with every sampler; the registries say which there are."""

from __future__ import annotations

import itertools
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.coreset_cases import CASES, METRICS, Case, D, N, by_case, classes_of
from tests.fixtures.pools import make_pool

from coresift.server.coreset.class_budgets import ClassBudgets
from coresift.server.coreset.methods import METHODS
from coresift.server.coreset.problem import (
    Problem,
    Rater,
    Selection,
    Setting,
    SignalColumns,
)
from coresift.server.coreset.samplers import SAMPLERS
from coresift.server.errors import CoresiftError
from coresift.server.pool.failures import Cancelled
from coresift.server.pool.pool import Pool

LARGE, LARGE_D = 20_000, 16
SMALLER = 5_000
INSTANT = {"random"}
"""Methods that end before anybody could cancel them."""
WAVERS = {"herding"}
"""Methods that do not maximise their objective choice by choice."""
ALL_PAIRS = {"dense"}
"""Choices of parameters that take quadratic time."""
ONLY_WHOLE = {"k_means_medoids", "moderate", "ccs", "stochastic"}
"""Methods, samplers and choices of parameters whose first choices depend on the budget."""
BY_CHANCE = {"random", "k_means_medoids", "semdedup", "ccs", "proxy", "stochastic"}
"""Methods, samplers and choices of parameters for which the numbers of rows play a part: in the
keyed hash, or in a k-means."""


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pool]:
    """By metric; a tenth of the rows are copies."""
    chance = np.random.default_rng(1)
    X = chance.standard_normal((N, D)).astype(np.float32)
    X[-N // 10 :] = X[chance.integers(0, N - N // 10, N // 10)]
    folder = tmp_path_factory.mktemp("pools")
    return {metric: make_pool(folder / metric, X, metric=metric) for metric in METRICS}


def check_selection(problem: Problem, found: Selection, count: int) -> None:
    assert found.positions.dtype == np.int64
    assert len(found.positions) == len(np.unique(found.positions)) == count
    assert found.positions.min() >= 0
    assert found.positions.max() < len(problem.items)
    assert found.scores.dtype == np.float64
    assert found.scores.shape == (count,)
    assert not np.isnan(found.scores).any()
    if found.weights is not None:
        assert found.weights.shape == (count,)
        assert (found.weights >= 0).all()
        if not len(problem.start):
            assert found.weights.sum() == pytest.approx(len(problem.items))
    for number in (found.objective, found.covering_radius, *found.details.values()):
        assert number is None or np.isfinite(number)


def as_bytes(found: Selection) -> tuple[Any, ...]:
    arrays = found.positions, found.scores, found.weights
    stored = [None if array is None else array.tobytes() for array in arrays]
    return *stored, found.objective, found.covering_radius, dict(found.details)


def test_every_method_and_every_sampler_is_here() -> None:
    assert {case.name for case in CASES} == set(METHODS)
    assert {case.sampler for case in CASES} - {""} == set(SAMPLERS)


@by_case
def test_a_selection_has_the_budget_and_is_repeatable(pools: dict[str, Pool], case: Case) -> None:
    pool = pools[case.metric]
    n = len(case.problem(pool, 1).items)
    for budget in (1, 37, n - 1, n):
        problem = case.problem(pool, budget)
        found = case.recipe().select(problem)
        check_selection(problem, found, budget)
        again = case.recipe().select(case.problem(pool, budget))
        assert as_bytes(found) == as_bytes(again)


@by_case
def test_a_smaller_budget_selects_the_first_of_a_larger(pools: dict[str, Pool], case: Case) -> None:
    if ONLY_WHOLE & case.traits:
        pytest.skip("all of the budget plays a part in each choice")
    pool = pools[case.metric]
    small, large = (case.recipe().select(case.problem(pool, budget)) for budget in (40, 300))
    assert small.positions.tolist() == large.positions[:40].tolist()
    assert small.scores.tolist() == large.scores[:40].tolist()


@by_case
def test_progress_rises_and_so_does_the_objective(pools: dict[str, Pool], case: Case) -> None:
    told: list[tuple[str, float, float | None]] = []
    problem = case.problem(pools[case.metric], 150, report=lambda *what: told.append(what))
    found = case.recipe().select(problem)
    for phase in {phase for phase, _, _ in told}:
        shares = [share for own, share, _ in told if own == phase]
        assert shares == sorted(shares), phase
        assert 0 <= shares[0] <= shares[-1] <= 1 + 1e-9
    if case.name in WAVERS:
        return
    objectives = [objective for _, _, objective in told if objective is not None]
    slack = 1e-9 * max(map(abs, objectives), default=0)
    assert all(b >= a - slack for a, b in itertools.pairwise(objectives))
    if objectives:
        assert found.objective is not None
        assert found.objective >= objectives[-1] - slack


@by_case
def test_a_stopped_selection_ends_cancelled(pools: dict[str, Pool], case: Case) -> None:
    """Whenever it is that somebody says stop."""
    asked = itertools.count(1)
    problem = case.problem(pools[case.metric], 150, stop=lambda: next(asked) < 0)
    case.recipe().select(problem)
    total = next(asked) - 1
    if case.name not in INSTANT and case.kind != "number":
        assert total
    for when in {1, 2, total // 2, total} & set(range(1, total + 1)):
        asked = itertools.count(1)
        problem = case.problem(
            pools[case.metric],
            150,
            stop=lambda asked=asked, when=when: next(asked) >= when,
        )
        with pytest.raises(Cancelled):
            case.recipe().select(problem)


@by_case
def test_only_items_are_selected(pools: dict[str, Pool], case: Case) -> None:
    """Every third row is no item, and nothing that is said of it plays a part."""
    pool = pools[case.metric]
    rows = np.flatnonzero(np.arange(N) % 3 != 1)
    problem = case.problem(pool, 60, rows=rows)
    found = case.recipe().select(problem)
    check_selection(problem, found, 60)
    assert np.isin(problem.items.rows[found.positions], rows).all()


@by_case
@pytest.mark.parametrize(
    "budgets",
    [
        ClassBudgets("balanced"),
        ClassBudgets("proportional"),
        ClassBudgets("counts", ((0, 3), (2, 50), (3, 7))),
    ],
    ids=lambda budgets: budgets.rule,
)
def test_class_budgets_are_met(pools: dict[str, Pool], case: Case, budgets: ClassBudgets) -> None:
    problem = case.problem(pools[case.metric], 60)
    classes = problem.item_classes()
    found = case.recipe(budgets).select(problem)
    assert len(found.positions) == len(np.unique(found.positions)) == len(found.scores) == 60
    room = dict(enumerate(np.bincount(classes).tolist()))
    shares = budgets.divide(room, 60)
    taken = classes[found.positions]
    assert shares == {int(number): int((taken == number).sum()) for number in np.unique(taken)}
    for number, share in shares.items():
        so_far = np.cumsum(taken == number)
        assert np.abs(so_far - np.arange(1, 61) * share / 60).max() <= 2


@by_case
def test_each_class_is_selected_by_itself(pools: dict[str, Pool], case: Case) -> None:
    """A selector sees the items and the start rows of one class; scores are those of all items."""
    budgets = ClassBudgets("counts", ((0, 11), (1, 30), (3, 5)))
    problem = case.problem(pools[case.metric], 46)
    classes = problem.item_classes()
    found = case.recipe(budgets).select(problem)
    method = case.method
    if isinstance(method, Rater):
        assert found.scores.tolist() == method.rate(problem)[found.positions].tolist()
        return
    for number, share in budgets.counts:
        mine = np.flatnonzero(classes == number)
        start = problem.start[classes_of(N)[problem.start] == number]
        rows = np.concatenate([problem.items.rows[mine], start])
        alone = method.select(case.problem(pools[case.metric], share, rows=rows, start=start))
        taken = classes[found.positions] == number
        assert found.positions[taken].tolist() == mine[alone.positions].tolist()
        assert found.scores[taken].tolist() == alone.scores.tolist()


@pytest.mark.parametrize("are_copies", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_tiny_pools(tmp_path: Path, n: int, are_copies: bool) -> None:
    X = np.random.default_rng(n).standard_normal((n, 3)).astype(np.float32)
    if are_copies:
        X[:] = X[0]
    small = {metric: make_pool(tmp_path / metric, X, metric=metric) for metric in METRICS}
    for case in CASES:
        needs_two_classes = ("source", "proxy") in case.params
        if not case.start and not (needs_two_classes and n == 1):
            for budget in range(1, n + 1):
                problem = case.problem(small[case.metric], budget)
                check_selection(problem, case.recipe().select(problem), budget)


@by_case
def test_costs_are_positive_and_grow(case: Case) -> None:
    recipe = case.recipe()
    for part in filter(None, (recipe.method, recipe.sampler)):
        small, large = (part.cost(case.setting(100, n, 64)) for n in (1_000, 1_000_000))
        for cost in (small, large):
            numbers = cost.flops, cost.passes, cost.held
            assert all(np.isfinite(number) and number >= 0 for number in numbers)
        assert large.held > small.held > 0


def test_objections_are_sentences() -> None:
    """What cannot serve says so, before anything runs."""
    setting = Setting(n=10, dimension=2, budget=10, unit=True)
    parts = [kind() for kind in (*METHODS.values(), *SAMPLERS.values())]
    objections = list(filter(None, (part.objection(setting) for part in parts)))
    assert len(objections) >= 4
    for field, sentence in objections:
        assert re.fullmatch(r"(method|(sampler_)?params\.\w+|class_signal)", field)
        assert not sentence.endswith(".")
        assert "give" in sentence or "is required" in sentence


@pytest.fixture(scope="module")
def permuted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Pool, Pool, Any]]:
    """By metric: a pool, one of the same rows in another order, and that order."""
    chance = np.random.default_rng(6)
    X = chance.standard_normal((200, 6)).astype(np.float32)
    order = chance.permutation(200)
    folder = tmp_path_factory.mktemp("permuted")
    return {
        metric: (
            make_pool(folder / f"{metric}-there", X, metric=metric),
            make_pool(folder / f"{metric}-moved", X[order], metric=metric),
            order,
        )
        for metric in METRICS
    }


@by_case
def test_permuted_rows_give_the_permuted_selection(
    permuted: dict[str, tuple[Pool, Pool, Any]], case: Case
) -> None:
    if BY_CHANCE & case.traits:
        pytest.skip("rows play a part")
    if case.method.needs().start and not case.start:
        pytest.skip("rows play a part in where it starts")
    there, moved, order = permuted[case.metric]
    start = np.array([3, 90]) if case.start else np.empty(0, np.int32)
    problem = case.problem(there, 40, start=start)
    found = case.recipe().select(problem)
    again_problem = case.problem(
        moved,
        40,
        start=np.sort(np.argsort(order)[start]) if case.start else start,
        classes=classes_of(200)[order],
        query=problem.query,
        signals={
            name: SignalColumns(signal.kind, signal.columns, signal.values[order])
            for name, signal in problem.signals.items()
        },
    )
    again = case.recipe().select(again_problem)
    rows = order[again_problem.items.rows[again.positions]]
    assert problem.items.rows[found.positions].tolist() == rows.tolist()
    np.testing.assert_allclose(found.scores, again.scores, rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Pool]:
    """By metric and size."""
    X = np.random.default_rng(2).standard_normal((LARGE, LARGE_D)).astype(np.float32)
    folder = tmp_path_factory.mktemp("large")
    return {
        (metric, n): make_pool(folder / f"{metric}-{n}", X[:n], metric=metric)
        for metric, n in (*((metric, LARGE) for metric in METRICS), ("cosine", SMALLER))
    }


@by_case
def test_memory_is_what_the_plan_says(large: dict[tuple[str, int], Pool], case: Case) -> None:
    """No matrix of all items by all items, which would take 400 MB even as bytes."""
    n = SMALLER if ALL_PAIRS & case.traits else LARGE
    recipe, pool, setting = case.recipe(), large[case.metric, n], case.setting(100, n, LARGE_D)
    parts = [recipe.method] if recipe.sampler is None else [recipe.method, recipe.sampler]
    held = max(part.cost(setting).held for part in parts)
    problem = case.problem(pool, 100)
    tracemalloc.start()
    try:
        recipe.select(problem)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < held


def test_counts_that_a_class_cannot_give_are_refused(pools: dict[str, Pool]) -> None:
    case = next(case for case in CASES if case.name == "random")
    problem = case.problem(pools["cosine"], 60)
    with pytest.raises(CoresiftError, match="class 3 has 21 items") as refused:
        case.recipe(ClassBudgets("counts", ((0, 20), (3, 40)))).select(problem)
    assert refused.value.field == "class_budgets.counts[3]"
