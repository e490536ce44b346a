"""Taking an annotator's name out of a session: the log is written anew under another uid."""

from __future__ import annotations

import asyncio
import base64
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgpack

from coresift.server.errors import CoresiftError, Reason
from coresift.server.session.backup_contents import (
    Copied,
    annotators_of,
    leases_and_groups,
    rows_of,
    votes_and_skips,
)
from coresift.server.session.backups import young_requests
from coresift.server.session.config import SessionConfig
from coresift.server.session.materials import Loader, Materials
from coresift.server.session.requests import Requests
from coresift.server.session.sessions import LiveSessions, check_visible
from coresift.server.session.view import View
from coresift.server.session.workers import Workers
from coresift.server.state.entries import Entry, ExpiryEntry, unpack_entry
from coresift.server.state.store import Request, SessionRecord
from coresift.server.state.transfer import LogPiece, Standing, Transfers

PREFIX = "erased-"
TRIES = 5
"""While others erase too, or the session is frozen for too long."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What the log says instead of a name (empty: it had none), and in how many entries."""

    replacement: str
    entries: int


class Erasure:
    """EraseAnnotator."""

    def __init__(
        self,
        sessions: LiveSessions,
        loader: Loader,
        store: Transfers,
        requests: Requests,
        workers: Workers,
    ) -> None:
        self._sessions, self._loader, self._store = sessions, loader, store
        self._requests, self._workers = requests, workers

    async def erase(self, session_id: str, annotator: str, request: Request) -> Erased:
        """Replace a name in all that the session has."""
        kept = await self._requests.answer(request)
        if kept is None:
            # Goes on to its end: a session half written anew is refused to everybody.
            erased = await self._workers.shared(self._erased(session_id, annotator, request))
            answer = msgpack.packb([erased.replacement, erased.entries])
            kept = await self._requests.keep(request, answer)
        return Erased(*msgpack.unpackb(kept))

    async def _erased(self, session_id: str, annotator: str, request: Request) -> Erased:
        for _ in range(TRIES):
            record = await self._store.read(session_id)
            check_visible(SessionConfig.from_settings(record.settings).pool)
            replacement = _replacement(record.secret, request)
            named = await self._entries_with(record, annotator)
            if not named:  # perhaps this very request has erased it before
                before = await self._entries_with(record, replacement)
                return Erased(replacement if before else "", before)
            try:
                await self._rewritten(record, annotator, replacement)
            except CoresiftError as error:
                if error.reason not in (Reason.SESSION_NOT_FOUND, Reason.STATE_UNAVAILABLE):
                    raise
                await asyncio.sleep(error.retry_after_s or 0)
                continue
            finally:
                self._sessions.drop(session_id)
            record = await self._store.read(session_id)
            return Erased(replacement, await self._entries_with(record, replacement))
        raise CoresiftError(
            Reason.STATE_UNAVAILABLE, "the session changes too fast", retry_after_s=1.0
        )

    async def _entries_with(self, record: SessionRecord, name: str) -> int:
        """How many log entries bear a name."""
        at = found = 0
        while True:
            piece = await self._store.copy_log(record.uid, at)
            found += await self._workers.run(lambda: _count(at, piece.entries, name))  # noqa: B023
            at += len(piece.entries)
            if piece.standing is not None:
                return found

    async def _rewritten(self, record: SessionRecord, annotator: str, replacement: str) -> None:
        """Write the session under another uid, and let its name lead there."""
        uid, freezer = await self._store.stage(record.session_id), secrets.token_hex(8)
        copy = _Copy(self._store, self._workers, record.uid, uid, annotator, replacement)
        standing = None
        try:
            await copy.follow()
            materials = await self._materials(copy.view)
            standing, touched = await copy.finish(freezer)
            await self._store.stage_rows(uid, votes_and_skips(copy.view, touched))
            leases = standing.leases
            await self._store.stage_rows(uid, leases_and_groups(copy.view, leases, materials))
        except BaseException:
            if standing is not None:
                await self._store.thaw(record.uid, standing, freezer)
            await self._store.discard(uid, record.session_id, standing)
            raise
        # From here on nothing is discarded: the name may lead to the copy already.
        await self._store.replace_with_staged(record.session_id, record.uid, uid, standing, freezer)
        await self._store.remove_replaced(
            record.session_id, record.uid, copy.requests, sorted(copy.annotators)
        )
        await self._sessions.files.sweep()

    async def _materials(self, view: View) -> Materials | None:
        rule = view.config.groups
        if rule is None or not rule.one_lease:
            return None
        return await self._workers.run(lambda: self._loader.load(view.config))


class _Copy:
    """A session on its way from one uid to another, without a name."""

    def __init__(
        self,
        store: Transfers,
        workers: Workers,
        source: str,
        uid: str,
        annotator: str,
        replacement: str,
    ) -> None:
        self._store, self._workers = store, workers
        self._source, self._uid = source, uid
        self._annotator, self._replacement = annotator, replacement
        self._copied = Copied()
        self._at = 0
        self.annotators: set[str] = set()
        self.requests: list[str] = []

    @property
    def view(self) -> View:
        """What was copied so far."""
        return self._copied.view

    async def follow(self) -> None:
        """Copy the log, and the rows, to where it ends at a moment."""
        while (await self._step()).standing is None:
            pass
        await self._store.stage_rows(self._uid, votes_and_skips(self.view))

    async def finish(self, freezer: str) -> tuple[Standing, set[int]]:
        """Copy what came since and freeze the session; the rows that this concerns."""
        touched: set[int] = set()
        while True:
            piece = await self._step(freezer, touched)
            if piece.standing is not None:
                return self._without_name(piece.standing), touched

    async def _step(self, freezer: str = "", touched: set[int] | None = None) -> LogPiece:
        piece = await self._store.copy_log(self._source, self._at, freezer)
        blobs, entries = await self._workers.run(lambda: self._take(piece.entries))
        await self._store.stage_log(self._uid, self._at, blobs)
        others = [entry for entry in entries if self._replacement not in annotators_of(entry)]
        kept = await self._store.copy_answers(self._source, young_requests(others), freezer)
        await self._store.stage_answers(self._uid, kept)
        self.requests += young_requests(entries)
        if touched is not None:
            touched |= rows_of(entries)
        self._at += len(blobs)
        return piece

    def _take(self, blobs: Sequence[bytes]) -> tuple[list[bytes], list[Entry]]:
        renamed = [_renamed(blob, self._annotator, self._replacement) for blob in blobs]
        entries = self._copied.add(self._at, renamed)
        self.annotators = self._copied.annotators | {self._annotator}
        return renamed, entries

    def _without_name(self, standing: Standing) -> Standing:
        name, other = self._annotator, self._replacement
        leases = (
            replace(lease, annotator=other) if lease.annotator == name else lease
            for lease in standing.leases
        )
        return replace(standing, leases=tuple(leases))


def _count(after: int, blobs: Sequence[bytes], name: str) -> int:
    entries = [unpack_entry(n, blob) for n, blob in enumerate(blobs, after + 1) if _may(blob, name)]
    return sum(name in annotators_of(entry) for entry in entries)


def _may(blob: bytes, name: str) -> bool:
    """Whether a packed entry may bear a name: cheaper than to unpack it."""
    return name.encode() in blob


def _renamed(blob: bytes, name: str, other: str) -> bytes:
    """A packed entry with another name; the same bytes where it does not bear the first."""
    if not _may(blob, name):
        return blob
    entry = unpack_entry(0, blob)
    if name not in annotators_of(entry):
        return blob
    fields: dict[bytes, Any] = msgpack.unpackb(blob, raw=True)
    if isinstance(entry, ExpiryEntry):
        fields[b"l"] = [
            f"{row}:{other if holder == name else holder}" for row, holder in entry.leases
        ]
    else:
        fields[b"a"] = other.encode()
    packed: bytes = msgpack.packb(fields, use_bin_type=False)
    return packed


def _replacement(secret: bytes, request: Request) -> str:
    """Another name, the same whenever the request is repeated; nothing of the old one is in it."""
    digest = hmac.digest(secret, b"erased\0" + request.request_id.encode(), "sha256")
    return PREFIX + base64.b32encode(digest).decode()[:16].lower()
