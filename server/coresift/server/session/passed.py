"""Where the search for free rows of an order begins: behind those that nobody can get."""

from __future__ import annotations

from coresift.server.arrays import Rows
from coresift.server.session.view import View


class Passed:
    """How many rows from the beginning of an order are closed to all annotators.

    Rows close one after the other, and rarely open again: so the beginning is looked at once for
    each reopening, not once for each call. Without it a call among thousands of leases spends
    milliseconds to pass them. For one thread at a time.
    """

    __slots__ = ("_lineage", "_offset", "_reopened", "count")

    def __init__(self) -> None:
        self.count = 0
        self._lineage: object = None
        self._offset = self._reopened = 0

    def of(self, view: View) -> int:
        """How many there are in a view that is not older than that of the last call; 0 where a
        row has become open since, or the view is another one."""
        is_later = view.lineage is self._lineage and view.offset >= self._offset
        if not is_later or view.reopened != self._reopened:
            self.count = 0
        self._lineage, self._offset, self._reopened = view.lineage, view.offset, view.reopened
        return self.count

    def move(self, rows: Rows, view: View, end: int) -> None:
        """Pass the rows before place ``end`` up to the first that is open to somebody."""
        count = self.count
        for row in rows[count:end].tolist():
            if not view.is_closed(row):
                break
            count += 1
        self.count = count
