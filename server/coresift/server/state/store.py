"""The store's interface: every operation on a session's state, as the session layer sees it.

An operation is atomic: it happens whole or not at all, is written to the session's log, and
answers a repeated ``request_id`` from its stored answer. Times are milliseconds since the epoch
by the store's own clock. Rows are row numbers of the session's pool lineage. Label values and
payloads are opaque bytes here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol

from coresift.server.arrays import Rows
from coresift.server.state.entries import Entry, ExpiryEntry

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


class Store(Protocol):
    """Sessions, their logs, and small documents. Implementations raise `CoresiftError`."""

    async def create(self, session_id: str, settings: Settings, request: Request) -> SessionRecord:
        """Create a session; the same request again returns it. SESSION_EXISTS if taken."""
        ...

    async def created(self, request: Request) -> SessionRecord | None:
        """What `create` answers to a repeated request; None if it is new."""
        ...

    async def read(self, session_id: str) -> SessionRecord:
        """Read a session in one or two round trips. SESSION_NOT_FOUND."""
        ...

    async def list_sessions(self, after: str, count: int, tenant: str = "") -> list[SessionRecord]:
        """Up to ``count`` live sessions of a tenant with ids greater than ``after``, in byte order.

        Ids are those that the store knows: a tenant's begin with its name.
        """
        ...

    async def configure(
        self,
        uid: str,
        request: Request,
        settings: Settings,
        expected_version: int,
    ) -> SessionRecord:
        """Replace the settings. CONFIG_VERSION_MISMATCH unless the version is the expected."""
        ...

    async def delete(self, session_id: str, request: Request) -> int:
        """Hide the session; returns when it is purged (ms)."""
        ...

    async def undelete(
        self, session_id: str, request: Request, check: Callable[[Settings], None]
    ) -> SessionRecord:
        """Bring a hidden session back within 24 h. SESSION_NOT_FOUND if it is not hidden.

        ``check`` may refuse one that was created with such settings.
        """
        ...

    async def purge(self) -> int:
        """Remove the data of sessions deleted more than 24 h ago; returns how many."""
        ...

    async def claim(self, uid: str, claim: Claim) -> Granted | Behind | Rewound:
        """Lease proposals. Never grants what quota, vote, lease, skip or group forbids."""
        ...

    async def add_labels(
        self,
        uid: str,
        request: Request,
        annotator: str,
        labels: Sequence[LabelWrite],
        config_version: int | None = None,
    ) -> Labelled:
        """Commit up to 1,000 labels of one annotator and end that annotator's leases on them.

        CONFIG_VERSION_MISMATCH unless the version, where one is given, is the newest: the labels'
        groups are those of a configuration.
        """
        ...

    async def renew(
        self, uid: str, request: Request, annotator: str, rows: Sequence[int], lease_ms: int
    ) -> Renewed:
        """Move the deadlines of the annotator's live leases (all of them for no rows)."""
        ...

    async def release(
        self, uid: str, request: Request, annotator: str, rows: Sequence[int], reason: Release
    ) -> tuple[int, ...]:
        """End the annotator's leases; returns the rows that had a live one. Skips are kept."""
        ...

    async def live_leases(self, uid: str, leases: Sequence[tuple[int, str]]) -> list[LiveLease]:
        """Those of up to 1,000 leases, given as row and annotator, that are live; in order."""
        ...

    async def count_leases(self, uid: str) -> int:
        """How many leases are live."""
        ...

    async def log(self, uid: str, after: int, count: int, nonce: bytes | None = None) -> LogRead:
        """Read up to ``count`` log entries after offset ``after``.

        STATE_UNAVAILABLE if a failover cut the log short meanwhile, or, with a nonce, if the entry
        at ``after`` has another one by now.
        """
        ...

    async def catch_up(self, uid: str, view: ViewKey, count: int) -> LogRead | Rewound:
        """Read some of the ``count`` log entries after a view; none only if there are none."""
        ...

    def expired_here(self, entry: ExpiryEntry) -> bool:
        """Whether an operation of this replica wrote down the expiry; True only once, so that
        replicas together count each one once (but for those of a replica that died)."""
        ...

    async def usage(self, tenants: Iterable[str], group_of: Callable[[Settings], str]) -> Usage:
        """How much there is, of these tenants ("" is who has none). Not of one moment: sessions
        are looked at piece by piece.

        ``group_of`` says which group a session with such settings belongs to.
        """
        ...

    async def publish_head(self, uid: str, key: str, head: bytes) -> None:
        """Keep the newest head for other replicas; ``key`` is `head_key` of its basis."""
        ...

    async def put_view_file(self, uid: str, file: ViewFile) -> str | None:
        """Note the file of a view, unless one further on is noted.

        Returns the content hash of the file that is not needed: the one before, or this one.
        """
        ...

    async def get_view_file(self, uid: str) -> ViewFile | None:
        """The noted file, if the log still begins with its view."""
        ...

    async def gone_view_files(self, count: int) -> list[str]:
        """Content hashes of files whose sessions have been removed: some of them."""
        ...

    async def forget_view_file(self, content_hash: str) -> None:
        """The file of a removed session is gone, too."""
        ...

    async def put_neighbours(
        self, uid: str, pool_version: str, rows: Rows, neighbours: Rows
    ) -> None:
        """Keep neighbours, int32 [n, k], of rows, int32 [n], in a pool version."""
        ...

    async def get_neighbours(
        self, uid: str, pool_version: str, k: int, rows: Rows
    ) -> tuple[Rows, Rows]:
        """The rows that are known, int32 [m], and their neighbours, int32 [m, k]."""
        ...

    async def put_document(
        self, space: str, key: str, value: bytes, *, replaces: bytes | None, ttl_ms: int | None
    ) -> bytes | None:
        """Write a small document if it still is ``replaces`` (None: if there is none).

        Returns None when written, else the value that stands there instead (empty if it is
        gone)."""
        ...

    async def get_document(self, space: str, key: str) -> bytes | None:
        """Read a document."""
        ...

    async def list_documents(self, space: str, after: str, count: int) -> list[tuple[str, bytes]]:
        """Up to ``count`` documents of a space with keys greater than ``after``, in order.

        Documents with a time to live are not listed."""
        ...

    async def delete_document(self, space: str, key: str, *, only: bytes | None = None) -> bool:
        """Remove a document, with ``only`` if it still is that; False if there was none such."""
        ...

    async def check(self) -> None:
        """Raise `StartError` if the store cannot be trusted with labels (eviction, no AOF)."""
        ...

    def available(self) -> bool:
        """False while the store is known not to answer (the health name ``state``)."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


def head_key(revision: int, nonce: bytes, config_version: int) -> str:
    """Name of the head fitted on the labels up to ``revision`` under ``config_version``."""
    return f"r{revision}-{nonce.hex()}-c{config_version}"
