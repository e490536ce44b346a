"""Laws of a scan of the pool that several share: each finds what it would find alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.pools import compiled, make_pool
from tests.fixtures.scorer_laws import clustered_rows, situation_of

from coresift.server.head import Head, Task
from coresift.server.pool.pool import Pool
from coresift.server.selection import circular_scan
from coresift.server.selection.circular_scan import CircularScan, Rider, show_pool
from coresift.server.selection.leaders import Leaders
from coresift.server.selection.registry import STRATEGIES, Choice, strategy_of
from coresift.server.selection.scoring import Scored, canonical
from coresift.server.selection.strategy import (
    Errors,
    Floats,
    Part,
    Projection,
    Ranker,
    Scorer,
    Situation,
)

N, D = 900, 12
OF_THEIR_OWN = {"ens", "typiclust", "probcover", "k_center", "signal"}
"""These order for themselves, or need a file."""
CASES = [
    (name, task)
    for name, kind in STRATEGIES.items()
    for task in Task
    if name not in OF_THEIR_OWN and task in kind.tasks
]
CLASSES = (3, 12)
"""From 8 columns on NumPy adds those of a single row in another order."""
Rows = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Ask:
    """What one of several wants of a pass."""

    name: str
    task: Task
    classes: int
    scale: float
    seed: int
    depth: int

    def situation(self, pool: Pool) -> Situation:
        return situation_of(pool, self.task, classes=self.classes, seed=self.seed, scale=self.scale)

    def leaders(self, pool: Pool) -> tuple[Scorer, Head, Rows, Leaders]:
        """With a scorer of its own, the head, and the rows that may be chosen."""
        situation = self.situation(pool)
        scorer = scorer_of(self.name, situation)
        blocked = np.zeros(N, np.bool_)
        blocked[situation.labelled] = True
        blocked[:: 3 + self.seed] = True
        leaders = Leaders(scorer, situation.fitted(), blocked, self.depth, pool.max_norm)
        free = np.flatnonzero(~blocked).astype(np.int32)
        return scorer, situation.fitted(), free, leaders


def scorer_of(name: str, situation: Situation) -> Scorer:
    scorer = strategy_of(Choice(name)).prepare(situation)
    assert not isinstance(scorer, Ranker)
    return scorer


def asks() -> st.SearchStrategy[list[Ask]]:
    ask = st.builds(
        lambda case, *rest: Ask(*case, *rest),
        st.sampled_from(CASES),
        st.sampled_from(CLASSES),
        st.sampled_from([1.0, 300.0]),
        st.integers(0, 5),
        st.sampled_from([1, 40, 300, 5_000]),
    )
    return st.lists(ask, min_size=1, max_size=6)


@pytest.fixture(
    scope="module", params=["flat", "ivf", "float16", "torch:cpu", "compiled", "compiled float16"]
)
def pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """A pool of many blocks, in which a tenth of the rows are copies of others."""
    X, kind = clustered_rows(N, D), request.param
    made = make_pool(
        tmp_path_factory.mktemp("pool"),
        X.astype(np.float16 if "float16" in kind else np.float32),
        index="ivf" if kind == "ivf" else "flat",
        device="torch:cpu" if kind == "torch:cpu" else "cpu",
    )
    for compute in made._vectors.computes:
        compute.block_bytes = 1  # 64 rows, the least that a scan takes
    return compiled(made) if "compiled" in kind else made


def same(one: Scored, other: Scored) -> bool:
    return (
        one.rows.tolist() == other.rows.tolist()
        and one.scores.tobytes() == other.scores.tobytes()
        and one.predicted.tolist() == other.predicted.tolist()
        and one.complete == other.complete
    )


@settings(max_examples=40, deadline=None)
@given(asked=asks())
def test_together_each_finds_what_it_finds_alone(pool: Pool, asked: list[Ask]) -> None:
    together = [ask.leaders(pool) for ask in asked]
    show_pool(pool, [leaders for *_, leaders in together])
    for ask, (scorer, head, free, leaders) in zip(asked, together, strict=True):
        found = leaders.best(pool.fetch)
        *_, own = ask.leaders(pool)
        show_pool(pool, [own])
        assert same(found, own.best(pool.fetch))
        whole = canonical(scorer, head, free, pool.fetch)
        count = min(ask.depth, len(free))
        assert found.rows.tolist() == whole.rows[:count].tolist()
        assert found.scores.tobytes() == whole.scores[:count].tobytes()
        assert found.predicted.tolist() == whole.predicted[:count].tolist()
        assert found.complete == (count == len(free))


class Boarded(CircularScan):
    """A scan that riders join before certain blocks, counted from 1."""

    def __init__(self, pool: Pool, arrivals: list[tuple[int, Rider]]) -> None:
        super().__init__(pool)
        self._arrivals, self._block = arrivals, 0

    def _admit(self, count: int) -> None:
        self._block += 1
        for block, rider in self._arrivals:
            if block == self._block:
                self.join(rider)
        super()._admit(count)


@settings(max_examples=40, deadline=None)
@given(asked=asks(), data=st.data(), most=st.sampled_from([4, 32]))
def test_whoever_joins_later_finds_what_it_finds_alone(
    pool: Pool, asked: list[Ask], data: st.DataObject, most: int
) -> None:
    riding, left = [ask.leaders(pool)[-1] for ask in asked], []
    # The first keeps it going until all have come.
    blocks = [1, *(data.draw(st.integers(1, pool.block_count)) for _ in asked[1:])]
    riders = [
        Rider((leaders,), partial(left.append, number)) for number, leaders in enumerate(riding)
    ]
    scan = Boarded(pool, list(zip(blocks, riders, strict=True)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(circular_scan, "MOST_COLUMNS", most)
        if pool.is_on_device:
            for rider in riders:
                scan.join(rider)
        scan.turn()
        while not scan.is_empty:
            scan.turn()
    assert sorted(left) == list(range(len(asked)))
    for ask, leaders in zip(asked, riding, strict=True):
        *_, own = ask.leaders(pool)
        show_pool(pool, [own])
        assert same(leaders.best(pool.fetch), own.best(pool.fetch))


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize(("name", "task"), CASES)
def test_a_row_has_the_same_bits_whatever_stands_beside_it(
    pool: Pool, name: str, task: Task, classes: int
) -> None:
    situation = Ask(name, task, classes, 1.0, 0, 1).situation(pool)
    scorer, rows = scorer_of(name, situation), np.arange(0, N, 3, dtype=np.int32)
    whole = canonical(scorer, situation.fitted(), rows, pool.fetch)
    by_row = np.argsort(whole.rows)
    for size in (1, 2, 7):
        pieces = [rows[start : start + size] for start in range(0, len(rows), size)]
        for piece in pieces:
            own = canonical(scorer, situation.fitted(), piece, pool.fetch)
            beside = by_row[np.searchsorted(whole.rows[by_row], own.rows)]
            assert own.scores.tobytes() == whole.scores[beside].tobytes()
            assert own.predicted.tolist() == whole.predicted[beside].tolist()


@dataclass
class Counted:
    """A scorer by row number that fails after so many parts, and notes how many it saw."""

    fails_after: int
    seen: int = 0
    needs_head: bool = False
    needs_rows: bool = True
    projection: Projection | None = field(
        default_factory=lambda: Projection(np.ones((1, D)), np.zeros(1))
    )

    def score(self, part: Part) -> Floats:
        self.seen += 1
        if self.seen > self.fails_after:
            raise ArithmeticError("no score")
        return np.asarray(-part.rows.astype(np.float64))

    def error(self, errors: Errors) -> float:
        return 0.0


def counted(fails_after: int) -> tuple[Counted, Leaders]:
    scorer = Counted(fails_after)
    return scorer, Leaders(scorer, None, np.zeros(N, np.bool_), 10, 1.0)


@pytest.mark.parametrize("fails_after", [0, 3])
def test_a_scorer_that_fails_fails_alone(pool: Pool, fails_after: int) -> None:
    (failing, failed), (_, fine) = counted(fails_after), counted(10**6)
    show_pool(pool, [failed, fine])
    assert fine.best(pool.fetch).rows.tolist() == list(range(10))
    with pytest.raises(ArithmeticError, match="no score"):
        failed.best(pool.fetch)
    assert failing.seen <= fails_after + 4  # parts that were under way


def test_who_is_over_is_not_looked_at_any_more(pool: Pool) -> None:
    (gone, over), (stays, fine) = counted(10**6), counted(10**6)
    over.is_over = True
    show_pool(pool, [over, fine])
    assert (gone.seen, stays.seen) == (0, -(-N // 64))
    assert fine.best(pool.fetch).rows.tolist() == list(range(10))


def test_a_pass_ends_when_all_are_over(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    compute, products = pool._vectors.computes[0], []
    multiply = compute.product

    def product(start: int, stop: int, matrix: Any) -> Any:
        products.append(start)
        return multiply(start, stop, matrix)

    monkeypatch.setattr(compute, "product", product)
    show_pool(pool, [counted(0)[1], counted(2)[1]])
    assert len(products) < N // 64
