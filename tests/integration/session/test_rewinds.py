"""A failover that loses the end of a log: whatever it held, views are built from what is left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from threading import Event
from typing import Any

import numpy as np
import pytest
from tests.fixtures.pools import make_pool
from tests.fixtures.replicas import Pair, Replica, now, only
from tests.fixtures.rewinds import contents, copy_of, restore
from tests.fixtures.sessions import a_request, all_leases

from coresift.server.errors import CoresiftError, Reason
from coresift.server.pool.pool import Pool
from coresift.server.selection.candidates import All, Seals
from coresift.server.session.live import fitting
from coresift.server.session.replay import read_log, replay
from coresift.server.session.view.labels import pack_class
from coresift.server.state.values import Release

NO, YES = pack_class(0), pack_class(1)
ITEMS = 300
SIDES = {0: YES, 1: NO, 2: YES, 3: NO}

Work = Callable[[Replica, str, int], Awaitable[None]]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    X = np.random.default_rng(4).standard_normal((ITEMS, 8)).astype(np.float32)
    return make_pool(tmp_path_factory.mktemp("pool"), X)


async def grant(replica: Replica, session: str, turn: int) -> None:
    await replica.next_batch(session, f"grant {turn}", 3)


async def label(replica: Replica, session: str, turn: int) -> None:
    await replica.label(session, {20 + turn % 100: (YES, NO)[turn % 2]}, f"label {turn}")


async def skip(replica: Replica, session: str, turn: int) -> None:
    live = await replica.live(session)
    rows = [100 + turn % 100]
    await replica.labeling.release(live, a_request(), f"skip {turn}", rows, Release.SKIP)


async def hide(replica: Replica, session: str, turn: int) -> None:
    live = await replica.live(session)
    rows = [200 + turn % 100]
    await replica.labeling.release(live, a_request(), "hide", rows, Release.CANNOT_LABEL)


async def expire(replica: Replica, session: str, turn: int) -> None:
    """Two entries: the next call finds a lease ended."""
    name = f"expire {turn}"
    await replica.next_batch(session, name, 2, lease_ms=1)
    uid = (await replica.live(session)).uid
    while name in {lease.annotator for lease in await all_leases(replica.store, uid)}:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await skip(replica, session, turn)


async def configure(replica: Replica, session: str, turn: int) -> None:
    changes = {"candidates": All(), "mix": only(("margin", "random")[turn % 2])}
    changes["lease_ms"] = 60_000 + turn
    await replica.lifecycle.update(session, changes, None, a_request())


async def every(replica: Replica, session: str, turn: int) -> None:
    for work in (grant, label, skip, hide, configure):
        await work(replica, session, turn)


WORK = {work.__name__: work for work in (grant, label, skip, hide, expire, configure, every)}


@pytest.mark.parametrize(
    ("goes_on", "by"),
    [
        ("not at all", "claim"),
        ("not at all", "sync"),
        ("as far", "claim"),
        ("as far", "sync"),
        ("otherwise", "claim"),
    ],
)
@pytest.mark.parametrize("lost", WORK)
async def test_a_rewound_log_is_noticed(
    pair: Pair, pool: Pool, redis_url: str, lost: str, goes_on: str, by: str
) -> None:
    one, two = pair
    session = await one.create(pool, candidates=All())
    await one.label(session, SIDES)
    live = await one.live(session)
    await one.next_batch(session, "before", 1)
    copy = await copy_of(one, live.uid)
    for turn in (1, 2):
        await WORK[lost](one, session, turn)
    await live.sync(now())
    gone, head = live.view.key(), (await live.fitted(now())).version
    await restore(one, live.uid, copy)
    follows = {"not at all": [], "as far": [(lost, 3), (lost, 4)]}
    follows["otherwise"] = [("label" if lost != "label" else "grant", turn) for turn in range(3, 9)]
    for name, turn in follows[goes_on]:
        await WORK[name](two, session, turn)
    if by == "claim":
        batch = await one.next_batch(session, "cyd", 3)
        assert batch.picks
        if lost in ("label", "every"):
            assert batch.head_version != head
    await live.sync(now())
    assert one.metrics.registry.get_sample_value("coresift_log_rewinds_total") == 1
    assert live.view.key() != gone
    fresh = await two.live(session)
    await fresh.sync(now())
    assert two.metrics.registry.get_sample_value("coresift_log_rewinds_total") == 0
    assert contents(live.view) == contents(fresh.view)
    third = await Replica.start(redis_url, [pool])
    try:
        cold = await third.live(session)
        await cold.sync(now())
        assert contents(live.view) == contents(cold.view)
    finally:
        await third.stop()
    await one.next_batch(session, "dee", 3)
    report = replay(one.loader, await read_log(two.store, session))
    assert report.batches
    assert not report.differences


async def test_an_answer_under_a_configuration_that_was_lost(pair: Pair, pool: Pool) -> None:
    """Committed, and cut off before the answer: whoever repeats the call finds what is left."""
    one, two = pair
    session = await one.create(pool, candidates=All())
    await one.label(session, SIDES)
    live = await one.live(session)
    await live.sync(now())
    copy = await copy_of(one, live.uid)
    await configure(two, session, 1)
    done = await two.label(session, {9: YES})
    assert (await live.config_of(done.config_version)).lease_ms == 60_001
    await restore(one, live.uid, copy)
    live.rewound(live.view)
    with pytest.raises(CoresiftError) as caught:
        await live.config_of(done.config_version)
    assert caught.value.reason is Reason.STATE_UNAVAILABLE
    assert live.view.vote_count == len(SIDES)


async def test_own_labels_that_a_failover_lost_unseen_are_looked_for_once(
    pair: Pair, pool: Pool
) -> None:
    one, two = pair
    session = await one.create(pool, candidates=All())
    await one.label(session, SIDES)
    await one.next_batch(session, "before", 1)
    uid = (await one.live(session)).uid
    copy = await copy_of(one, uid)
    lost = await one.label(session, {20: YES})
    await restore(one, uid, copy)
    assert (await one.next_batch(session, "ann", 3)).revision < lost.revision
    before = dict(one.calls)
    assert (await one.next_batch(session, "bob", 3)).picks
    assert one.calls["claim"] - before["claim"] == 1
    assert one.calls["log"] == before["log"]
    assert not replay(two.loader, await read_log(two.store, session)).differences


async def test_a_rewind_during_a_fit_takes_the_lost_neighbours_along(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    session = await one.create(pool, candidates=Seals(5))
    await one.label(session, SIDES)
    live = await one.live(session)
    copy = await copy_of(one, live.uid)
    await one.label(session, {100: YES, 101: NO})
    fits, goes_on, fit = Event(), Event(), fitting.head_state

    def waits(*arguments: Any) -> Any:
        fits.set()
        assert goes_on.wait(30)
        return fit(*arguments)

    monkeypatch.setattr(fitting, "head_state", waits)
    ranking = asyncio.create_task(live.ranked(now()))
    assert await asyncio.to_thread(fits.wait, 30)
    await restore(one, live.uid, copy)
    await live.sync(now())
    goes_on.set()
    assert len((await ranking).snapshot.ever) == len(SIDES) + 2
    found = [(await (await replica.live(session)).ranked(now())).candidates for replica in pair]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].rows.tolist() == found[1].rows.tolist()
    await one.next_batch(session, "ann", 3)
    assert not replay(two.loader, await read_log(two.store, session)).differences
