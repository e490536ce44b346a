"""The store's interface: every operation on a session's state, as the session layer sees it.

An operation is atomic: it happens whole or not at all, is written to the session's log, and
answers a repeated ``request_id`` from its stored answer. `values` says what goes in and comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from coresift.server.arrays import Rows
from coresift.server.state.entries import ExpiryEntry
from coresift.server.state.values import (
    Behind,
    Claim,
    Granted,
    Labelled,
    LabelWrite,
    LiveLease,
    LogRead,
    Release,
    Renewed,
    Request,
    Rewound,
    SessionRecord,
    Settings,
    Usage,
    ViewFile,
    ViewKey,
)


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
