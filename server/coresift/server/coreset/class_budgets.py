"""Budgets by class: how many of the selected items each class is to have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from coresift.server.coreset.shares import even_shares, proportional_shares
from coresift.server.errors import invalid


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

    def check_total(self, budget: int) -> None:
        """Refuse given counts that do not add up to the budget. INVALID_FIELD."""
        total = sum(count for _, count in self.counts)
        if self.rule == "counts" and total != budget:
            raise invalid("class_budgets.counts", f"add up to {total:,}, the budget is {budget:,}")

    def _given(self, sizes: Mapping[int, int], budget: int) -> dict[int, int]:
        given = {number: count for number, count in sorted(self.counts) if count}
        for number, count in given.items():
            if count > (there := sizes.get(number, 0)):
                raise invalid(
                    f"class_budgets.counts[{number}]",
                    f"asks for {count:,}, class {number} has {there:,} items",
                )
        self.check_total(budget)
        return given
