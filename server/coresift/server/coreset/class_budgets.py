"""Budgets by class: how many of the selected items each class is to have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from coresift.server.arrays import Int64s
from coresift.server.errors import invalid

GOLDEN = (np.sqrt(5) - 1) / 2
"""Its multiples are spread evenly over 0..1, however many there are."""


@dataclass(frozen=True, slots=True)
class ClassBudgets:
    """A rule, and for ``counts`` the numbers by class number."""

    rule: Literal["balanced", "proportional", "counts"]
    counts: tuple[tuple[int, int], ...] = ()

    def divide(self, sizes: Mapping[int, int], budget: int) -> dict[int, int]:
        """Items to select of each class, in ascending order of the classes; zeros are left out.

        Args:
            sizes: items of each class, together at least ``budget``.

        Raises:
            CoresiftError: INVALID_FIELD of ``class_budgets`` for counts that do not add up, or
                that a class cannot give.
        """
        if self.rule == "counts":
            return self._given(sizes, budget)
        classes = sorted(sizes)
        room = np.array([sizes[number] for number in classes], np.int64)
        divided = even_shares if self.rule == "balanced" else proportional_shares
        shares = divided(room, budget).tolist()
        return {number: share for number, share in zip(classes, shares, strict=True) if share}

    def _given(self, sizes: Mapping[int, int], budget: int) -> dict[int, int]:
        given = {number: count for number, count in sorted(self.counts) if count}
        for number, count in given.items():
            if count > (there := sizes.get(number, 0)):
                raise invalid(
                    f"class_budgets.counts[{number}]",
                    f"asks for {count:,}, class {number} has {there:,} items",
                )
        if (total := sum(given.values())) != budget:
            raise invalid("class_budgets.counts", f"add up to {total:,}, the budget is {budget:,}")
        return given


def even_shares(room: Int64s, budget: int) -> Int64s:
    """Equal shares of a budget, int64 [parts]: each at most its room, together the budget.

    From the smallest part to the largest, ties by number, each gets the budget that is left
    divided by the parts that are left, rounded down: what a small part cannot give goes to all
    others, and shares that are not cut short by their room differ by at most one.
    """
    shares, left = np.zeros_like(room), budget
    for done, part in enumerate(np.argsort(room, kind="stable")):
        shares[part] = min(int(room[part]), left // (len(room) - done))
        left -= int(shares[part])
    return shares


def proportional_shares(room: Int64s, budget: int) -> Int64s:
    """Shares as the room, by largest remainders, ties by number; int64 [parts]."""
    shares, remainders = np.divmod(room * budget, room.sum())
    shares[np.argsort(-remainders, kind="stable")[: budget - int(shares.sum())]] += 1
    return np.asarray(shares)


def by_turns(lengths: Sequence[int]) -> Int64s:
    """The order that takes from parts of these lengths, laid end to end, evenly: int64.

    Every beginning of it has of each part about its share of the whole.
    """
    # Where in its turn a part comes: else all parts of one item would come together.
    offsets = np.arange(len(lengths)) * GOLDEN % 1
    turns = [
        (np.arange(length) + offset) / max(length, 1)
        for length, offset in zip(lengths, offsets, strict=True)
    ]
    return np.argsort(np.concatenate(turns), kind="stable")
