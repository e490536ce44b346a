"""Sessions as files: export and import."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from coresift.server.caller import bare
from coresift.server.errors import CoresiftError, Reason
from coresift.server.session.copies.backup_contents import (
    Copied,
    Fits,
    leases_and_groups,
    votes_and_skips,
)
from coresift.server.session.copies.backup_file import (
    FrameWriter,
    damaged,
)
from coresift.server.session.copies.backup_upload import (
    MALFORMED,
    Upload,
    malformed,
    read_log,
    read_standing,
)
from coresift.server.session.live.sessions import check_visible
from coresift.server.session.setup.config import SessionConfig
from coresift.server.session.setup.materials import Loader, Materials
from coresift.server.session.setup.pools import Pools
from coresift.server.session.work.workers import Workers
from coresift.server.state.entries import Entry, ExpiryEntry, unpack_entry
from coresift.server.state.staging import pieces_of
from coresift.server.state.transfer import START, KeptAnswer, LogPiece, Place, Standing, Transfers
from coresift.server.state.values import ANSWER_MS, Request, SessionRecord

PIECE_BYTES = 768 << 10
"""Of the file in one message."""
LEASES, ANSWERS = 10_000, 50
"""Of a frame."""
CLOCK_SLACK_MS = 3600 * 1000
"""By how much clocks may differ where answers of the last 24 h are looked for."""

_UNNAMED = (Reason.SESSION_EXISTS, Reason.REQUEST_ID_REUSED, Reason.FORMAT_TOO_NEW)
"""After other failures the copy may have got its name all the same."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A file that may be imported."""

    standing: Standing
    copied: Copied
    materials: Materials


class Backups:
    """Export and import of whole sessions."""

    def __init__(self, pools: Pools, loader: Loader, store: Transfers, workers: Workers) -> None:
        self._pools, self._loader = pools, loader
        self._store, self._workers = store, workers

    async def export(self, session_id: str) -> AsyncIterator[bytes]:
        """The session's file as it is when the last piece of its log is read, in pieces."""
        record = await self._store.read(session_id)
        check_visible(SessionConfig.from_settings(record.settings).pool)
        buffer = bytearray()
        async for data in self._frames(record):
            buffer += data
            while len(buffer) >= PIECE_BYTES:
                yield bytes(buffer[:PIECE_BYTES])
                del buffer[:PIECE_BYTES]
        yield bytes(buffer)

    async def _frames(self, record: SessionRecord) -> AsyncIterator[bytes]:
        config = SessionConfig.from_settings(record.settings)
        header = {
            "session_id": bare(record.session_id),
            "made_by": f"coresift {version('coresift')}",
            "pool": config.pool,
            "pool_version": config.pool_version,
        }
        writer, at, answers = FrameWriter(), START, 0
        yield writer.start() + writer.frame(b"H", header)
        while True:
            piece = await self._piece(record, at)
            young = await self._workers.run(lambda: _young_of(at, piece))  # noqa: B023
            if piece.entries:
                yield writer.frame(b"L", [at.offset, piece.entries])
            kept = await self._store.copy_answers(record.uid, young)
            for few in pieces_of(kept, ANSWERS):
                yield writer.frame(b"A", [(own.request_id, own.blob, own.end_ms) for own in few])
            at, answers = piece.end, answers + len(kept)
            if piece.standing is not None:
                break
        standing = piece.standing
        for start in range(0, len(standing.leases), LEASES):
            some = standing.leases[start : start + LEASES]
            yield writer.frame(b"S", [(own.row, own.annotator, own.deadline_ms) for own in some])
        end = {
            "meta": dict(standing.meta),
            "entries": at.offset,
            "answers": answers,
            "leases": len(standing.leases),
        }
        yield writer.frame(b"E", end) + writer.close()

    async def _piece(self, record: SessionRecord, at: Place) -> LogPiece:
        try:
            return await self._store.copy_log(record.uid, at)
        except CoresiftError as error:
            if error.reason is not Reason.SESSION_NOT_FOUND:
                raise
            await self._store.read(record.session_id)  # SESSION_NOT_FOUND if it is really gone
            raise CoresiftError(
                Reason.STATE_UNAVAILABLE,
                "the session was written anew while it was read; export again",
                retry_after_s=0.1,
            ) from error

    async def import_(self, session_id: str, upload: Upload, request: Request) -> SessionRecord:
        """Make a session of a checked upload. All or nothing.

        Raises:
            CoresiftError: INVALID_BACKUP, SESSION_EXISTS, REQUEST_ID_REUSED, POOL_NOT_FOUND,
                POOL_VERSION_NOT_LOADED, ARTIFACT_MISSING.
        """
        before = await self._store.imported(session_id, request)
        if before is not None:
            return before
        checked = await self._checked(upload)
        uid = await self._store.stage(session_id)
        standing, is_unnamed = checked.standing, True
        try:
            await self._stage(uid, upload, checked)
            is_unnamed = False
            return await self._store.name_staged(session_id, uid, standing, request)
        except CoresiftError as error:
            if is_unnamed or error.reason in _UNNAMED:  # the purge removes the rest, if it is any
                await self._store.discard(uid, session_id, standing)
            if error.reason is Reason.FORMAT_TOO_NEW:
                raise damaged(f"is of a newer release: {error.message}") from error
            raise

    async def _stage(self, uid: str, upload: Upload, checked: Checked) -> None:
        frames, run = upload.frames(), self._workers.run
        while (frame := await run(lambda: next(frames, None))) is not None:
            kind, value = frame
            if kind == b"L":
                await self._store.stage_log(uid, value[0], value[1])
            elif kind == b"A":
                await self._store.stage_answers(uid, [KeptAnswer(*own) for own in value])
        view, leases = checked.copied.view, checked.standing.leases
        await self._store.stage_rows(uid, await run(lambda: votes_and_skips(view)))
        rows = await run(lambda: leases_and_groups(view, leases, checked.materials))
        await self._store.stage_rows(uid, rows)

    async def _checked(self, upload: Upload) -> Checked:
        """The file's contents, once everything that can be wrong was looked at."""
        try:
            standing = await self._workers.run(lambda: read_standing(upload))
            config = SessionConfig.from_settings(standing.settings)
        except MALFORMED as error:
            raise malformed(error) from error
        self._pools.find(config.pool, field="data")
        pool = self._pools.of_session(config.pool, config.pool_version)
        try:
            copied = await self._workers.run(lambda: read_log(upload, standing, Fits(config, pool)))
        except MALFORMED as error:
            raise malformed(error) from error
        materials = await self._workers.run(lambda: self._loader.load(config))
        return Checked(standing, copied, materials)


def _young_of(at: Place, piece: LogPiece) -> list[str]:
    blobs = enumerate(piece.entries, at.offset + 1)
    return young_requests([unpack_entry(offset, blob) for offset, blob in blobs])


def young_requests(entries: Sequence[Entry]) -> list[str]:
    """The requests of entries of the last 24 h."""
    since = time.time() * 1000 - ANSWER_MS - CLOCK_SLACK_MS
    return [
        entry.request_id
        for entry in entries
        if not isinstance(entry, ExpiryEntry) and entry.time_ms > since
    ]
