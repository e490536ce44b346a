"""What a law judges: one session's operations, its log, and what Redis was left with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.fault.history.operations import Operation, rows_of, value_of
from tests.fault.history.record import READS, Remains

from coresift.server.session.replay import Report
from coresift.server.session.setup.config import SessionConfig
from coresift.server.state.entries import (
    ConfigEntry,
    Entry,
    GrantEntry,
    LabelsEntry,
    ReleaseEntry,
)
from coresift.server.state.values import Settings

Written = LabelsEntry | GrantEntry | ReleaseEntry | ConfigEntry
"""Entries that bear a request_id."""

NOT_REPLICATED = READS | {"NextBatch", "RenewLeases"}
"""What tells of a master that may be lost: no replica is waited for."""

KIND_OF_ENTRY: dict[type[Entry], str] = {
    LabelsEntry: "AddLabels",
    GrantEntry: "NextBatch",
    ReleaseEntry: "ReleaseLeases",
    ConfigEntry: "UpdateSession",
}


@dataclass(frozen=True)
class Evidence:
    """All that is known of one session."""

    session: str
    operations: Sequence[Operation]
    log: Sequence[Entry]
    remains: Remains
    replayed: Report | None
    """None: the picks were not repeated."""
    failed_over: bool = False
    """Redis lost its master: leases of the moment before may be gone (a documented limit)."""
    written: dict[str, list[Written]] = field(init=False)
    """By request_id."""

    def __post_init__(self) -> None:
        written: dict[str, list[Written]] = {}
        for entry in self.log:
            if isinstance(entry, Written):
                written.setdefault(entry.request_id, []).append(entry)
        object.__setattr__(self, "written", written)

    @property
    def classes(self) -> tuple[str, ...]:
        """Of the session; they never change."""
        return self.first_config.classes

    @property
    def first_config(self) -> SessionConfig:
        """What the session was created with."""
        first = self.log[0]
        assert isinstance(first, ConfigEntry)
        return SessionConfig.from_settings(Settings(0, None, first.config))

    def of_kind(self, *kinds: str) -> Iterator[Operation]:
        """Operations of these RPCs."""
        return (operation for operation in self.operations if operation.kind in kinds)

    def acknowledged(self, *kinds: str) -> Iterator[tuple[Operation, float]]:
        """Those of them that were answered, with the moment of the first answer."""
        for operation in self.of_kind(*kinds):
            if (at := operation.acknowledged_ms) is not None:
                yield operation, at

    def fits(self, operation: Operation, entry: LabelsEntry) -> bool:
        """Whether an entry holds the labels of an operation."""
        request = operation.request
        values = tuple(value_of(label, self.classes) for label in request.labels)
        return (
            entry.annotator == request.annotator
            and entry.item_ids == tuple(label.item_id for label in request.labels)
            and entry.rows == rows_of(entry.item_ids)
            and entry.values == values
        )

    def entries_of(self, operation: Operation) -> list[Written]:
        """The entries that bear an operation's request_id and are of its kind."""
        named = self.written.get(operation.request_id, [])
        return [entry for entry in named if KIND_OF_ENTRY[type(entry)] == operation.kind]


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken law: what is wrong, and what shows it."""

    law: str
    session: str
    text: str
    attempts: tuple[int, ...] = ()
    offsets: tuple[int, ...] = ()
    """Of log entries."""

    def __str__(self) -> str:
        shown = f" attempts {list(self.attempts)}" if self.attempts else ""
        shown += f" entries {list(self.offsets)}" if self.offsets else ""
        return f"{self.law}: {self.session}: {self.text}{shown}"


@dataclass(slots=True)
class Finding:
    """What a law found in a session: facts that were checked, violations, and limits met."""

    law: str
    session: str
    facts: int = 0
    violations: list[Violation] = field(default_factory=list)
    limits: int = 0
    """Losses that are documented, not promised against."""

    def check(
        self,
        holds: bool,
        text: str,
        operations: Sequence[Operation] = (),
        entries: Sequence[Entry] = (),
    ) -> bool:
        """Count a fact, and a violation where it does not hold."""
        self.facts += 1
        if not holds:
            numbers = tuple(n for operation in operations for n in operation.numbers)
            offsets = tuple(entry.offset for entry in entries)
            self.violations.append(Violation(self.law, self.session, text, numbers, offsets))
        return holds
