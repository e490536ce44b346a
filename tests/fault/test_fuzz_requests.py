"""Forged requests: none ends in a defect of the server, and a refused one changes nothing.

Replay: ``FUZZ_SEED=N pytest tests/fault/test_fuzz_requests.py -m fault``; a failure names the seed
of its call, and ``FUZZ_CALLS=1`` makes that call alone.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from hashlib import blake2b

import grpc.aio
import pytest
from redis import Redis
from tests.fault.fuzz.attack import METHODS, Outcomes, attack, forged, send
from tests.fault.fuzz.messages import Known
from tests.fault.fuzz.world import build
from tests.fixtures.servers import Pools, ServerProcess

from coresift.server.state.embedded import EmbeddedRedis

SEED = int(os.environ.get("FUZZ_SEED", "1"))
MANY = int(os.environ.get("FUZZ_CALLS", "100000"))
FEW = 1_500
WITNESSED = 500


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis that nobody else writes to."""
    server = EmbeddedRedis(tmp_path_factory.mktemp("redis"))
    asyncio.run(server.start())
    yield server.url
    asyncio.run(server.stop())


@pytest.fixture(scope="module")
def server(
    pools: Pools, redis: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("artifacts")
    options = ("--pool", pools.things.directory, "--state", redis, "--artifacts", folder)
    with ServerProcess(*options) as started:
        yield started


@pytest.fixture(scope="module")
def known(server: ServerProcess, pools: Pools, tmp_path_factory: pytest.TempPathFactory) -> Known:
    return build(server.listen, pools.things, tmp_path_factory.mktemp("world"))


def check(server: ServerProcess, outcomes: Outcomes, calls: int) -> None:
    print(f"{outcomes.calls} calls: {dict(outcomes.codes)}")
    assert not outcomes.wrong, "\n".join(wrong[:300] for wrong in outcomes.wrong[:40])
    assert outcomes.calls == calls
    assert server.process.poll() is None
    assert [event for event in server.events if event.get("event") == "incident"] == []
    assert server.other_lines == []


def test_some_forged_requests(server: ServerProcess, known: Known) -> None:
    seeds = range(SEED, SEED + FEW)
    outcomes = asyncio.run(attack(server.listen, seeds, known))
    check(server, outcomes, FEW)
    # They reach more than the first check.
    assert outcomes.codes["OK"] > FEW / 50
    assert {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"} <= outcomes.codes.keys()


@pytest.mark.fault
@pytest.mark.timeout(1200)
def test_a_hundred_thousand_forged_requests(server: ServerProcess, known: Known) -> None:
    seeds = range(SEED + FEW, SEED + FEW + MANY)
    check(server, asyncio.run(attack(server.listen, seeds, known)), MANY)


def content(redis: Redis) -> bytes:
    """A hash of every key and value; when a key ends does not count."""
    digest = blake2b()
    for key in sorted(redis.scan_iter(count=10_000)):
        digest.update(key)
        digest.update(redis.dump(key) or b"")  # type: ignore[arg-type]
    return digest.digest()


def settled(redis: Redis) -> bytes:
    """The content, once the work that earlier calls left behind has ended."""
    before, now = b"", content(redis)
    while before != now:
        before, now = now, content(redis)
    return now


def test_refused_requests_change_nothing(server: ServerProcess, known: Known, redis: str) -> None:
    """Calls one by one; every key of the store is compared around each that is refused."""

    async def run(store: Redis) -> tuple[int, list[str]]:
        refused, changed = 0, []
        async with grpc.aio.insecure_channel(server.listen) as channel:
            for seed in range(SEED, SEED + WITNESSED):
                rng = random.Random(seed)
                method = rng.choice(METHODS)
                parts = forged(rng, known, method)
                before = settled(store)
                code, details = await send(channel, method, parts)
                if code == "OK":
                    continue
                refused += 1
                if content(store) == before:
                    continue
                # Perhaps an earlier call's work: it must not happen again.
                before = settled(store)
                code, details = await send(channel, method, parts)
                if code != "OK" and content(store) != before:
                    changed.append(f"seed {seed} {method.name} {code} {details}")
        return refused, changed

    with Redis.from_url(redis) as store:
        refused, changed = asyncio.run(run(store))
    assert changed == []
    assert refused > WITNESSED / 2


def test_the_server_still_works(server: ServerProcess, known: Known, pools: Pools) -> None:
    """Whatever was sent before, a new session labels as ever."""
    from coresift.client import Client

    with Client(server.listen) as client:
        session = client.create_session("things").session_id
        batch = client.next_batch(session, "ann", 3)
        client.add_labels(session, {pick.item_id: "positive" for pick in batch.picks}, "ann")
        assert len(list(client.list_labels(session))) == 3
