"""The baseline: a simple random sample."""

from __future__ import annotations

from dataclasses import dataclass

from coresift.server.coreset.problem import Cost, Needs, Problem, Selection, Setting
from coresift.server.coreset.ranking import first_of
from coresift.server.selection.priority import priorities


@dataclass(frozen=True, slots=True)
class Random:
    """A simple random sample: the first of the keyed hash order; the score is the priority."""

    def needs(self) -> Needs:
        return Needs()

    def objection(self, setting: Setting) -> tuple[str, str] | None:
        return None

    def cost(self, setting: Setting) -> Cost:
        return Cost(held=32.0 * setting.n)

    def select(self, problem: Problem) -> Selection:
        keys = priorities(problem.seed, "coreset", problem.items.rows)
        positions = first_of(-keys, problem.size())
        return Selection(positions, keys[positions])
