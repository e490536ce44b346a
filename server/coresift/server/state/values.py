"""What operations of the store take and give.

Times are milliseconds since the epoch by the store's own clock. Rows are row numbers of the
session's pool lineage. Label values and payloads are opaque bytes here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from coresift.server.state.entries import Entry

MAX_LABELS = 1_000
MAX_PROPOSALS = 2_000
MAX_GROUP = 2**53 - 1
NO_GROUP = -1
ANSWER_MS = 24 * 3600 * 1000
"""How long a write is remembered, and how long a deleted session is kept."""

RETRACTION = b""
"""The label value that takes a label back."""


class Outcome(IntEnum):
    """What a label did; the numbers of ``LabelOutcome`` on the wire."""

    NEW = 1
    CORRECTED = 2
    RETRACTED = 3
    UNCHANGED = 4
    LATE = 5
    SURPLUS = 6


class Release(IntEnum):
    """Why a lease was handed back; the numbers of ``ReleaseReason`` on the wire."""

    RETURN = 1
    SKIP = 2
    CANNOT_LABEL = 3


@dataclass(frozen=True, slots=True)
class Settings:
    """The part of a session's configuration that the store itself enforces, and the rest."""

    quota: int
    """Votes per item; a second look may raise it for single items."""
    budget: int | None
    """Limit of votes and live leases together."""
    config: bytes
    """The whole configuration, packed by the session layer."""


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session as it was when it was read."""

    session_id: str
    uid: str
    """Random, never used again: names the keys, so that a stale view cannot write elsewhere."""
    secret: bytes
    """Key of the lease tokens."""
    settings: Settings
    config_version: int
    revision: int
    nonce: bytes
    """Of the log entry at ``revision``; empty at revision 0."""
    offset: int
    """Number of the newest log entry; 0 for an empty log."""
    created_ms: int
    votes: int
    """Of all items together."""
    tip: bytes
    """Nonce of the newest log entry; empty if it has none."""


@dataclass(frozen=True, slots=True)
class Request:
    """Who asks: makes a write repeatable."""

    request_id: str
    digest: bytes
    """Hash of the request's body; another one under the same id is refused."""


@dataclass(frozen=True, slots=True)
class ViewKey:
    """The state of the log that a replica has seen.

    The nonces are random: a log that has both where the view has them begins with all that the
    view was built from. One that a failover cut short has not, however long it has grown since.
    """

    offset: int
    revision: int
    nonce: bytes
    """Of the log entry at ``revision``; empty at revision 0."""
    config_version: int
    tip: bytes
    """Nonce of the log entry at ``offset``; empty at offset 0 and where that entry has none."""


class Proposal(NamedTuple):
    """An item that may be leased, best first; ``payload`` comes back with the grant.

    A tuple, as every claim makes some fifty.
    """

    row: int
    payload: bytes
    group: int = NO_GROUP
    """Number of the row's group, up to `MAX_GROUP`. Two ways to group rows that one session has
    had after each other must not share numbers."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Asks to lease the first ``size`` proposals that are free for ``annotator``.

    A row is free if the annotator neither holds nor has labelled nor skipped it, nobody has
    hidden it, and its votes and leases are fewer than its quota: that of the session and what
    second looks have added. A row with a group is free only while no other row of the group is
    leased, and a claim gets at most one of them.
    """

    request: Request
    annotator: str
    size: int
    lease_ms: int
    view: ViewKey
    min_revision: int | None
    """The view's revision must reach it; None: the newest of the log."""
    proposals: Sequence[Proposal]
    context: bytes
    """Kept with the answer (phase, head)."""
    review: bool = False
    """A second look: only rows with a vote are free, also those that nobody holds and that have
    all their votes. Such a lease raises the row's quota by what it needs, for good: where it
    ends without a label, the row lacks a vote and is offered to all."""
    one_label: bool = False
    """Of a group in which rows are labelled, only rows with votes are free: the caller proposes the
    one that was labelled first."""


@dataclass(frozen=True, slots=True)
class Granted:
    """Leases given, now or (``replayed``) when the same request came first."""

    rows: tuple[int, ...]
    payloads: tuple[bytes, ...]
    deadline_ms: int
    revision: int
    """Of the view that the picks come from."""
    config_version: int
    context: bytes
    replayed: bool
    budget_spent: bool
    """The label budget cut the batch short."""
    next_deadline_ms: int | None
    """When the earliest live lease of any annotator ends; None: there is none."""
    entries: tuple[Entry, ...]
    """The log after the claim's view, this grant included; empty when replayed."""
    is_whole: bool
    """Whether these are all: of a long log only the first ones come."""


@dataclass(frozen=True, slots=True)
class Behind:
    """The view is too old to grant from: nothing was done. Catch up and claim again."""

    entries: tuple[Entry, ...]
    """The log after the claim's view."""
    is_whole: bool
    """As of `Granted`."""


@dataclass(frozen=True, slots=True)
class Rewound:
    """The log is not the one that the view was built from (a failover): nothing was done."""


@dataclass(frozen=True, slots=True)
class LabelWrite:
    """One label of an AddLabels."""

    row: int
    item_id: str
    value: bytes
    """Packed label; `RETRACTION` takes it back."""
    leased: bool
    """A lease token was shown (and its MAC holds)."""
    group: int = NO_GROUP
    """As of `Proposal`; the row's group counts as labelled while the row has a vote, for claims
    with ``one_label``. To be given with retractions too; needed only where such claims occur.
    Of a group the store remembers the first 1,000 labelled rows."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """The committed labels."""

    outcomes: tuple[Outcome, ...]
    revision: int
    nonce: bytes
    config_version: int
    replayed: bool


@dataclass(frozen=True, slots=True)
class Renewed:
    """Rows whose lease now ends at ``deadline_ms``, and named rows without a live lease."""

    deadline_ms: int
    renewed: tuple[int, ...]
    lost: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LiveLease:
    """An item in an annotator's hands."""

    row: int
    annotator: str
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class ViewFile:
    """Which file holds a view of the log up to an offset."""

    format: int
    offset: int
    tip: bytes
    """Nonce of the log entry at ``offset``."""
    size: int
    """Entries and labels that the view was built from."""
    content_hash: str


@dataclass(frozen=True, slots=True)
class LogRead:
    """A piece of the log and the session as it was at that moment."""

    record: SessionRecord
    entries: tuple[Entry, ...]
    """Ascending and gapless from ``after`` + 1."""
    head: bytes | None
    """The published head of the record's newest revision and configuration, if any."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What there is in the store."""

    sessions: Mapping[str, int]
    """Live ones, by group."""
    leases: Mapping[str, int]
    """Whose deadline is to come, by group of their session."""
    memory_bytes: int
    """Of the server that is fullest."""
    memory_limit_bytes: int
    """Of the same server; 0: there is none."""


def head_key(revision: int, nonce: bytes, config_version: int) -> str:
    """Name of the head fitted on the labels up to ``revision`` under ``config_version``."""
    return f"r{revision}-{nonce.hex()}-c{config_version}"
