"""Sessions are copied: read as they stand, staged under another uid, named."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from coresift.server.errors import CoresiftError, Reason
from coresift.server.state import keys, scripts
from coresift.server.state.keys import SessionKeys
from coresift.server.state.names import Name
from coresift.server.state.removal_operations import RemovalOperations
from coresift.server.state.replies import checked, pack, record_of, refusal, unpack
from coresift.server.state.scripts import Script
from coresift.server.state.session_operations import name_taken
from coresift.server.state.staging import log_pieces, pieces_of, staged_rows
from coresift.server.state.transfer import (
    FREEZE_MS,
    OWN_FIELDS,
    START,
    KeptAnswer,
    LogPiece,
    Place,
    Rows,
    Standing,
)
from coresift.server.state.values import (
    ANSWER_MS,
    LiveLease,
    Request,
    SessionRecord,
)

ANSWERS_PIECE = HANDS_PIECE = 200
GRACE_MS = 3600 * 1000
"""Until a replaced session is removed by the purge, should whoever replaced it break off."""
REPEATABLE = (b"claim", b"labels", b"release", b"configure")
"""Operations whose answers are copied: those that the log names the requests of."""


class TransferOperations(RemovalOperations):
    """The part of the store that copies sessions."""

    async def copy_log(self, uid: str, after: Place = START, freezer: str = "") -> LogPiece:
        """See `Transfers.copy_log`."""
        arguments = {"p": after.offset, "t": after.nonce, "k": freezer, "z": FREEZE_MS}
        kind, *found = checked(await self._of(scripts.COPY, uid, arguments))
        if kind == b"rewound":
            raise _lost("a failover cut the log short")
        entries, *rest = tuple(found[0]), *found[1:]
        end = _end_of(after, entries)
        if kind == b"piece":
            return LogPiece(entries, end, None)
        fields, leases = rest
        pairs = zip(fields[::2], fields[1::2], strict=True)
        meta = {name.decode(): value for name, value in pairs if name.decode() not in OWN_FIELDS}
        # Of hundreds of thousands: not on the event loop.
        return LogPiece(entries, end, Standing(meta, await asyncio.to_thread(_leases, leases)))

    async def copy_answers(
        self, uid: str, request_ids: Sequence[str], freezer: str = ""
    ) -> list[KeptAnswer]:
        """See `Transfers.copy_answers`."""
        kept: list[KeptAnswer] = []
        for piece in pieces_of(request_ids, ANSWERS_PIECE):
            more = SessionKeys(uid).answers(piece)
            _, found = checked(await self._of(scripts.ANSWERS, uid, {"k": freezer}, more))
            for request_id, blob, end in zip(piece, found[::2], found[1::2], strict=True):
                if blob is not None and unpack(blob)[b"o"] in REPEATABLE:
                    kept.append(KeptAnswer(request_id, blob, int(end)))
        return kept

    async def imported(self, session_id: str, request: Request) -> SessionRecord | None:
        """See `Transfers.imported`."""
        return await self._link.call("imported", lambda: self._imported(session_id, request))

    async def _imported(self, session_id: str, request: Request) -> SessionRecord | None:
        await self._noted(request)
        standing = await self._link.client.get(keys.name_key(session_id))
        if standing is None:
            return None
        if Name.unpacked(standing).request != request:
            raise name_taken(session_id)
        record = await self._read(session_id)
        await self._list(record.uid, session_id)  # it may have broken off before
        return record

    async def stage(self, session_id: str) -> str:
        """See `Transfers.stage`."""
        uid = secrets.token_hex(12)
        await self._link.commit("stage", lambda: self._list_for_purge(uid, session_id, ANSWER_MS))
        return uid

    async def stage_log(self, uid: str, after: int, entries: Sequence[bytes]) -> None:
        """See `Transfers.stage_log`."""
        for piece in log_pieces(entries):
            reply = await self._of(scripts.RESTORE_LOG, uid, {"p": after, "e": piece})
            if reply[0] == b"gap":
                raise _lost(f"its log ends at {int(reply[1])}, not {after}")
            after += len(piece)

    async def stage_rows(self, uid: str, rows: Rows) -> None:
        """See `Transfers.stage_rows`."""
        pieces = staged_rows(rows)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            annotator, arguments = piece
            await self._of(scripts.RESTORE_ROWS, uid, arguments, annotator=annotator)

    async def stage_answers(self, uid: str, answers: Sequence[KeptAnswer]) -> None:
        """See `Transfers.stage_answers`."""
        for piece in pieces_of(answers, ANSWERS_PIECE):
            values = [part for answer in piece for part in (answer.blob, answer.end_ms)]
            more = SessionKeys(uid).answers([answer.request_id for answer in piece])
            await self._of(scripts.RESTORE_ANSWERS, uid, values, more)

    async def discard(self, uid: str, session_id: str, standing: Standing | None = None) -> None:
        """See `Transfers.discard`. Staged answers end by themselves."""
        annotators = {lease.annotator for lease in standing.leases} if standing else ()
        for piece in pieces_of(SessionKeys(uid).hands(annotators), HANDS_PIECE):
            await self._link.commit("discard", partial(self._link.client.unlink, *piece))
        await self._link.commit("discard", lambda: self._bury(uid, session_id))

    async def name_staged(
        self, session_id: str, uid: str, standing: Standing, request: Request
    ) -> SessionRecord:
        """See `Transfers.name_staged`."""
        record = await self._end(session_id, uid, standing)
        if await self._link.commit(
            "name_staged", lambda: self._name(session_id, uid, standing, request)
        ):
            return record
        await self.discard(uid, session_id, standing)
        return await self.read(session_id)

    async def _name(self, session_id: str, uid: str, standing: Standing, request: Request) -> bool:
        """Whether the copy has got the name; if not, the same request has made another one."""
        client = self._link.client
        note = pack([request.digest, session_id])
        key = keys.creation_key(request.request_id)
        is_first = await client.set(key, note, nx=True, px=ANSWER_MS)
        if not is_first and await client.get(key) not in (note, None):
            raise refusal(Reason.REQUEST_ID_REUSED)
        name = Name(session_id, uid, standing.meta["secret"], standing.settings, request)
        try:
            taken = await self._take(name)
        except CoresiftError as error:
            # A refused request leaves nothing behind; another failure may be none.
            if is_first and error.reason is Reason.SESSION_EXISTS:
                await self._link.run(scripts.EQUALS_DELETE, [key], [note])
            raise
        if taken.uid != uid:
            return False
        await self._list(uid, session_id)
        self._uids[session_id] = uid
        return True

    async def replace_with_staged(
        self, session_id: str, old_uid: str, uid: str, standing: Standing, freezer: str
    ) -> None:
        """See `Transfers.replace_with_staged`."""
        await self._end(session_id, uid, standing)
        await self._link.commit(
            "replace", lambda: self._replace(session_id, old_uid, uid, standing.offset, freezer)
        )

    async def _replace(
        self, session_id: str, old_uid: str, uid: str, offset: int, freezer: str
    ) -> None:
        client, key = self._link.client, keys.name_key(session_id)
        blob = await client.get(key)
        if blob is None or (name := Name.unpacked(blob)).uid not in (old_uid, uid):
            raise refusal(Reason.SESSION_NOT_FOUND)
        if name.uid == old_uid:
            packed = replace(name, uid=uid).packed()
            # Listed for removal first: a crash then leaves nothing that is never removed.
            await self._list_for_purge(old_uid, session_id, GRACE_MS)
            await self._close(old_uid, offset, freezer, packed)
            await self._link.written(scripts.EQUALS_PUT, [key], [blob, packed])
        self._uids[session_id] = uid
        await client.zrem(keys.DELETED, f"{uid} {session_id}")

    async def thaw(self, uid: str, freezer: str) -> None:
        """See `Transfers.thaw`."""
        await self._link.commit("thaw", lambda: self._close(uid, 0, freezer, b"", strict=False))

    async def _close(
        self, uid: str, offset: int, freezer: str, name: bytes, *, strict: bool = True
    ) -> None:
        blob = pack({"k": freezer, "p": offset, "b": name})
        reply = await self._link.written(scripts.MOVED, SessionKeys(uid).of_script(), [uid, blob])
        if strict and checked(reply)[0] == b"thawed":
            raise _lost("it took too long")

    async def _end(self, session_id: str, uid: str, standing: Standing) -> SessionRecord:
        fields = [part for field in standing.meta.items() for part in field]
        arguments = {"i": session_id, "p": standing.offset, "m": fields}
        blob = pack(arguments)
        reply = await self._link.commit(
            "restore_end",
            lambda: self._link.written(
                scripts.RESTORE_END, SessionKeys(uid).of_script(), [uid, blob]
            ),
        )
        if reply[0] == b"gap":
            raise _lost(f"its log ends at {int(reply[1])}, not {standing.offset}")
        return record_of(checked(reply)[1])

    async def _list_for_purge(self, uid: str, session_id: str, after_ms: int) -> None:
        seconds, _ = await self._link.client.time()
        await self._link.client.zadd(
            keys.DELETED, {f"{uid} {session_id}": seconds * 1000 + after_ms}
        )

    async def _of(
        self,
        script: Script,
        uid: str,
        arguments: object,
        more: Sequence[str] = (),
        *,
        annotator: str = "",
    ) -> Any:
        """Run a script that may be run twice."""
        names = [*SessionKeys(uid).of_script(annotator=annotator), *more]
        blob = pack(arguments)
        return await self._link.commit(
            "transfer", lambda: self._link.run(script, names, [uid, blob])
        )


def _leases(packed: bytes) -> tuple[LiveLease, ...]:
    members = unpack(packed)
    leases = []
    for member, deadline in zip(members[::2], members[1::2], strict=True):
        row, annotator = member.decode().split(":", 1)
        leases.append(LiveLease(int(row), annotator, int(deadline)))
    return tuple(leases)


def _end_of(after: Place, entries: Sequence[bytes]) -> Place:
    if not entries:
        return after
    # The entries of a release without tips have no nonce, except for labels.
    return Place(after.offset + len(entries), unpack(entries[-1]).get(b"n") or b"")


def _lost(why: str) -> CoresiftError:
    return CoresiftError(
        Reason.STATE_UNAVAILABLE, f"the copy of the session is lost: {why}", retry_after_s=0.1
    )
