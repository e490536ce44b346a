"""Sessions are hidden at once, may come back within a day, and are removed after it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from coresift.server.errors import CoresiftError, Reason
from coresift.server.state import keys, scripts
from coresift.server.state.keys import SessionKeys
from coresift.server.state.names import Name
from coresift.server.state.replies import checked, pack, record_of, unpack
from coresift.server.state.session_operations import SessionOperations
from coresift.server.state.values import (
    ANSWER_MS,
    Request,
    SessionRecord,
    Settings,
)

PURGE_PIECE = 100
LOG_PIECE = 100
"""Entries of 1,000 labels each are 6 MB."""


class RemovalOperations(SessionOperations):
    """The part of the store that removes sessions."""

    async def delete(self, session_id: str, request: Request) -> int:
        """See `Store.delete`."""
        return await self._link.commit("delete", lambda: self._delete(session_id, request))

    async def _delete(self, session_id: str, request: Request) -> int:
        return await self._following(session_id, lambda name: self._hide(name, request))

    async def _hide(self, name: Name, request: Request) -> int:
        client, uid = self._link.client, name.uid
        member = f"{uid} {name.session_id}"
        # Listed for removal first: a crash then leaves nothing that is never removed.
        seconds, micros = await client.time()
        purge_ms = seconds * 1000 + micros // 1000 + ANSWER_MS
        await self._link.written_plain("ZADD", keys.DELETED, "NX", purge_ms, member)
        _, answer, *_ = checked(
            await self._link.written(
                scripts.DELETE,
                SessionKeys(uid).of_script(request.request_id),
                [uid, pack({"d": request.digest})],
            )
        )
        await self._list(uid, name.session_id)
        self._uids.pop(name.session_id, None)
        return int(unpack(answer)[b"p"])

    async def _list(self, uid: str, session_id: str) -> None:
        """Let the lists say what the session says.

        Others may change both meanwhile: whoever has written to a list looks at the session again,
        so the last one to look puts right what was written before.
        """
        client, listing = self._link.client, keys.listing_of(session_id)
        session, member = SessionKeys(uid).of_script(), f"{uid} {session_id}"
        listed: Any = None
        while True:
            reply = checked(await self._link.run(scripts.EXPIRED, session, [uid]))
            if reply[:2] == listed:
                return
            listed = reply[:2]
            if reply[0] == b"live":
                await client.zadd(listing, {session_id: 0})
                await client.zrem(keys.DELETED, member)
            elif reply[0] == b"deleted":
                await client.zadd(keys.DELETED, {member: int(reply[1])})
                await client.zrem(listing, session_id)

    async def undelete(
        self, session_id: str, request: Request, check: Callable[[Settings], None]
    ) -> SessionRecord:
        """See `Store.undelete`."""
        return await self._link.commit(
            "undelete", lambda: self._undelete(session_id, request, check)
        )

    async def _undelete(
        self, session_id: str, request: Request, check: Callable[[Settings], None]
    ) -> SessionRecord:
        async def show(name: Name) -> SessionRecord:
            check(name.settings)
            uid = name.uid
            reply = checked(
                await self._link.written(
                    scripts.UNDELETE,
                    SessionKeys(uid).of_script(request.request_id),
                    [uid, pack({"d": request.digest})],
                )
            )
            # Should this break off: the repeated request lists it, or the purge.
            await self._list(uid, session_id)
            return record_of(unpack(reply[1])[b"r"])

        return await self._following(session_id, show)

    async def purge(self) -> int:
        """See `Store.purge`."""
        purged = 0
        while True:
            due = await self._link.call("purge", self._due)
            for member in due:
                purged += await self._purge_member(member)
            if len(due) < PURGE_PIECE:
                return purged

    async def _due(self) -> list[bytes]:
        client = self._link.client
        seconds, _ = await client.time()
        members: list[bytes] = await client.zrangebyscore(
            keys.DELETED, "-inf", seconds * 1000, 0, PURGE_PIECE
        )
        return members

    async def _purge_member(self, member: bytes) -> bool:
        uid, session_id = member.decode().split(" ", 1)
        try:
            if await self._remove_moved(uid, session_id):
                return False
        except CoresiftError as error:
            if error.reason is not Reason.FORMAT_TOO_NEW:
                raise
            await self._link.commit("purge", partial(self._put_off, member))
            return False
        if await self._link.call("purge", partial(self._is_over, uid)):
            await self._unlink_named(SessionKeys(uid))
        call = partial(self._purge_or_put_off, uid, session_id, member)
        return await self._link.commit("purge", call)

    async def _is_over(self, uid: str) -> bool:
        """Whether a session was deleted so long ago that nothing brings it back any more."""
        reply = await self._link.run(scripts.EXPIRED, SessionKeys(uid).of_script(), [uid])
        return bool(reply[0] == b"deleted" and reply[2])

    async def _purge_or_put_off(self, uid: str, session_id: str, member: bytes) -> bool:
        try:
            return await self._purge_session(uid, session_id, member)
        except CoresiftError as error:
            if error.reason not in (Reason.FORMAT_TOO_NEW, Reason.STATE_UNAVAILABLE):
                raise
            await self._put_off(member)
            return False

    async def _put_off(self, member: bytes) -> None:
        # A newer replica will purge it, or whoever froze it is done by then; it must not hold up
        # the others meanwhile.
        seconds, _ = await self._link.client.time()
        await self._link.client.zadd(keys.DELETED, {member: seconds * 1000 + ANSWER_MS})

    async def _purge_session(self, uid: str, session_id: str, member: bytes) -> bool:
        client = self._link.client
        reply = checked(await self._link.run(scripts.EXPIRED, SessionKeys(uid).of_script(), [uid]))
        if reply[0] == b"moved":  # just now: the next purge removes it
            return False
        if reply[0] == b"deleted" and not reply[2]:
            await client.zadd(keys.DELETED, {member: int(reply[1])})
            return False
        if reply[0] == b"live" and await self._leads_to(session_id, uid):
            await self._list(uid, session_id)  # its deletion was begun and never done
            return False
        if reply[0] != b"live":
            await self._forget_name(uid, session_id)
        await self._bury(uid, session_id)
        return bool(reply[0] == b"deleted")

    async def remove_replaced(self, session_id: str) -> None:
        """See `Transfers.remove_replaced`."""
        client = self._link.client
        # All that a day deletes: some hundred kilobytes, for the few that erase.
        members = await self._link.call("replaced", partial(client.zrange, keys.DELETED, 0, -1))
        for member in members:
            uid, listed_id = member.decode().split(" ", 1)
            if listed_id == session_id:
                await self._remove_moved(uid, session_id)

    async def _remove_moved(self, uid: str, session_id: str) -> bool:
        """Remove all of a session that lives on under another uid; False if it does not."""
        client, session = self._link.client, SessionKeys(uid)
        name = await self._link.call("moved", partial(client.hget, session.meta, "moved"))
        if name is None:
            return False
        await self._unlink_named(session)

        async def remove() -> None:
            await self._follow(uid, session_id, name)
            await self._bury(uid, session_id)

        await self._link.commit("remove_replaced", remove)
        return True

    async def _unlink_named(self, session: SessionKeys) -> None:
        """Remove the answers and hands of a session that nobody writes to any more.

        What names people goes first: its log alone knows those keys.
        """
        client = self._link.client
        _, log, *_ = session.of_script()
        first = b"-"
        while True:
            call = partial(client.xrange, log, first, "+", LOG_PIECE)
            found = await self._link.call("removed_log", call)
            if not found:
                return
            names = await asyncio.to_thread(_named_in, session, [own[b"e"] for _, own in found])
            if names:
                await self._link.commit("remove_named", partial(client.unlink, *names))
            first = b"(" + found[-1][0]

    async def _bury(self, uid: str, session_id: str) -> None:
        """Remove what stands under a uid, but for a note that it was removed."""
        session = SessionKeys(uid)
        view = await self._link.client.hget(session.view, "file")
        if view is not None:
            await self._link.client.sadd(keys.GONE_VIEWS, view)
        tables = await self._link.client.hget(session.meta, "tables") or b""
        names = [name.decode() for name in tables.split(b",") if name]
        await self._link.run(scripts.BURY, [*session.of_script(), *session.data(names)], [uid])
        await self._link.client.zrem(keys.DELETED, f"{uid} {session_id}")

    async def _leads_to(self, session_id: str, uid: str) -> bool:
        blob = await self._link.client.get(keys.name_key(session_id))
        return blob is not None and Name.unpacked(blob).uid == uid

    async def _follow(self, uid: str, session_id: str, name: bytes) -> None:
        """Let the name lead to where the session lives on, if it still leads here."""
        key = keys.name_key(session_id)
        blob = await self._link.client.get(key)
        if blob is not None and Name.unpacked(blob).uid == uid:
            await self._link.written(scripts.EQUALS_PUT, [key], [blob, name])

    async def _forget_name(self, uid: str, session_id: str) -> None:
        # The name goes last: until then nobody can create, and so list, another of this id.
        client = self._link.client
        key = keys.name_key(session_id)
        blob = await client.get(key)
        if blob is not None and Name.unpacked(blob).uid == uid:
            await client.zrem(keys.listing_of(session_id), session_id)
            await self._link.run(scripts.EQUALS_DELETE, [key], [blob])


def _named_in(session: SessionKeys, blobs: Sequence[bytes]) -> list[str]:
    """The answers and hands that packed entries have filled; who holds anything was granted it."""
    entries = [unpack(blob) for blob in blobs]
    requests = {entry[b"q"].decode() for entry in entries if b"q" in entry}
    annotators = {entry[b"a"].decode() for entry in entries if b"a" in entry}
    return [*session.answers(requests), *session.hands(annotators)]
