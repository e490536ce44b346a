"""Taking an annotator's name out of a session: the log is written anew under another uid."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgpack

from coresift.server.errors import CoresiftError, Reason
from coresift.server.session.copies.backup_contents import (
    Copied,
    leases_and_groups,
    rows_of,
    votes_and_skips,
)
from coresift.server.session.copies.backups import young_requests
from coresift.server.session.copies.renaming import entries_naming, renamed, replacement_for
from coresift.server.session.live.sessions import LiveSessions, check_visible
from coresift.server.session.setup.config import SessionConfig
from coresift.server.session.setup.materials import Loader, Materials
from coresift.server.session.setup.requests import Requests
from coresift.server.session.view.view import View
from coresift.server.session.work.workers import Workers
from coresift.server.state.entries import Entry
from coresift.server.state.transfer import START, LogPiece, Standing, Transfers
from coresift.server.state.values import LiveLease, Request, SessionRecord

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
            try:
                return await self._once(record, annotator, replacement_for(record.secret, request))
            except CoresiftError as error:
                if error.reason not in (Reason.SESSION_NOT_FOUND, Reason.STATE_UNAVAILABLE):
                    raise
                await asyncio.sleep(error.retry_after_s or 0)
        raise CoresiftError(
            Reason.STATE_UNAVAILABLE, "the session changes too fast", retry_after_s=1.0
        )

    async def _once(self, record: SessionRecord, annotator: str, replacement: str) -> Erased:
        if await self._entries_with(record, annotator):
            try:
                await self._rewritten(record, annotator, replacement)
            finally:
                self._sessions.drop(record.session_id)
            record = await self._store.read(record.session_id)
        # Also what is left of erasures that broke off, perhaps of this very request.
        await self._store.remove_replaced(record.session_id)
        await self._sessions.files.sweep()
        entries = await self._entries_with(record, replacement)
        return Erased(replacement if entries else "", entries)

    async def _entries_with(self, record: SessionRecord, name: str) -> int:
        """How many log entries bear a name."""
        at, found = START, 0
        while True:
            piece = await self._store.copy_log(record.uid, at)
            blobs = piece.entries
            found += await self._workers.run(lambda: entries_naming(blobs, name))  # noqa: B023
            at = piece.end
            if piece.standing is not None:
                return found

    async def _rewritten(self, record: SessionRecord, annotator: str, replacement: str) -> None:
        """Write the session under another uid, and let its name lead there."""
        uid, freezer = await self._store.stage(record.session_id), secrets.token_hex(8)
        copy = _Copy(self._store, self._workers, record.uid, uid, annotator, replacement)
        standing, is_unnamed = None, True
        try:
            await copy.follow()
            materials = await self._materials(copy.view)
            standing, touched = await copy.finish(freezer)
            await self._finish_rows(uid, copy.view, standing.leases, touched, materials)
            is_unnamed = False  # whatever happens: it may have got the name
            await self._store.replace_with_staged(
                record.session_id, record.uid, uid, standing, freezer
            )
        except BaseException:
            # Also where the reply that it is frozen was lost; what has moved stays so.
            await self._store.thaw(record.uid, freezer)
            if is_unnamed:
                await self._store.discard(uid, record.session_id, standing)
            raise

    async def _finish_rows(
        self,
        uid: str,
        view: View,
        leases: Sequence[LiveLease],
        touched: set[int],
        materials: Materials | None,
    ) -> None:
        run = self._workers.run
        await self._store.stage_rows(uid, await run(lambda: votes_and_skips(view, touched)))
        rows = await run(lambda: leases_and_groups(view, leases, materials))
        await self._store.stage_rows(uid, rows)

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
        self._at = START

    @property
    def view(self) -> View:
        """What was copied so far."""
        return self._copied.view

    async def follow(self) -> None:
        """Copy the log, and the rows, to where it ends at a moment."""
        while (await self._step()).standing is None:
            pass
        rows = await self._workers.run(lambda: votes_and_skips(self.view))
        await self._store.stage_rows(self._uid, rows)

    async def finish(self, freezer: str) -> tuple[Standing, set[int]]:
        """Copy what came since and freeze the session; the rows that this concerns.

        STATE_UNAVAILABLE if the copied log and the session do not fit.
        """
        touched: set[int] = set()
        while True:
            piece = await self._step(freezer, touched)
            if piece.standing is not None:
                last = piece.standing
                standing = await self._workers.run(lambda: self._standing_of(last))  # noqa: B023
                return standing, touched

    async def _step(self, freezer: str = "", touched: set[int] | None = None) -> LogPiece:
        piece = await self._store.copy_log(self._source, self._at, freezer)
        blobs, entries = await self._workers.run(lambda: self._take(piece.entries))
        await self._store.stage_log(self._uid, self._at.offset, blobs)
        # Answers name nobody. Without theirs, a repeated call of the erased annotator would label
        # once more, under the old name.
        kept = await self._store.copy_answers(self._source, young_requests(entries), freezer)
        await self._store.stage_answers(self._uid, kept)
        if touched is not None:
            touched |= rows_of(entries)
        self._at = piece.end
        return piece

    def _take(self, blobs: Sequence[bytes]) -> tuple[list[bytes], list[Entry]]:
        copied = [renamed(blob, self._annotator, self._replacement) for blob in blobs]
        return copied, self._copied.add(self._at.offset, copied)

    def _standing_of(self, standing: Standing) -> Standing:
        """What the copy is besides its log."""
        copied = self._without_name(standing)
        try:
            self._copied.check_standing(copied)
        except CoresiftError as error:
            raise CoresiftError(
                Reason.STATE_UNAVAILABLE,
                f"cannot be copied now: {error.message}",
                retry_after_s=0.1,
            ) from error
        return copied

    def _without_name(self, standing: Standing) -> Standing:
        name, other = self._annotator, self._replacement
        leases = (
            replace(lease, annotator=other) if lease.annotator == name else lease
            for lease in standing.leases
        )
        return replace(standing, leases=tuple(leases))
