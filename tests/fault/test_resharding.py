"""A cluster whose slots move while sessions are claimed from and labelled: nothing is lost.

The slots of the sessions move round the masters one after another, as `redis-cli --cluster
reshard` moves them, keys first. Workers claim items and label them meanwhile, repeating what is
refused for now.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.crc import key_slot
from tests.fixtures.insisting import Insisting, labelled_rows
from tests.fixtures.redis_topologies import Cluster
from tests.fixtures.sessions import a_claim, a_request, a_session, a_view, labels

from coresift.server.state.entries import GrantEntry
from coresift.server.state.keys import SessionKeys
from coresift.server.state.redis_store import RedisStore
from coresift.server.state.values import Granted, SessionRecord

SEED = int(os.environ.get("CORESIFT_TEST_SEED", "20261122"))
SESSIONS = 4
WORKERS_OF_A_SESSION = 2
PAUSE_S = 0.05
"""Between two batches of a worker: every one leaves keys that have to be moved."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        yield running


class Work:
    """Workers on one session. ``acknowledged`` counts how often a row's label was acknowledged."""

    def __init__(self, store: RedisStore, session: SessionRecord, insist: Insisting) -> None:
        self._store, self._session, self._insist = store, session, insist
        self.acknowledged: Counter[int] = Counter()
        self.is_over = False

    async def go_on(self, annotator: str) -> None:
        """Claim and label, five items at a time, until it is over."""
        for first in itertools.count(step=5):
            if self.is_over:
                return
            rows = await self._claim(annotator, range(first, first + 20))
            if rows:
                request = a_request()
                await self._insist(
                    lambda rows=rows, request=request: self._store.add_labels(  # type: ignore[misc]
                        self._session.uid, request, annotator, labels(rows, leased=True)
                    )
                )
                self.acknowledged.update(rows)
            await asyncio.sleep(PAUSE_S)

    async def _claim(self, annotator: str, proposed: range) -> tuple[int, ...]:
        view = await self._insist(lambda: a_view(self._store, self._session))
        claim = a_claim(proposed, annotator, size=5, view=view, min_revision=view.revision)
        granted = await self._insist(lambda: self._store.claim(self._session.uid, claim))
        assert isinstance(granted, Granted)
        return granted.rows


async def reshard_under_load(cluster: Cluster, moves: int) -> None:
    generator = random.Random(SEED)
    stores = [await RedisStore.connect(cluster.url) for _ in range(2)]
    sessions = [await a_session(stores[0]) for _ in range(SESSIONS)]
    insist = Insisting()
    work = [
        Work(store, session, insist)
        for session, store in zip(sessions, itertools.cycle(stores), strict=False)
    ]
    slots = [key_slot(SessionKeys(session.uid).of_script()[0].encode()) for session in sessions]
    homes = {
        slot: next(master for master in cluster.masters if slot in cluster.slots_of(master))
        for slot in slots
    }
    keys = 0
    try:
        async with asyncio.TaskGroup() as tasks:
            for number, each in enumerate(work):
                for worker in range(WORKERS_OF_A_SESSION):
                    tasks.create_task(each.go_on(f"ann {number} {worker}"))
            for _ in range(moves):
                slot = generator.choice(slots)
                target = generator.choice([m for m in cluster.masters if m is not homes[slot]])
                keys += await asyncio.to_thread(cluster.move_slot, slot, homes[slot], target)
                homes[slot] = target
                # Something is acknowledged between any two moves of a session.
                at = work[slots.index(slot)]
                done = at.acknowledged.total()
                async with asyncio.timeout(30):
                    while at.acknowledged.total() == done:  # noqa: ASYNC110 - two workers do it
                        await asyncio.sleep(0.002)
            for each in work:
                each.is_over = True
        for session, each in zip(sessions, work, strict=True):
            assert await labelled_rows(stores[0], session) == each.acknowledged
            assert set(each.acknowledged.values()) == {1}
            log = await stores[1].log(session.uid, 0, 1_000_000)
            grants = [entry.rows for entry in log.entries if isinstance(entry, GrantEntry)]
            assert max(Counter(itertools.chain(*grants)).values()) == 1, "granted twice"
    except BaseException as error:
        error.add_note(f"CORESIFT_TEST_SEED={SEED}")
        raise
    finally:
        for store in stores:
            await store.close()
    total = sum(each.acknowledged.total() for each in work)
    print(f"{moves} slots with {keys} keys moved, {total} labels acknowledged, {insist.refusals}")


@pytest.mark.timeout(60)
async def test_a_few_slots_move(cluster: Cluster) -> None:
    """``pytest tests/fault/test_resharding.py::test_a_few_slots_move``"""
    await reshard_under_load(cluster, 10)


@pytest.mark.fault
async def test_many_slots_move(cluster: Cluster) -> None:
    """``pytest tests/fault/test_resharding.py::test_many_slots_move``"""
    await reshard_under_load(cluster, 60)
