"""Coverage-centric core-sets: stratified sampling over the difficulties."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from coresift.server.arrays import Float64s, Int64s
from coresift.server.coreset.problem import Cost, Problem, Setting
from coresift.server.coreset.ranking import finite, first_of
from coresift.server.coreset.shares import by_turns, even_shares
from coresift.server.selection.parameters import parameter
from coresift.server.selection.priority import priorities


@dataclass(frozen=True, slots=True)
class Ccs:
    """Coverage-centric core-set selection (CCS; Zheng et al., ICLR 2023).

    The hardest ``floor(beta n)`` items are cut, ties from the last row: many of them carry wrong
    labels. The others fall into ``strata`` of equal width between their least and greatest
    difficulty. Non-empty strata are visited from the smallest, ties from the easiest; each gives
    the budget that is left divided by the strata that are left, or all it has; which items, the
    keyed hash decides. Strata are taken by turns, so that every beginning of the order covers
    the difficulties as the whole does.

    The paper searches beta for each data set and pruning rate: 0 to 0.1 where half is kept, 0.3
    to 0.5 where a tenth is. Departures: empty strata are skipped, not visited (the paper's rule
    gives the same numbers); infinite difficulties are the largest finite one plus one. A class
    that has to give more than beta leaves of it is cut less.
    """

    beta: float = parameter(0.1, "share of the items, the hardest, that is cut", low=0.0, high=0.9)
    strata: int = parameter(50, "ranges of difficulty", low=1, high=10_000)

    def objection(self, setting: Setting) -> tuple[str, str] | None:
        n, budget, cut = setting.n, setting.budget, self._cut(setting.n)
        if budget > n - cut:
            most = (n - budget) * 10_000 // n / 10_000
            return "sampler_params.beta", (
                f"of {self.beta:g} cuts the hardest {cut:,} of {n:,} items, which leaves fewer "
                f"than the budget of {budget:,}: give at most {most:g}"
            )
        return None

    def cost(self, setting: Setting) -> Cost:
        return Cost(held=96.0 * setting.n)

    def take(self, problem: Problem, difficulty: Float64s) -> Int64s:
        n, budget = len(difficulty), problem.size()
        scores = finite(difficulty)
        kept = np.sort(first_of(scores, max(budget, n - self._cut(n))))
        strata = _strata(scores[kept], self.strata)
        chance = priorities(problem.seed, "ccs", problem.items.rows[kept])
        order = np.lexsort((-chance, strata))
        _, firsts, sizes = np.unique(strata[order], return_index=True, return_counts=True)
        shares = even_shares(sizes, budget)
        taken = [order[first : first + m] for first, m in zip(firsts, shares, strict=True)]
        return kept[np.concatenate(taken)[by_turns(shares.tolist())]]

    def _cut(self, n: int) -> int:
        # As it is written: in float64 0.29 of 100 is less than 29.
        return int(Fraction(str(self.beta)) * n)


def _strata(scores: Float64s, count: int) -> Int64s:
    """Which of ``count`` ranges of equal width each score lies in, int64 [n]."""
    low, high = scores.min(), scores.max()
    width = (high - low) / count
    if width == 0:
        return np.zeros(len(scores), np.int64)
    return np.asarray(np.minimum(np.floor((scores - low) / width), count - 1), np.int64)
