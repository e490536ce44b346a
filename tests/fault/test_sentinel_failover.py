"""Sentinel failovers under load, one replica: what was acknowledged by both is never lost.

A round is one failover. The ways to lose the master take turns:

- ``link stalled``: the replica hears nothing, then the master is killed, and what it had not sent
  is gone;
- ``killed``: kill -9 in the midst of the writes;
- ``replica stopped``: SIGSTOP of the replica, kill -9 of the master, SIGCONT of the replica;
- ``master stopped``: SIGSTOP of the master, which goes on when another has taken over.

A session written with ``min_replicas=0`` on the same servers shows that the attack is one: there
acknowledged labels are lost.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.fixtures.insisting import FOR_NOW, Insisting, labelled_rows
from tests.fixtures.redis_topologies import RedisServer, Sentinels, until_replicates
from tests.fixtures.sessions import a_request, a_session, labels
from tests.fixtures.tcp_proxy import TcpProxy

from coresift.server.errors import CoresiftError, Reason
from coresift.server.state.redis_store import RedisStore
from coresift.server.state.values import SessionRecord

SEED = int(os.environ.get("CORESIFT_TEST_SEED", "20261122"))
WRITERS = 4
LABELS_OF_A_WRITER = 25
"""In each round."""
ATTACKS = ("link stalled", "killed", "replica stopped", "master stopped")


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    with Sentinels(tmp_path) as running:
        yield running


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():  # noqa: ASYNC110 - several writers make it so
            await asyncio.sleep(0.002)


class Campaign:
    """A session, and what its writers were told.

    ``careless`` writers never repeat a call and have a store that waits for no replica.
    """

    def __init__(self, store: RedisStore, session: SessionRecord) -> None:
        self._store, self._session = store, session
        self._rows = itertools.count()
        self._insist = Insisting()
        self.acknowledged: set[int] = set()

    @property
    def shortfalls(self) -> int:
        return self._insist.refusals[Reason.STATE_NOT_REPLICATED]

    async def write(self) -> None:
        """Label new rows one after another until each is acknowledged."""
        for row in itertools.islice(self._rows, LABELS_OF_A_WRITER):
            request = a_request()
            await self._insist(
                lambda row=row, request=request: self._store.add_labels(  # type: ignore[misc]
                    self._session.uid, request, f"ann {row % 7}", labels([row])
                )
            )
            self.acknowledged.add(row)

    async def write_carelessly(self) -> None:
        """Label new rows until cancelled; what is refused is left."""
        for row in self._rows:
            try:
                await self._store.add_labels(self._session.uid, a_request(), "ann", labels([row]))
                self.acknowledged.add(row)
            except CoresiftError as error:
                assert error.reason in FOR_NOW, error  # noqa: PT017 - others are tolerated
            await asyncio.sleep(0.002)

    async def lost(self, store: RedisStore) -> set[int]:
        """What was acknowledged and is not in the log; nothing is there twice."""
        kept = await labelled_rows(store, self._session)
        assert set(kept.values()) <= {1}
        return self.acknowledged - set(kept)


async def lose_the_master(
    attack: str, master: RedisServer, replica: RedisServer, link: TcpProxy, campaign: Campaign
) -> None:
    if attack == "master stopped":
        master.stall()
        return
    if attack == "link stalled":
        link.stall()
    if attack == "replica stopped":
        replica.stall()
    if attack != "killed":
        before = campaign.shortfalls
        await until(lambda: campaign.shortfalls > before)
    master.kill()
    link.refuse()
    if attack == "replica stopped":
        replica.resume()


async def a_round(
    sentinels: Sentinels, attack: str, careful: Campaign, careless: Campaign, enough: int
) -> None:
    """One failover while labels are written: the attack comes after ``enough`` of them."""
    master = sentinels.master()
    replica = sentinels.other(master)
    with TcpProxy(master.address) as link:
        if attack == "link stalled":
            replica.ask("REPLICAOF", "127.0.0.1", link.port)
            await asyncio.to_thread(until_replicates, replica, master)
        begun = len(careful.acknowledged)
        heedless = asyncio.create_task(careless.write_carelessly())
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(WRITERS):
                    tasks.create_task(careful.write())
                await until(lambda: len(careful.acknowledged) >= begun + enough)
                await lose_the_master(attack, master, replica, link, careful)
                new = await asyncio.to_thread(sentinels.until_failed_over, master)
                if attack == "master stopped":
                    master.resume()
                    master.ask("REPLICAOF", "127.0.0.1", new.port)
                else:
                    master.start(replica_of=new)
        finally:
            heedless.cancel()
            await asyncio.gather(heedless, return_exceptions=True)
    await asyncio.to_thread(sentinels.until_in_sync)


async def fail_over(sentinels: Sentinels, rounds: int) -> None:
    generator = random.Random(SEED)
    waiting = await RedisStore.connect(sentinels.url, min_replicas=1)
    trusting = await RedisStore.connect(sentinels.url)
    careful = Campaign(waiting, await a_session(waiting))
    careless = Campaign(trusting, await a_session(trusting))
    await asyncio.to_thread(sentinels.until_in_sync)
    try:
        for number in range(rounds):
            enough = generator.randint(1, WRITERS * LABELS_OF_A_WRITER // 2)
            attack = ATTACKS[number % len(ATTACKS)]
            try:
                await a_round(sentinels, attack, careful, careless, enough)
            except Exception as error:
                error.add_note(f"round {number} ({attack}), CORESIFT_TEST_SEED={SEED}")
                raise
        lost, lost_carelessly = await careful.lost(waiting), await careless.lost(waiting)
    finally:
        await waiting.close()
        await trusting.close()
    print(
        f"{rounds} rounds: {len(careful.acknowledged)} acknowledged, {len(lost)} lost, "
        f"{careful.shortfalls} shortfalls; without waiting {len(careless.acknowledged)} "
        f"acknowledged, {len(lost_carelessly)} lost"
    )
    assert len(careful.acknowledged) == rounds * WRITERS * LABELS_OF_A_WRITER
    assert not lost, f"CORESIFT_TEST_SEED={SEED}"
    assert lost_carelessly, "the attack lost nothing at all: it is none"


async def test_two_rounds(sentinels: Sentinels) -> None:
    """``pytest tests/fault/test_sentinel_failover.py::test_two_rounds``"""
    await fail_over(sentinels, 2)


@pytest.mark.fault
@pytest.mark.timeout(300)
async def test_twenty_rounds(sentinels: Sentinels) -> None:
    """``pytest tests/fault/test_sentinel_failover.py::test_twenty_rounds``"""
    await fail_over(sentinels, 20)
