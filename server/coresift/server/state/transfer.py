"""What a session is besides its configuration, as it is copied to a file or to another uid.

A copy is the log, verbatim, and what does not follow from it; the rest is worked out anew where
the copy arrives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from coresift.server.state.values import (
    LiveLease,
    Request,
    SessionRecord,
    Settings,
)

FREEZE_MS = 30_000
"""How long a frozen session waits for the one who froze it."""
OWN_FIELDS = frozenset({"uid", "id", "deleted", "tables", "frozen", "freezer", "moved"})
"""Fields of meta that belong to one place: no copy has them."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A session at one moment, besides its log.

    Attributes:
        meta: fields of ``meta`` (``lua/prelude.lua``) without `OWN_FIELDS`.
        leases: also those whose deadline has passed but which no log entry has ended yet.
    """

    meta: Mapping[str, bytes]
    leases: tuple[LiveLease, ...]

    @property
    def offset(self) -> int:
        """Of the newest log entry."""
        return int(self.meta["pos"])

    @property
    def settings(self) -> Settings:
        """As of `SessionRecord`."""
        budget = int(self.meta["budget"])
        quota = int(self.meta["quota"])
        return Settings(quota, budget if budget >= 0 else None, self.meta["config"])


@dataclass(frozen=True, slots=True)
class Place:
    """An entry of a log: its position (0: before the first) and its nonce (empty: it has none)."""

    offset: int = 0
    nonce: bytes = b""


START = Place()


@dataclass(frozen=True, slots=True)
class LogPiece:
    """Packed entries of a log, in order.

    Attributes:
        end: the newest one; where the piece began if there is none.
        standing: comes with the last piece.
    """

    entries: tuple[bytes, ...]
    end: Place
    standing: Standing | None


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """The stored answer of a write, packed, and when it is forgotten (ms)."""

    request_id: str
    blob: bytes
    end_ms: int


@dataclass(frozen=True, slots=True)
class Rows:
    """What follows from a log, by row.

    Attributes:
        votes: packed label by annotator, of rows with votes.
        unvoted: rows that had votes when they were last written, and have none.
        extra: votes beyond the quota.
        skips: (row, annotator), None for nobody.
        labelled_groups: rows of a group that have votes, the one that was labelled first in front.
        leased_groups: the row of a group that is leased.
        leases: all of them.
    """

    votes: Mapping[int, Mapping[str, bytes]] = field(default_factory=dict)
    unvoted: Sequence[int] = ()
    extra: Mapping[int, int] = field(default_factory=dict)
    skips: Sequence[tuple[int, str | None]] = ()
    labelled_groups: Mapping[int, Sequence[int]] = field(default_factory=dict)
    leased_groups: Mapping[int, int] = field(default_factory=dict)
    leases: Sequence[LiveLease] = ()


class Transfers(Protocol):
    """Copying sessions. Implementations raise `CoresiftError`.

    A copy is staged under a uid of its own, where nobody sees it, and then gets a name: a new one,
    or that of the session it was made from. What is staged and never named is purged a day later.
    """

    async def read(self, session_id: str) -> SessionRecord:
        """As `Store.read`."""
        ...

    async def copy_log(self, uid: str, after: Place = START, freezer: str = "") -> LogPiece:
        """Read about 1 MiB of the log that follows the end of a piece. SESSION_NOT_FOUND.

        STATE_UNAVAILABLE if the log is no longer the one that piece came from: a failover has cut
        it short. With a freezer, the last piece freezes the session for `FREEZE_MS`: everybody
        else gets STATE_UNAVAILABLE.
        """
        ...

    async def copy_answers(
        self, uid: str, request_ids: Sequence[str], freezer: str = ""
    ) -> list[KeptAnswer]:
        """Read stored answers; those that have ended are left out."""
        ...

    async def imported(self, session_id: str, request: Request) -> SessionRecord | None:
        """The session that this very request made before. SESSION_EXISTS, REQUEST_ID_REUSED."""
        ...

    async def stage(self, session_id: str) -> str:
        """A uid to write a copy under."""
        ...

    async def stage_log(self, uid: str, after: int, entries: Sequence[bytes]) -> None:
        """Append packed entries to a staged log that ends at ``after``."""
        ...

    async def stage_rows(self, uid: str, rows: Rows) -> None:
        """Write rows; those that were written before are replaced, skips are added."""
        ...

    async def stage_answers(self, uid: str, answers: Sequence[KeptAnswer]) -> None:
        """Write stored answers."""
        ...

    async def discard(self, uid: str, session_id: str, standing: Standing | None = None) -> None:
        """Remove a staged copy; ``standing``: of which leases were staged."""
        ...

    async def name_staged(
        self, session_id: str, uid: str, standing: Standing, request: Request
    ) -> SessionRecord:
        """Give a staged copy a name of its own.

        The same request may be under way twice: whoever comes second gets the session of the
        first, and its own copy is removed. After SESSION_EXISTS, REQUEST_ID_REUSED and
        FORMAT_TOO_NEW the copy has no name; after other errors it may have got it.
        """
        ...

    async def replace_with_staged(
        self, session_id: str, old_uid: str, uid: str, standing: Standing, freezer: str
    ) -> None:
        """Let the name of a frozen session lead to a staged copy, once and for all.

        STATE_UNAVAILABLE if the session is no longer frozen.
        """
        ...

    async def thaw(self, uid: str, freezer: str) -> None:
        """Let a session go on if it is frozen by this one."""
        ...

    async def remove_replaced(self, session_id: str) -> None:
        """Remove all data that a session had before it was replaced, by whomever and whenever."""
        ...
