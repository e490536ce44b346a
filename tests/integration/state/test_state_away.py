"""Redis stops, restarts, forgets its scripts, fills up, or was set up to lose labels."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from tests.fixtures.sessions import a_claim, a_request, a_session, grant, labels

from coresift.server.errors import CoresiftError, Reason, StartError
from coresift.server.state.embedded import EmbeddedRedis
from coresift.server.state.redis_binary import RedisBinary
from coresift.server.state.redis_store import RedisStore
from coresift.server.state.server import ANSWER_TIMEOUT_S, CALL_TIMEOUT_S


@pytest_asyncio.fixture
async def server(tmp_path: Path, redis_binary: RedisBinary) -> AsyncIterator[EmbeddedRedis]:
    async with EmbeddedRedis(tmp_path, binary=redis_binary.path) as started:
        yield started


@pytest_asyncio.fixture
async def own(server: EmbeddedRedis) -> AsyncIterator[RedisStore]:
    store = await RedisStore.connect(server.url)
    yield store
    await store.close()


async def ask_server(server: EmbeddedRedis, *command: str) -> object:
    """Run a command on a connection of its own."""
    client: Any
    async with Redis(unix_socket_path=server.url.removeprefix("unix://")) as client:
        return await client.execute_command(*command)


async def refused(call: object) -> CoresiftError:
    with pytest.raises(CoresiftError) as caught:
        await call  # type: ignore[misc]
    return caught.value


async def is_rewriting(store: RedisStore) -> bool:
    info = await store._link.client.info("persistence")
    return bool(info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"])


async def until_back(store: RedisStore) -> None:
    async with asyncio.timeout(10):
        while not store.available():  # noqa: ASYNC110 - nothing to wait for
            await asyncio.sleep(0.005)


async def test_flushed_scripts_are_sent_again(own: RedisStore) -> None:
    session = await a_session(own)
    await own._link.client.script_flush()
    assert (await grant(own, session, [1])).rows == (1,)
    await own._link.client.script_flush()
    assert session.session_id in [s.session_id for s in await own.list_sessions("", 10)]


async def test_answers_that_came_during_a_stall_of_the_loop_are_read(own: RedisStore) -> None:
    """No call fails, and no connection is made anew."""
    session = await a_session(own)
    await own.read(session.session_id)  # the server knows the script from now on
    master = own._link._masters.servers()[0][0]
    connections = master._idle.copy()
    calls = [asyncio.create_task(own.read(session.session_id)) for _ in connections]
    for _ in range(3):
        await asyncio.sleep(0)  # until they are sent
    time.sleep(CALL_TIMEOUT_S + 0.2)  # noqa: ASYNC251
    assert {one.session_id for one in await asyncio.gather(*calls)} == {session.session_id}
    assert own.available()
    assert set(master._idle) == set(connections)


async def test_a_stopped_redis_is_noticed_where_the_loop_stalls_over_both_deadlines(
    server: EmbeddedRedis, own: RedisStore
) -> None:
    session = await a_session(own)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        loop = asyncio.get_running_loop()
        stall = CALL_TIMEOUT_S - ANSWER_TIMEOUT_S + 0.1
        loop.call_later(ANSWER_TIMEOUT_S - 0.05, time.sleep, stall)
        error = await refused(own.read(session.session_id))
        assert error.reason is Reason.STATE_UNAVAILABLE
        assert not own.available()
    finally:
        os.kill(server.pid, signal.SIGCONT)
    await until_back(own)


async def test_stopped_redis_fails_fast_and_recovers_by_itself(
    server: EmbeddedRedis, own: RedisStore
) -> None:
    session = await a_session(own)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        began = time.perf_counter()
        error = await refused(own.read(session.session_id))
        assert error.reason is Reason.STATE_UNAVAILABLE
        assert time.perf_counter() - began < 1.5
        assert not own.available()
        for _ in range(5):
            began = time.perf_counter()
            error = await refused(own.claim(session.uid, a_claim([1])))
            assert time.perf_counter() - began < 0.05
            assert error.reason is Reason.STATE_UNAVAILABLE
            assert error.retry_after_s is not None
    finally:
        os.kill(server.pid, signal.SIGCONT)
    await until_back(own)
    assert (await own.read(session.session_id)).uid == session.uid


async def test_killed_redis_is_found_again_after_its_restart(
    tmp_path: Path, redis_binary: RedisBinary
) -> None:
    server = EmbeddedRedis(tmp_path, binary=redis_binary.path)
    await server.start()
    folder = Path(server.url.removeprefix("unix://")).parent
    link = tmp_path / "redis.sock"
    link.symlink_to(folder / "redis.sock")
    calls: list[tuple[str, bool]] = []
    own = await RedisStore.connect(
        f"unix://{link}", observe=lambda name, seconds, ok: calls.append((name, ok))
    )
    session = await a_session(own)
    await server.stop()
    assert (await refused(own.read(session.session_id))).reason is Reason.STATE_UNAVAILABLE
    assert calls == [("create", True), ("read", False)]
    async with EmbeddedRedis(tmp_path, binary=redis_binary.path) as again:
        link.unlink()
        link.symlink_to(again.url.removeprefix("unix://"))
        await until_back(own)
        assert (await own.read(session.session_id)).uid == session.uid
        await own.close()


async def test_closed_connections_do_not_fail_a_call(
    server: EmbeddedRedis, own: RedisStore
) -> None:
    session = await a_session(own)
    for number in range(5):
        await ask_server(server, "CLIENT", "KILL", "TYPE", "normal")
        written = await own.add_labels(session.uid, a_request(), "ann", labels([number]))
        assert not written.replayed
    assert own.available()


async def test_commit_goes_on_when_its_caller_is_cancelled(
    server: EmbeddedRedis, own: RedisStore
) -> None:
    session = await a_session(own)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        request = a_request()
        call = asyncio.create_task(own.add_labels(session.uid, request, "ann", labels([1])))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    finally:
        os.kill(server.pid, signal.SIGCONT)
    await asyncio.gather(*own._link._commits)
    assert (await own.add_labels(session.uid, request, "ann", labels([1]))).replayed


async def test_full_redis_is_named(own: RedisStore) -> None:
    session = await a_session(own)
    await own._link.client.config_set("maxmemory", "1")
    for call in (
        lambda: own.add_labels(session.uid, a_request(), "ann", labels([1])),
        lambda: own.claim(session.uid, a_claim([1])),
        lambda: own.put_document("space", "key", b"", replaces=None, ttl_ms=None),
    ):
        assert (await refused(call())).reason is Reason.STATE_FULL
    assert await own.read(session.session_id) == session
    await own._link.client.config_set("maxmemory", "0")
    assert (await grant(own, session, [1])).rows == (1,)


async def test_read_only_redis_is_named(server: EmbeddedRedis, own: RedisStore) -> None:
    session = await a_session(own)
    await ask_server(server, "REPLICAOF", "127.0.0.1", "1")
    for _ in range(2):
        label = own.add_labels(session.uid, a_request(), "ann", labels([1]))
        error = await refused(label)
        assert error.reason is Reason.STATE_READ_ONLY
        assert error.retry_after_s is not None
        await own._link.disconnect()  # the second call meets it on a new connection
    with pytest.raises(StartError, match="is a replica"):
        await own.check()
    await ask_server(server, "REPLICAOF", "NO", "ONE")
    await until_back(own)
    assert await own.read(session.session_id) == session


async def test_a_full_disk_is_named(server: EmbeddedRedis, own: RedisStore, tmp_path: Path) -> None:
    session = await a_session(own)
    # As if a snapshot had failed: what Redis says is the same, MISCONF.
    await ask_server(server, "CONFIG", "SET", "save", "1 1")
    (tmp_path / "dump.rdb").mkdir()
    refusal = None
    async with asyncio.timeout(20):
        while refusal is None:
            request = a_request()
            try:
                await own.add_labels(session.uid, request, "ann", labels([1]))
            except CoresiftError as error:
                refusal = error
            await asyncio.sleep(0.05)
    assert refusal.reason is Reason.STATE_READ_ONLY
    assert "MISCONF" in refusal.message
    assert (await own.read(session.session_id)).revision > 0
    await ask_server(server, "CONFIG", "SET", "save", "")
    assert not (await own.add_labels(session.uid, request, "ann", labels([1]))).replayed


async def test_many_callers_wait_in_turn(own: RedisStore) -> None:
    session = await a_session(own)
    began = time.perf_counter()

    async def read_for_a_while() -> None:
        while time.perf_counter() - began < 1.5:  # who never had a turn is refused after 1 s
            await own.read(session.session_id)

    await asyncio.gather(*(read_for_a_while() for _ in range(100)))


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("maxmemory-policy", "allkeys-lru", "evicts keys.*set maxmemory-policy noeviction"),
        ("appendonly", "no", "no append-only file.*--state-volatile"),
    ],
)
async def test_redis_that_loses_labels_is_refused(
    server: EmbeddedRedis, own: RedisStore, setting: str, value: str, message: str
) -> None:
    session = await a_session(own)
    await own._link.client.config_set(setting, value)
    with pytest.raises(StartError, match=message):
        await RedisStore.connect(server.url)
    with pytest.raises(StartError, match=message):
        await own.check()
    # A connection made later is refused too, and the store stays away until that is mended.
    await own._link.disconnect()
    assert (await refused(own.read(session.session_id))).reason is Reason.STATE_UNAVAILABLE
    assert not own.available()
    if setting == "appendonly":
        volatile = await RedisStore.connect(server.url, volatile=True)
        await volatile._link.client.config_set(setting, "yes")
        # Until the file is written, Redis refuses to end.
        while await is_rewriting(volatile):  # noqa: ASYNC110 - Redis ends it
            await asyncio.sleep(0.005)
        await volatile.close()
        await until_back(own)
        assert await own.read(session.session_id) == session


@pytest.mark.parametrize(
    "url", ["http://host", "redis://localhost:port", "unix:///nowhere/redis.sock"]
)
async def test_bad_urls_are_refused(url: str) -> None:
    with pytest.raises(StartError):
        await RedisStore.connect(url)
