"""Each operation of the store on a real Redis."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from tests.fixtures.sessions import (
    START,
    a_claim,
    a_request,
    a_session,
    a_view,
    all_leases,
    grant,
    is_removed,
    labels,
)

from coresift.server.errors import CoresiftError, Reason
from coresift.server.state.entries import (
    ConfigEntry,
    ExpiryEntry,
    GrantEntry,
    LabelsEntry,
    ReleaseEntry,
)
from coresift.server.state.keys import DELETED, SessionKeys, creation_key, name_key
from coresift.server.state.redis_store import RedisStore
from coresift.server.state.values import (
    ANSWER_MS,
    RETRACTION,
    Behind,
    Granted,
    LabelWrite,
    Outcome,
    Release,
    Rewound,
    Settings,
    ViewKey,
    head_key,
)


async def refused(call: object) -> Reason:
    with pytest.raises(CoresiftError) as caught:
        await call  # type: ignore[misc]
    return caught.value.reason


async def until_expired(store: RedisStore, uid: str) -> None:
    while await store.count_leases(uid):  # noqa: ASYNC110 - the clock of Redis ends it
        await asyncio.sleep(0)


# --- sessions ------------------------------------------------------------------------------------


async def test_created_session_is_read_with_its_first_entry(store: RedisStore) -> None:
    made = await a_session(store, quota=2, budget=7)
    assert await store.read(made.session_id) == made
    assert made.settings == Settings(2, 7, b"config")
    assert (made.config_version, made.revision, made.nonce, made.offset) == (1, 0, b"", 1)
    log = await store.log(made.uid, 0, 10)
    assert [type(entry) for entry in log.entries] == [ConfigEntry]
    assert log.record == made


async def test_create_again_returns_the_session_and_another_is_refused(store: RedisStore) -> None:
    session_id = f"session-{uuid4()}"
    request = a_request("body", request_id=str(uuid4()))
    settings = Settings(1, None, b"")
    made = await store.create(session_id, settings, request)
    assert await store.create(session_id, settings, request) == made
    # The server chose the id, and chooses another for the repeated request.
    assert await store.create(f"session-{uuid4()}", settings, request) == made
    other = a_request("other", request_id=request.request_id)
    assert await refused(store.create(session_id, settings, other)) is Reason.REQUEST_ID_REUSED
    taken = a_request("body", request_id=str(uuid4()))
    assert await refused(store.create(session_id, settings, taken)) is Reason.SESSION_EXISTS
    # The refused request left nothing behind.
    assert (await store.create(f"session-{uuid4()}", settings, taken)).uid != made.uid


async def test_crash_between_name_and_data_loses_nothing(store: RedisStore) -> None:
    made = await a_session(store)
    client = store._link.client
    await client.delete(*SessionKeys(made.uid).data([]))
    await client.zrem("coresift:sessions", made.session_id)
    other = RedisStore(store._link)
    again = await other.read(made.session_id)
    assert (again.uid, again.secret, again.settings) == (made.uid, made.secret, made.settings)
    before = made.session_id[:-1]
    assert again in await store.list_sessions(before, 10)


async def test_sessions_are_listed_by_id_without_deleted_ones(store: RedisStore) -> None:
    prefix = f"list-{uuid4()}-"
    made = [
        await store.create(f"{prefix}{number}", Settings(1, None, b""), a_request(prefix))
        for number in range(5)
    ]
    await store.delete(made[2].session_id, a_request())
    listed = await store.list_sessions(prefix, 4)
    assert listed == [made[0], made[1], made[3], made[4]]
    assert await store.list_sessions(made[0].session_id, 1) == [made[1]]


async def test_configure_replaces_settings_once(store: RedisStore) -> None:
    made = await a_session(store)
    request = a_request("configure")
    changed = await store.configure(made.uid, request, Settings(3, 9, b"new"), 1)
    assert (changed.config_version, changed.settings) == (2, Settings(3, 9, b"new"))
    assert await store.configure(made.uid, request, Settings(3, 9, b"new"), 1) == changed
    late = store.configure(made.uid, a_request(), Settings(1, None, b""), 1)
    assert await refused(late) is Reason.CONFIG_VERSION_MISMATCH
    newest = (await store.log(made.uid, 1, 10)).entries[-1]
    assert isinstance(newest, ConfigEntry)
    assert (newest.config_version, newest.config) == (2, b"new")


async def test_deleted_session_is_hidden_everywhere_and_keeps_its_id(store: RedisStore) -> None:
    made = await a_session(store)
    request = a_request()
    purge_ms = await store.delete(made.session_id, request)
    assert purge_ms >= made.created_ms + ANSWER_MS
    assert await store.delete(made.session_id, request) == purge_ms
    rows = np.array([1], dtype=np.int32)
    calls = [
        store.read(made.session_id),
        store.delete(made.session_id, a_request()),
        store.configure(made.uid, a_request(), made.settings, 1),
        store.claim(made.uid, a_claim([1])),
        store.add_labels(made.uid, a_request(), "ann", labels([1])),
        store.renew(made.uid, a_request(), "ann", [], 1_000),
        store.release(made.uid, a_request(), "ann", [1], Release.SKIP),
        store.count_leases(made.uid),
        store.log(made.uid, 0, 10),
        store.publish_head(made.uid, "key", b"head"),
        store.put_neighbours(made.uid, "v1", rows, rows[:, None]),
        store.get_neighbours(made.uid, "v1", 1, rows),
    ]
    for call in calls:
        assert await refused(call) is Reason.SESSION_NOT_FOUND
    create = store.create(made.session_id, made.settings, a_request("new"))
    assert await refused(create) is Reason.SESSION_EXISTS


async def test_purge_removes_what_was_deleted_a_day_ago(store: RedisStore) -> None:
    kept, gone = await a_session(store), await a_session(store)
    client = store._link.client
    await store.add_labels(gone.uid, a_request(), "ann", labels([1, 2]))
    rows = np.array([1], dtype=np.int32)
    await store.put_neighbours(gone.uid, "v1", rows, np.zeros((1, 3), dtype=np.int32))
    for session in (kept, gone):
        await store.delete(session.session_id, a_request())
    assert await store.purge() == 0
    await client.hincrby(SessionKeys(gone.uid).of_script()[0], "deleted", -ANSWER_MS)
    await client.zadd(DELETED, {f"{gone.uid} {gone.session_id}": 0})
    await client.zadd(DELETED, {f"{kept.uid} {kept.session_id}": 0})  # too early: put back
    assert await store.purge() == 1
    assert await is_removed(store, gone.uid)
    assert await client.exists(name_key(gone.session_id)) == 0
    again = await store.create(gone.session_id, gone.settings, a_request("again"))
    assert again.uid != gone.uid
    assert again in await store.list_sessions(gone.session_id[:-1], 5)


async def test_newer_format_is_refused(store: RedisStore) -> None:
    made = await a_session(store)
    await store._link.client.hset(SessionKeys(made.uid).of_script()[0], "format", 2)
    assert await refused(store.read(made.session_id)) is Reason.FORMAT_TOO_NEW
    label = store.add_labels(made.uid, a_request(), "ann", labels([1]))
    assert await refused(label) is Reason.FORMAT_TOO_NEW


# --- claims --------------------------------------------------------------------------------------


async def test_claim_grants_the_first_free_proposals_in_order(store: RedisStore) -> None:
    session = await a_session(store)
    first = await store.claim(session.uid, a_claim([5, 5, 3, 9], size=2))
    assert isinstance(first, Granted)
    assert first.rows == (5, 3)
    assert first.payloads == (b"payload 5", b"payload 3")
    assert (first.context, first.replayed, first.budget_spent) == (b"context", False, False)
    grant_entry = first.entries[-1]
    assert isinstance(grant_entry, GrantEntry)
    assert (grant_entry.rows, grant_entry.deadline_ms) == ((5, 3), first.deadline_ms)
    assert (grant_entry.view_offset, grant_entry.size) == (0, 2)
    second = await grant(store, session, [5, 3, 9], "bob")
    assert second.rows == (9,)
    assert second.next_deadline_ms == first.deadline_ms


async def test_nothing_to_grant_writes_nothing(store: RedisStore) -> None:
    session = await a_session(store)
    nothing = await grant(store, session, [])
    assert (nothing.rows, nothing.entries, nothing.next_deadline_ms) == ((), (), None)
    assert (await store.read(session.session_id)).offset == session.offset


async def test_proposals_beyond_the_first_piece_are_reached(store: RedisStore) -> None:
    session = await a_session(store)
    await grant(store, session, range(600), "bob")
    granted = await grant(store, session, range(2_000), size=1_000)
    assert granted.rows == tuple(range(600, 1_600))


@pytest.mark.parametrize("quota", [1, 2, 3])
async def test_leases_and_votes_fill_the_quota(store: RedisStore, quota: int) -> None:
    session = await a_session(store, quota=quota)
    await store.add_labels(session.uid, a_request(), "voter", labels([1]))
    assert (await grant(store, session, [1], "voter")).rows == ()  # the quota may have room
    got = [(await grant(store, session, [1, 2], f"ann {n}")).rows for n in range(quota + 1)]
    assert sum(1 in rows for rows in got) == quota - 1
    assert sum(2 in rows for rows in got) == quota


async def test_budget_counts_votes_and_live_leases(store: RedisStore) -> None:
    session = await a_session(store, budget=5)
    await store.add_labels(session.uid, a_request(), "ann", labels([1, 2]))
    first = await grant(store, session, range(10, 20), size=2)
    assert (len(first.rows), first.budget_spent) == (2, False)
    second = await grant(store, session, range(20, 30), "bob", size=2)
    assert (len(second.rows), second.budget_spent) == (1, True)
    none = await grant(store, session, range(30, 40), "eve", size=2)
    assert (none.rows, none.budget_spent) == ((), True)
    await store.release(session.uid, a_request(), "bob", second.rows, Release.RETURN)
    assert len((await grant(store, session, range(30, 40), "eve", size=2)).rows) == 1


async def test_old_view_gets_the_entries_it_lacks(store: RedisStore) -> None:
    session = await a_session(store)
    labelled = await store.add_labels(session.uid, a_request(), "bob", labels([1]))
    behind = await store.claim(session.uid, a_claim([1, 2]))
    assert isinstance(behind, Behind)
    assert [entry.offset for entry in behind.entries] == [1, 2]
    # Who asks for less gets it, though the log moved on; labels are filtered all the same.
    granted = await store.claim(session.uid, a_claim([1, 2], min_revision=0))
    assert isinstance(granted, Granted)
    assert (granted.rows, granted.revision) == ((2,), 0)
    assert [entry.offset for entry in granted.entries] == [1, 2, 3]
    ahead = store.claim(session.uid, a_claim([3], min_revision=labelled.revision + 1))
    assert await refused(ahead) is Reason.REVISION_NOT_REACHED
    await store.configure(session.uid, a_request(), session.settings, 1)
    assert isinstance(await store.claim(session.uid, a_claim([3], min_revision=0)), Behind)


async def test_long_tail_comes_whole(store: RedisStore) -> None:
    session = await a_session(store)
    for _ in range(5):  # 5 entries of 300 KB: more than one script replies
        wide = labels([1, 2, 3], b"x" * 100_000)
        await store.add_labels(session.uid, a_request(), "ann", wide)
        await store.add_labels(session.uid, a_request(), "ann", labels([1, 2, 3], b"y"))
    behind = await store.claim(session.uid, a_claim([9]))
    assert isinstance(behind, Behind)
    assert [entry.offset for entry in behind.entries] == list(range(1, 12))
    log = await store.log(session.uid, 0, 1_000)
    assert log.entries == behind.entries
    assert [entry.offset for entry in (await store.log(session.uid, 2, 7)).entries] == list(
        range(3, 10)
    )
    granted = await store.claim(session.uid, a_claim([9], min_revision=0))
    assert isinstance(granted, Granted)
    assert [entry.offset for entry in granted.entries] == list(range(1, 13))


async def test_rewound_log_is_noticed(store: RedisStore) -> None:
    session = await a_session(store)
    for row in (1, 2):
        await store.add_labels(session.uid, a_request(), "ann", labels([row]))
    now = await a_view(store, session)
    first = (await store.log(session.uid, 1, 1)).entries[0]
    assert isinstance(first, LabelsEntry)
    old = ViewKey(first.offset, first.offset, first.nonce, 1, first.nonce)
    views = {
        "newest, other nonce": replace(now, nonce=b"another!"),
        "newest, other tip": replace(now, tip=b"another!"),
        "older, other nonce": replace(old, nonce=b"another!"),
        "older, other tip": replace(old, tip=b"another!"),
        "no labels there": replace(now, revision=1),
        "beyond the log": replace(now, offset=now.offset + 1),
        "beyond the labels": replace(now, revision=now.revision + 1),
        "beyond the configurations": replace(now, config_version=2),
    }
    for why, view in views.items():
        for min_revision in (None, 0, view.revision):
            claim = a_claim([5], view=view, min_revision=min_revision)
            assert await store.claim(session.uid, claim) == Rewound(), why
    assert isinstance(await store.claim(session.uid, a_claim([5], view=old)), Behind)
    assert isinstance(await store.claim(session.uid, a_claim([5], view=now)), Granted)


async def test_expired_leases_return_and_are_logged(store: RedisStore) -> None:
    session = await a_session(store)
    await grant(store, session, [1, 2], "bob", lease_ms=1)
    await until_expired(store, session.uid)
    granted = await grant(store, session, [1, 2])
    assert granted.rows == (1, 2)
    expiry, own = granted.entries
    assert isinstance(expiry, ExpiryEntry)
    assert isinstance(own, GrantEntry)
    assert sorted(expiry.leases) == [(1, "bob"), (2, "bob")]


async def test_many_expired_leases_are_settled_batch_by_batch(store: RedisStore) -> None:
    session = await a_session(store)
    for start in range(0, 2_500, 500):
        await grant(store, session, range(start, start + 500), f"ann {start}", lease_ms=200)
    await until_expired(store, session.uid)
    got: set[int] = set()
    for _ in range(6):
        got.update((await grant(store, session, range(2_000), size=1_000)).rows)
        got.update((await grant(store, session, range(2_000, 2_500), size=1_000)).rows)
    assert got == set(range(2_500))
    log = await store.log(session.uid, 0, 1_000)
    expired = [lease for e in log.entries if isinstance(e, ExpiryEntry) for lease in e.leases]
    assert sorted(row for row, _ in expired) == list(range(2_500))


async def test_repeated_claim_gets_the_same_items_until_they_expire(store: RedisStore) -> None:
    session = await a_session(store)
    claim = a_claim([1, 2], lease_ms=60_000)
    first = await store.claim(session.uid, claim)
    again = await store.claim(session.uid, claim)
    assert isinstance(first, Granted)
    assert isinstance(again, Granted)
    assert again.replayed
    assert (again.rows, again.payloads, again.deadline_ms) == (
        first.rows,
        first.payloads,
        first.deadline_ms,
    )
    assert len(await all_leases(store, session.uid)) == 2
    other = a_claim([1], request=a_request("other", request_id=claim.request.request_id))
    assert await refused(store.claim(session.uid, other)) is Reason.REQUEST_ID_REUSED
    short = a_claim([3], lease_ms=1, view=await a_view(store, session))
    assert isinstance(await store.claim(session.uid, short), Granted)
    while any(lease.row == 3 for lease in await all_leases(store, session.uid)):  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert await refused(store.claim(session.uid, short)) is Reason.REQUEST_EXPIRED


# --- labels --------------------------------------------------------------------------------------


async def outcome(
    store: RedisStore, uid: str, annotator: str, value: bytes, *, leased: bool = False
) -> Outcome:
    request = a_request()
    written = await store.add_labels(
        uid, request, annotator, [LabelWrite(1, "item 1", value, leased)]
    )
    return written.outcomes[0]


async def test_outcomes_of_labels(store: RedisStore) -> None:
    uid = (await a_session(store)).uid
    assert await outcome(store, uid, "ann", RETRACTION) is Outcome.UNCHANGED
    assert await outcome(store, uid, "ann", b"a") is Outcome.NEW
    assert await outcome(store, uid, "ann", b"a") is Outcome.UNCHANGED
    assert await outcome(store, uid, "ann", b"b") is Outcome.CORRECTED
    assert await outcome(store, uid, "bob", b"b", leased=True) is Outcome.SURPLUS
    assert await outcome(store, uid, "ann", RETRACTION) is Outcome.RETRACTED
    assert await outcome(store, uid, "ann", RETRACTION) is Outcome.UNCHANGED
    assert await outcome(store, uid, "bob", RETRACTION) is Outcome.RETRACTED
    assert await outcome(store, uid, "ann", b"a", leased=True) is Outcome.LATE
    assert await outcome(store, uid, "ann", b"b", leased=True) is Outcome.CORRECTED


async def test_labels_end_only_the_annotators_own_leases(store: RedisStore) -> None:
    session = await a_session(store, quota=2)
    await grant(store, session, [1, 2], "ann")
    await grant(store, session, [1, 2], "bob")
    written = await store.add_labels(session.uid, a_request(), "ann", labels([1, 7], leased=True))
    assert written.outcomes == (Outcome.NEW, Outcome.LATE)
    held = [(lease.row, lease.annotator) for lease in await all_leases(store, session.uid)]
    assert held == [(1, "bob"), (2, "ann"), (2, "bob")]


async def test_labels_are_logged_as_given_and_repeatable(store: RedisStore) -> None:
    session = await a_session(store)
    request = a_request("labels")
    written = await store.add_labels(
        session.uid,
        request,
        "Zoë \x00:1",
        [
            LabelWrite(3, "ä" * 128, b"\x00\xff", False),
            LabelWrite(3, "ä" * 128, b"\x00\xff", False),
        ],
    )
    assert written.outcomes == (Outcome.NEW, Outcome.UNCHANGED)
    again = await store.add_labels(session.uid, request, "Zoë \x00:1", labels([3]))
    assert again.replayed
    assert (again.outcomes, again.revision, again.nonce) == (
        written.outcomes,
        written.revision,
        written.nonce,
    )
    log = await store.log(session.uid, 1, 10)
    assert log.record.revision == written.revision == 2
    assert log.record.nonce == written.nonce
    (entry,) = log.entries
    assert isinstance(entry, LabelsEntry)
    assert entry.annotator == "Zoë \x00:1"
    assert (entry.rows, entry.item_ids) == ((3, 3), ("ä" * 128, "ä" * 128))
    assert (entry.values, entry.outcomes) == ((b"\x00\xff", b"\x00\xff"), (1, 4))
    assert (entry.request_id, entry.nonce) == (request.request_id, written.nonce)


async def test_a_thousand_labels_in_one_call(store: RedisStore) -> None:
    session = await a_session(store)
    rows = range(2**31 - 1_000, 2**31)
    await grant(store, session, rows)
    written = await store.add_labels(
        session.uid, a_request(), "ann", labels(list(rows), b"v" * 200, leased=True)
    )
    assert written.outcomes == (Outcome.NEW,) * 1_000
    assert await all_leases(store, session.uid) == []
    entry = (await store.log(session.uid, 2, 1)).entries[0]
    assert isinstance(entry, LabelsEntry)
    assert entry.rows == tuple(rows)


async def test_bad_label_calls_change_nothing(store: RedisStore) -> None:
    session = await a_session(store)
    uid = session.uid
    conflict = [*labels([1], b"a"), *labels([1], b"b")]
    for bad, reason in [
        (labels([]), Reason.INVALID_FIELD),
        (labels(range(1_001)), Reason.INVALID_FIELD),
        (conflict, Reason.CONFLICTING_LABELS),
    ]:
        assert await refused(store.add_labels(uid, a_request(), "ann", bad)) is reason
    assert await refused(store.claim(uid, a_claim([1], size=0))) is Reason.INVALID_FIELD
    assert await refused(store.claim(uid, a_claim(range(2_001)))) is Reason.INVALID_FIELD
    assert await refused(store.claim(uid, a_claim([1], lease_ms=0))) is Reason.INVALID_FIELD
    assert await store.read(session.session_id) == session


# --- leases --------------------------------------------------------------------------------------


async def test_renew_moves_deadlines(store: RedisStore) -> None:
    session = await a_session(store)
    first = await grant(store, session, [1, 2, 3], lease_ms=60_000)
    await grant(store, session, [4], "bob")
    request = a_request("renew")
    named = await store.renew(session.uid, request, "ann", [3, 4, 9, 3], 120_000)
    assert (named.renewed, named.lost) == ((3,), (4, 9))
    assert named.deadline_ms > first.deadline_ms
    assert await store.renew(session.uid, request, "ann", [3, 4, 9, 3], 120_000) == named
    everything = await store.renew(session.uid, a_request(), "ann", [], 180_000)
    assert (everything.renewed, everything.lost) == ((1, 2, 3), ())
    deadlines = {lease.row: lease.deadline_ms for lease in await all_leases(store, session.uid)}
    assert {deadlines[row] for row in (1, 2, 3)} == {everything.deadline_ms}
    assert deadlines[4] != everything.deadline_ms
    nobody = await store.renew(session.uid, a_request(), "an", [], 180_000)
    assert (nobody.renewed, nobody.lost) == ((), ())


async def test_renew_of_all_leaves_out_what_expired(store: RedisStore) -> None:
    session = await a_session(store)
    await grant(store, session, [1], lease_ms=1)
    await until_expired(store, session.uid)
    await grant(store, session, [2])
    assert (await store.renew(session.uid, a_request(), "ann", [], 1_000)).renewed == (2,)
    assert (await store.renew(session.uid, a_request(), "ann", [1], 1_000)).lost == (1,)


async def test_release_returns_items_or_hides_them(store: RedisStore) -> None:
    session = await a_session(store)
    uid = session.uid
    await grant(store, session, [1, 2, 3])
    request = a_request("return")
    assert await store.release(uid, request, "ann", [1, 9], Release.RETURN) == (1,)
    assert await store.release(uid, request, "ann", [1, 9], Release.RETURN) == (1,)
    assert await store.release(uid, a_request(), "ann", [2, 8], Release.SKIP) == (2,)
    assert await store.release(uid, a_request(), "ann", [3, 7], Release.CANNOT_LABEL) == (3,)
    rows = [1, 2, 3, 7, 8, 9]
    assert (await grant(store, session, rows, "ann")).rows == (1, 9)
    assert (await grant(store, session, rows, "bob")).rows == (2, 8)
    entries = [e for e in (await store.log(uid, 0, 99)).entries if isinstance(e, ReleaseEntry)]
    assert [(entry.rows, entry.reason) for entry in entries] == [
        ((1,), 1),
        ((2, 8), 2),
        ((3, 7), 3),
    ]


async def test_every_write_refuses_a_reused_request_id(store: RedisStore) -> None:
    session = await a_session(store)
    uid = session.uid
    used = a_request("first")
    await store.add_labels(uid, used, "ann", labels([1]))
    same_body = used
    other_body = a_request("second", request_id=used.request_id)
    before = await store.read(session.session_id)
    for request in (same_body, other_body):
        calls = [
            store.configure(uid, request, Settings(9, None, b""), 1),
            store.claim(uid, a_claim([5], request=request)),
            store.renew(uid, request, "ann", [], 1_000),
            store.release(uid, request, "ann", [5], Release.SKIP),
            store.delete(session.session_id, request),
        ]
        for call in calls:
            assert await refused(call) is Reason.REQUEST_ID_REUSED
    reused = store.add_labels(uid, other_body, "ann", labels([2]))
    assert await refused(reused) is Reason.REQUEST_ID_REUSED
    assert await store.read(session.session_id) == before


# --- heads, neighbours, documents ----------------------------------------------------------------


async def test_only_the_head_of_the_newest_labels_is_kept(store: RedisStore) -> None:
    session = await a_session(store)
    uid = session.uid
    await store.add_labels(uid, a_request(), "ann", labels([1]))
    now = await store.read(session.session_id)
    key = head_key(now.revision, now.nonce, now.config_version)
    await store.publish_head(uid, key, b"head")
    assert (await store.log(uid, now.offset, 0)).head == b"head"
    await store.publish_head(uid, head_key(0, b"", 1), b"old")
    await store.publish_head(uid, key, b"x" * (1 << 20) + b"x")
    assert (await store.log(uid, 0, 100)).head == b"head"
    await store.add_labels(uid, a_request(), "ann", labels([2]))
    assert (await store.log(uid, 0, 100)).head is None


async def test_neighbours_come_back_for_known_rows(store: RedisStore) -> None:
    session = await a_session(store)
    generator = np.random.default_rng(5)
    rows = generator.permutation(2_500).astype(np.int32)
    table = generator.integers(0, 2**31, (2_500, 10), dtype=np.int32)
    await store.put_neighbours(session.uid, "v1", rows, table)
    asked = np.concatenate([rows[::-1], np.array([9_999], dtype=np.int32)])
    found, neighbours = await store.get_neighbours(session.uid, "v1", 10, asked)
    np.testing.assert_array_equal(found, rows[::-1])
    np.testing.assert_array_equal(neighbours, table[::-1])
    none, empty = await store.get_neighbours(session.uid, "v2", 10, rows[:3])
    assert (none.shape, empty.shape, empty.dtype) == ((0,), (0, 10), np.int32)


async def test_documents_are_written_by_compare_and_set(store: RedisStore) -> None:
    space = f"signals/{{odd}} {uuid4()}"
    put = store.put_document
    assert await put(space, "a", b"1", replaces=None, ttl_ms=None) is None
    assert await put(space, "a", b"2", replaces=None, ttl_ms=None) == b"1"
    assert await put(space, "a", b"2", replaces=b"0", ttl_ms=None) == b"1"
    assert await put(space, "a", b"2", replaces=b"1", ttl_ms=None) is None
    assert await put(space, "b", b"2", replaces=b"1", ttl_ms=None) == b""
    assert await store.get_document(space, "a") == b"2"
    assert await store.get_document(space, "b") is None
    too_large = put(space, "c", b"x" * (1 << 21), replaces=None, ttl_ms=None)
    assert await refused(too_large) is Reason.TOO_LARGE
    assert not await store.delete_document(space, "a", only=b"1")
    assert await store.get_document(space, "a") == b"2"
    assert await store.delete_document(space, "a", only=b"2")
    assert not await store.delete_document(space, "a", only=b"2")
    assert await put(space, "a", b"2", replaces=None, ttl_ms=None) is None
    assert await store.delete_document(space, "a")
    assert not await store.delete_document(space, "a")
    assert await store.list_documents(space, "", 10) == []


async def test_documents_are_listed_in_order_without_ended_ones(store: RedisStore) -> None:
    space = f"jobs-{uuid4()}"
    names = [f"{number:03d}" for number in range(450)]
    for name in names:
        await store.put_document(space, name, name.encode(), replaces=None, ttl_ms=None)
    await store.put_document(space, "0005", b"short", replaces=None, ttl_ms=1)
    while await store.get_document(space, "0005") is not None:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert await store.list_documents(space, "", 999) == [(n, n.encode()) for n in names]
    assert await store.list_documents(space, "099", 2) == [("100", b"100"), ("101", b"101")]


async def test_start_view_of_a_new_session_is_current(store: RedisStore) -> None:
    session = await a_session(store)
    assert isinstance(await store.claim(session.uid, a_claim([1], view=START)), Granted)


async def test_every_write_is_remembered_for_a_day(store: RedisStore) -> None:
    creation = str(uuid4())
    settings = Settings(1, None, b"")
    session = await store.create(f"session-{uuid4()}", settings, a_request(request_id=creation))
    uid = session.uid
    of_claim, of_labels, of_renewal, of_release, of_settings = (a_request() for _ in range(5))
    view = await a_view(store, session)
    assert await store.claim(uid, a_claim([1, 2], view=view, request=of_claim))
    await store.add_labels(uid, of_labels, "ann", labels([1]))
    await store.renew(uid, of_renewal, "ann", [2], 60_000)
    await store.release(uid, of_release, "ann", [2], Release.SKIP)
    await store.configure(uid, of_settings, Settings(2, None, b"new"), 1)
    client: Any = store._link.client
    requests = (of_claim, of_labels, of_renewal, of_release, of_settings)
    answers = [SessionKeys(uid).of_script(request.request_id)[7] for request in requests]
    for key in (*answers, creation_key(creation)):
        assert ANSWER_MS - 60_000 < await client.pttl(key) <= ANSWER_MS
    assert ANSWER_MS == 24 * 3600 * 1000
