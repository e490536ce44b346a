"""The hardest or the easiest items, and with a full budget a curriculum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from coresift.server.arrays import Float64s, Int64s
from coresift.server.coreset.problem import Cost, Problem, Setting
from coresift.server.coreset.ranking import first_of
from coresift.server.selection.parameters import parameter


@dataclass(frozen=True, slots=True)
class Top:
    """The first items of the order by difficulty, ties by row.

    ``first="hardest"`` is hard-example mining, and the selection of SVP (Coleman et al., 2020);
    ``first="easiest"`` over the whole pool is a curriculum (Bengio et al., 2009), whose stages the
    request's pacing buckets number.
    """

    first: Literal["hardest", "easiest"] = parameter(
        "hardest", "which end of the order comes first", choices=("hardest", "easiest")
    )

    def objection(self, setting: Setting) -> tuple[str, str] | None:
        return None

    def cost(self, setting: Setting) -> Cost:
        return Cost(held=40.0 * setting.n)

    def take(self, problem: Problem, difficulty: Float64s) -> Int64s:
        return first_of(-difficulty if self.first == "hardest" else difficulty, problem.size())
