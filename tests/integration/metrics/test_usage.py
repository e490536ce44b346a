"""How many sessions and leases there are, and the memory: on every Redis, and behind sentinels."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest
from tests.fixtures.redis_topologies import RedisServer, Sentinels
from tests.fixtures.sessions import a_request, grant

from coresift.server.caller import Caller
from coresift.server.metrics import Metrics
from coresift.server.session import usage as watching
from coresift.server.state import usage_operations
from coresift.server.state.keys import name_key
from coresift.server.state.redis_store import RedisStore
from coresift.server.state.values import SessionRecord, Settings, Usage


def group_of(settings: Settings) -> str:
    return settings.config.decode()


async def a_session(store: RedisStore, tenant: str, group: str) -> SessionRecord:
    request, name = a_request(request_id=f"create-{uuid4()}"), f"session-{uuid4()}"
    settings = Settings(1, None, group.encode())
    return await store.create(Caller(tenant=tenant).kept_as(name), settings, request)


async def counted(store: RedisStore) -> Usage:
    """Of two tenants: live, ended, deleted and returned things."""
    acme, beta = f"t{uuid4().hex[:8]}", f"t{uuid4().hex[:8]}"
    first = await a_session(store, acme, "sea")
    second = await a_session(store, acme, "land")
    third = await a_session(store, beta, "sea")
    gone = await a_session(store, beta, "sea")
    await grant(store, first, [1, 2, 3])
    await grant(store, first, [4, 5], "other")
    await grant(store, second, [1])
    await grant(store, second, [7, 8], lease_ms=1)
    await grant(store, third, [1, 2])
    await grant(store, gone, [1, 2, 3])
    await store.delete(gone.session_id, a_request())
    await asyncio.sleep(0.01)  # two leases end by themselves
    return await store.usage([acme, beta, f"nobody-{uuid4()}"], group_of)


async def test_what_is_live_counts(store: RedisStore) -> None:
    found = await counted(store)
    assert dict(found.sessions) == {"sea": 2, "land": 1}
    assert dict(found.leases) == {"sea": 7, "land": 1}
    assert found.memory_bytes > 100_000
    assert found.memory_limit_bytes == 0


async def test_many_sessions_are_counted_piece_by_piece(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_operations, "PIECE", 3)
    tenant = f"t{uuid4().hex[:8]}"
    for wanted in range(1, 8):
        session = await a_session(store, tenant, "sea")
        await grant(store, session, [1, 2])
        found = await store.usage([tenant], group_of)
        assert (found.sessions["sea"], found.leases["sea"]) == (wanted, 2 * wanted)


async def test_a_session_of_a_newer_release_hides_no_other(store: RedisStore) -> None:
    tenant = f"t{uuid4().hex[:8]}"
    await a_session(store, tenant, "sea")
    newer = await a_session(store, tenant, "sea")
    blob = b"\x99" + b"\x01" * 9  # a name with nine fields
    await store._link.client.set(name_key(newer.session_id), blob)
    assert dict((await store.usage([tenant], group_of)).sessions) == {"sea": 1}


async def test_behind_sentinels(tmp_path: Path) -> None:
    with Sentinels(tmp_path) as sentinels:
        store = await RedisStore.connect(sentinels.url)
        try:
            assert dict((await counted(store)).leases) == {"sea": 7, "land": 1}
        finally:
            await store.close()


async def test_the_limit_of_memory(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis", {"maxmemory": "64mb"}) as server:
        store = await RedisStore.connect(server.url)
        try:
            found = await store.usage([""], group_of)
            assert found.memory_limit_bytes == 64 << 20
            assert 0 < found.memory_bytes < found.memory_limit_bytes
        finally:
            await store.close()


async def test_the_watch_publishes_withdraws_and_publishes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LOOK_S", 0.01)
    monkeypatch.setattr(watching, "REST", 0)
    metrics = Metrics()
    value = metrics.registry.get_sample_value

    async def until(is_there: bool) -> None:
        async with asyncio.timeout(20):
            while is_there is (value("coresift_redis_memory_bytes") is None):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    with RedisServer(tmp_path / "redis") as server:
        store = await RedisStore.connect(server.url)
        watch = asyncio.create_task(watching.watch_usage(store, metrics, lambda: [""]))
        try:
            await until(True)
            server.stall()
            await until(False)
            assert not store.available()
            server.resume()
            await until(True)
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            await store.close()
