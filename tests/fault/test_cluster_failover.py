"""A master of a cluster dies and its replica takes over: what was acknowledged by both stays."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.crc import key_slot
from tests.fixtures.insisting import Insisting, labelled_rows
from tests.fixtures.redis_topologies import Cluster, until
from tests.fixtures.sessions import a_request, a_session, labels

from coresift.server.errors import Reason
from coresift.server.state.keys import SessionKeys
from coresift.server.state.redis_store import RedisStore
from coresift.server.state.values import SessionRecord

LABELS = 60
"""Of each session."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, replicas=1) as running:
        yield running


async def test_a_master_dies(cluster: Cluster) -> None:
    """``pytest tests/fault/test_cluster_failover.py::test_a_master_dies``

    Its replica is stalled just before, so that some writes reach the master alone. Sessions of
    the other masters go on meanwhile.
    """
    store = await RedisStore.connect(cluster.url, min_replicas=1)
    sessions = [await a_session(store) for _ in range(9)]
    acknowledged = {session.uid: Counter[int]() for session in sessions}
    insist = Insisting()

    def home(session: SessionRecord) -> int:
        slot = key_slot(SessionKeys(session.uid).of_script()[0].encode())
        return next(n for n, node in enumerate(cluster.masters) if slot in cluster.slots_of(node))

    homes = {session.uid: home(session) for session in sessions}
    dying = homes[sessions[0].uid]
    replica = cluster.replicas[dying]

    async def write(session: SessionRecord) -> None:
        for row in range(LABELS):
            request = a_request()
            await insist(
                lambda: store.add_labels(session.uid, request, "ann", labels([row]))  # noqa: B023 - awaited here
            )
            acknowledged[session.uid][row] += 1

    def are_done(sessions: list[SessionRecord]) -> bool:
        return all(acknowledged[session.uid].total() == LABELS for session in sessions)

    elsewhere = [session for session in sessions if homes[session.uid] != dying]
    try:
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            for session in sessions:
                tasks.create_task(write(session))
            while acknowledged[sessions[0].uid].total() < 5:  # noqa: ASYNC110 - others do it
                await asyncio.sleep(0)
            replica.stall()
            short = insist.refusals[Reason.STATE_NOT_REPLICATED]
            while insist.refusals[Reason.STATE_NOT_REPLICATED] == short:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
            cluster.masters[dying].kill()
            replica.resume()
            while not are_done(elsewhere):  # noqa: ASYNC110 - their writers do it
                await asyncio.sleep(0.002)
            await asyncio.to_thread(
                until, lambda: replica.info("role") == "master", "the replica is master"
            )
            cluster.masters[dying].start()
        for session in sessions:
            rows = await labelled_rows(store, session)
            assert rows == acknowledged[session.uid] == dict.fromkeys(range(LABELS), 1)
    finally:
        await store.close()
    print(f"{sum(map(Counter.total, acknowledged.values()))} acknowledged, {insist.refusals}")
