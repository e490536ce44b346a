"""Who may be offered what, as far as a view knows."""

from __future__ import annotations

from coresift.server.arrays import Bools
from coresift.server.session.setup.config import SessionConfig
from coresift.server.session.view.pages import Pages


class Openness:
    """The part of a view that says which rows are open to an annotator; its fields are the
    view's."""

    config: SessionConfig
    votes: Pages[dict[str, bytes]]
    leases: dict[int, frozenset[str]]
    skips: set[tuple[int, str]]
    hidden: Pages[int]
    extra: Pages[int]
    vote_count: int

    def quota_of(self, row: int) -> int:
        """Votes that the row may have."""
        return self.config.votes_per_item + self.extra.get(row, 0)

    def free_for(self, row: int, annotator: str) -> bool:
        """Whether the row may be leased to the annotator, as far as this view knows."""
        voters, holders = self.votes.get(row, {}), self.leases.get(row, frozenset())
        return len(voters) + len(holders) < self.quota_of(row) and self._is_open(row, annotator)

    def places_for(self, rows: list[int], annotator: str) -> list[int]:
        """Places in ``rows`` of those that may be leased to the annotator and have no vote.

        For many rows together: one by one most of the time goes into the calls.
        """
        closed = self.votes.among(rows) | self.hidden.among(rows)
        closed |= {row for row in self.leases.keys() & rows if not self.free_for(row, annotator)}
        if self.skips:
            closed |= {row for row in rows if (row, annotator) in self.skips}
        return [place for place, row in enumerate(rows) if row not in closed]

    def places_for_review(self, rows: list[int], annotator: str) -> list[int]:
        """Places in ``rows`` of those that a second look may lease to the annotator."""
        return [place for place, row in enumerate(rows) if self.free_for_review(row, annotator)]

    def is_closed(self, row: int) -> bool:
        """Whether nobody may label the row as a new one; so while ``openings`` is the same."""
        if row in self.votes or row in self.hidden:
            return True
        return row in self.leases and len(self.leases[row]) >= self.quota_of(row)

    def free_for_review(self, row: int, annotator: str) -> bool:
        """Whether a second look may lease the row: it has a vote, and nobody holds it or it lacks
        votes."""
        unheld = row not in self.leases and self._is_open(row, annotator)
        return row in self.votes and (unheld or self.free_for(row, annotator))

    def _is_open(self, row: int, annotator: str) -> bool:
        return (
            annotator not in self.votes.get(row, ())
            and annotator not in self.leases.get(row, ())
            and row not in self.hidden
            and (row, annotator) not in self.skips
        )

    def waits_for(self, annotator: str, eligible: Bools | None = None) -> bool:
        """Whether a lease of others blocks an item that the annotator could label later.

        ``eligible``: bool [N], rows that may be offered; None: all.
        """
        return any(
            len(self.votes.get(row, ())) < self.quota_of(row)
            and self._is_open(row, annotator)
            and _is_eligible(row, eligible)
            for row in self.leases
        )

    def waits_for_budget(self, annotator: str, items: int, eligible: Bools | None = None) -> bool:
        """Whether the ends of leases would leave the annotator budget and one of ``items``
        eligible items."""
        budget = self.config.label_budget
        if budget is not None and self.vote_count >= budget:
            return False
        full = (
            row
            for row, voters in self.votes.items()
            if annotator in voters or len(voters) >= self.quota_of(row)
        )
        skipped = (row for row, name in self.skips if name == annotator)
        gone = {*full, *skipped, *self.hidden}
        return sum(_is_eligible(row, eligible) for row in gone) < items


def _is_eligible(row: int, eligible: Bools | None) -> bool:
    """Whether a mask admits a row; it may be older than the pool version that brought the row."""
    return eligible is None or (row < len(eligible) and bool(eligible[row]))
