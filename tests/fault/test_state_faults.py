"""Redis away, slow, cut off, full: what the store says, how soon, and what is kept."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import resource
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from statistics import median

import pytest
import pytest_asyncio
from tests.fixtures.insisting import Insisting, labelled_rows
from tests.fixtures.redis_topologies import RedisServer
from tests.fixtures.sessions import a_claim, a_request, a_session, grant, labels
from tests.fixtures.tcp_proxy import TcpProxy

from coresift.server.errors import CoresiftError, Reason
from coresift.server.state.redis_store import RedisStore
from coresift.server.state.values import SessionRecord

SEED = int(os.environ.get("CORESIFT_TEST_SEED", "20261122"))
SOON_S = 0.05
CALL_S = 1.0
"""The longest that one call to Redis may take."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as running:
        yield running


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[TcpProxy]:
    with TcpProxy(server.address) as running:
        yield running


@pytest_asyncio.fixture
async def store(proxy: TcpProxy) -> AsyncIterator[RedisStore]:
    connected = await RedisStore.connect(f"redis://{proxy.address}/0")
    yield connected
    await connected.close()


async def refused(call: Awaitable[object]) -> tuple[CoresiftError, float]:
    """The refusal, and after how many seconds it came."""
    began = time.perf_counter()
    with pytest.raises(CoresiftError) as caught:
        await call
    return caught.value, time.perf_counter() - began


async def until_available(store: RedisStore) -> None:
    async with asyncio.timeout(10):
        while not store.available():  # noqa: ASYNC110 - the store asks by itself
            await asyncio.sleep(0.002)


# --- away -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["refuse", "stall"])
async def test_redis_away_is_said_at_once(proxy: TcpProxy, store: RedisStore, fault: str) -> None:
    """Once it is known, within 50 ms; a stalled Redis is known after one call's time."""
    session = await a_session(store)
    getattr(proxy, fault)()
    firsts = await asyncio.gather(
        *(refused(store.read(session.session_id)) for _ in range(100)),
    )
    assert {error.reason for error, _ in firsts} == {Reason.STATE_UNAVAILABLE}
    assert median(seconds for _, seconds in firsts) < (CALL_S if fault == "stall" else 0) + 0.5
    times = []
    for number in range(100):
        call: Awaitable[object] = (
            store.claim(session.uid, a_claim([number]))
            if number % 2
            else store.add_labels(session.uid, a_request(), "ann", labels([number]))
        )
        error, seconds = await refused(call)
        assert error.reason is Reason.STATE_UNAVAILABLE
        assert error.retry_after_s is not None
        times.append(seconds)
    assert sorted(times)[-2] < SOON_S  # one may have met the end of another process's turn
    proxy.forward()
    await until_available(store)
    assert await labelled_rows(store, session) == {}
    assert (await grant(store, session, [1])).rows == (1,)


async def test_a_slow_redis_is_used_and_one_too_slow_is_away(
    proxy: TcpProxy, store: RedisStore
) -> None:
    session = await a_session(store)
    proxy.delay(20)
    await store.add_labels(session.uid, a_request(), "ann", labels([1]))
    proxy.delay(1_500)
    request = a_request()
    error, seconds = await refused(store.add_labels(session.uid, request, "ann", labels([2])))
    assert error.reason is Reason.STATE_UNAVAILABLE
    assert seconds < CALL_S + 0.5
    proxy.forward()
    await until_available(store)
    await store.add_labels(session.uid, request, "ann", labels([2]))
    assert await labelled_rows(store, session) == {1: 1, 2: 1}


async def test_a_lost_reply_is_no_lost_or_second_label(proxy: TcpProxy, store: RedisStore) -> None:
    """The label is committed, its reply is lost: the repeated call finds its answer."""
    session = await a_session(store)
    insist, replayed = Insisting(), 0
    for row in range(20):
        request = a_request()
        proxy.lose_replies(1)
        written = await insist(
            lambda row=row, request=request: store.add_labels(  # type: ignore[misc]
                session.uid, request, "ann", labels([row])
            )
        )
        replayed += written.replayed
        again = await store.add_labels(session.uid, request, "ann", labels([row]))
        assert (again.outcomes, again.revision, again.nonce) == (
            written.outcomes,
            written.revision,
            written.nonce,
        )
    assert await labelled_rows(store, session) == dict.fromkeys(range(20), 1)
    assert replayed > 5, "it was the labels' replies that were lost"


async def attack(proxy: TcpProxy, store: RedisStore, faults: int) -> None:
    """Writers that insist, and one fault after another on the way to Redis."""
    generator = random.Random(SEED)
    session = await a_session(store)
    rows = itertools.count()
    insist = Insisting()
    acknowledged: Counter[int] = Counter()
    inflicted: Counter[str] = Counter()
    is_over = False

    async def write(annotator: str) -> None:
        while not is_over:
            chosen = list(itertools.islice(rows, generator.randint(1, 5)))
            request = a_request()
            await insist(
                lambda: store.add_labels(session.uid, request, annotator, labels(chosen))  # noqa: B023 - awaited here
            )
            acknowledged.update(chosen)

    def inflict(fault: str) -> None:
        inflicted[fault] += 1
        match fault:
            case "delay":
                proxy.delay(generator.choice([1, 20, 100]))
            case "lose_replies":
                proxy.lose_replies(generator.randint(1, 8))
            case _:
                getattr(proxy, fault)()

    try:
        async with asyncio.TaskGroup() as tasks:
            for number in range(8):
                tasks.create_task(write(f"ann {number}"))
            for _ in range(faults):
                done = acknowledged.total()
                fault = generator.choice(["delay", "stall", "cut", "refuse", "lose_replies"])
                inflict(fault)
                await asyncio.sleep(generator.uniform(0, 0.2))  # how long the fault lasts
                proxy.forward()
                async with asyncio.timeout(20):
                    while acknowledged.total() == done:  # noqa: ASYNC110 - any of eight writers
                        await asyncio.sleep(0.002)
            is_over = True
        assert await labelled_rows(store, session) == acknowledged
        assert set(acknowledged.values()) == {1}
    except BaseException as error:
        error.add_note(f"CORESIFT_TEST_SEED={SEED}, {inflicted}")
        raise
    print(f"{inflicted}: {acknowledged.total()} labels acknowledged, {insist.refusals}")


async def test_a_few_faults_on_the_way(proxy: TcpProxy, store: RedisStore) -> None:
    """``pytest tests/fault/test_state_faults.py::test_a_few_faults_on_the_way``"""
    await attack(proxy, store, 15)


@pytest.mark.fault
async def test_many_faults_on_the_way(proxy: TcpProxy, store: RedisStore) -> None:
    """``pytest tests/fault/test_state_faults.py::test_many_faults_on_the_way``"""
    await attack(proxy, store, 150)


async def test_redis_killed_and_restarted_under_load(
    server: RedisServer, proxy: TcpProxy, store: RedisStore
) -> None:
    """``pytest tests/fault/test_state_faults.py::test_redis_killed_and_restarted_under_load``"""
    session = await a_session(store)
    insist = Insisting()
    acknowledged: Counter[int] = Counter()
    rows = itertools.count()

    async def write(annotator: str) -> None:
        for row in itertools.islice(rows, 100):
            request = a_request()
            await insist(
                lambda: store.add_labels(session.uid, request, annotator, labels([row]))  # noqa: B023 - awaited here
            )
            acknowledged[row] += 1

    async with asyncio.TaskGroup() as tasks:
        for number in range(4):
            tasks.create_task(write(f"ann {number}"))
        for enough in (50, 150, 250):
            async with asyncio.timeout(20):
                while acknowledged.total() < enough:  # noqa: ASYNC110 - four writers do it
                    await asyncio.sleep(0)
            server.kill()
            server.start()
    assert await labelled_rows(store, session) == acknowledged == dict.fromkeys(range(400), 1)


# --- full -----------------------------------------------------------------------------------------


async def label_until_refused(
    store: RedisStore, session: SessionRecord
) -> tuple[list[int], CoresiftError]:
    """The rows that were acknowledged before the first refusal, and the refusal."""
    acknowledged = []
    for row in range(20_000):
        try:
            await store.add_labels(
                session.uid, a_request(), "ann", labels([row], os.urandom(200).hex().encode())
            )
        except CoresiftError as error:
            return acknowledged, error
        acknowledged.append(row)
    raise AssertionError("it was never refused")


def limit_files(server: RedisServer, size: int) -> None:
    """The longest a file of this Redis may become: beyond it, writing fails as on a full disk."""
    _, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, hard))


async def test_out_of_memory_is_a_reason_of_its_own(server: RedisServer, store: RedisStore) -> None:
    session = await a_session(store)
    server.ask("CONFIG", "SET", "maxmemory", server.info("used_memory") + 300_000)
    acknowledged, error = await label_until_refused(store, session)
    assert error.reason is Reason.STATE_FULL
    assert error.retry_after_s is not None
    assert await labelled_rows(store, session) == dict.fromkeys(acknowledged, 1)  # reads go on
    assert store.available()
    server.ask("CONFIG", "SET", "maxmemory", 0)
    await store.add_labels(session.uid, a_request(), "ann", labels([30_000]))


async def test_a_full_disk_is_a_reason_of_its_own(server: RedisServer, store: RedisStore) -> None:
    """With ``appendfsync everysec`` Redis refuses writes until there is space again."""
    session = await a_session(store)
    server.ask("CONFIG", "SET", "appendfsync", "everysec")
    limit_files(server, server.info("aof_current_size") + 20_000)
    acknowledged, error = await label_until_refused(store, session)
    assert error.reason is Reason.STATE_READ_ONLY
    assert error.retry_after_s is not None
    assert set(acknowledged) <= set(await labelled_rows(store, session))  # reads go on
    limit_files(server, resource.RLIM_INFINITY)
    await Insisting()(lambda: store.add_labels(session.uid, a_request(), "ann", labels([30_000])))
    assert set(acknowledged) <= set(await labelled_rows(store, session))


async def test_a_full_disk_loses_no_acknowledged_label(
    server: RedisServer, store: RedisStore
) -> None:
    """With ``appendfsync always`` Redis ends rather than acknowledge what is not on disk."""
    session = await a_session(store)
    limit_files(server, server.info("aof_current_size") + 20_000)
    acknowledged, error = await label_until_refused(store, session)
    assert error.reason is Reason.STATE_UNAVAILABLE
    assert acknowledged
    server.kill()
    server.start()
    await until_available(store)
    kept = await labelled_rows(store, session)
    assert set(acknowledged) <= set(kept)
    assert set(kept.values()) == {1}


async def test_too_few_replicas_for_redis_itself_is_read_only(
    server: RedisServer, store: RedisStore
) -> None:
    session = await a_session(store)
    server.ask("CONFIG", "SET", "min-replicas-to-write", 1)
    error, _ = await refused(store.add_labels(session.uid, a_request(), "ann", labels([1])))
    assert error.reason is Reason.STATE_READ_ONLY
    server.ask("CONFIG", "SET", "min-replicas-to-write", 0)
    await store.add_labels(session.uid, a_request(), "ann", labels([1]))
