"""A replica's view of a session: the log applied up to an offset, in memory."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable

import numpy as np

from coresift.server.arrays import Rows
from coresift.server.session.setup.config import SessionConfig
from coresift.server.session.view.openness import Openness
from coresift.server.session.view.pages import Pages
from coresift.server.state.entries import (
    ConfigEntry,
    Entry,
    ExpiryEntry,
    GrantEntry,
    LabelsEntry,
    ReleaseEntry,
)
from coresift.server.state.values import (
    RETRACTION,
    Release,
    Settings,
    ViewKey,
)

HOUR_S = 3600
NO_VOTES: dict[str, bytes] = {}
MOST_SHARED = 10_000


class View(Openness):
    """Labels, leases and skips of a session at a log offset. Only the event loop changes it.

    Attributes:
        offset, revision, nonce, config_version, tip: the `ViewKey` of what was applied.
        lineage: the same object in all views that come from the same reading of the log; one
            that is read anew, after a failover, has another.
        votes: row -> {annotator: packed label}; the inner dictionaries are never changed in
            place, so that a shallow copy is a snapshot, and rows share equal ones.
        ever_rows, ever_offsets: rows that ever had a label, and the offset of the first one, in
            that order; int32 and int64.
        retracted: those of them that have none now.
        leases: row -> annotators who hold it.
        skips: (row, annotator) pairs that are never offered again.
        hidden: row -> offset of the entry that says that nobody can label it.
        under_voted: rows with some votes that lack further ones.
        extra: row -> votes that second looks have added to its quota.
        configs: every configuration that the session has had, by version.
        recent: seconds since the epoch with new or changed labels, and how many, ascending; of
            the hour up to the newest.
        label_count: labels applied, corrections and retractions among them.
        openings: another object in each view, and after each entry that may have opened a row
            which was closed to everybody.
    """

    def __init__(self, config: SessionConfig, config_version: int) -> None:
        self.config = config
        self.config_version = config_version
        self.configs = {config_version: config}
        self.offset = 0
        self.revision = 0
        self.nonce = b""
        self.tip = b""
        self.lineage = object()
        self.votes: Pages[dict[str, bytes]] = Pages()
        self.ever_rows, self.ever_offsets = array("i"), array("q")
        self.retracted: set[int] = set()
        self.leases: dict[int, frozenset[str]] = {}
        self.skips: set[tuple[int, str]] = set()
        self.hidden: Pages[int] = Pages()
        self.under_voted: set[int] = set()
        self.extra: Pages[int] = Pages()
        self.vote_count = 0
        self.label_count = 0
        self.openings = object()
        self.recent: deque[tuple[int, int]] = deque()
        self._alone: dict[tuple[str, bytes], dict[str, bytes]] = {}

    def key(self) -> ViewKey:
        """What the store compares with its log."""
        # A first configuration that was read from a lost log must not look like a later one.
        version = self.config_version if self.offset else 0
        return ViewKey(self.offset, self.revision, self.nonce, version, self.tip)

    @property
    def size(self) -> int:
        """Entries and labels applied: what building it anew costs."""
        return self.offset + self.label_count

    @property
    def nbytes(self) -> int:
        """Memory, roughly (measured with CPython 3.11)."""
        several = self.vote_count - len(self.votes)
        tables = len(self.votes) + len(self.hidden) + len(self.extra)
        return (
            85 * tables
            + 12 * len(self.ever_rows)
            + 200 * (several + len(self._alone) + len(self.skips))
            + 340 * len(self.leases)
            + 60 * (len(self.under_voted) + len(self.retracted))
        )

    def copy(self) -> View:
        """The same view, for other threads, or to go on from."""
        other = View(self.config, self.config_version)
        other.configs = dict(self.configs)
        other.offset, other.revision = self.offset, self.revision
        other.nonce, other.tip, other.lineage = self.nonce, self.tip, self.lineage
        other.votes, other.leases = self.votes.copy(), dict(self.leases)
        other.ever_rows, other.ever_offsets = self.ever_rows[:], self.ever_offsets[:]
        other.retracted = set(self.retracted)
        other.skips, other.under_voted = set(self.skips), set(self.under_voted)
        other.hidden, other.extra = self.hidden.copy(), self.extra.copy()
        other.vote_count, other.label_count = self.vote_count, self.label_count
        other.recent = deque(self.recent)
        return other

    def apply(self, entries: Iterable[Entry]) -> None:
        """Apply the log's entries that follow; those already applied are passed over."""
        for entry in entries:
            if entry.offset <= self.offset:
                continue
            if entry.offset != self.offset + 1:
                raise ValueError(f"log entry {entry.offset} after {self.offset}")
            self._apply(entry)
            self.offset, self.tip = entry.offset, entry.nonce

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
                self.openings = object()
            case ConfigEntry():
                self.openings = object()
                if not self.offset:
                    self.configs.clear()  # what the view began with may be of a lost log
                settings, before = Settings(0, None, entry.config), self.config
                self.config = SessionConfig.from_settings(settings)
                self.config_version = entry.config_version
                self.configs[entry.config_version] = self.config
                if self.config.votes_per_item != before.votes_per_item:
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
        changed, annotator = 0, entry.annotator
        for row, value in zip(entry.rows, entry.values, strict=True):
            before = self.votes.get(row, NO_VOTES)
            self.vote_count += (value != RETRACTION) - (annotator in before)
            changed += value not in (RETRACTION, before.get(annotator))
            after = {name: vote for name, vote in before.items() if name != annotator}
            if value != RETRACTION:
                after[annotator] = value
            if after:
                self.votes[row] = self.shared(after) if len(after) == 1 else after
                if not before:
                    self._begin(row, entry.offset)
            elif before:
                del self.votes[row]
                self.retracted.add(row)
            if self._lacks_votes(row):
                self.under_voted.add(row)
            else:
                self.under_voted.discard(row)
            self._end_lease(row, annotator)
        self.revision, self.nonce = entry.offset, entry.nonce
        self.label_count += len(entry.rows)
        if RETRACTION in entry.values:
            self.openings = object()
        if changed:
            self._count(entry.time_ms // 1000, changed)

    def _begin(self, row: int, offset: int) -> None:
        """A row without votes has its first, perhaps again."""
        if row in self.retracted:
            self.retracted.discard(row)
        else:
            self.ever_rows.append(row)
            self.ever_offsets.append(offset)

    def voted(self) -> Rows:
        """Rows with a vote, int32, in the order of their first one."""
        rows = np.array(self.ever_rows, np.int32)
        if not self.retracted:
            return rows
        return rows[~np.isin(rows, np.array(sorted(self.retracted), np.int32))]

    def shared(self, votes: dict[str, bytes]) -> dict[str, bytes]:
        """The votes of a row with one vote: one dictionary for all rows that have the same."""
        if len(self._alone) >= MOST_SHARED:
            self._alone.clear()
        (vote,) = votes.items()
        return self._alone.setdefault(vote, votes)

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
        self.openings = object()
        for row in entry.rows:
            self._end_lease(row, entry.annotator)
            if entry.reason == Release.SKIP:
                self.skips.add((row, entry.annotator))
            elif entry.reason == Release.CANNOT_LABEL:
                self.hidden.setdefault(row, entry.offset)

    def _lacks_votes(self, row: int) -> bool:
        return 0 < len(self.votes.get(row, ())) < self.quota_of(row)

    def _end_lease(self, row: int, annotator: str) -> None:
        if row not in self.leases:
            return
        rest = self.leases[row] - {annotator}
        if rest:
            self.leases[row] = rest
        else:
            del self.leases[row]
