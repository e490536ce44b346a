"""Lists of leases and of labels, and what failovers and moves do to who reads or changes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np
import pytest
import pytest_asyncio
from tests.fixtures.pools import make_pool
from tests.fixtures.replicas import Replica, now, only
from tests.fixtures.rewinds import copy_of, restore
from tests.fixtures.sessions import a_request

from coresift.server.errors import CoresiftError, Reason
from coresift.server.pool.pool import Pool
from coresift.server.session import labeling
from coresift.server.session.live.history import labelled_at
from coresift.server.session.view.labels import pack_class
from coresift.server.state.transfer import START
from coresift.server.state.values import LiveLease, Release

NO, YES = pack_class(0), pack_class(1)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    X = np.random.default_rng(4).standard_normal((300, 8)).astype(np.float32)
    return make_pool(tmp_path_factory.mktemp("pool"), X)


@pytest_asyncio.fixture
async def replica(redis_url: str, pool: Pool) -> AsyncIterator[Replica]:
    started = await Replica.start(redis_url, [pool])
    yield started
    await started.stop()


async def pages(
    replica: Replica, session: str, annotator: str, count: int
) -> list[list[LiveLease]]:
    live, after, found = await replica.live(session), (-1, ""), list[list[LiveLease]]()
    while page := await replica.labeling.leases(live, annotator, after, count):
        found.append(page)
        after = (page[-1].row, page[-1].annotator)
    return found


async def test_leases_come_in_pages_by_row_then_annotator(replica: Replica, pool: Pool) -> None:
    session = await replica.create(pool, votes_per_item=3)
    held: set[tuple[int, str]] = set()
    for annotator, size in (("ann", 30), ("bob", 40), ("cyd", 50)):
        batch = await replica.next_batch(session, annotator, size)
        held |= {(pick.row, annotator) for pick in batch.picks}
    ended = sorted(held)[::7]
    live = await replica.live(session)
    for row, annotator in ended:
        await replica.labeling.release(live, a_request(), annotator, [row], Release.RETURN)
    left = sorted(held - set(ended))
    for count in (1, 7, 1_000):
        found = await pages(replica, session, "", count)
        assert [(at.row, at.annotator) for page in found for at in page] == left
        assert all(len(page) == count for page in found[:-1])
    mine = [
        (at.row, at.annotator) for page in await pages(replica, session, "bob", 4) for at in page
    ]
    assert mine == [lease for lease in left if lease[1] == "bob"]
    assert (await replica.progress(session)).live_leases == len(left)


async def test_a_page_asks_for_no_more_leases_than_it_needs(
    replica: Replica, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await replica.create(pool)
    batch = await replica.next_batch(session, "ann", 200)
    asked: list[int] = []
    honest = replica.store.live_leases

    async def live_leases(uid: str, leases: list[tuple[int, str]]) -> list[LiveLease]:
        asked.append(len(leases))
        return await honest(uid, leases)

    monkeypatch.setattr(replica.store, "live_leases", live_leases)
    live = await replica.live(session)
    page = await replica.labeling.leases(live, "", (-1, ""), 5)
    assert [lease.row for lease in page] == sorted(pick.row for pick in batch.picks)[:5]
    assert asked == [5]


async def test_leases_that_ended_unnoticed_are_passed_over(replica: Replica, pool: Pool) -> None:
    """They end by the clock; the log says so only once somebody writes."""
    session = await replica.create(pool, votes_per_item=2)
    await replica.next_batch(session, "ann", 150, lease_ms=300)
    kept = await replica.next_batch(session, "bob", 3)
    live = await replica.live(session)
    while await replica.store.count_leases(live.uid) > 3:
        await live.sync(now())
    page = await replica.labeling.leases(live, "", (-1, ""), 2)
    assert [lease.row for lease in page] == sorted(pick.row for pick in kept.picks)[:2]


async def test_labels_listed_across_a_failover_are_not_of_two_logs(
    replica: Replica, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labeling, "LOG_PAGE", 3)
    session = await replica.create(pool)
    live = await replica.live(session)
    copy = await copy_of(replica, live.uid)
    for row in range(6):
        await replica.label(session, {row: YES}, "lost")
    listed = replica.labeling.labels(live, 0, None)
    first = [await anext(listed), await anext(listed)]  # all of a page, but the creation
    await restore(replica, live.uid, copy)
    for row in range(6):
        await replica.label(session, {row: NO}, "kept")
    assert {entry.annotator for entry in first} == {"lost"}
    with pytest.raises(CoresiftError) as caught:
        await anext(listed)
    assert caught.value.reason is Reason.STATE_UNAVAILABLE


@dataclass(frozen=True, slots=True)
class Basis:
    revision: int
    nonce: bytes
    config_version: int = 1
    head_version: str = ""


async def test_labelled_rows_of_a_lost_log_are_not_those_of_another(
    replica: Replica, pool: Pool
) -> None:
    session = await replica.create(pool)
    live = await replica.live(session)
    copy = await copy_of(replica, live.uid)
    done = await replica.label(session, {1: YES, 2: NO})
    basis = Basis(done.revision, done.nonce)
    assert (await labelled_at(live, basis, replica.store)).tolist() == [1, 2]
    await restore(replica, live.uid, copy)
    again = await replica.label(session, {7: YES})
    assert again.revision == basis.revision
    with pytest.raises(CoresiftError) as caught:
        await labelled_at(live, basis, replica.store)
    assert caught.value.reason is Reason.HEAD_NOT_FITTED


async def test_an_update_follows_a_session_that_moves(
    replica: Replica, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, store = await replica.create(pool), replica.store
    honest, uids = store.configure, list[str]()

    async def configure(uid: str, *rest: object) -> object:
        if not uids:
            other = await store.stage(session)
            piece = await store.copy_log(uid, START, "mover")
            assert piece.standing is not None
            await store.stage_log(other, 0, piece.entries)
            await store.replace_with_staged(session, uid, other, piece.standing, "mover")
            await store.remove_replaced(session)
        uids.append(uid)
        return await honest(uid, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "configure", configure)
    changes = {"mix": only("margin")}
    record = await replica.lifecycle.update(session, changes, None, a_request())
    assert record.config_version == 2
    assert record.uid not in uids[:1]
    assert set(uids[1:]) == {record.uid}
