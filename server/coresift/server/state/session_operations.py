"""Sessions come and go: create, read, list, configure, delete, purge.

A session is created in three steps: its name record (which holds everything needed), its place
in the listing, its data. Whoever meets a name without data finishes the other two, so a crash
in between loses nothing.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import partial
from typing import Any

from coresift.server.errors import CoresiftError, Reason
from coresift.server.state import keys, scripts
from coresift.server.state.keys import SessionKeys
from coresift.server.state.link import Link
from coresift.server.state.replies import checked, pack, record_of, refusal, unpack
from coresift.server.state.store import ANSWER_MS, Request, SessionRecord, Settings

LIST_PIECE = 200
PURGE_PIECE = 100
KNOWN_UIDS = 10_000


@dataclass(frozen=True, slots=True)
class _Name:
    """A name record: all that is needed to create its session."""

    session_id: str
    uid: str
    secret: bytes
    settings: Settings
    request: Request

    def packed(self) -> bytes:
        return pack(
            [
                self.session_id,
                self.uid,
                self.secret,
                *_numbers(self.settings),
                self.settings.config,
                self.request.request_id,
                self.request.digest,
            ]
        )

    @classmethod
    def unpacked(cls, blob: bytes) -> _Name:
        session_id, uid, secret, quota, budget, config, request_id, digest = unpack(blob)
        settings = Settings(quota, budget if budget >= 0 else None, config)
        request = Request(request_id.decode(), digest)
        return cls(session_id.decode(), uid.decode(), secret, settings, request)


def _numbers(settings: Settings) -> tuple[int, int]:
    return settings.quota, -1 if settings.budget is None else settings.budget


class SessionOperations:
    """The part of the store that makes, finds and removes sessions."""

    _link: Link

    def __init__(self, link: Link) -> None:
        self._link = link
        self._uids: dict[str, str] = {}

    async def create(self, session_id: str, settings: Settings, request: Request) -> SessionRecord:
        """See `Store.create`. A repeated request finds its session under the first's id."""
        return await self._link.commit(
            "create", lambda: self._create(session_id, settings, request)
        )

    async def _create(self, session_id: str, settings: Settings, request: Request) -> SessionRecord:
        client = self._link.client
        note_key = keys.creation_key(request.request_id)
        note: Any = pack([request.digest, session_id])
        is_first = await client.set(note_key, note, nx=True, px=ANSWER_MS)
        if not is_first:
            note = await client.get(note_key) or note
        digest, noted_id = unpack(note)
        if digest != request.digest:
            raise refusal(Reason.REQUEST_ID_REUSED)
        name = _Name(
            noted_id.decode(), secrets.token_hex(12), secrets.token_bytes(32), settings, request
        )
        try:
            return await self._finish(await self._take(name))
        except CoresiftError:
            if is_first:  # a refused request leaves nothing behind
                await scripts.EQUALS_DELETE.run(client, [note_key], [note])
            raise

    async def _take(self, name: _Name) -> _Name:
        """The name record that stands, if this request made it."""
        client = self._link.client
        key = keys.name_key(name.session_id)
        if await client.set(key, name.packed(), nx=True):
            return name
        standing = await client.get(key)
        if standing is not None:
            other = _Name.unpacked(standing)
            if other.request == name.request:
                return other
        raise _exists(name.session_id)

    async def _finish(self, name: _Name) -> SessionRecord:
        client = self._link.client
        await client.zadd(keys.SESSIONS, {name.session_id: 0})
        quota, budget = _numbers(name.settings)
        arguments = {
            "i": name.session_id,
            "s": name.secret,
            "u": quota,
            "b": budget,
            "c": name.settings.config,
            "q": name.request.request_id,
        }
        reply = await scripts.CREATE.run(
            client, SessionKeys(name.uid).of_script(), [name.uid, pack(arguments)]
        )
        if reply[:2] == [b"refused", b"SESSION_NOT_FOUND"]:  # made by this request, then deleted
            raise _exists(name.session_id)
        return self._known(record_of(checked(reply)[1]))

    async def read(self, session_id: str) -> SessionRecord:
        """See `Store.read`. One round trip where the session is known here."""
        return await self._link.call("read", lambda: self._read(session_id))

    async def _read(self, session_id: str) -> SessionRecord:
        uid = self._uids.get(session_id)
        if uid is not None:
            reply = await scripts.READ.run(self._link.client, SessionKeys(uid).of_script(), [uid])
            if reply[0] == b"record":
                return record_of(reply[1])
            self._uids.pop(session_id, None)
        blob = await self._link.client.get(keys.name_key(session_id))
        if blob is None:
            raise refusal(Reason.SESSION_NOT_FOUND)
        name = _Name.unpacked(blob)
        reply = await scripts.READ.run(
            self._link.client, SessionKeys(name.uid).of_script(), [name.uid]
        )
        if reply[0] == b"missing":
            return await self._finish(name)
        return self._known(record_of(checked(reply)[1]))

    def _known(self, record: SessionRecord) -> SessionRecord:
        if len(self._uids) >= KNOWN_UIDS:
            self._uids.pop(next(iter(self._uids)))
        self._uids[record.session_id] = record.uid
        return record

    async def list_sessions(self, after: str, count: int) -> list[SessionRecord]:
        """See `Store.list_sessions`."""
        found: list[SessionRecord] = []
        while len(found) < count:
            wanted = min(LIST_PIECE, count - len(found))
            ids, records = await self._link.call("list", partial(self._list_names, after, wanted))
            found += records
            if len(ids) < wanted:
                break
            after = ids[-1]
        return found

    async def _list_names(self, after: str, count: int) -> tuple[list[str], list[SessionRecord]]:
        start = b"(" + after.encode() if after else b"-"
        members = await self._link.client.zrangebylex(keys.SESSIONS, start, "+", 0, count)
        ids = [member.decode() for member in members]
        async with self._link.client.pipeline(transaction=False) as pipe:
            for session_id in ids:
                pipe.get(keys.name_key(session_id))
            blobs = await pipe.execute()
            names = [_Name.unpacked(blob) for blob in blobs if blob is not None]
            for name in names:
                call = scripts.READ.call(SessionKeys(name.uid).of_script(), [name.uid])
                pipe.execute_command("EVALSHA", *call)
            replies = await pipe.execute(raise_on_error=False)
        records = []
        for name, reply in zip(names, replies, strict=True):
            if isinstance(reply, list) and reply[0] == b"record":
                records.append(record_of(reply[1]))
                continue
            try:  # not finished, deleted, or the script is unknown to Redis
                records.append(await self._read(name.session_id))
            except CoresiftError as error:
                if error.reason is not Reason.SESSION_NOT_FOUND:
                    raise
        return ids, records

    async def configure(
        self, uid: str, request: Request, settings: Settings, expected_version: int
    ) -> SessionRecord:
        """See `Store.configure`."""
        quota, budget = _numbers(settings)
        arguments = {
            "q": request.request_id,
            "d": request.digest,
            "u": quota,
            "b": budget,
            "c": settings.config,
            "v": expected_version,
        }
        reply = await self._link.commit(
            "configure",
            lambda: scripts.CONFIGURE.run(
                self._link.client,
                SessionKeys(uid).of_script(request.request_id),
                [uid, pack(arguments)],
            ),
        )
        return record_of(unpack(checked(reply)[1])[b"r"])

    async def delete(self, session_id: str, request: Request) -> int:
        """See `Store.delete`."""
        return await self._link.commit("delete", lambda: self._delete(session_id, request))

    async def _delete(self, session_id: str, request: Request) -> int:
        client = self._link.client
        blob = await client.get(keys.name_key(session_id))
        if blob is None:
            raise refusal(Reason.SESSION_NOT_FOUND)
        uid = _Name.unpacked(blob).uid
        session = SessionKeys(uid).of_script(request.request_id)
        if (await scripts.READ.run(client, session, [uid]))[0] == b"missing":
            await self._finish(_Name.unpacked(blob))
        # Listed for removal first: a crash then leaves nothing that is never removed.
        seconds, micros = await client.time()
        purge_ms = seconds * 1000 + micros // 1000 + ANSWER_MS
        await client.zadd(keys.DELETED, {f"{uid} {session_id}": purge_ms}, nx=True)
        reply = await scripts.DELETE.run(client, session, [uid, pack({"d": request.digest})])
        answer = unpack(checked(reply)[1])
        await client.zrem(keys.SESSIONS, session_id)
        self._uids.pop(session_id, None)
        return int(answer[b"p"])

    async def purge(self) -> int:
        """See `Store.purge`."""
        purged = 0
        while True:
            looked_at, removed = await self._link.commit("purge", self._purge_piece)
            purged += removed
            if looked_at < PURGE_PIECE:
                return purged

    async def _purge_piece(self) -> tuple[int, int]:
        client = self._link.client
        seconds, _ = await client.time()
        due = await client.zrangebyscore(keys.DELETED, "-inf", seconds * 1000, 0, PURGE_PIECE)
        removed = 0
        for member in due:
            uid, session_id = member.decode().split(" ", 1)
            removed += await self._purge_session(uid, session_id, member)
        return len(due), removed

    async def _purge_session(self, uid: str, session_id: str, member: bytes) -> bool:
        client = self._link.client
        session = SessionKeys(uid)
        reply = checked(await scripts.EXPIRED.run(client, session.of_script(), [uid]))
        if reply[0] == b"deleted" and not reply[2]:
            await client.zadd(keys.DELETED, {member: int(reply[1])})
            return False
        if reply[0] != b"live":  # "live": the deletion was begun and never done
            await self._forget_name(uid, session_id)
        if reply[0] == b"deleted":
            tables = [name.decode() for name in reply[3].split(b",") if name]
            await client.unlink(*session.data(tables))
        await client.zrem(keys.DELETED, member)
        return bool(reply[0] == b"deleted")

    async def _forget_name(self, uid: str, session_id: str) -> None:
        # The name goes last: until then nobody can create, and so list, another of this id.
        client = self._link.client
        key = keys.name_key(session_id)
        blob = await client.get(key)
        if blob is not None and _Name.unpacked(blob).uid == uid:
            await client.zrem(keys.SESSIONS, session_id)
            await scripts.EQUALS_DELETE.run(client, [key], [blob])


def _exists(session_id: str) -> CoresiftError:
    return CoresiftError(
        Reason.SESSION_EXISTS,
        f"session_id {session_id!r} is taken (a deleted session keeps its id for 24 hours)",
        field="session_id",
    )
