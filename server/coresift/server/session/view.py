"""A replica's view of a session: the log applied up to a offset, in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from coresift.server.arrays import Bools
from coresift.server.session.config import SessionConfig
from coresift.server.state.entries import (
    ConfigEntry,
    Entry,
    ExpiryEntry,
    GrantEntry,
    LabelsEntry,
    ReleaseEntry,
)
from coresift.server.state.store import RETRACTION, Release, Settings, ViewKey

HOUR_S = 3600


class View:
    """Labels, leases and skips of a session at a log offset. Only the event loop changes it.

    Attributes:
        offset, revision, nonce, config_version: the `ViewKey` of what was applied.
        votes: row -> {annotator: packed label}; the inner dictionaries are never changed in
            place, so that a shallow copy is a snapshot.
        ever: row -> offset of its first label, in that order; of rows that ever had one.
        leases: row -> annotators who hold it.
        skips: (row, annotator) pairs that are never offered again.
        hidden: row -> offset of the entry that says that nobody can label it.
        under_voted: rows with some votes that lack further ones.
        extra: row -> votes that second looks have added to its quota.
        configs: every configuration that the session has had, by version.
        recent: seconds since the epoch with new or changed labels, and how many, ascending; of
            the hour up to the newest.
    """

    def __init__(self, config: SessionConfig, config_version: int) -> None:
        self.config = config
        self.config_version = config_version
        self.configs = {config_version: config}
        self.offset = 0
        self.revision = 0
        self.nonce = b""
        self.votes: dict[int, dict[str, bytes]] = {}
        self.ever: dict[int, int] = {}
        self.leases: dict[int, frozenset[str]] = {}
        self.skips: set[tuple[int, str]] = set()
        self.hidden: dict[int, int] = {}
        self.under_voted: set[int] = set()
        self.extra: dict[int, int] = {}
        self.vote_count = 0
        self.recent: deque[tuple[int, int]] = deque()

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
                self._grant(entry)
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

    def _grant(self, entry: GrantEntry) -> None:
        for row in entry.rows:
            holders = self.leases.get(row, frozenset()) | {entry.annotator}
            self.leases[row] = holders
            filled = len(self.votes.get(row, ())) + len(holders)
            if entry.review and filled > self.quota_of(row):
                self.extra[row] = filled - self.config.votes_per_item
                self.under_voted.add(row)

    def _label(self, entry: LabelsEntry) -> None:
        changed = 0
        for row, value in zip(entry.rows, entry.values, strict=True):
            before = self.votes.get(row, {})
            self.vote_count += (value != RETRACTION) - (entry.annotator in before)
            changed += value not in (RETRACTION, before.get(entry.annotator))
            after = {name: vote for name, vote in before.items() if name != entry.annotator}
            if value != RETRACTION:
                after[entry.annotator] = value
                self.ever.setdefault(row, entry.offset)
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
        if changed:
            self._count(entry.time_ms // 1000, changed)

    def _count(self, second: int, labels: int) -> None:
        if self.recent and self.recent[-1][0] == second:
            labels += self.recent.pop()[1]
        self.recent.append((second, labels))
        while self.recent[0][0] <= second - HOUR_S:
            self.recent.popleft()

    def labels_per_hour(self) -> int:
        """New and changed labels in the hour that ends with the newest of them; 0 without any."""
        return sum(labels for _, labels in self.recent)

    def _release(self, entry: ReleaseEntry) -> None:
        for row in entry.rows:
            self._end_lease(row, entry.annotator)
            if entry.reason == Release.SKIP:
                self.skips.add((row, entry.annotator))
            elif entry.reason == Release.CANNOT_LABEL:
                self.hidden.setdefault(row, entry.offset)

    def _lacks_votes(self, row: int) -> bool:
        return 0 < len(self.votes.get(row, ())) < self.quota_of(row)

    def _end_lease(self, row: int, annotator: str) -> None:
        rest = self.leases.get(row, frozenset()) - {annotator}
        if rest:
            self.leases[row] = rest
        else:
            self.leases.pop(row, None)

    def quota_of(self, row: int) -> int:
        """Votes that the row may have."""
        return self.config.votes_per_item + self.extra.get(row, 0)

    def free_for(self, row: int, annotator: str) -> bool:
        """Whether the row may be leased to the annotator, as far as this view knows."""
        voters, holders = self.votes.get(row, {}), self.leases.get(row, frozenset())
        return len(voters) + len(holders) < self.quota_of(row) and self._is_open(row, annotator)

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
