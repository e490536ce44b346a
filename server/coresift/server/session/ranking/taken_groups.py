"""Groups of which no further item may be offered: what a view knows of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coresift.server.arrays import Rows
from coresift.server.pool.groups import NO_GROUP
from coresift.server.session.setup.materials import Materials
from coresift.server.session.view.view import View

FREE, SEVERAL = -1, -2
"""Stand for the row that has a group: nobody has it; two rows have it."""


@dataclass(frozen=True, slots=True)
class TakenGroups:
    """Groups that have a lease or a label, where a rule allows one, and the row that has it.

    As the claim script has it: a further annotator may get that very row, nobody another one.
    """

    groups: Rows
    holders: Rows
    """int32 [groups]: the row that has the lease or label; FREE or SEVERAL."""

    @classmethod
    def of(cls, materials: Materials, view: View, *, is_review: bool) -> TakenGroups:
        """The groups that a view knows to be taken; second looks heed leases alone."""
        rule, groups = materials.rule, materials.groups
        if rule is None or groups is None or not rule.one_lease:
            return cls(np.empty(0, np.int32), np.empty(0, np.int32))
        holders = np.full(materials.group_count, FREE, np.int32)
        if rule.one_label and not is_review:
            rows = view.voted()
            rows = rows[groups[rows] != NO_GROUP]
            # The first to be labelled counts: of equal places NumPy keeps the last assignment.
            holders[groups[rows[::-1]]] = rows[::-1]
        for row in view.leases:
            if (group := groups[row]) != NO_GROUP and holders[group] != row:
                holders[group] = row if holders[group] == FREE else SEVERAL
        return cls(groups, holders)

    @property
    def is_empty(self) -> bool:
        """Whether every row is admitted."""
        return not len(self.holders)

    def admits(self, row: int) -> bool:
        """Whether the row's group is free, or taken by the row itself."""
        if self.is_empty or (group := self.groups[row]) == NO_GROUP:
            return True
        return bool(self.holders[group] in (FREE, row))
