"""Many replicas' worth of cold sessions at once, and the memory that sessions may take."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from tests.fixtures.pools import make_pool
from tests.fixtures.replicas import Pair, Replica, now, rows_of

from coresift.server.pool.pool import Pool
from coresift.server.selection.candidates import Seals
from coresift.server.session.live.live import LiveSession
from coresift.server.session.live.sessions import REBUILDS_AT_ONCE, LiveSessions
from coresift.server.session.ranking import kept_candidates
from coresift.server.session.view import catching_up
from coresift.server.session.view.labels import pack_class
from coresift.server.state.values import LogRead, Rewound, ViewKey

NO, YES = pack_class(0), pack_class(1)
ITEMS = 200


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    X = np.random.default_rng(4).standard_normal((ITEMS, 8)).astype(np.float32)
    return make_pool(tmp_path_factory.mktemp("pool"), X)


async def long_session(replica: Replica, pool: Pool) -> str:
    session = await replica.create(pool)
    for row in range(30):
        await replica.label(session, {row: (YES, NO)[row % 2]})
    return session


class Held:
    """Holds back what a replica reads of some sessions' logs beyond the first piece."""

    def __init__(self, replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
        self.uids: set[str] = set()
        self.reading: set[str] = set()
        self.most = 0
        self.go = asyncio.Event()
        self._read = replica.store.catch_up
        monkeypatch.setattr(replica.store, "catch_up", self)

    async def __call__(self, uid: str, view: ViewKey, count: int) -> LogRead | Rewound:
        if uid in self.uids and view.offset:
            self.reading.add(uid)
            self.most = max(self.most, len(self.reading))
            await self.go.wait()
            self.reading.discard(uid)
        return await self._read(uid, view, count)

    async def abandoned(self, live: LiveSession) -> None:
        """Let a call begin to rebuild the session's view, and go away."""
        self.uids = {live.uid}
        call = asyncio.create_task(live.sync(now()))
        while not self.reading:  # noqa: ASYNC110
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_few_long_logs_are_read_at_once_and_others_go_on(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catching_up, "FAR_ENTRIES", 10)
    monkeypatch.setattr(catching_up, "LOG_PAGE", 8)
    one, two = pair
    sessions = [await long_session(two, pool) for _ in range(6)]
    small = await two.create(pool)
    await two.label(small, {0: YES, 1: NO})
    held = Held(one, monkeypatch)
    held.uids = {(await one.live(session)).uid for session in sessions}
    calls = [asyncio.create_task(one.next_batch(session, size=3)) for session in sessions]
    again = asyncio.create_task(one.progress(sessions[0]))
    while len(held.reading) < REBUILDS_AT_ONCE:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert len(rows_of(await one.next_batch(small, size=3))) == 3  # while the others wait
    assert len(held.reading) == REBUILDS_AT_ONCE
    waiting = calls.pop()  # of a session that has its turn later
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    held.go.set()
    batches = await asyncio.gather(*calls)
    assert all(len(rows_of(batch)) == 3 for batch in batches)
    assert (await again).votes == 30
    assert held.most == REBUILDS_AT_ONCE
    assert len(rows_of(await one.next_batch(sessions[-1], size=3))) == 3


async def test_a_rebuild_survives_its_callers(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catching_up, "FAR_ENTRIES", 10)
    monkeypatch.setattr(catching_up, "LOG_PAGE", 8)
    one, two = pair
    live = await one.live(await long_session(two, pool))
    held = Held(one, monkeypatch)
    await held.abandoned(live)
    next_call = asyncio.create_task(live.sync(now()))
    held.go.set()
    await next_call
    assert live.view.vote_count == 30
    assert held.most == 1


async def test_who_comes_just_as_an_abandoned_rebuild_ends_goes_on(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the end of the rebuild and what is told of it; the event loop once stood still."""
    monkeypatch.setattr(catching_up, "FAR_ENTRIES", 10)
    monkeypatch.setattr(catching_up, "LOG_PAGE", 8)
    one, two = pair
    session = await long_session(two, pool)
    live = await one.live(session)
    held = Held(one, monkeypatch)
    newcomers: list[asyncio.Task[None]] = []
    keep = live._keep

    def come() -> None:
        keep()
        newcomers.append(asyncio.create_task(live.sync(now())))

    monkeypatch.setattr(live, "_keep", come)  # the last that a rebuild does
    await held.abandoned(live)
    held.go.set()
    while not newcomers:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await newcomers[0]
    assert live.view.vote_count == 30
    assert await one.next_batch(session, size=3)


async def test_a_view_far_behind_goes_on_where_it_was(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims meanwhile find the old view; the new one has all that the old one learnt."""
    monkeypatch.setattr(catching_up, "FAR_ENTRIES", 10)
    monkeypatch.setattr(catching_up, "LOG_PAGE", 8)
    one, two = pair
    session = await two.create(pool)
    await two.label(session, {100: YES, 101: NO})
    live = await one.live(session)
    await one.next_batch(session)
    before = live.view
    for row in range(30):
        await two.label(session, {row: (YES, NO)[row % 2]}, "bob")
    await asyncio.gather(*(one.next_batch(session, f"a{turn}", 2) for turn in range(8)))
    await live.sync(now())
    assert live.view.vote_count == 32
    assert live.view.lineage is before.lineage
    fresh = await two.live(session)
    await fresh.sync(now())
    assert live.view.leases == fresh.view.leases


async def test_candidates_that_grow_by_pieces_are_those_of_one(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    session = await one.create(pool, candidates=Seals(5))
    await one.label(session, {row: (YES, NO)[row % 2] for row in range(30)})
    whole = await (await one.live(session)).ranked(now())
    monkeypatch.setattr(kept_candidates, "SEEDS_AT_ONCE", 7)
    pieces = await (await two.live(session)).ranked(now())
    assert whole.candidates is not None
    assert pieces.candidates is not None
    assert len(whole.candidates.rows) > 30
    assert np.array_equal(whole.candidates.rows, pieces.candidates.rows)
    assert np.array_equal(whole.orders[0].scored.rows, pieces.orders[0].scored.rows)


async def test_memory_is_bounded_and_sessions_in_use_are_not_broken(pair: Pair, pool: Pool) -> None:
    one, two = pair
    ids = [await long_session(two, pool) for _ in range(5)]
    alone = await two.live(ids[0])
    await alone.ranked(now())
    limit = 3 * alone.nbytes
    assert alone.view.nbytes > 30 * 100
    own = (one.pools, one.loader, one.store, one.workers, one.metrics, one.files)
    sessions = one.sessions = LiveSessions(*own, kept_bytes=limit)
    first = await sessions.open(ids[0])
    ranking = asyncio.create_task(first.ranked(now()))
    for session_id in ids[1:]:
        live = await sessions.open(session_id)
        await live.ranked(now())
    assert (await ranking).snapshot.vote_count() == 30  # dropped, and served to the end
    await first.sync(now())
    assert await sessions.open(ids[0]) is not first
    assert await sessions.open(ids[-1]) is live  # used last
    assert len(rows_of(await one.next_batch(ids[0], size=3))) == 3
