"""Deleting and bringing back, purging, and what broken-off copies leave behind."""

from __future__ import annotations

import asyncio

import pytest
from tests.fixtures.sessions import a_request, a_session, all_leases, grant, is_removed, labels

from coresift.server.errors import CoresiftError, Reason
from coresift.server.state import keys
from coresift.server.state.keys import SessionKeys
from coresift.server.state.redis_store import RedisStore
from coresift.server.state.transfer import START, Rows, Standing
from coresift.server.state.values import (
    ANSWER_MS,
    Request,
    SessionRecord,
    Settings,
)


def anyone(settings: Settings) -> None:
    pass


async def hidden_since(store: RedisStore, session: SessionRecord, ms_ago: int) -> None:
    """Let a deletion have happened so long ago."""
    client = store._link.client
    seconds, _ = await client.time()
    when = seconds * 1000 - ms_ago
    await client.hset(SessionKeys(session.uid).meta, "deleted", when)
    member = f"{session.uid} {session.session_id}"
    await client.zadd(keys.DELETED, {member: when + ANSWER_MS}, xx=True)


async def reason_of(call: object) -> Reason:
    with pytest.raises(CoresiftError) as caught:
        await call  # type: ignore[misc]
    return caught.value.reason


async def listed(store: RedisStore, session_id: str) -> bool:
    found = await store.list_sessions(session_id[:-1], 1000)
    return session_id in {record.session_id for record in found}


async def test_undelete_brings_everything_back(store: RedisStore) -> None:
    session = await a_session(store)
    await grant(store, session, range(4), "ann")
    await store.add_labels(session.uid, a_request(), "ann", labels([0, 1]))
    before, leases = await store.read(session.session_id), await all_leases(store, session.uid)
    delete, undelete = a_request("delete"), a_request("undelete")
    await store.delete(session.session_id, delete)
    assert not await listed(store, session.session_id)
    record = await store.undelete(session.session_id, undelete, anyone)
    assert record == before == await store.read(session.session_id)
    assert await all_leases(store, session.uid) == leases
    assert await listed(store, session.session_id)
    # Repeated: nothing more happens, whichever came last.
    assert await store.undelete(session.session_id, undelete, anyone) == record
    await store.delete(session.session_id, delete)
    assert await listed(store, session.session_id)
    again = a_request("delete again")
    await store.delete(session.session_id, again)
    assert await store.undelete(session.session_id, undelete, anyone) == record
    assert not await listed(store, session.session_id)
    assert await reason_of(store.read(session.session_id)) is Reason.SESSION_NOT_FOUND
    reused = Request(undelete.request_id, b"another body....")
    answer = store.undelete(session.session_id, reused, anyone)
    assert await reason_of(answer) is Reason.REQUEST_ID_REUSED


async def test_undelete_refuses_what_is_not_deleted_or_gone(store: RedisStore) -> None:
    session = await a_session(store)
    call = store.undelete(session.session_id, a_request(), anyone)
    assert await reason_of(call) is Reason.SESSION_NOT_FOUND
    assert await listed(store, session.session_id)
    call = store.undelete("no-such-session", a_request(), anyone)
    assert await reason_of(call) is Reason.SESSION_NOT_FOUND
    await store.delete(session.session_id, a_request())
    await hidden_since(store, session, ANSWER_MS - 60_000)
    await store.purge()  # one minute is left
    await store.undelete(session.session_id, a_request(), anyone)
    await store.delete(session.session_id, a_request())
    await hidden_since(store, session, ANSWER_MS + 60_000)
    call = store.undelete(session.session_id, a_request(), anyone)
    assert await reason_of(call) is Reason.SESSION_NOT_FOUND
    assert await store.purge() >= 1
    call = store.undelete(session.session_id, a_request(), anyone)
    assert await reason_of(call) is Reason.SESSION_NOT_FOUND
    assert not await listed(store, session.session_id)


async def test_undelete_and_purge_at_the_same_time(store: RedisStore) -> None:
    """Whoever comes first: the session is whole or gone, never half."""
    for ms_left in (-1_000, 0, 1_000):
        sessions = [await a_session(store) for _ in range(8)]
        for session in sessions:
            await store.add_labels(session.uid, a_request(), "ann", labels([1, 2]))
            await store.delete(session.session_id, a_request())
            await hidden_since(store, session, ANSWER_MS - ms_left)
        calls = [store.undelete(s.session_id, a_request(), anyone) for s in sessions]
        *back, _, _ = await asyncio.gather(
            *calls, store.purge(), store.purge(), return_exceptions=True
        )
        await store.purge()
        for session, result in zip(sessions, back, strict=True):
            if isinstance(result, CoresiftError):
                assert result.reason is Reason.SESSION_NOT_FOUND
                assert await reason_of(store.read(session.session_id)) is Reason.SESSION_NOT_FOUND
                assert await is_removed(store, session.uid)
            else:
                assert (await store.log(session.uid, 0, 100)).record.votes == 2
                assert await listed(store, session.session_id)


async def copied(store: RedisStore, session: SessionRecord, freezer: str) -> tuple[str, Standing]:
    uid = await store.stage(session.session_id)
    piece = await store.copy_log(session.uid, START, freezer)
    assert piece.standing is not None
    await store.stage_log(uid, 0, piece.entries)
    await store.stage_log(uid, 0, piece.entries)  # again: nothing
    await store.stage_rows(uid, Rows(leases=piece.standing.leases))
    return uid, piece.standing


async def test_a_swap_that_broke_off_is_finished_by_whoever_comes_next(store: RedisStore) -> None:
    session = await a_session(store)
    await store.add_labels(session.uid, a_request(), "ann", labels([1]))
    uid, standing = await copied(store, session, "me")
    refused = store.add_labels(session.uid, a_request(), "ann", labels([2]))
    assert await reason_of(refused) is Reason.STATE_UNAVAILABLE
    client, key = store._link.client, keys.name_key(session.session_id)
    name = await client.get(key)
    await store.replace_with_staged(session.session_id, session.uid, uid, standing, "me")
    await client.set(key, name)  # as if it had broken off before the name was changed
    store._uids.clear()
    assert (await store.read(session.session_id)).uid == uid
    assert await client.get(key) != name
    stale = store.add_labels(session.uid, a_request(), "ann", labels([2]))
    assert await reason_of(stale) is Reason.SESSION_NOT_FOUND
    # The purge finishes it as well, and removes the old data.
    await client.set(key, name)
    store._uids.clear()
    await client.zadd(keys.DELETED, {f"{session.uid} {session.session_id}": 1})
    await store.purge()
    assert await is_removed(store, session.uid)
    assert (await store.read(session.session_id)).uid == uid
    await store.delete(session.session_id, a_request())


async def test_a_frozen_session_goes_on_when_it_took_too_long(store: RedisStore) -> None:
    session = await a_session(store)
    uid, standing = await copied(store, session, "me")
    await store.thaw(session.uid, "me")
    await store.add_labels(session.uid, a_request(), "ann", labels([1]))
    late = store.replace_with_staged(session.session_id, session.uid, uid, standing, "me")
    assert await reason_of(late) is Reason.STATE_UNAVAILABLE
    assert (await store.read(session.session_id)).uid == session.uid
    # What was staged is nobody's: the purge removes it, and leaves the session alone.
    client = store._link.client
    for member in (uid, session.uid):
        await client.zadd(keys.DELETED, {f"{member} {session.session_id}": 1})
    await store.purge()
    assert await is_removed(store, uid)
    assert (await store.log(session.uid, 0, 10)).record.votes == 1


async def test_staged_logs_have_no_gaps(store: RedisStore) -> None:
    session = await a_session(store)
    uid, standing = await copied(store, session, "")
    gap = store.stage_log(uid, standing.offset + 1, [b"\x80"])
    assert await reason_of(gap) is Reason.STATE_UNAVAILABLE
    await store.discard(uid, session.session_id, standing)
    assert await is_removed(store, uid)
