"""Many annotators and two replicas on groups and on second looks: exact counts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from tests.fixtures.sessions import START, a_claim, a_request, a_session, labels

from coresift.server.state.entries import (
    Entry,
    ExpiryEntry,
    GrantEntry,
    LabelsEntry,
    ReleaseEntry,
)
from coresift.server.state.redis_store import RedisStore
from coresift.server.state.values import (
    Claim,
    Granted,
    Outcome,
    Proposal,
    Release,
)

ANNOTATORS = 12
ITEMS = 240
GROUPS = 20


def group_of(row: int) -> int:
    return row % GROUPS


def a_group_claim(
    rows: Iterable[int], annotator: str, *, size: int = 1_000, lease_ms: int = 600_000
) -> Claim:
    claim = a_claim([], annotator, size=size, lease_ms=lease_ms, view=START, min_revision=0)
    return replace(claim, proposals=[Proposal(row, b"", group_of(row)) for row in rows])


async def claimed(store: RedisStore, uid: str, claim: Claim) -> tuple[int, ...]:
    granted = await store.claim(uid, claim)
    assert isinstance(granted, Granted)
    return granted.rows


async def labelled(store: RedisStore, uid: str, annotator: str, rows: Sequence[int]) -> None:
    writes = [replace(write, group=group_of(write.row)) for write in labels(rows, leased=True)]
    written = await store.add_labels(uid, a_request(), annotator, writes)
    assert set(written.outcomes) == {Outcome.NEW}


def order(number: int) -> range:
    return range(ITEMS) if number % 2 else range(ITEMS - 1, -1, -1)


def most_leased_at_once(entries: Iterable[Entry]) -> Counter[int]:
    """The largest number of rows of each group that were leased at the same time."""
    live: set[tuple[int, str]] = set()
    most: Counter[int] = Counter()
    for entry in entries:
        match entry:
            case GrantEntry():
                live |= {(row, entry.annotator) for row in entry.rows}
            case LabelsEntry() | ReleaseEntry():
                live -= {(row, entry.annotator) for row in entry.rows}
            case ExpiryEntry():
                live -= set(entry.leases)
        most |= Counter(group_of(row) for row in {row for row, _ in live})
    return most


@pytest.mark.parametrize("quota", [1, 2])
async def test_a_group_is_never_leased_twice_at_once(every_redis_url: str, quota: int) -> None:
    stores = [await RedisStore.connect(every_redis_url) for _ in range(2)]
    session = await a_session(stores[0], quota=quota)
    uid, done = session.uid, 0

    async def work(number: int) -> None:
        nonlocal done
        store, annotator, turn = stores[number % 2], f"ann {number}", number
        while done < ITEMS * quota:
            turn += 1
            lease_ms = 1 if turn % 5 == 0 else 600_000
            claim = a_group_claim(order(number), annotator, size=4, lease_ms=lease_ms)
            rows = await claimed(store, uid, claim)
            if not rows or lease_ms == 1:  # its leases expire
                continue
            if turn % 5 == 1:
                reason = Release.RETURN
                released = await store.release(uid, a_request(), annotator, rows, reason)
                assert released == rows
                continue
            await labelled(store, uid, annotator, rows)
            done += len(rows)

    await asyncio.gather(*map(work, range(ANNOTATORS)))
    entries = (await stores[0].log(uid, 0, 1_000_000)).entries
    votes = Counter(row for e in entries if isinstance(e, LabelsEntry) for row in e.rows)
    assert votes == Counter(dict.fromkeys(range(ITEMS), quota))
    assert most_leased_at_once(entries) == Counter(dict.fromkeys(range(GROUPS), 1))
    for store in stores:
        await store.close()


@pytest.mark.parametrize("quota", [1, 2])
async def test_a_labelled_group_is_never_granted_again(every_redis_url: str, quota: int) -> None:
    stores = [await RedisStore.connect(every_redis_url) for _ in range(2)]
    session = await a_session(stores[0], quota=quota)
    uid, done = session.uid, 0

    async def work(number: int) -> None:
        nonlocal done
        store, annotator = stores[number % 2], f"ann {number}"
        while done < GROUPS * quota:
            claim = a_group_claim(order(number), annotator, size=3)
            rows = await claimed(store, uid, replace(claim, one_label=True))
            if rows:
                await labelled(store, uid, annotator, rows)
                done += len(rows)

    await asyncio.gather(*map(work, range(ANNOTATORS)))
    assert await asyncio.gather(
        *(
            claimed(stores[0], uid, replace(a_group_claim(range(ITEMS), name), one_label=True))
            for name in ("ann 0", "ann 1", "somebody else")
        )
    ) == [(), (), ()]
    entries = (await stores[0].log(uid, 0, 1_000_000)).entries
    grants = Counter(row for e in entries if isinstance(e, GrantEntry) for row in e.rows)
    assert sorted(map(group_of, grants)) == list(range(GROUPS))
    assert set(grants.values()) == {quota}
    assert most_leased_at_once(entries) == Counter(dict.fromkeys(range(GROUPS), 1))
    for store in stores:
        await store.close()


async def test_each_round_of_second_looks_leases_each_row_once(every_redis_url: str) -> None:
    stores = [await RedisStore.connect(every_redis_url) for _ in range(2)]
    session = await a_session(stores[0])
    uid = session.uid
    await stores[0].add_labels(uid, a_request(), "first", labels(range(ITEMS)))

    async def look_until_nothing_is_left(number: int) -> list[int]:
        store, annotator = stores[number % 2], f"{rounds} {number}"
        mine: list[int] = []
        while True:
            claim = a_claim(order(number), annotator, size=7, view=START, min_revision=0)
            rows = await claimed(store, uid, replace(claim, review=True))
            if not rows:
                return mine
            mine += rows

    for rounds in range(3):
        got = await asyncio.gather(*map(look_until_nothing_is_left, range(ANNOTATORS)))
        assert Counter(row for mine in got for row in mine) == Counter(range(ITEMS))
        for number, mine in enumerate(got):
            if mine:
                writes = labels(mine, leased=True)
                annotator = f"{rounds} {number}"
                written = await stores[0].add_labels(uid, a_request(), annotator, writes)
                assert set(written.outcomes) == {Outcome.NEW}
    for store in stores:
        await store.close()
