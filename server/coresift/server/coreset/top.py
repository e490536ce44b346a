"""The hardest or the easiest items, and with a full budget a curriculum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from coresift.server.arrays import Float64s, Int64s
from coresift.server.coreset.problem import Cost, Needs, Problem, Setting
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

    def needs(self) -> Needs:
        return Needs()

    def objection(self, setting: Setting) -> str | None:
        return None

    def cost(self, setting: Setting) -> Cost:
        return Cost(held=24.0 * setting.n)

    def take(self, problem: Problem, difficulty: Float64s) -> Int64s:
        return first_of(-difficulty if self.first == "hardest" else difficulty, problem.size())


def first_of(keys: Float64s, count: int) -> Int64s:
    """Positions of the ``count`` smallest keys, ascending, ties by position; int64."""
    if 0 < count < len(keys):
        bound = np.partition(keys, count - 1)[count - 1]
        near = np.flatnonzero(keys <= bound)
    else:
        near = np.arange(len(keys))
    return near[np.argsort(keys[near], kind="stable")][:count]


def finite(difficulty: Float64s) -> Float64s:
    """Difficulties, float64 [n], with infinity ("never correct") as the largest other plus one.

    Samplers that compute with difficulties need numbers; the order stays as it is.
    """
    there = difficulty[np.isfinite(difficulty)]
    low, high = (there.min(), there.max()) if len(there) else (0.0, 0.0)
    return np.nan_to_num(difficulty, posinf=high + 1, neginf=low - 1)
