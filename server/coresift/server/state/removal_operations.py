"""Sessions are hidden at once and removed a day later."""

from __future__ import annotations

from coresift.server.errors import CoresiftError, Reason
from coresift.server.state import keys, scripts
from coresift.server.state.keys import SessionKeys
from coresift.server.state.names import Name
from coresift.server.state.replies import checked, pack, refusal, unpack
from coresift.server.state.session_operations import SessionOperations
from coresift.server.state.store import ANSWER_MS, Request

PURGE_PIECE = 100


class RemovalOperations(SessionOperations):
    """The part of the store that removes sessions."""

    async def delete(self, session_id: str, request: Request) -> int:
        """See `Store.delete`."""
        return await self._link.commit("delete", lambda: self._delete(session_id, request))

    async def _delete(self, session_id: str, request: Request) -> int:
        client = self._link.client
        blob = await client.get(keys.name_key(session_id))
        if blob is None:
            raise refusal(Reason.SESSION_NOT_FOUND)
        uid = Name.unpacked(blob).uid
        session = SessionKeys(uid).of_script(request.request_id)
        if (await self._link.run(scripts.READ, session, [uid]))[0] == b"missing":
            await self._finish(Name.unpacked(blob))
        # Listed for removal first: a crash then leaves nothing that is never removed.
        seconds, micros = await client.time()
        purge_ms = seconds * 1000 + micros // 1000 + ANSWER_MS
        await client.zadd(keys.DELETED, {f"{uid} {session_id}": purge_ms}, nx=True)
        reply = await self._link.run(scripts.DELETE, session, [uid, pack({"d": request.digest})])
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
            try:
                removed += await self._purge_session(uid, session_id, member)
            except CoresiftError as error:
                if error.reason is not Reason.FORMAT_TOO_NEW:
                    raise
                # A newer replica will purge it; it must not hold up the others meanwhile.
                await client.zadd(keys.DELETED, {member: int(seconds) * 1000 + ANSWER_MS})
        return len(due), removed

    async def _purge_session(self, uid: str, session_id: str, member: bytes) -> bool:
        client = self._link.client
        session = SessionKeys(uid)
        reply = checked(await self._link.run(scripts.EXPIRED, session.of_script(), [uid]))
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
        if blob is not None and Name.unpacked(blob).uid == uid:
            await client.zrem(keys.SESSIONS, session_id)
            await self._link.run(scripts.EQUALS_DELETE, [key], [blob])
