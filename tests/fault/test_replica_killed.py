"""The replica that serves a session is killed, or stops: another one goes on within seconds.

    pytest -s -m fault tests/fault/test_replica_killed.py

prints the time from `kill -9` to the session's next batch, of 20 kills. The short form, one
kill, is part of `make test`.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.fault.test_rolling_restart import fleet
from tests.fixtures.servers import Pools, ServerProcess, is_spam

from coresift.client import AsyncClient, Client, Seals, Unavailable, channel

MOST_S = 2.0
"""From the kill to the session's next batch."""
STOPPED_S = 8.0
"""As long may a replica that stops without a word hold up a call: patience, probe, work."""


def serving(replicas: list[ServerProcess], session: str) -> int:
    """The number of the one replica that has a session's calls."""
    while True:
        found = [
            number
            for number, server in enumerate(replicas)
            if any(event.get("session_id") == session for event in list(server.events))
        ]
        if found:
            [number] = found
            return number
        time.sleep(0)


def meet(client: Client, replica: ServerProcess) -> None:
    """Call until a new replica has had a call: the client has found it."""
    while not any(event.get("method") == "GetPool" for event in list(replica.events)):
        client.get_pool("large")


def label(client: Client, session: str) -> None:
    """Label a few items, so that a head must be fitted."""
    batch = client.next_batch(session, "ann", 4)
    truth = {item: is_spam(item) for item in batch.item_ids}
    assert set(client.add_labels(session, truth, "ann", batch=batch).item_ids) == set(truth)


class Pressing:
    """A caller that asks for the session's batches without end; a failure would end it."""

    def __init__(self, client: Client, session: str) -> None:
        self._client, self._session = client, session
        self._stop = threading.Event()
        self.done = 0

    def __call__(self) -> None:
        while not self._stop.is_set():
            batch = self._client.next_batch(self._session, "bob", 1)
            self._client.release_leases(self._session, "bob", batch.item_ids)
            self.done += 1

    @contextmanager
    def going_on(self) -> Iterator[None]:
        with ThreadPoolExecutor(1) as thread:
            caller = thread.submit(self)
            try:
                while not self.done and not caller.done():
                    time.sleep(0)
                yield
            finally:
                self._stop.set()
            caller.result()


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(1, id="short"),
        pytest.param(20, id="full", marks=[pytest.mark.fault, pytest.mark.timeout(600)]),
    ],
)
def test_kill_9(pools: Pools, redis_url: str, tmp_path: Path, kills: int) -> None:
    took: list[float] = []
    calls = 0
    with (
        fleet(pools, redis_url, tmp_path, 2) as (running, again),
        Client(",".join(server.listen for server in running)) as client,
    ):
        for kill in range(kills):
            session = client.create_session("large", candidates=Seals(10)).session_id
            for _ in range(3):
                label(client, session)
            victim = serving(running, session)
            pressing = Pressing(client, session)
            with pressing.going_on():
                began = time.monotonic()
                running[victim].process.kill()
                batch = client.next_batch(session, f"annotator-{kill}", 5)
                took.append(time.monotonic() - began)
            assert len(batch) == 5
            assert batch.basis.revision == client.get_session(session).basis.revision
            running[victim].wait()
            calls += pressing.done
            if kill + 1 < kills:
                again(victim)
                meet(client, running[victim])
    print(
        f"\n{kills} kills: next batch after {min(took):.3f} s at best, "
        f"{sorted(took)[kills // 2]:.3f} s in the median, {max(took):.3f} s at worst; "
        f"0 of {calls} other calls failed"
    )
    assert max(took) < MOST_S


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections whose dead peers are noticed within three seconds."""
    monkeypatch.setattr(channel, "KEEPALIVE_MS", 2_000)
    monkeypatch.setattr(channel, "KEEPALIVE_TIMEOUT_MS", 1_000)


@contextmanager
def stopped(server: ServerProcess) -> Iterator[None]:
    """A process that holds its connections and does nothing."""
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


@pytest.mark.fault
async def test_a_replica_that_stops(pools: Pools, redis_url: str, tmp_path: Path) -> None:
    """One call waits and asks, then the session has moved; so for both clients."""
    with fleet(pools, redis_url, tmp_path, 2) as (running, _):
        target = ",".join(server.listen for server in running)
        with Client(target) as client:
            session = client.create_session("large", candidates=Seals(10)).session_id
            label(client, session)
            first = seconds_of(lambda: client.next_batch(session, "ann", 2))
            async with AsyncClient(target) as other:
                await other.get_session(session)
                with stopped(running[serving(running, session)]):
                    times = seconds_of(lambda: client.next_batch(session, "ann", 2))
                    began = time.monotonic()
                    await other.next_batch(session, "ann", 2)
                    waited = time.monotonic() - began
                    await other.next_batch(session, "ann", 2)
                    again = time.monotonic() - began - waited
    print(f"\nstopped: {times} s, asyncio {waited:.2f} and {again:.2f} s; before {first} s")
    assert max(times[0], waited) < STOPPED_S
    assert max(*times[1:], again) < MOST_S


def seconds_of(call: Any, times: int = 3) -> list[float]:
    """Seconds of some calls, one after the other."""
    found = []
    for _ in range(times):
        began = time.monotonic()
        call()
        found.append(round(time.monotonic() - began, 3))
    return found


@pytest.mark.fault
async def test_streams_of_a_replica_that_stops(
    pools: Pools, redis_url: str, tmp_path: Path, impatient: None
) -> None:
    """Keepalive ends them: they go elsewhere, or say so where there is nothing else."""
    with fleet(pools, redis_url, tmp_path, 2) as (running, _):
        target = ",".join(server.listen for server in running)
        with Client(target) as client, Client(running[0].listen, max_attempts=1) as alone:
            session = client.create_session("large", candidates=Seals(10)).session_id
            label(client, session)
            async with AsyncClient(target) as other:
                await other.get_session(session)
                with stopped(running[serving(running, session)]):
                    began = time.monotonic()
                    found = [record async for record in other.list_labels(session)]
                    assert found == list(client.list_labels(session))
                    took = time.monotonic() - began
            assert len(found) == 4
            assert took < STOPPED_S
            alone.get_pool("large")
            with stopped(running[0]):
                began = time.monotonic()
                with pytest.raises(Unavailable):
                    list(alone.list_labels(session))
                assert time.monotonic() - began < STOPPED_S
    print(f"\nstreams: elsewhere within {took:.2f} s")
