"""What others do in the midst of a call: sessions move, are removed, hidden and brought back."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from redis.exceptions import ResponseError
from tests.fixtures.between import Between
from tests.fixtures.sessions import a_request, a_session, is_removed, labels

from coresift.server.errors import CoresiftError, Reason
from coresift.server.state import keys, scripts
from coresift.server.state.entries import LabelsEntry
from coresift.server.state.keys import SessionKeys
from coresift.server.state.redis_store import RedisStore
from coresift.server.state.scripts import Script
from coresift.server.state.server import ServerAwayError
from coresift.server.state.transfer import START
from coresift.server.state.values import ANSWER_MS, SessionRecord, Settings

OLD_OPEN = """
if redis.call('HGET', KEYS[1], 'uid') ~= ARGV[1] then
  return {'refused', 'SESSION_NOT_FOUND', ''}
end
return {'done'}
"""
"""What every release has looked at before it does anything."""


def anyone(settings: Settings) -> None:
    pass


async def refused(call: Awaitable[object]) -> Reason:
    with pytest.raises(CoresiftError) as caught:
        await call
    return caught.value.reason


async def moved(store: RedisStore, session: SessionRecord, *, removed: bool = True) -> str:
    """Let a session live on under another uid, which is returned."""
    uid = await store.stage(session.session_id)
    piece = await store.copy_log(session.uid, START, "mover")
    assert piece.standing is not None
    await store.stage_log(uid, 0, piece.entries)
    await store.replace_with_staged(session.session_id, session.uid, uid, piece.standing, "mover")
    if removed:
        await store.remove_replaced(session.session_id)
    return uid


async def lists(store: RedisStore, session: SessionRecord) -> tuple[bool, bool]:
    """Whether a session is listed, and whether it is to be removed."""
    client: Any = store._link.client
    listed = await client.zscore(keys.listing_of(session.session_id), session.session_id)
    removal = await client.zscore(keys.DELETED, f"{session.uid} {session.session_id}")
    return listed is not None, removal is not None


@pytest_asyncio.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStore]:
    """One replica's store."""
    async with connected(redis_url) as made:
        yield made


@pytest_asyncio.fixture
async def other(redis_url: str) -> AsyncIterator[RedisStore]:
    """Another's."""
    async with connected(redis_url) as made:
        yield made


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[RedisStore]:
    made = await RedisStore.connect(url)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
def between(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> Between:
    return Between(store, monkeypatch)


async def test_a_late_reader_creates_nothing_under_a_uid_that_was_left(
    store: RedisStore, other: RedisStore, between: Between
) -> None:
    session = await a_session(other)
    await other.add_labels(session.uid, a_request(), "ann", labels([1]))
    found: list[str] = []

    async def move() -> None:
        found.append(await moved(other, session))

    between.after("GET coresift:name", move)
    record = await store.read(session.session_id)
    assert [record.uid] == found
    assert record.revision == 2
    assert between.is_over
    assert await is_removed(other, session.uid)
    labelled = await store.add_labels(record.uid, a_request(), "bob", labels([2]))
    assert (await other.read(session.session_id)).revision == labelled.revision


async def test_a_late_reader_does_not_bring_a_purged_session_back(
    store: RedisStore, other: RedisStore, between: Between
) -> None:
    session = await a_session(other)
    await other.delete(session.session_id, a_request())
    client: Any = other._link.client

    async def purge() -> None:
        await client.hincrby(SessionKeys(session.uid).meta, "deleted", -ANSWER_MS)
        await client.zadd(keys.DELETED, {f"{session.uid} {session.session_id}": 0})
        assert await other.purge() >= 1

    between.after("GET coresift:name", purge)
    assert await refused(store.read(session.session_id)) is Reason.SESSION_NOT_FOUND
    assert between.is_over
    assert await is_removed(other, session.uid)
    again = await store.create(session.session_id, session.settings, a_request())
    assert again.uid != session.uid


async def test_a_creation_is_found_again_where_the_session_lives_on(store: RedisStore) -> None:
    request = a_request("create")
    session = await store.create("moved-once", Settings(1, None, b"config"), request)
    uid = await moved(store, session)
    assert (await store.create("moved-once", Settings(1, None, b"config"), request)).uid == uid
    await store.delete("moved-once", a_request())
    again = store.create("moved-once", Settings(1, None, b"config"), request)
    assert await refused(again) is Reason.SESSION_EXISTS


@pytest.mark.parametrize("removed", [False, True])
async def test_older_releases_refuse_a_session_that_has_moved(
    store: RedisStore, removed: bool
) -> None:
    session = await a_session(store)
    old = Script(OLD_OPEN, hashlib.sha1(OLD_OPEN.encode(), usedforsecurity=False).hexdigest())
    names = SessionKeys(session.uid).of_script()
    assert await store._link.run(old, names, [session.uid]) == [b"done"]
    uid = await moved(store, session, removed=removed)
    reply = await store._link.run(old, names, [session.uid])
    assert reply[:2] == [b"refused", b"SESSION_NOT_FOUND"]
    assert (await store.read(session.session_id)).uid == uid


async def test_deleting_and_bringing_back_follow_a_session_that_moves(
    store: RedisStore, other: RedisStore, between: Between
) -> None:
    session = await a_session(store)
    between.before(scripts.DELETE, lambda: moved(other, session))
    await store.delete(session.session_id, a_request())
    assert between.is_over
    assert await refused(store.read(session.session_id)) is Reason.SESSION_NOT_FOUND
    record = await store.undelete(session.session_id, a_request(), anyone)
    assert record.uid != session.uid
    assert await lists(store, record) == (True, False)


@pytest.mark.parametrize("at", ["ZREM coresift:sessions", "ZADD coresift:deleted"])
async def test_lists_after_a_session_was_brought_back_while_it_was_deleted(
    store: RedisStore, other: RedisStore, between: Between, at: str
) -> None:
    session = await a_session(store)

    async def begin() -> None:
        between.before(at, lambda: other.undelete(session.session_id, a_request(), anyone))

    between.after(scripts.DELETE, begin)
    await store.delete(session.session_id, a_request())
    assert between.is_over
    assert (await other.read(session.session_id)).uid == session.uid
    assert await lists(store, session) == (True, False)


@pytest.mark.parametrize("at", ["ZREM coresift:deleted", "ZADD coresift:sessions"])
async def test_lists_after_a_session_was_deleted_while_it_was_brought_back(
    store: RedisStore, other: RedisStore, between: Between, at: str
) -> None:
    session = await a_session(store)
    await store.delete(session.session_id, a_request())
    between.before(at, lambda: other.delete(session.session_id, a_request()))
    await store.undelete(session.session_id, a_request(), anyone)
    assert between.is_over
    assert await refused(other.read(session.session_id)) is Reason.SESSION_NOT_FOUND
    assert await lists(store, session) == (False, True)


async def test_lists_after_a_session_was_deleted_while_a_purge_found_it_alive(
    store: RedisStore, other: RedisStore, between: Between
) -> None:
    session = await a_session(store)
    client: Any = other._link.client
    await client.zadd(keys.DELETED, {f"{session.uid} {session.session_id}": 1})  # begun, not done
    member = f"ZREM {keys.DELETED} {session.uid}"
    between.before(member, lambda: other.delete(session.session_id, a_request()))
    await store.purge()
    assert between.is_over
    assert await lists(store, session) == (False, True)


async def test_a_call_that_is_done_twice_has_two_nonces(
    store: RedisStore, between: Between
) -> None:
    """Its first run may be lost in a failover, and its second stand behind other entries."""
    session = await a_session(store)
    meta = SessionKeys(session.uid).meta
    nonces: list[bytes] = []
    request = a_request()

    async def lost() -> None:
        nonces.append((await store.read(session.session_id)).nonce)
        client: Any = store._link.client
        answer = SessionKeys(session.uid).answers([request.request_id])
        await client.delete(*answer)
        raise ServerAwayError(ConnectionResetError(), store._link._masters._breaker)  # type: ignore[attr-defined]

    between.after(scripts.LABELS, lost)
    await store.add_labels(session.uid, request, "ann", labels([1]))
    nonces.append((await store.read(session.session_id)).nonce)
    entries = (await store.log(session.uid, 0, 10)).entries
    assert [entry.nonce for entry in entries if isinstance(entry, LabelsEntry)] == nonces
    assert len(set(nonces)) == 2
    assert await store._link.client.hget(meta, "nonce") == nonces[-1]


async def test_only_a_refused_creation_leaves_no_note(store: RedisStore, between: Between) -> None:
    """One that may have been done leads its repetition to the session it has made."""
    request, settings = a_request("create"), Settings(1, None, b"config")

    async def fail() -> None:
        raise CoresiftError(Reason.STATE_NOT_REPLICATED, "too few")

    between.after(scripts.CREATE, fail)
    call = store.create("first-id", settings, request)
    assert await refused(call) is Reason.STATE_NOT_REPLICATED
    assert (await store.create("second-id", settings, request)).session_id == "first-id"
    taken = a_request("other body")
    assert await refused(store.create("first-id", settings, taken)) is Reason.SESSION_EXISTS
    assert not await store._link.client.exists(keys.creation_key(taken.request_id))


async def test_a_name_that_cannot_be_read_is_not_left_out_of_the_list(
    store: RedisStore,
) -> None:
    session = await a_session(store)
    client: Any = store._link.client
    key = keys.name_key(session.session_id)
    name = await client.get(key)
    await client.delete(key)
    await client.hset(key, "not", "a string")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await store.list_sessions(session.session_id[:-1], 1000)
    await client.delete(key)
    await client.set(key, name)
