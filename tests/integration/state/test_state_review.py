"""A second look at labelled items raises the quota of each by what it needs, for good."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

import pytest
from tests.fixtures.sessions import a_claim, a_request, a_session, a_view, grant, labels

from coresift.server.state.entries import GrantEntry
from coresift.server.state.keys import SessionKeys
from coresift.server.state.redis_store import RedisStore
from coresift.server.state.values import (
    RETRACTION,
    Claim,
    Granted,
    Outcome,
    Release,
    SessionRecord,
    Settings,
)


def a_review(claim: Claim) -> Claim:
    return replace(claim, review=True)


async def review(
    store: RedisStore,
    session: SessionRecord,
    rows: Iterable[int],
    annotator: str,
    *,
    size: int = 1_000,
    lease_ms: int = 600_000,
) -> tuple[int, ...]:
    view = await a_view(store, session)
    claim = a_claim(rows, annotator, size=size, view=view, lease_ms=lease_ms)
    granted = await store.claim(session.uid, a_review(claim))
    assert isinstance(granted, Granted)
    return granted.rows


async def label(
    store: RedisStore, session: SessionRecord, annotator: str, *rows: int, value: bytes = b"yes"
) -> tuple[Outcome, ...]:
    writes = labels(rows, value)
    return (await store.add_labels(session.uid, a_request(), annotator, writes)).outcomes


async def extra(store: RedisStore, session: SessionRecord) -> dict[int, int]:
    stored = await store._link.client.hgetall(SessionKeys(session.uid).of_script()[8])
    return {int(row): int(votes) for row, votes in stored.items()}


async def test_a_second_look_gets_full_rows_one_annotator_at_a_time(store: RedisStore) -> None:
    session = await a_session(store)
    await label(store, session, "ann", 1, 2)
    assert (await grant(store, session, [1, 2], "bob")).rows == ()
    assert await review(store, session, [3, 2, 2, 1], "ann") == ()
    assert await review(store, session, [3, 2, 2, 1], "bob") == (2, 1)
    assert await extra(store, session) == {1: 1, 2: 1}
    assert await review(store, session, [1, 2], "cyd") == ()
    assert (await grant(store, session, [1, 2], "cyd")).rows == ()
    entry = (await store.log(session.uid, 2, 10)).entries[-1]
    assert isinstance(entry, GrantEntry)
    assert (entry.rows, entry.review) == ((2, 1), True)
    assert await label(store, session, "bob", 1) == (Outcome.NEW,)
    assert await label(store, session, "cyd", 1) == (Outcome.SURPLUS,)
    assert await review(store, session, [1], "dee") == (1,)
    assert await extra(store, session) == {1: 3, 2: 1}


async def test_other_grants_are_no_second_look(store: RedisStore) -> None:
    session = await a_session(store)
    entry = (await grant(store, session, [1])).entries[-1]
    assert isinstance(entry, GrantEntry)
    assert not entry.review


@pytest.mark.parametrize("ends", ["release", "expiry"])
async def test_a_second_look_that_ends_without_a_label_leaves_an_open_vote(
    store: RedisStore, ends: str
) -> None:
    session = await a_session(store)
    await label(store, session, "ann", 1)
    lease_ms = 1 if ends == "expiry" else 600_000
    assert await review(store, session, [1], "bob", lease_ms=lease_ms) == (1,)
    if ends == "release":
        await store.release(session.uid, a_request(), "bob", [1], Release.RETURN)
    while await store.count_leases(session.uid):  # noqa: ASYNC110 - the clock of Redis ends it
        await asyncio.sleep(0)
    assert (await grant(store, session, [1], "ann")).rows == ()
    assert (await grant(store, session, [1], "cyd")).rows == (1,)
    assert await extra(store, session) == {1: 1}


async def test_a_second_look_needs_no_more_quota_where_votes_lack(store: RedisStore) -> None:
    session = await a_session(store, quota=3)
    await label(store, session, "ann", 1)
    assert await review(store, session, [1], "bob") == (1,)
    assert await review(store, session, [1], "cyd") == (1,)
    assert await review(store, session, [1], "dee") == ()
    assert await extra(store, session) == {}


async def test_skips_and_the_budget_hold_for_second_looks(store: RedisStore) -> None:
    session = await a_session(store, budget=4)
    await label(store, session, "ann", 1, 2, 3)
    await store.release(session.uid, a_request(), "bob", [1], Release.SKIP)
    await store.release(session.uid, a_request(), "eve", [2], Release.CANNOT_LABEL)
    assert await review(store, session, [1, 2], "bob") == ()
    assert await review(store, session, [1, 2, 3], "cyd") == (1,)
    assert await review(store, session, [3], "dee") == ()


async def test_a_raised_quota_stays_through_retractions_and_configurations(
    store: RedisStore,
) -> None:
    session = await a_session(store)
    await label(store, session, "ann", 1)
    await review(store, session, [1], "bob")
    await label(store, session, "bob", 1)
    for annotator in ("ann", "bob"):
        await label(store, session, annotator, 1, value=RETRACTION)
    assert await review(store, session, [1], "cyd") == ()
    took = [(await grant(store, session, [1], name)).rows for name in ("ann", "bob", "cyd")]
    assert took == [(1,), (1,), ()]
    await store.configure(session.uid, a_request(), Settings(2, None, b""), 1)
    assert (await grant(store, session, [1], "cyd")).rows == (1,)
    assert (await grant(store, session, [1], "dee")).rows == ()


async def test_a_repeated_second_look_raises_once(store: RedisStore) -> None:
    session = await a_session(store)
    await label(store, session, "ann", 1)
    claim = a_review(a_claim([1], "bob", view=await a_view(store, session)))
    for _ in range(3):
        granted = await store.claim(session.uid, claim)
        assert isinstance(granted, Granted)
        assert granted.rows == (1,)
    assert await extra(store, session) == {1: 1}
