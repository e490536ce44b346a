"""A session as its log says it must be, in plain Python.

Written apart from the scripts and from `coresift.server.session.view.view`, so that the three can
be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from coresift.server.session.setup.config import SessionConfig
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
    Outcome,
    Release,
    Settings,
)


class Model:
    """The state after some entries. A lease counts until an entry ends it."""

    def __init__(self) -> None:
        self.config: SessionConfig | None = None
        self.config_version = 0
        self.revision = 0
        self.votes: dict[int, dict[str, bytes]] = {}
        self.holders: dict[int, set[str]] = {}
        self.skips: set[tuple[int, str]] = set()
        self.hidden: set[int] = set()
        self.extra: dict[int, int] = {}

    @property
    def quota(self) -> int:
        assert self.config is not None
        return self.config.votes_per_item

    @property
    def vote_count(self) -> int:
        return sum(map(len, self.votes.values()))

    @property
    def lease_count(self) -> int:
        return sum(map(len, self.holders.values()))

    def quota_of(self, row: int) -> int:
        """Votes that a row may have."""
        return self.quota + self.extra.get(row, 0)

    def objection(self, row: int, annotator: str, *, review: bool) -> str:
        """Why a row may not be leased to an annotator; empty if it may."""
        votes, holders = self.votes.get(row, {}), self.holders.get(row, set())
        if annotator in holders:
            return f"row {row} is already leased to {annotator}"
        if annotator in votes:
            return f"row {row} has a label of {annotator}"
        if row in self.hidden or (row, annotator) in self.skips:
            return f"row {row} was given up"
        is_full = len(votes) + len(holders) + 1 > self.quota_of(row)
        if review and not votes:
            return f"row {row} has no label to look at again"
        if is_full and not (review and not holders):
            names = f"labels of {sorted(votes)}, leases of {sorted(holders)}"
            return f"row {row} of quota {self.quota_of(row)} has {names}"
        return ""

    def outcomes(self, entry: LabelsEntry, leased: Sequence[bool]) -> tuple[Outcome, ...]:
        """What these labels do; ``leased``: a token was shown."""
        seen: dict[int, bytes] = {}
        outcomes = []
        for row, value, shown in zip(entry.rows, entry.values, leased, strict=True):
            votes = self.votes.get(row, {})
            before = seen.get(row, votes.get(entry.annotator, RETRACTION))
            seen[row] = value
            others = len(votes)
            if value == before:
                outcomes.append(Outcome.UNCHANGED)
            elif value == RETRACTION:
                outcomes.append(Outcome.RETRACTED)
            elif before != RETRACTION:
                outcomes.append(Outcome.CORRECTED)
            elif others >= self.quota_of(row):
                outcomes.append(Outcome.SURPLUS)
            elif shown and entry.annotator not in self.holders.get(row, ()):
                outcomes.append(Outcome.LATE)
            else:
                outcomes.append(Outcome.NEW)
        return tuple(outcomes)

    def apply(self, entry: Entry) -> None:
        """Go on to the state after an entry."""
        match entry:
            case ConfigEntry():
                self.config = SessionConfig.from_settings(Settings(0, None, entry.config))
                self.config_version = entry.config_version
            case GrantEntry():
                for row in entry.rows:
                    self.holders.setdefault(row, set()).add(entry.annotator)
                    filled = len(self.votes.get(row, ())) + len(self.holders[row])
                    if entry.review and filled > self.quota_of(row):
                        self.extra[row] = filled - self.quota
            case LabelsEntry():
                for row, value in zip(entry.rows, entry.values, strict=True):
                    self._vote(row, entry.annotator, value)
                    self._end(row, entry.annotator)
                self.revision = entry.offset
            case ReleaseEntry():
                for row in entry.rows:
                    self._end(row, entry.annotator)
                    if entry.reason == Release.SKIP:
                        self.skips.add((row, entry.annotator))
                    elif entry.reason == Release.CANNOT_LABEL:
                        self.hidden.add(row)
            case ExpiryEntry():
                for row, annotator in entry.leases:
                    self._end(row, annotator)

    def _vote(self, row: int, annotator: str, value: bytes) -> None:
        votes = self.votes.setdefault(row, {})
        votes.pop(annotator, None)
        if value != RETRACTION:
            votes[annotator] = value
        if not votes:
            del self.votes[row]

    def _end(self, row: int, annotator: str) -> None:
        holders = self.holders.get(row, set())
        holders.discard(annotator)
        if not holders:
            self.holders.pop(row, None)


def walk(log: Sequence[Entry]) -> Iterator[tuple[Model, Entry]]:
    """Each entry with the state right before it. The model is one object: copy what must last."""
    model = Model()
    for entry in log:
        yield model, entry
        model.apply(entry)


def whole(log: Sequence[Entry]) -> Model:
    """The state after the whole log."""
    model = Model()
    for entry in log:
        model.apply(entry)
    return model


@dataclass(frozen=True, slots=True)
class Hold:
    """A lease from its grant to its end, by the log."""

    row: int
    annotator: str
    grant: GrantEntry
    end: Entry | None
    """None: it is still there."""

    @property
    def end_ms(self) -> float:
        return float("inf") if self.end is None else self.end.time_ms


def holds_of(log: Sequence[Entry]) -> list[Hold]:
    """Every lease of the log."""
    open_holds: dict[tuple[int, str], GrantEntry] = {}
    found: list[Hold] = []

    def end(row: int, annotator: str, entry: Entry) -> None:
        grant = open_holds.pop((row, annotator), None)
        if grant is not None:
            found.append(Hold(row, annotator, grant, entry))

    for entry in log:
        match entry:
            case GrantEntry():
                open_holds |= {(row, entry.annotator): entry for row in entry.rows}
            case LabelsEntry() | ReleaseEntry():
                for row in entry.rows:
                    end(row, entry.annotator, entry)
            case ExpiryEntry():
                for row, annotator in entry.leases:
                    end(row, annotator, entry)
            case ConfigEntry():
                pass
    return found + [Hold(*lease, grant, None) for lease, grant in open_holds.items()]
