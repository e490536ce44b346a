"""Laws of the samplers against slow twins that are written from the papers."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fixtures.coresets import a_head, a_problem, rows_of
from tests.fixtures.pools import make_pool

from coresift.server.coreset.ccs import Ccs
from coresift.server.coreset.class_budgets import ClassBudgets
from coresift.server.coreset.d2 import D2
from coresift.server.coreset.methods import method_of, sampler_of
from coresift.server.coreset.problem import Problem, Rater, Setting
from coresift.server.coreset.ranking import finite, first_of
from coresift.server.coreset.select import Recipe, pacing_buckets
from coresift.server.coreset.top import Top
from coresift.server.errors import CoresiftError
from coresift.server.pool.failures import Cancelled
from coresift.server.pool.pool import Pool
from coresift.server.selection.priority import priorities

N = 240


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Some clusters; a tenth of the rows are copies."""
    chance = np.random.default_rng(3)
    centres = 2 * chance.standard_normal((6, 5))
    X = centres[chance.integers(0, 6, N)] + chance.standard_normal((N, 5))
    X[-N // 10 :] = X[: N // 10]
    return make_pool(tmp_path_factory.mktemp("pool"), X.astype(np.float32))


def hand_made(kind: str) -> Any:
    """Difficulties of N items."""
    chance = np.random.default_rng(11)
    match kind:
        case "skewed":
            return chance.exponential(size=N)
        case "negative":
            return -5 - chance.random(N)
        case "counts, some infinite":
            counts = chance.integers(0, 6, N).astype(float)
            counts[chance.permutation(N)[:40]] = np.inf
            return counts
        case "all infinite":
            return np.full(N, np.inf)
    return np.full(N, 0.25)


KINDS = ["skewed", "negative", "counts, some infinite", "all infinite", "all equal"]


def slow_finite(difficulty: Any) -> list[float]:
    known = [u for u in difficulty.tolist() if u < math.inf]
    return [u if u < math.inf else max(known, default=0.0) + 1 for u in difficulty.tolist()]


def test_never_correct_is_the_hardest_other_plus_one() -> None:
    assert finite(np.array([np.inf, 3.0, -2.0, np.inf])).tolist() == [4, 3, -2, 4]
    assert finite(np.array([np.inf, -np.inf])).tolist() == [1, -1]
    assert finite(np.array([0.5])).tolist() == [0.5]


@pytest.mark.parametrize("size", [2.0**53, 2.0**53 + 2, 1e30])
def test_never_correct_is_harder_than_the_largest_numbers(size: float) -> None:
    first, last = finite(np.array([np.inf, size, -size, -np.inf]))[[0, 3]].tolist()
    assert first == max(math.nextafter(size, math.inf), size + 1) > size
    assert last == -first


@pytest.mark.parametrize(
    ("beta", "n", "cut"), [(0.29, 100, 29), (0.57, 100, 57), (0.1, 10, 1), (0.3, 9, 2)]
)
def test_ccs_cuts_the_share_as_it_is_written(beta: float, n: int, cut: int) -> None:
    """In float64 0.29 times 100 is less than 29."""
    assert Ccs(beta).objection(Setting(n, 4, n - cut)) is None
    refused = Ccs(beta).objection(Setting(n, 4, n - cut + 1))
    assert refused is not None
    assert f"cuts the hardest {cut} of" in refused[1]


# --- top ---------------------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0, math.inf]), min_size=1),
    st.sampled_from(["hardest", "easiest"]),
    st.data(),
)
def test_top_is_a_stable_sort(difficulty: list[float], first: Any, data: st.DataObject) -> None:
    budget = data.draw(st.integers(1, len(difficulty)))
    sign = -1 if first == "hardest" else 1
    keys = sign * np.array(difficulty)
    expected = sorted(range(len(difficulty)), key=lambda at: (sign * difficulty[at], at))
    assert first_of(keys, budget).tolist() == expected[:budget]


def test_a_curriculum_is_the_whole_pool_from_the_easiest(pool: Pool) -> None:
    difficulty = hand_made("skewed")
    found = Top("easiest").take(a_problem(pool, N), difficulty)
    assert difficulty[found].tolist() == sorted(difficulty)
    assert found.tolist() == Top("hardest").take(a_problem(pool, N), difficulty)[::-1].tolist()
    buckets = pacing_buckets(N, 7)
    assert (np.diff(buckets) >= 0).all()
    assert set(np.bincount(buckets)) <= {N // 7, N // 7 + 1}
    assert pacing_buckets(3, 10).tolist() == [0, 3, 6]


@pytest.mark.parametrize("name", ["max_entropy", "margin"])
def test_by_class_the_hardest_of_each_class_are_taken(pool: Pool, name: str) -> None:
    classes = np.arange(N, dtype=np.int32) % 3
    problem = a_problem(pool, 50, classes=classes, head=a_head(5))
    method = method_of(name, ())
    assert isinstance(method, Rater)
    recipe = Recipe(method, Top(), ClassBudgets("balanced"))
    found = recipe.select(problem)
    hardness = (1 if name == "max_entropy" else -1) * method.rate(problem)
    for number, share in ((0, 16), (1, 17), (2, 17)):
        taken = found.positions[classes[found.positions] == number].tolist()
        hardest = sorted(range(number, N, 3), key=lambda at: (-hardness[at], at))
        assert taken == hardest[:share]


# --- ccs ---------------------------------------------------------------------------------------


def slow_strata(scores: list[float], count: int) -> list[int]:
    """Equal width between the least and the greatest, which belongs to the last."""
    low, high = min(scores), max(scores)
    if low == high:
        return [0 for _ in scores]
    return [min(math.floor((u - low) / ((high - low) / count)), count - 1) for u in scores]


def slow_ccs(problem: Problem, difficulty: Any, beta: float, count: int) -> dict[int, list[int]]:
    """Which positions each stratum gives, each stratum's in the order of the hash."""
    scores, budget = slow_finite(difficulty), problem.size()
    hardest_last = sorted(range(len(scores)), key=lambda at: (scores[at], at))
    kept = sorted(hardest_last[: len(scores) - math.floor(Fraction(str(beta)) * len(scores))])
    members: dict[int, list[int]] = {}
    for at, stratum in zip(kept, slow_strata([scores[at] for at in kept], count), strict=True):
        members.setdefault(stratum, []).append(at)
    chance = priorities(problem.seed, "ccs", problem.items.rows)
    left, given_by = budget, {}
    smallest_first = sorted(members, key=lambda stratum: (len(members[stratum]), stratum))
    for done, stratum in enumerate(smallest_first):
        quota = left // (len(members) - done)
        drawn = sorted(members[stratum], key=lambda at: -chance[at])[:quota]
        given_by[stratum] = drawn
        left -= len(drawn)
    assert left == 0
    return given_by


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("beta", "strata"), [(0.0, 50), (0.1, 50), (0.55, 7), (0.3, 1)])
@pytest.mark.parametrize("budget", [1, 12, 100])
def test_ccs_is_its_definition(
    pool: Pool, kind: str, beta: float, strata: int, budget: int
) -> None:
    problem = a_problem(pool, budget, seed=5)
    difficulty = hand_made(kind)
    found = Ccs(beta, strata).take(problem, difficulty).tolist()
    given_by = slow_ccs(problem, difficulty, beta, strata)
    assert sorted(found) == sorted(at for drawn in given_by.values() for at in drawn)
    for drawn in given_by.values():
        mine = set(drawn)
        assert [at for at in found if at in mine] == drawn


def test_every_beginning_of_ccs_covers_the_strata(pool: Pool) -> None:
    difficulty = np.arange(N) / N
    found = Ccs(0.0, 8).take(a_problem(pool, 80), difficulty)
    for length in (8, 16, 40):
        counts = Counter((found[:length] // (N // 8)).tolist())
        assert set(counts.values()) == {length // 8}


def test_ccs_of_another_seed_draws_other_items_of_the_same_strata(pool: Pool) -> None:
    difficulty = hand_made("skewed")
    one, other = (
        Ccs().take(a_problem(pool, 60, seed=seed), difficulty).tolist() for seed in (1, 2)
    )
    assert one != other
    strata = np.array(slow_strata(sorted(difficulty)[: N - N // 10], 50))
    place = np.argsort(np.argsort(difficulty))
    assert Counter(strata[place[one]].tolist()) == Counter(strata[place[other]].tolist())


def test_ccs_refuses_a_budget_that_its_cut_cannot_fill(pool: Pool) -> None:
    setting = Setting(n=N, dimension=5, budget=217)
    assert Ccs(0.1).objection(Setting(n=N, dimension=5, budget=216)) is None
    objection = Ccs(0.1).objection(setting)
    assert objection == (
        "sampler_params.beta",
        "of 0.1 cuts the hardest 24 of 240 items, which leaves fewer than the budget of 217: "
        "give at most 0.0958",
    )
    assert Ccs(0.0958).objection(setting) is None
    # A class by itself may have to give more than the cut leaves: it is cut less.
    difficulty = hand_made("skewed")
    found = Ccs(0.5).take(a_problem(pool, 230), difficulty)
    assert sorted(found.tolist()) == sorted(np.argsort(difficulty)[:230].tolist())


# --- d2 ----------------------------------------------------------------------------------------


def slow_neighbours(X: Any, k: int) -> list[set[int]]:
    cosines = X @ X.T
    return [
        set(sorted((j for j in range(len(X)) if j != i), key=lambda j: (-round(row[j], 9), j))[:k])
        for i, row in enumerate(cosines)
    ]


def slow_weights(X: Any, near: list[set[int]], gamma: float) -> list[dict[int, float]]:
    return [
        {j: math.exp(-gamma * float(((X[i] - X[j]) ** 2).sum())) for j in near[i]}
        for i in range(len(X))
    ]


def check_d2(problem: Problem, difficulty: Any, method: D2, found: list[int]) -> None:
    """Follow the choices through the paper's two steps: each is a largest score of those left."""
    X = rows_of(problem.items.pool)[problem.items.rows]
    near = slow_neighbours(X, method.k)
    if method.symmetric:
        ways = list(enumerate(near))
        for i, own in ways:
            for j in list(own):
                near[j].add(i)
    u = slow_finite(difficulty)
    low, high = min(u), max(u)
    u = [(x - low) / (high - low) if high > low else 1.0 for x in u]
    forward = slow_weights(X, near, method.gamma_forward)
    u = [x + math.fsum(w * u[j] for j, w in own.items()) for x, own in zip(u, forward, strict=True)]
    back = slow_weights(X, near, method.gamma_reverse)
    left = set(range(len(u)))
    for at in found:
        assert u[at] >= max(u[j] for j in left) - 1e-5
        left.remove(at)
        for j, w in back[at].items():
            u[j] -= w * max(u[at], 0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "method",
    [D2(), D2(k=3, gamma_forward=0.0, gamma_reverse=4.0), D2(k=6, symmetric=False), D2(k=100)],
    ids=str,
)
def test_d2_is_its_definition(pool: Pool, kind: str, method: D2) -> None:
    difficulty = hand_made(kind)
    problem = a_problem(pool, N)
    found = method.take(problem, difficulty).tolist()
    assert sorted(found) == list(range(N))
    check_d2(problem, difficulty, method, found)


def test_d2_takes_a_copy_only_when_all_else_is_covered_too(pool: Pool) -> None:
    found = D2(gamma_reverse=0.5).take(a_problem(pool, 20), np.ones(N))
    copies = set(range(N - N // 10, N))
    chosen = set(found.tolist())
    assert not any(at in chosen and at - (N - N // 10) in chosen for at in copies)


def test_d2_without_neighbours_is_the_order_by_difficulty(tmp_path: Path) -> None:
    one = make_pool(tmp_path, np.ones((1, 3), np.float32))
    assert D2().take(a_problem(one, 1), np.array([np.inf])).tolist() == [0]


def test_d2_is_cancelled_between_choices(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coresift.server.coreset.d2.STEPS", 4)
    phases: list[str] = []
    problem = a_problem(
        pool,
        100,
        report=lambda phase, *_: phases.append(phase),
        stop=lambda: phases.count("select") > 2,
    )
    with pytest.raises(Cancelled):
        D2().take(problem, hand_made("skewed"))
    assert phases.count("select") == 3


@pytest.mark.parametrize(
    ("name", "params"), [("ccs", {"beta": 0.95}), ("d2", {"k": 0}), ("top", {"first": "last"})]
)
def test_parameters_out_of_range_are_refused(name: str, params: dict[str, Any]) -> None:
    with pytest.raises(CoresiftError, match="must be"):
        sampler_of(name, tuple(params.items()))
