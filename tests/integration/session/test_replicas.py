"""Two replicas of one session: what one does not know, and how many calls it takes to learn."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import numpy as np
import pytest
from tests.fixtures.pools import make_pool
from tests.fixtures.replicas import Pair, Replica, now, only, rows_of
from tests.fixtures.sessions import a_request

from coresift.server.errors import CoresiftError, Reason
from coresift.server.pool.pool import Pool
from coresift.server.selection.candidates import All, CandidatePolicy, Seals
from coresift.server.selection.registry import Choice
from coresift.server.session.ranking.proposals import over_ask
from coresift.server.session.replay import read_log, replay
from coresift.server.session.setup.config import BatchConfig
from coresift.server.session.view.labels import pack_class
from coresift.server.session.work.claims import AT_ONCE
from coresift.server.state.values import (
    RETRACTION,
    Behind,
    Claim,
    Release,
)

NO, YES = pack_class(0), pack_class(1)
ITEMS = 300


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    X = np.random.default_rng(4).standard_normal((ITEMS, 8)).astype(np.float32)
    return make_pool(tmp_path_factory.mktemp("pool"), X)


SIDES = {0: YES, 1: NO, 2: YES, 3: NO}


async def claims_of(replica: Replica, call: Any) -> int:
    before = Counter(replica.calls)
    await call
    return (replica.calls - before)["claim"]


async def check_replay(replica: Replica, session: str) -> None:
    report = replay(replica.loader, await read_log(replica.store, session))
    assert not report.differences
    assert report.batches


@pytest.mark.parametrize("candidates", [All(), Seals(10)])
async def test_a_current_view_needs_one_claim_and_foreign_labels_two(
    pair: Pair, pool: Pool, candidates: CandidatePolicy
) -> None:
    one, two = pair
    session = await one.create(pool, candidates=candidates)
    await one.label(session, SIDES)
    await one.next_batch(session)
    for _ in range(3):
        assert await claims_of(one, one.next_batch(session)) == 1
    await two.label(session, {9: YES}, "bob")
    assert await claims_of(one, one.next_batch(session)) == 2
    assert await claims_of(one, one.next_batch(session)) == 1
    assert one.calls["log"] == 1  # of the cold view; later entries came with the claims
    await one.label(session, {10: NO})  # it knows of its own: they are read before it claims
    assert await claims_of(one, one.next_batch(session)) == 1
    assert one.calls["log"] == 2
    await check_replay(two, session)


async def test_foreign_leases_cost_nothing(pair: Pair, pool: Pool) -> None:
    one, two = pair
    session = await one.create(pool)
    await one.label(session, SIDES)
    given: list[int] = []
    for turn in range(12):
        replica = pair[turn % 2]
        before = replica.calls["claim"]
        given += rows_of(await replica.next_batch(session, f"a{turn}", 20))
        assert replica.calls["claim"] - before == 1
    assert len(set(given)) == len(given) == 240
    await check_replay(two, session)


async def test_nothing_from_an_old_view_is_no_answer(pair: Pair, pool: Pool) -> None:
    """All that a replica proposes was leased elsewhere, or all it thinks leased was returned."""
    one, two = pair
    session = await one.create(pool, candidates=All())
    await one.label(session, SIDES)
    await one.next_batch(session, "ann", 1)
    await two.next_batch(session, "bob", 200)
    batch = await one.next_batch(session, "cyd", 1)
    assert batch.phase == "SELECTING"
    assert len(batch.picks) == 1
    rest = await one.next_batch(session, "dee", 300)
    assert (await one.next_batch(session, "eve", 1)).phase == "WAITING"
    live = await two.live(session)
    await two.labeling.release(live, a_request(), "dee", rows_of(rest)[:1], Release.RETURN)
    back = await one.next_batch(session, "eve", 1)
    assert rows_of(back) == rows_of(rest)[:1]
    await two.labeling.release(live, a_request(), "eve", rows_of(back), Release.SKIP)
    assert rows_of(await one.next_batch(session, "fay", 1)) == rows_of(back)
    await check_replay(two, session)


async def test_retracted_items_come_back_on_the_other_replica(pair: Pair, pool: Pool) -> None:
    one, two = pair
    session = await one.create(pool, candidates=Seals(3))
    every = dict.fromkeys(range(ITEMS), NO) | SIDES
    await one.label(session, every)
    assert (await one.next_batch(session)).phase == "EXHAUSTED"
    await two.label(session, {77: RETRACTION})
    assert rows_of(await one.next_batch(session)) == [77]
    await check_replay(two, session)


@pytest.mark.parametrize("callers", [20])
async def test_waiting_callers_share_a_fit(pair: Pair, pool: Pool, callers: int) -> None:
    one, two = pair
    session = await one.create(pool)
    await one.label(session, SIDES)
    await one.next_batch(session)
    before, calls = one.fits(), Counter(one.calls)
    labelled = await two.label(session, {50: YES}, "bob")
    batches = await asyncio.gather(*(one.next_batch(session, f"a{i}", 3) for i in range(callers)))
    assert one.fits() - before == 1
    assert (one.calls - calls)["claim"] == callers + 1
    given = [row for batch in batches for row in rows_of(batch)]
    assert len(set(given)) == len(given) == 3 * callers
    assert {batch.revision for batch in batches} == {labelled.revision}
    await check_replay(two, session)


@pytest.mark.parametrize(
    ("policy", "together"), [("top", AT_ONCE), ("gist", 1)], ids=["plain", "diverse"]
)
async def test_claims_of_plain_batches_overlap(
    pair: Pair, pool: Pool, policy: str, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    session = await one.create(pool, batch=BatchConfig(Choice(policy)))
    await one.label(session, SIDES)
    await one.next_batch(session)
    claim, under_way, most, sizes = one.store.claim, 0, 0, list[int]()

    async def counted(uid: str, wanted: Claim) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        sizes.append(len(wanted.proposals))
        try:
            return await claim(uid, wanted)
        finally:
            under_way -= 1

    monkeypatch.setattr(one.store, "claim", counted)
    callers = 4 * AT_ONCE
    batches = await asyncio.gather(*(one.next_batch(session, f"a{i}", 3) for i in range(callers)))
    given = [row for batch in batches for row in rows_of(batch)]
    assert len(set(given)) == len(given) == 3 * callers
    assert most == together
    assert len(sizes) == callers  # nobody had to try again
    assert max(sizes) == over_ask(3, 3 * (together - 1))
    await check_replay(two, session)


async def test_every_call_reads_the_labels_acknowledged_before_it(pair: Pair, pool: Pool) -> None:
    """Callers that wait behind another one's catch-up must not be served the head before it."""
    one, two = pair
    session = await one.create(pool)
    await one.label(session, SIDES)
    acknowledged = 0

    async def annotate(number: int) -> None:
        nonlocal acknowledged
        replica, name = pair[number % 2], f"a{number}"
        for turn in range(6):
            wanted = acknowledged
            batch = await replica.next_batch(session, name, 2)
            assert batch.revision >= wanted
            values = dict.fromkeys(rows_of(batch), pack_class((number + turn) % 2))
            written = await replica.label(session, values, name, leased=True)
            acknowledged = max(acknowledged, written.revision)

    await asyncio.gather(*(annotate(number) for number in range(16)))
    labelled: Counter[int] = Counter()
    for entry in await read_log(two.store, session):
        if hasattr(entry, "values"):
            labelled.update(entry.rows)
    assert labelled.total() == 4 + 16 * 6 * 2
    assert max(labelled.values()) == 1
    await check_replay(two, session)


async def test_an_old_revision_is_served_without_a_fit(pair: Pair, pool: Pool) -> None:
    one, two = pair
    session = await one.create(pool)
    revision = (await one.label(session, SIDES)).revision
    await one.next_batch(session)
    newest = (await two.label(session, {60: YES, 61: NO}, "bob")).revision
    before = one.fits()
    assert await claims_of(one, one.next_batch(session, min_revision=revision)) == 1
    old = await one.next_batch(session, "cyd", 50, min_revision=revision)
    assert old.revision == revision
    assert one.fits() == before
    assert not {60, 61} & set(rows_of(old))
    assert (await one.next_batch(session, min_revision=newest)).revision == newest
    assert one.fits() == before + 1
    with pytest.raises(CoresiftError) as caught:
        await one.next_batch(session, min_revision=newest + 100)
    assert caught.value.reason is Reason.REVISION_NOT_REACHED
    await check_replay(two, session)


async def test_a_published_head_spares_the_other_replica_its_fit(pair: Pair, pool: Pool) -> None:
    one, two = pair
    session = await one.create(pool)
    await one.label(session, SIDES)
    first = await one.next_batch(session)
    await one.workers.drain(5)  # the head is published behind the answer
    second = await two.next_batch(session, "bob")
    assert second.head_version == first.head_version
    assert two.fits() == 0
    await check_replay(two, session)


async def test_repeated_requests_do_not_pass_for_a_sync(pair: Pair, pool: Pool) -> None:
    """A replayed answer carries no log entries: the view is as old as before."""
    one, two = pair
    session = await one.create(pool)
    await one.label(session, SIDES)
    request = a_request()
    first = await one.next_batch(session, request=request)
    live = await one.live(session)
    began = now()
    again = await one.next_batch(session, request=request)
    assert [pick.token for pick in again.picks] == [pick.token for pick in first.picks]
    assert not live.synced_since(began)
    await two.label(session, {9: YES}, "bob")
    await live.sync(now())
    assert 9 in live.view.votes


async def test_a_configuration_changed_elsewhere_takes_effect(pair: Pair, pool: Pool) -> None:
    one, two = pair
    session = await one.create(pool, candidates=Seals(4), mix=only("random"))
    await one.label(session, SIDES)
    await one.next_batch(session)
    record = await two.lifecycle.update(
        session, {"candidates": All(), "mix": only("max_entropy")}, None, a_request()
    )
    batch = await one.next_batch(session, "bob", 10)
    assert batch.config_version == record.config_version == 2
    live = await one.live(session)
    assert live.ranking is not None
    assert live.ranking.candidates is None
    expected = [r for r in live.ranking.orders[0].scored.rows.tolist() if r not in live.view.leases]
    assert not set(expected) & set(rows_of(batch))
    await check_replay(two, session)


async def test_progress_in_the_midst_of_claims(pair: Pair, pool: Pool) -> None:
    """Syncs and claims of one replica at once: picks stay those of the log."""
    one, two = pair
    session = await one.create(pool, votes_per_item=2, candidates=Seals(5))
    await one.label(session, SIDES)

    async def watch() -> None:
        for _ in range(15):
            progress = await one.progress(session)
            assert progress.votes >= 4

    async def annotate(replica: Replica, name: str) -> None:
        for turn in range(8):
            rows = rows_of(await replica.next_batch(session, name, 6))
            live = await replica.live(session)
            returned, kept = rows[:2], rows[2:]
            await replica.labeling.release(live, a_request(), name, returned, Release(1 + turn % 2))
            await replica.label(session, dict.fromkeys(kept, pack_class(turn % 2)), name)

    await asyncio.gather(
        watch(),
        annotate(one, "ann"),
        annotate(two, "bob"),
        annotate(one, "cyd"),
        annotate(two, "dee"),
    )
    await check_replay(two, session)


async def test_a_claim_that_lags_is_told_what_it_missed(pair: Pair, pool: Pool) -> None:
    one, two = pair
    session = await one.create(pool)
    await one.label(session, SIDES)
    live = await one.live(session)
    await live.ranked(now())
    key = live.view.key()
    await two.label(session, {5: YES}, "bob")
    claim = Claim(a_request(), "ann", 3, 60_000, key, None, [], b"")
    behind = await one.store.claim(live.uid, claim)
    assert isinstance(behind, Behind)
    assert [entry.offset for entry in behind.entries] == [key.offset + 1]
