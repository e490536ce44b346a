"""Many annotators and two replicas on one session: exact counts."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from tests.fixtures.sessions import START, a_claim, a_request, a_session, labels

from coresift.server.state.entries import GrantEntry, LabelsEntry
from coresift.server.state.redis_store import RedisStore
from coresift.server.state.values import (
    Behind,
    Granted,
    Outcome,
    Request,
    Settings,
    ViewKey,
)

ANNOTATORS = 16
ITEMS = 600


@pytest.mark.parametrize("quota", [1, 2])
async def test_nothing_is_granted_beyond_the_quota(every_redis_url: str, quota: int) -> None:
    stores = [await RedisStore.connect(every_redis_url) for _ in range(2)]
    session = await a_session(stores[0], quota=quota)

    async def claim_until_nothing_is_left(number: int) -> list[int]:
        store, mine = stores[number % 2], []
        annotator = f"ann {number}"
        while True:
            rows = range(ITEMS) if number % 3 else range(ITEMS - 1, -1, -1)
            granted = await store.claim(session.uid, a_claim(rows, annotator, size=7))
            assert isinstance(granted, Granted)
            if not granted.rows:
                return mine
            mine += granted.rows

    got = await asyncio.gather(*map(claim_until_nothing_is_left, range(ANNOTATORS)))
    counts = Counter(row for mine in got for row in mine)
    assert counts == Counter(dict.fromkeys(range(ITEMS), quota))
    assert all(len(mine) == len(set(mine)) for mine in got)
    log = await stores[0].log(session.uid, 0, 10_000)
    logged: dict[str, list[int]] = {f"ann {number}": [] for number in range(ANNOTATORS)}
    for entry in log.entries:
        if isinstance(entry, GrantEntry):
            logged[entry.annotator] += entry.rows
    assert list(logged.values()) == got
    for store in stores:
        await store.close()


async def test_all_labels_of_racing_annotators_are_in_the_log(every_redis_url: str) -> None:
    stores = [await RedisStore.connect(every_redis_url) for _ in range(2)]
    session = await a_session(stores[0])

    async def work(number: int) -> int:
        store, view, done = stores[number % 2], START, 0
        annotator = f"ann {number}"
        while True:
            answer = await store.claim(
                session.uid, a_claim(range(ITEMS), annotator, size=5, view=view)
            )
            if isinstance(answer, Behind):
                newest = [e for e in answer.entries if isinstance(e, LabelsEntry)][-1]
                last = answer.entries[-1]
                view = ViewKey(last.offset, newest.offset, newest.nonce, 1, last.nonce)
                answer = await store.claim(
                    session.uid,
                    a_claim(range(ITEMS), annotator, size=5, view=view, min_revision=view.revision),
                )
            assert isinstance(answer, Granted)  # never a third trip
            if not answer.rows:
                return done
            written = await store.add_labels(
                session.uid, a_request(), annotator, labels(answer.rows, leased=True)
            )
            assert set(written.outcomes) == {Outcome.NEW}
            done += len(answer.rows)

    done = await asyncio.gather(*map(work, range(ANNOTATORS)))
    assert sum(done) == ITEMS
    log = await stores[1].log(session.uid, 0, 10_000)
    assert [entry.offset for entry in log.entries] == list(range(1, len(log.entries) + 1))
    logged = Counter(row for e in log.entries if isinstance(e, LabelsEntry) for row in e.rows)
    assert logged == Counter(range(ITEMS))
    assert await stores[0].count_leases(session.uid) == 0
    for store in stores:
        await store.close()


async def test_the_same_request_at_once_has_one_effect(store: RedisStore) -> None:
    session = await a_session(store)
    claim = a_claim([1, 2, 3], size=2)
    grants = await asyncio.gather(*(store.claim(session.uid, claim) for _ in range(ANNOTATORS)))
    assert {g.rows for g in grants if isinstance(g, Granted)} == {(1, 2)}
    assert sum(isinstance(g, Granted) and not g.replayed for g in grants) == 1
    request = a_request()
    written = await asyncio.gather(
        *(store.add_labels(session.uid, request, "ann", labels([1])) for _ in range(ANNOTATORS))
    )
    assert len({(w.revision, w.nonce, w.outcomes) for w in written}) == 1
    assert sum(not w.replayed for w in written) == 1


async def test_one_of_many_creators_wins(every_redis_url: str) -> None:
    stores = [await RedisStore.connect(every_redis_url) for _ in range(2)]
    session_id = f"race-{a_request().request_id}-{id(stores)}"
    settings = Settings(1, None, b"")

    def create(number: int, request_id: str) -> object:
        request = Request(request_id, b"digest")
        return stores[number % 2].create(session_id, settings, request)

    same = f"{session_id}-same"
    made = await asyncio.gather(*(create(n, same) for n in range(8)))  # type: ignore[call-overload]
    assert len({record.uid for record in made}) == 1
    others = await asyncio.gather(
        *(create(n, f"{session_id}-{n}") for n in range(8)),  # type: ignore[call-overload]
        return_exceptions=True,
    )
    assert {str(getattr(error, "reason", error)) for error in others} == {"SESSION_EXISTS"}
    for store in stores:
        await store.close()
