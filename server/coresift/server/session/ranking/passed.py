"""Where the search for free rows of an order begins: behind those that nobody can get."""

from __future__ import annotations

from coresift.server.arrays import Rows
from coresift.server.session.view.view import View


class Passed:
    """How many rows from the beginning of an order are closed to all annotators.

    Rows close one after the other, and rarely open again: so the beginning is looked at once for
    each opening, not once for each call. Without it a call among thousands of leases spends
    milliseconds to pass them. For one thread at a time.
    """

    __slots__ = ("_count", "_openings")

    def __init__(self) -> None:
        self._count = 0
        self._openings: object = None

    def of(self, view: View) -> int:
        """How many are known by now; 0 where a row has become open since, or the view is another
        one."""
        if view.openings is not self._openings:
            self._openings, self._count = view.openings, 0
        return self._count

    def move(self, rows: Rows, view: View, end: int) -> None:
        """Pass the rows before place ``end`` up to the first that is open to somebody; after
        `of` the same view."""
        count = self._count
        for row in rows[count:end].tolist():
            if not view.is_closed(row):
                break
            count += 1
        self._count = count
