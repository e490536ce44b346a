"""Defects that reviews found, in the session layer: each must stay away."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import msgpack
import numpy as np
import psutil
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.pools import make_pool, write_inputs
from tests.fixtures.replicas import Replica, now, only, rows_of
from tests.fixtures.sessions import a_request, a_session, is_removed

from coresift.server.caller import CALLER, Caller, bare
from coresift.server.errors import CoresiftError, Reason
from coresift.server.head import Task
from coresift.server.memory_promises import MemoryPromises
from coresift.server.pool.builder import AppendOptions, append_pool
from coresift.server.pool.pool import Pool
from coresift.server.selection.candidates import All, Seals
from coresift.server.session.progress.advice import StopAdvice
from coresift.server.session.ranking.candidates import Candidates
from coresift.server.session.ranking.neighbourhood import Neighbourhood
from coresift.server.session.setup.config import BatchConfig, GroupRule, SessionConfig
from coresift.server.session.signals.signal_uploads import SignalHeader, SignalKind, UploadMemory
from coresift.server.session.view.labels import pack_class
from coresift.server.session.view.view import View
from coresift.server.state.entries import ConfigEntry, LabelsEntry
from coresift.server.state.keys import DELETED, SessionKeys, listing, name_key
from coresift.server.state.redis_store import RedisStore
from coresift.server.state.values import (
    ANSWER_MS,
    RETRACTION,
    LabelWrite,
    Settings,
)

NO, YES = pack_class(0), pack_class(1)
ITEMS = 120
SIDES = {0: YES, 1: NO, 2: YES, 3: NO}


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Pool]:
    """Three versions of a pool: 120, 130 and 140 items."""
    folder = tmp_path_factory.mktemp("pool")
    X = np.random.default_rng(4).standard_normal((ITEMS + 20, 8)).astype(np.float32)
    pools, last = [make_pool(folder, X[:ITEMS])], folder / "pool"
    for start in (ITEMS, ITEMS + 10):
        ids = [f"item-{row}" for row in range(start, start + 10)]
        inputs = write_inputs(folder, X[start : start + 10], ids, f"more-{start}")
        append_pool(AppendOptions(last, inputs, folder / f"next-{start}"))
        last = folder / f"next-{start}"
        pools.append(Pool.open(last))
    return pools


@pytest.fixture(scope="module")
def pool(versions: list[Pool]) -> Pool:
    return versions[0]


@pytest.fixture
def road(redis_url: str, tmp_path: Path) -> Road:
    """A way to Redis that can be closed."""
    return Road(redis_url, tmp_path / "redis.sock")


class Road:
    """A link to the socket of Redis: cutting it leaves this replica, and no other, without."""

    def __init__(self, url: str, link: Path) -> None:
        self._target, self._link = url.removeprefix("unix://"), link
        self.url = f"unix://{link}"
        self.mend()

    def mend(self) -> None:
        self._link.symlink_to(self._target)

    async def cut(self, store: RedisStore) -> None:
        self._link.unlink()
        await store._link.disconnect()


@pytest_asyncio.fixture
async def pair(
    redis_url: str, road: Road, versions: list[Pool]
) -> AsyncIterator[tuple[Replica, Replica]]:
    one, two = await Replica.start(road.url, versions), await Replica.start(redis_url, versions)
    yield one, two
    await one.stop()
    await two.stop()


Pair = tuple[Replica, Replica]


async def reason_of(call: object) -> Reason:
    with pytest.raises(CoresiftError) as caught:
        await call  # type: ignore[misc]
    return caught.value.reason


# --- updates -------------------------------------------------------------------------------------


async def test_an_update_is_repeated_after_later_ones(pair: Pair, versions: list[Pool]) -> None:
    """What was right then may not be allowed now: no pool version goes back."""
    one, two = pair
    session = await one.create(versions[0], pool_version=versions[0].manifest.version)
    requests = [a_request("two"), a_request("three")]
    answers = [
        await one.lifecycle.update(session, {"pool_version": pool.manifest.version}, None, request)
        for pool, request in zip(versions[1:], requests, strict=True)
    ]
    await one.lifecycle.update(session, {"mix": only("random")}, 3, a_request())
    for replica, k in itertools.product(pair, (0, 1)):
        changes = {"pool_version": versions[1 + k].manifest.version}
        again = await replica.lifecycle.update(session, changes, None, requests[k])
        assert (again.settings, again.config_version) == (answers[k].settings, 2 + k)
        assert (await replica.lifecycle.read(session)).config_version == 4
    reused = replace(requests[0], digest=b"other")
    call = two.lifecycle.update(session, {"mix": only("margin")}, None, reused)
    assert await reason_of(call) is Reason.REQUEST_ID_REUSED


# --- annotators with nothing left ----------------------------------------------------------------


@contextmanager
def at_the_same_time(*works: object) -> Iterator[None]:
    """Runs coroutines until the block ends."""
    tasks = [asyncio.ensure_future(work) for work in works]  # type: ignore[call-overload]
    try:
        yield
    finally:
        for task in tasks:
            assert not task.done(), task
            task.cancel()


@pytest.mark.parametrize("phase", ["EXHAUSTED", "WAITING"])
async def test_nothing_left_is_said_at_once_while_others_label(
    pair: Pair, pool: Pool, phase: str
) -> None:
    one, two = pair
    session = await two.create(pool, pool_version=pool.manifest.version, votes_per_item=2)
    await two.label(session, dict.fromkeys(range(ITEMS), NO) | SIDES)
    if phase == "WAITING":  # what two others hold may come back
        await two.label(session, dict.fromkeys((5, 6), RETRACTION))
        for name in ("dee", "eve"):
            assert {5, 6} <= set(rows_of(await two.next_batch(session, name, ITEMS)))
    revision = 0

    async def correct(name: str) -> None:
        nonlocal revision
        for turn in itertools.count():
            labelled = await two.label(session, {10 + turn % 7: (NO, YES)[turn % 2]}, name)
            revision = max(revision, labelled.revision)

    await one.next_batch(session)
    with at_the_same_time(*(correct(name) for name in ("bob", "cyd"))):
        for _ in range(12):
            before, fits, claims = revision, one.fits(), one.calls["claim"]
            batch = await one.next_batch(session)
            assert (batch.phase, batch.picks) == (phase, ())
            assert (batch.next_available_ms is not None) == (phase == "WAITING")
            assert batch.revision >= before
            assert one.fits() - fits <= 1
            assert one.calls["claim"] - claims <= 2
    assert revision > 40


@pytest.mark.parametrize("limit", ["similarity", "group"])
async def test_what_a_batch_leaves_out_is_offered_when_the_rest_is_taken(
    redis_url: str, tmp_path: Path, limit: str
) -> None:
    """A replica proposes one of two that are alike, and another replica has just leased it."""
    X = np.random.default_rng(6).standard_normal((20, 8)).astype(np.float32)
    X[1] = X[0]
    metadata = [{"video": str(max(1, row))} for row in range(len(X))]
    pool = make_pool(tmp_path, X, metadata=metadata)
    rule: dict[str, object] = {"groups": GroupRule("video")}
    if limit == "similarity":
        rule = {"batch": BatchConfig(max_similarity=0.99)}
    one, two = await Replica.start(redis_url, [pool]), await Replica.start(redis_url, [pool])
    try:
        session = await two.create(pool, mix=only("max_entropy"), candidates=All(), **rule)
        await two.label(session, {row: (NO, YES)[row % 2] for row in range(2, 20)})
        await (await one.live(session)).ranked(now())
        assert rows_of(await two.next_batch(session, "bob", 2)) == [0]
        assert rows_of(await one.next_batch(session, "ann", 2)) == [1]
    finally:
        await one.stop()
        await two.stop()


# --- long logs -----------------------------------------------------------------------------------


async def test_a_cold_rebuild_leaves_the_event_loop_free(pair: Pair, pool: Pool) -> None:
    one, two = pair
    session = await two.create(pool, pool_version=pool.manifest.version)
    live = await two.live(session)
    labels, calls = 1_000, 200
    for call in range(calls):
        rows = range(call * labels, (call + 1) * labels)
        writes = [LabelWrite(row, f"item-{row}", (NO, YES)[row % 2], False) for row in rows]
        await two.store.add_labels(live.uid, a_request(), f"ann-{call % 5}", writes)
    gaps, last = [0.0], time.perf_counter()

    async def tick() -> None:
        nonlocal last
        while True:
            await asyncio.sleep(0)
            gaps.append(time.perf_counter() - last)
            last += gaps[-1]

    cold = await one.live(session)
    with at_the_same_time(tick()):
        began = last = time.perf_counter()
        await cold.sync(now())
        took = time.perf_counter() - began
    assert len(cold.view.votes) == labels * calls
    assert max(gaps) < 0.5
    assert max(gaps) < 0.5 * took


# --- the view and the candidates -----------------------------------------------------------------

CONFIG = SessionConfig("p", "v", Task.BINARY, ("negative", "positive"))


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.integers(1, 4),  # the quota changes
            st.tuples(
                st.sampled_from(["ann", "bob", "cyd"]),
                st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True),
                st.sampled_from([NO, YES, RETRACTION]),
            ),
        ),
        max_size=30,
    )
)
def test_under_voted_rows_have_some_votes_and_lack_others(
    steps: list[int | tuple[str, list[int], bytes]],
) -> None:
    view = View(CONFIG, 1)
    for offset, step in enumerate(steps, 1):
        if isinstance(step, int):
            packed = replace(CONFIG, votes_per_item=step).settings().config
            view.apply([ConfigEntry(offset, 0, "q", offset, packed)])
        else:
            name, rows, value = step
            ids = tuple(f"item-{row}" for row in rows)
            values = (value,) * len(rows)
            view.apply([LabelsEntry(offset, 0, "q", b"n", name, tuple(rows), ids, values, ())])
        quota = view.config.votes_per_item
        assert view.under_voted == {
            row for row in range(6) if 0 < len(view.votes.get(row, ())) < quota
        }


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.lists(st.integers(0, ITEMS - 1), max_size=40),
            st.sampled_from([0, 4 * 8 * 30, 1 << 30]),
        ),
        max_size=12,
    )
)
def test_candidates_grow_by_union_and_keep_vectors_beside_rows(
    pool: Pool, steps: list[tuple[list[int], int]]
) -> None:
    candidates, expected = Candidates(np.empty(0, np.int32)), set[int]()
    for found, keep_bytes in steps:
        before = candidates.rows.copy()
        grown = candidates.grown(pool, np.array(found, np.int32), keep_bytes)
        assert candidates.rows.tolist() == before.tolist()  # rankings still use it
        candidates, expected = grown, expected | set(found)
        assert candidates.rows.dtype == np.int32
        assert candidates.rows.tolist() == sorted(expected)
        if 4 * 8 * len(expected) > keep_bytes:
            assert candidates.parts is None  # shed
            assert candidates.nbytes == 0
            continue
        assert candidates.parts is not None  # kept, or built again
        rows = np.concatenate([rows for rows, _ in candidates.parts])
        assert sorted(rows.tolist()) == sorted(expected)
        assert candidates.nbytes == 4 * 8 * len(expected)
        for rows, vectors in candidates.parts:
            np.testing.assert_array_equal(vectors, pool.fetch(rows))


# --- neighbours ----------------------------------------------------------------------------------


async def neighbourhood(replica: Replica, pool: Pool) -> Neighbourhood:
    session = await replica.create(pool, pool_version=pool.manifest.version, candidates=Seals(5))
    found = (await replica.live(session)).neighbourhood
    assert found is not None
    assert not found.stored_in_pool
    return found


def searched(replica: Replica) -> tuple[int, int]:
    """Searches of the pool, and rows that were searched for."""
    name = "coresift_neighbour_lookups_total"
    return replica.stage_count("neighbours"), int(replica.sample(name, source="on_demand"))


def some_rows(*numbers: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array(numbers, np.int32)


async def test_neighbours_asked_for_at_once_are_searched_together(pair: Pair, pool: Pool) -> None:
    one, _ = pair
    near = await neighbourhood(one, pool)
    asked = [some_rows(n, n + 1, 60) for n in range(40)]
    answers = await asyncio.gather(*(near.of(rows) for rows in asked))
    searches, rows = searched(one)
    assert rows == 42  # each once
    assert searches <= 2
    for wanted, answer in zip(asked, answers, strict=True):
        np.testing.assert_array_equal(answer, pool.neighbours(wanted, 5))
    await asyncio.gather(*(near.of(rows) for rows in asked))
    assert searched(one) == (searches, rows)


async def test_a_failed_search_reaches_all_who_wait_and_is_tried_again(
    pair: Pair, pool: Pool, road: Road
) -> None:
    one, _ = pair
    near = await neighbourhood(one, pool)
    await road.cut(one.store)
    near.prefetch([7])
    calls = [near.of(some_rows(7, n)) for n in range(8, 12)]
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [getattr(failure, "reason", failure) for failure in failures] == [
        Reason.STATE_UNAVAILABLE
    ] * 4
    road.mend()
    async with asyncio.timeout(10):
        while not one.store.available():  # noqa: ASYNC110 - nothing to wait for
            await asyncio.sleep(0.005)
    for n in range(8, 12):
        rows = some_rows(7, n)
        np.testing.assert_array_equal(await near.of(rows), pool.neighbours(rows, 5))


async def test_who_stops_waiting_for_neighbours_disturbs_nobody(pair: Pair, pool: Pool) -> None:
    one, _ = pair
    near = await neighbourhood(one, pool)
    calls = [asyncio.ensure_future(near.of(some_rows(20, 21 + n))) for n in range(4)]
    await asyncio.sleep(0)  # they wait now
    calls[0].cancel()
    calls[2].cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    for n, answer in enumerate(answers):
        if n in {0, 2}:
            assert isinstance(answer, asyncio.CancelledError)
        else:
            assert isinstance(answer, np.ndarray)
            np.testing.assert_array_equal(answer, pool.neighbours(some_rows(20, 21 + n), 5))
    assert searched(one)[1] == 5


# --- bad input and newer releases ----------------------------------------------------------------


def test_a_signal_that_needs_more_memory_than_there_is_is_refused(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = tuple(f"column {n}" for n in range(1_000))
    header = SignalHeader(a_request(), "s", "p", "", SignalKind.NUMBER, columns, ITEMS, b"")
    needed, memory = 3 * 4 * ITEMS * len(columns), UploadMemory(MemoryPromises())
    with memory.booked(header, pool):
        pass
    small = SimpleNamespace(available=needed - 1)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: small)
    with pytest.raises(CoresiftError) as caught, memory.booked(header, pool):
        pass
    assert caught.value.reason is Reason.TOO_LARGE
    assert caught.value.metadata["needed_bytes"] == str(needed)


def test_uploads_that_are_open_count_before_they_fill_their_memory(pool: Pool) -> None:
    """All that each was promised, though it has touched none of it."""
    header = SignalHeader(a_request(), "s", "p", "", SignalKind.NUMBER, ("a", "b"), ITEMS, b"")
    needed = 3 * 4 * ITEMS * 2
    memory = UploadMemory(MemoryPromises(lambda: 3 * needed))
    with ExitStack() as uploads:
        for _ in range(3):
            uploads.enter_context(memory.booked(header, pool))
        with pytest.raises(CoresiftError) as caught:
            uploads.enter_context(memory.booked(header, pool))
        assert caught.value.reason is Reason.OVERLOADED
        assert caught.value.retry_after_s is not None
    with memory.booked(header, pool):  # all have ended
        pass


@pytest.mark.parametrize(
    "change",
    [
        {"from_the_future": 1},
        {"head": {"c": 1.0, "class_weight": "none", "kernel": "rbf"}},
        {"head": {"c": 1.0, "class_weight": "inverse square root"}},
        {"task": 99},
        {"mix": [{"strategy": {"name": "oracle", "params": []}, "share": 1.0}]},
    ],
    ids=["field", "field of the head", "class weight", "task", "strategy"],
)
def test_the_configuration_of_a_newer_release_is_refused(change: dict[str, object]) -> None:
    fields = msgpack.unpackb(CONFIG.settings().config) | change
    with pytest.raises(CoresiftError) as caught:
        SessionConfig.from_settings(Settings(1, None, msgpack.packb(fields)))
    assert caught.value.reason is Reason.FORMAT_TOO_NEW


@pytest.mark.parametrize("config", [b"", b"config", msgpack.packb([1]), msgpack.packb({}), b"\xc1"])
def test_what_is_no_configuration_is_refused(config: bytes) -> None:
    with pytest.raises(CoresiftError) as caught:
        SessionConfig.from_settings(Settings(1, None, config))
    assert caught.value.reason is Reason.FORMAT_TOO_NEW


async def test_a_purge_goes_on_behind_a_session_of_a_newer_format(store: RedisStore) -> None:
    newer, gone = await a_session(store), await a_session(store)
    client = store._link.client
    for session in (newer, gone):
        await store.delete(session.session_id, a_request())
        await client.hincrby(SessionKeys(session.uid).of_script()[0], "deleted", -ANSWER_MS)
    places = [f"{session.uid} {session.session_id}" for session in (newer, gone)]
    await client.zadd(DELETED, dict(zip(places, (0, 1), strict=True)))
    await client.hset(SessionKeys(newer.uid).of_script()[0], "format", 2)
    assert await store.purge() == 1
    assert await is_removed(store, gone.uid)
    assert await client.exists(SessionKeys(newer.uid).of_script()[0]) == 1
    assert await client.zscore(DELETED, places[0]) > 0  # for a replica that knows the format
    await client.zrem(DELETED, places[0])


async def test_a_further_item_of_a_labelled_group_is_not_waited_for(
    redis_url: str, tmp_path: Path
) -> None:
    """It lacks votes, but nobody is offered it: the session is done."""
    X = np.random.default_rng(2).standard_normal((6, 4)).astype(np.float32)
    pool = make_pool(tmp_path, X, metadata=[{"group": "one"}] * 4 + [{"group": "two"}] * 2)
    replica = await Replica.start(redis_url, [pool])
    rule = GroupRule("group", one_label=True)
    session = await replica.create(pool, groups=rule, votes_per_item=2, candidates=All())
    for row in (2, 1, 4):  # labels without a lease may stand on several items of a group
        await replica.label(session, {row: YES}, "eve")
        assert (await replica.progress(session)).advice is not StopAdvice.POOL_EXHAUSTED
    batch = await replica.next_batch(session, "ann")
    assert sorted(rows_of(batch)) == [2, 4]
    await replica.label(session, dict.fromkeys(rows_of(batch), NO), "ann", leased=True)
    assert (await replica.next_batch(session, "bob")).phase == "EXHAUSTED"
    assert (await replica.progress(session)).advice is StopAdvice.POOL_EXHAUSTED
    await replica.stop()


# --- tenants -------------------------------------------------------------------------------------


async def test_sessions_of_hidden_pools_are_passed_over_in_large_steps(
    pair: Pair, pool: Pool
) -> None:
    one, _ = pair
    tenant = f"tenant-{uuid4()}"
    CALLER.set(Caller("all", tenant))
    name = pool.manifest.name
    sessions = [await one.create(pool) for _ in range(30)]
    CALLER.set(Caller("few", tenant, pools=frozenset({"other"})))
    for count in (1, 2, 50):
        before = one.calls["list"]
        assert await one.lifecycle.page("", count) == []
        assert one.calls["list"] == before + 1
    CALLER.set(Caller("some", tenant, pools=frozenset({name})))
    seen, after = [], ""
    while page := await one.lifecycle.page(after, 7):
        assert len(page) <= 7
        seen += [record.session_id for record in page]
        after = bare(seen[-1])
    assert seen == sorted(sessions)


async def test_a_session_that_cannot_be_read_hides_no_other(pair: Pair, pool: Pool) -> None:
    one, _ = pair
    CALLER.set(Caller("all", f"tenant-{uuid4()}"))
    sessions = [await one.create(pool) for _ in range(3)]
    middle = sorted(sessions)[1]
    request = a_request()
    record = await one.lifecycle.read(middle)
    await one.store.configure(record.uid, request, Settings(1, None, b"of the future"), 1)
    with pytest.raises(CoresiftError) as caught:
        await one.lifecycle.read(middle)
    assert caught.value.reason is Reason.FORMAT_TOO_NEW
    newer = f"{middle}-newer"  # sorts behind it
    fields = msgpack.unpackb(await one.store._link.client.get(name_key(sessions[0])), raw=True)
    await one.store._link.client.set(name_key(newer), msgpack.packb([*fields, b"of the future"]))
    await one.store._link.client.zadd(listing(CALLER.get().tenant), {newer: 0})
    for count in (1, 2, 50):
        page = await one.lifecycle.page("", count)
        rest = await one.lifecycle.page(bare(page[-1].session_id), 50)
        listed = [record.session_id for record in [*page, *rest]]
        assert listed == sorted(set(sessions) - {middle})


async def test_a_repeated_creation_shows_no_session_on_a_pool_that_is_hidden_by_now(
    pair: Pair, pool: Pool
) -> None:
    replica, _ = pair
    tenant, request, name = a_request().request_id, a_request(), pool.manifest.name
    config = SessionConfig(
        pool=name, pool_version="0" * 32, task=Task.BINARY, classes=(), candidates=All()
    )
    CALLER.set(Caller("all", tenant))
    served = replace(config, pool_version="")
    made = await replica.lifecycle.create("", served, None, request)
    assert await replica.lifecycle.create("", config, None, request) == made  # not served any more
    CALLER.set(Caller("few", tenant, pools=frozenset({"other"})))
    with pytest.raises(CoresiftError) as caught:
        await replica.lifecycle.create("", config, None, request)
    assert caught.value.reason is Reason.POOL_NOT_FOUND
