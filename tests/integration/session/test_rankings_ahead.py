"""Labels are ranked with before the batch that follows them is asked for."""

from __future__ import annotations

import asyncio
from threading import Event
from typing import Any

import numpy as np
import pytest
from tests.fixtures.pools import make_pool
from tests.fixtures.replicas import Pair, Replica

from coresift.server.errors import CoresiftError, Reason
from coresift.server.pool.pool import Pool
from coresift.server.session.live import fitting, live
from coresift.server.session.replay import read_log, replay
from coresift.server.session.view.labels import pack_class

NO, YES = pack_class(0), pack_class(1)
SIDES = {0: YES, 1: NO}
LONGEST_S = 30.0


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    X = np.random.default_rng(9).standard_normal((300, 8)).astype(np.float32)
    return make_pool(tmp_path_factory.mktemp("pool"), X)


async def after_a_batch(replica: Replica, pool: Pool) -> str:
    """A session with a head that has been asked for a batch."""
    session: str = await replica.create(pool)
    await replica.label(session, SIDES)
    await replica.next_batch(session)
    return session


async def settled(replica: Replica) -> None:
    """Until nothing is made any more that no call waits for."""
    while tasks := set(replica.workers._tasks):
        await asyncio.wait(tasks)


async def test_the_next_batch_finds_its_ranking(pair: Pair, pool: Pool) -> None:
    one, two = pair
    session = await one.create(pool)
    await one.label(session, SIDES)
    rows = [pick.row for pick in (await one.next_batch(session)).picks]
    await one.label(session, dict.fromkeys(rows, YES))
    await settled(one)
    assert one.fits() == 2
    batch = await one.next_batch(session)
    assert one.fits() == 2
    assert batch.revision == (await one.live(session)).view.revision
    assert not set(rows) & {pick.row for pick in batch.picks}
    assert not replay(two.loader, await read_log(two.store, session)).differences


async def test_only_labels_that_follow_a_batch_are_ranked_with(pair: Pair, pool: Pool) -> None:
    one, two = pair
    session = await one.create(pool)
    for row in range(3):
        await one.label(session, {row: (NO, YES)[row % 2]})
    await settled(one)
    assert one.stage_count("score") == 0
    await one.next_batch(session)
    assert one.stage_count("score") == 1
    for row in range(3, 6):  # a script that goes on
        await one.label(session, {row: NO})
        await settled(one)
    assert one.stage_count("score") == 2
    await two.label(session, {6: NO})  # by a replica that was never asked
    await settled(two)
    assert two.stage_count("score") == 0


async def test_nor_are_those_that_would_take_long(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = pair
    session = await after_a_batch(one, pool)
    monkeypatch.setattr(live, "MOST_AHEAD_S", 0.0)
    await one.label(session, {2: YES})
    await settled(one)
    assert one.fits() == 1


async def test_who_asks_meanwhile_waits_for_it(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = pair
    session = await after_a_batch(one, pool)
    begun, may_run, fit = Event(), Event(), fitting.head_state

    def waits(*arguments: Any) -> Any:
        begun.set()
        assert may_run.wait(LONGEST_S)
        return fit(*arguments)

    monkeypatch.setattr(fitting, "head_state", waits)
    revision = (await one.label(session, {2: YES})).revision
    assert await asyncio.to_thread(begun.wait, LONGEST_S)
    batch = asyncio.ensure_future(one.next_batch(session))
    may_run.set()
    assert (await batch).revision == revision
    assert one.fits() == 2


async def test_what_fails_is_made_when_it_is_needed(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = pair
    session = await after_a_batch(one, pool)
    fit = fitting.head_state

    def fails(*arguments: Any) -> Any:
        raise CoresiftError(Reason.INTERNAL, "planted")

    monkeypatch.setattr(fitting, "head_state", fails)
    revision = (await one.label(session, {2: YES})).revision
    await settled(one)
    monkeypatch.setattr(fitting, "head_state", fit)
    assert (await one.next_batch(session)).revision == revision
