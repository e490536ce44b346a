"""A replica's view of a session: the log applied up to a offset, in memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from coresift.server.arrays import Rows
from coresift.server.session.config import SessionConfig
from coresift.server.session.labels import UNSURE
from coresift.server.state.entries import (
    ConfigEntry,
    Entry,
    ExpiryEntry,
    GrantEntry,
    LabelsEntry,
    ReleaseEntry,
)
from coresift.server.state.store import RETRACTION, Release, Settings, ViewKey


class View:
    """Labels, leases and skips of a session at a log offset. Only the event loop changes it.

    Attributes:
        offset, revision, nonce, config_version: the `ViewKey` of what was applied.
        votes: row -> {annotator: packed label}; the inner dictionaries are never changed in
            place, so that a shallow copy is a snapshot.
        ever: rows that ever had a label, in the order of their first one.
        leases: row -> annotators who hold it.
        skips: (row, annotator) pairs that are never offered again.
        hidden: rows that nobody can label.
        under_voted: rows with some votes that lack further ones.
        configs: every configuration that the session has had, by version.
    """

    def __init__(self, config: SessionConfig, config_version: int) -> None:
        self.config = config
        self.config_version = config_version
        self.configs = {config_version: config}
        self.offset = 0
        self.revision = 0
        self.nonce = b""
        self.votes: dict[int, dict[str, bytes]] = {}
        self.ever: dict[int, None] = {}
        self.leases: dict[int, frozenset[str]] = {}
        self.skips: set[tuple[int, str]] = set()
        self.hidden: set[int] = set()
        self.under_voted: set[int] = set()
        self.vote_count = 0

    def key(self) -> ViewKey:
        """What the store compares with its log."""
        return ViewKey(self.offset, self.revision, self.nonce, self.config_version)

    def apply(self, entries: Iterable[Entry]) -> None:
        """Apply the log's entries that follow; those already applied are passed over."""
        for entry in entries:
            if entry.offset <= self.offset:
                continue
            if entry.offset != self.offset + 1:
                raise ValueError(f"log entry {entry.offset} after {self.offset}")
            self._apply(entry)
            self.offset = entry.offset

    def _apply(self, entry: Entry) -> None:
        match entry:
            case LabelsEntry():
                self._label(entry)
            case GrantEntry():
                for row in entry.rows:
                    self.leases[row] = self.leases.get(row, frozenset()) | {entry.annotator}
            case ReleaseEntry():
                self._release(entry)
            case ExpiryEntry():
                for row, annotator in entry.leases:
                    self._end_lease(row, annotator)
            case ConfigEntry():
                settings = Settings(0, None, entry.config)
                self.config = SessionConfig.from_settings(settings)
                self.config_version = entry.config_version
                self.configs[entry.config_version] = self.config
                self.under_voted = {row for row in self.votes if self._lacks_votes(row)}

    def _label(self, entry: LabelsEntry) -> None:
        for row, value in zip(entry.rows, entry.values, strict=True):
            before = self.votes.get(row, {})
            self.vote_count += (value != RETRACTION) - (entry.annotator in before)
            after = {name: vote for name, vote in before.items() if name != entry.annotator}
            if value != RETRACTION:
                after[entry.annotator] = value
                self.ever.setdefault(row)
            if after:
                self.votes[row] = after
            else:
                self.votes.pop(row, None)
            if self._lacks_votes(row):
                self.under_voted.add(row)
            else:
                self.under_voted.discard(row)
            self._end_lease(row, entry.annotator)
        self.revision, self.nonce = entry.offset, entry.nonce

    def _release(self, entry: ReleaseEntry) -> None:
        for row in entry.rows:
            self._end_lease(row, entry.annotator)
            if entry.reason == Release.SKIP:
                self.skips.add((row, entry.annotator))
            elif entry.reason == Release.CANNOT_LABEL:
                self.hidden.add(row)

    def _lacks_votes(self, row: int) -> bool:
        return 0 < len(self.votes.get(row, ())) < self.config.votes_per_item

    def _end_lease(self, row: int, annotator: str) -> None:
        rest = self.leases.get(row, frozenset()) - {annotator}
        if rest:
            self.leases[row] = rest
        else:
            self.leases.pop(row, None)

    def free_for(self, row: int, annotator: str) -> bool:
        """Whether the row may be leased to the annotator, as far as this view knows."""
        voters, holders = self.votes.get(row, {}), self.leases.get(row, frozenset())
        return (
            len(voters) + len(holders) < self.config.votes_per_item
            and annotator not in voters
            and annotator not in holders
            and row not in self.hidden
            and (row, annotator) not in self.skips
        )

    def waits_for(self, annotator: str) -> bool:
        """Whether a lease of others blocks an item that the annotator could label later."""
        return any(
            annotator not in holders
            and annotator not in (voters := self.votes.get(row, {}))
            and len(voters) < self.config.votes_per_item
            and row not in self.hidden
            and (row, annotator) not in self.skips
            for row, holders in self.leases.items()
        )

    def waits_for_budget(self, annotator: str, items: int) -> bool:
        """Whether the ends of leases would leave the annotator budget and an item."""
        budget = self.config.label_budget
        if budget is not None and self.vote_count >= budget:
            return False
        full = (
            row
            for row, voters in self.votes.items()
            if annotator in voters or len(voters) >= self.config.votes_per_item
        )
        skipped = (row for row, name in self.skips if name == annotator)
        return len({*full, *skipped, *self.hidden}) < items

    def blocked_rows(self, annotator: str) -> Rows:
        """Rows, ascending, that have a vote or are not free for the annotator."""
        leased = (row for row in self.leases if not self.free_for(row, annotator))
        skipped = (row for row, name in self.skips if name == annotator)
        return np.array(sorted({*self.votes, *self.hidden, *leased, *skipped}), np.int32)

    def unsure_votes(self) -> int:
        """Votes that say "unsure"."""
        return sum(value == UNSURE for item in self.votes.values() for value in item.values())
