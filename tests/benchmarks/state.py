"""What a session takes of Redis: bytes a label, a lease, a remembered request, an item's
neighbours. The capacity model of `PROMISES.md` comes from here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from redis.asyncio import Redis
from tests.fixtures.sessions import a_request, a_session, grant, labels

from coresift.server.arrays import Rows
from coresift.server.state.embedded import EmbeddedRedis
from coresift.server.state.redis_store import RedisStore
from coresift.server.state.values import SessionRecord

ITEMS = 20_000
NEIGHBOURS = 100
CALLS = (1, 10, 100, 1_000)
"""Labels of one AddLabels."""


def measure_state() -> dict[str, float]:
    """Bytes in Redis for each thing that a session keeps, as ``used_memory`` grows by."""
    return asyncio.run(_measure())


async def _measure() -> dict[str, float]:
    with TemporaryDirectory() as folder:
        async with EmbeddedRedis(Path(folder)) as server:
            store = await RedisStore.connect(server.url)
            redis = Redis.from_url(server.url)
            try:
                return await _figures(store, redis)
            finally:
                await redis.aclose()
                await store.close()


async def _figures(store: RedisStore, redis: Redis) -> dict[str, float]:
    figures: dict[str, float] = {}
    for size in CALLS:
        session = await a_session(store)
        kept, answers = await _of(redis, lambda s=session, n=size: _label(store, s, n))  # type: ignore[misc]
        figures[f"label, {size:,} a call: bytes for good"] = kept / ITEMS
        figures[f"label, {size:,} a call: bytes for 24 h"] = answers / ITEMS
    session = await a_session(store)
    kept, answers = await _of(redis, lambda: _lease(store, session))
    figures["lease, 10 a batch: bytes in the log, and while it is live"] = kept / ITEMS
    figures["lease, 10 a batch: bytes for 24 h"] = answers / ITEMS
    session = await a_session(store)
    kept, _ = await _of(redis, lambda: _neighbours(store, session))
    figures[f"{NEIGHBOURS} neighbours of an item: bytes"] = kept / ITEMS
    kept, _ = await _of(redis, lambda: _sessions(store))
    figures["session without labels: bytes"] = kept / 1_000
    return figures


async def _of(redis: Redis, work: Callable[[], Awaitable[None]]) -> tuple[int, int]:
    """Bytes that ``work`` leaves: for good, and those that end by themselves."""
    before = await _used(redis)
    await work()
    after = await _used(redis)
    ending = [key async for key in redis.scan_iter(count=10_000) if await redis.pttl(key) > 0]
    for start in range(0, len(ending), 1_000):
        await redis.delete(*ending[start : start + 1_000])
    left = await _used(redis)
    return left - before, after - left


async def _used(redis: Redis) -> int:
    return int((await redis.info("memory"))["used_memory"])


async def _label(store: RedisStore, session: SessionRecord, size: int) -> None:
    for start in range(0, ITEMS, size):
        rows = range(start, start + size)
        await store.add_labels(session.uid, a_request(), "annotator-1", labels(rows, b"\x01"))


async def _lease(store: RedisStore, session: SessionRecord) -> None:
    for start in range(0, ITEMS, 10):
        await grant(store, session, range(start, start + 10), "annotator-1")


async def _neighbours(store: RedisStore, session: SessionRecord) -> None:
    rows: Rows = np.arange(ITEMS, dtype=np.int32)
    table = np.zeros((ITEMS, NEIGHBOURS), np.int32)
    await store.put_neighbours(session.uid, "0" * 32, rows, table)


async def _sessions(store: RedisStore) -> None:
    for _ in range(1_000):
        await a_session(store)
