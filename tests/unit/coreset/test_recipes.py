"""Methods by class: what is put together of the classes' selections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.coresets import a_problem
from tests.fixtures.pools import make_pool

from coresift.server.coreset.class_budgets import ClassBudgets
from coresift.server.coreset.problem import Cost, Needs, Problem, Selection, Setting
from coresift.server.coreset.random import Random
from coresift.server.coreset.select import Recipe
from coresift.server.pool.failures import Cancelled


@dataclass(frozen=True)
class First:
    """The first items of each class, with what the test wants said of them."""

    said: Mapping[int, Selection]

    def needs(self) -> Needs:
        return Needs()

    def objection(self, setting: Setting) -> None:
        return None

    def cost(self, setting: Setting) -> Cost:
        return Cost()

    def select(self, problem: Problem) -> Selection:
        return self.said[int(problem.item_classes()[0])]


def a_selection(radius: float, details: dict[str, float], objective: float) -> Selection:
    return Selection(
        np.arange(2), np.zeros(2), objective=objective, covering_radius=radius, details=details
    )


def test_what_classes_agree_on_is_kept(tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "pool", np.eye(8, dtype=np.float32))
    said = {
        0: a_selection(0.5, {"threshold": 0.9, "all_pairs_objective": 3.0, "rare": 1.0}, 2.0),
        1: a_selection(0.25, {"threshold": 0.9, "all_pairs_objective": 4.0}, 3.5),
    }
    recipe = Recipe(First(said), None, ClassBudgets("balanced"))
    classes = np.array([0, 1] * 4, np.int32)
    found = recipe.select(a_problem(pool, 4, classes=classes))
    assert sorted(found.positions.tolist()) == [0, 1, 2, 3]
    assert dict(found.details) == {"threshold": 0.9}
    assert found.objective == pytest.approx(5.5)
    assert found.covering_radius is None


def test_many_classes_are_looked_at_once_each_and_can_be_cancelled(tmp_path: Path) -> None:
    pool = make_pool(
        tmp_path / "pool", np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32)
    )
    classes = (np.arange(600) % 200).astype(np.int32)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 100

    recipe = Recipe(Random(), None, ClassBudgets("balanced"))
    found = recipe.select(a_problem(pool, 400, classes=classes))
    numbers, counts = np.unique(classes[found.positions], return_counts=True)
    assert numbers.tolist() == list(range(200))
    assert set(counts.tolist()) == {2}
    with pytest.raises(Cancelled):
        recipe.select(a_problem(pool, 400, classes=classes, stop=stop))
    assert asked == 101
