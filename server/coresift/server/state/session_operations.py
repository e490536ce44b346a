"""Sessions are made, found and configured.

A session is created in three steps: its name record (which holds everything needed), its place
in the listing, its data. Whoever meets a name without data finishes the other two, so a crash
in between loses nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from coresift.server.caller import bare
from coresift.server.errors import CoresiftError, Reason
from coresift.server.state import keys, scripts
from coresift.server.state.keys import SessionKeys
from coresift.server.state.link import Link
from coresift.server.state.names import Name, numbers
from coresift.server.state.replies import (
    checked,
    new_nonce,
    pack,
    record_of,
    refusal,
    unpack,
)
from coresift.server.state.server import first_refusal
from coresift.server.state.values import (
    ANSWER_MS,
    Request,
    SessionRecord,
    Settings,
)

T = TypeVar("T")

LIST_PIECE = 200
KNOWN_UIDS = 10_000


class SessionOperations:
    """The part of the store that makes and finds sessions."""

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
        note_key = keys.creation_key(request.request_id)
        note: Any = pack([request.digest, session_id])
        is_first = await self._link.written_plain("SET", note_key, note, "NX", "PX", ANSWER_MS)
        if not is_first:
            note = await self._link.client.get(note_key) or note
        digest, noted_id = unpack(note)
        if digest != request.digest:
            raise refusal(Reason.REQUEST_ID_REUSED)
        name = Name(
            noted_id.decode(), secrets.token_hex(12), secrets.token_bytes(32), settings, request
        )
        try:
            return await self._finish(await self._take(name))
        except CoresiftError as error:
            # A refused request leaves nothing behind. One that may have been done leads its
            # repetition to the same session.
            if is_first and error.reason is Reason.SESSION_EXISTS:
                await self._link.run(scripts.EQUALS_DELETE, [note_key], [note])
            raise

    async def _take(self, name: Name) -> Name:
        """The name record that stands, if this request made it."""
        key = keys.name_key(name.session_id)
        if await self._link.written_plain("SET", key, name.packed(), "NX"):
            return name
        other = await self._taken(name.session_id, name.request)
        if other is None:
            raise name_taken(name.session_id)
        return other

    async def _taken(self, session_id: str, request: Request) -> Name | None:
        """The name record that a request has made."""
        standing = await self._link.client.get(keys.name_key(session_id))
        name = None if standing is None else Name.unpacked(standing)
        return name if name is not None and name.request == request else None

    async def created(self, request: Request) -> SessionRecord | None:
        """See `Store.created`."""
        return await self._link.commit("create", lambda: self._found(request))

    async def _found(self, request: Request) -> SessionRecord | None:
        session_id = await self._noted(request)
        name = None if session_id is None else await self._taken(session_id, request)
        return None if name is None else await self._finish(name)

    async def _noted(self, request: Request) -> str | None:
        """The id of the session that a request was noted to make. REQUEST_ID_REUSED."""
        note = await self._link.client.get(keys.creation_key(request.request_id))
        if note is None:
            return None
        digest, session_id = unpack(note)
        if digest != request.digest:
            raise refusal(Reason.REQUEST_ID_REUSED)
        return str(session_id.decode())

    async def _finish(self, name: Name) -> SessionRecord:
        """Do what is left to do of a creation. SESSION_EXISTS if it was deleted since."""
        reply = await self._created(name)
        if reply[0] == b"moved":
            standing, reply = await self._named(name.session_id)
            if standing.request != name.request:
                raise name_taken(name.session_id)
        if reply[:2] == [b"refused", b"SESSION_NOT_FOUND"]:
            raise name_taken(name.session_id)
        return self._known(name.session_id, reply)

    async def _created(self, name: Name) -> Any:
        """What `create.lua` replies."""
        await self._link.written_plain("ZADD", keys.listing_of(name.session_id), 0, name.session_id)
        quota, budget = numbers(name.settings)
        arguments = {
            "i": name.session_id,
            "s": name.secret,
            "u": quota,
            "b": budget,
            "c": name.settings.config,
            "q": name.request.request_id,
        }
        return await self._link.written(
            scripts.CREATE,
            SessionKeys(name.uid).of_script(),
            [name.uid, pack(arguments), new_nonce()],
        )

    async def read(self, session_id: str) -> SessionRecord:
        """See `Store.read`. One round trip where the session is known here."""
        return await self._link.call("read", lambda: self._read(session_id))

    async def _read(self, session_id: str) -> SessionRecord:
        uid = self._uids.get(session_id)
        if uid is not None:
            reply = await self._link.run(scripts.READ, SessionKeys(uid).of_script(), [uid])
            if reply[0] == b"record":
                return record_of(reply[1])
            self._uids.pop(session_id, None)
        _, reply = await self._named(session_id)
        return self._known(session_id, reply)

    async def _named(self, session_id: str) -> tuple[Name, Any]:
        """The name record of a session, and what `read.lua` replies once there is its data.

        SESSION_NOT_FOUND without a name.
        """
        key = keys.name_key(session_id)
        while (blob := await self._link.client.get(key)) is not None:
            name = Name.unpacked(blob)
            session = SessionKeys(name.uid).of_script()
            reply = await self._link.run(scripts.READ, session, [name.uid])
            if reply[0] == b"missing":
                reply = await self._created(name)
            if reply[0] != b"moved":
                return name, reply
            # Whoever closed the session died before the name led to where it lives on.
            await self._link.run(scripts.EQUALS_PUT, [key], [blob, reply[1]])
        raise refusal(Reason.SESSION_NOT_FOUND)

    async def _following(self, session_id: str, call: Callable[[Name], Awaitable[T]]) -> T:
        """``call`` with the name record; again if the session lives on under another uid."""
        name, _ = await self._named(session_id)
        while True:
            try:
                return await call(name)
            except CoresiftError as error:
                if error.reason is not Reason.SESSION_NOT_FOUND:
                    raise
                missed, (name, _) = name, await self._named(session_id)
                if name.uid == missed.uid:
                    raise

    def _known(self, session_id: str, reply: Any) -> SessionRecord:
        """The record in a reply about the session of this name, whose uid is remembered."""
        record = record_of(checked(reply)[1])
        if record.session_id != session_id:
            raise refusal(Reason.SESSION_NOT_FOUND)
        if len(self._uids) >= KNOWN_UIDS:
            self._uids.pop(next(iter(self._uids)))
        self._uids[session_id] = record.uid
        return record

    async def list_sessions(self, after: str, count: int, tenant: str = "") -> list[SessionRecord]:
        """See `Store.list_sessions`."""
        found: list[SessionRecord] = []
        while len(found) < count:
            wanted = min(LIST_PIECE, count - len(found))
            ids, records = await self._link.call(
                "list", partial(self._list_names, tenant, after, wanted)
            )
            found += records
            if len(ids) < wanted:
                break
            after = ids[-1]
        return found

    async def _list_names(
        self, tenant: str, after: str, count: int
    ) -> tuple[list[str], list[SessionRecord]]:
        start = b"(" + after.encode() if after else b"-"
        members = await self._link.client.zrangebylex(keys.listing(tenant), start, "+", 0, count)
        ids = [member.decode() for member in members]
        blobs = await self._link.batch([("GET", keys.name_key(session_id)) for session_id in ids])
        if (refused := first_refusal(blobs)) is not None:
            raise refused
        names = [name for blob in blobs if (name := Name.readable(blob)) is not None]
        calls = [scripts.READ.call(SessionKeys(name.uid).of_script(), [name.uid]) for name in names]
        replies = await self._link.batch([("EVALSHA", *call) for call in calls])
        records = []
        for name, reply in zip(names, replies, strict=True):
            if isinstance(reply, list) and reply[0] == b"record":
                records.append(record_of(reply[1]))
                continue
            try:  # not finished, deleted, or the script is unknown to Redis
                records.append(await self._read(name.session_id))
            except CoresiftError as error:
                # One session of a newer release must not hide the others from this one.
                if error.reason not in (Reason.SESSION_NOT_FOUND, Reason.FORMAT_TOO_NEW):
                    raise
        return ids, records

    async def configure(
        self, uid: str, request: Request, settings: Settings, expected_version: int
    ) -> SessionRecord:
        """See `Store.configure`."""
        quota, budget = numbers(settings)
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
            lambda: self._link.written(
                scripts.CONFIGURE,
                SessionKeys(uid).of_script(request.request_id),
                [uid, pack(arguments), new_nonce()],
            ),
        )
        # An answer that was copied with the session names the uid that it had then.
        return replace(record_of(unpack(checked(reply)[1])[b"r"]), uid=uid)


def name_taken(session_id: str) -> CoresiftError:
    """SESSION_EXISTS."""
    return CoresiftError(
        Reason.SESSION_EXISTS,
        f"session_id {bare(session_id)!r} is taken (a deleted session keeps its id for 24 hours)",
        field="session_id",
    )
