"""Replicas are replaced one after the other under load: through the client no call fails.

    pytest -s -m fault tests/fault/test_rolling_restart.py

prints how many calls were made while how many replicas were replaced. The short form, one
replica of two, is part of `make test`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.fixtures.servers import Pools, ServerProcess, is_spam

from coresift.client import AsyncClient, Client, Outcome, Seals

CALLS = 10
"""Each caller makes so many at least between two replacements."""


@contextmanager
def fleet(
    pools: Pools, redis_url: str, folder: Path, replicas: int
) -> Iterator[tuple[list[ServerProcess], Callable[[int], None]]]:
    """Replicas on one Redis, and what starts one again on its old port, once it has ended."""
    options: list[str | Path] = ["--pool", pools.large.directory, "--state", redis_url]
    options += ["--artifacts", folder]
    running = [ServerProcess(*options).launch() for _ in range(replicas)]

    def again(number: int) -> None:
        port = ("--listen", running[number].listen)
        running[number] = ServerProcess(*options, *port).start()

    with ExitStack() as stack:
        for stop in (ServerProcess.wait, ServerProcess.terminate):  # the last one first
            for number in range(replicas):
                stack.callback(lambda n=number, stop=stop: stop(running[n]))
        for server in running:
            serving = server.wait_for(lambda event: event.get("event") == "serving")
            server.listen, server.metrics = serving["listen"], serving["metrics"]
        yield running, again


class Load:
    """Annotators that lease, label and read without end; every call counts."""

    def __init__(self, target: str, sessions: list[str]) -> None:
        self._target, self._sessions = target, sessions
        self.stop = threading.Event()
        self.calls: Counter[str] = Counter()
        self.acknowledged: Counter[tuple[str, str]] = Counter()
        self.done: Counter[int] = Counter()
        self.slowest_s = 0.0

    def _count(self, worker: int, method: str, began: float) -> None:
        self.calls[method] += 1
        self.done[worker] += 1
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)

    def blocking(self, worker: int) -> None:
        """A worker with the blocking client."""
        name = f"worker-{worker}"
        with Client(self._target) as client:
            for session in self._in_turn(worker):
                began = time.monotonic()
                batch = client.next_batch(session, name, 2)
                self._count(worker, "NextBatch", began)
                began = time.monotonic()
                truth = {item: is_spam(item) for item in batch.item_ids}
                client.add_labels(session, truth, name, batch=batch)
                self._count(worker, "AddLabels", began)
                self.acknowledged.update((session, item) for item in truth)
                began = time.monotonic()
                assert client.progress(session).votes >= len(truth)
                self._count(worker, "GetSessionProgress", began)
                began = time.monotonic()
                assert len(list(client.list_labels(session))) >= len(truth)
                self._count(worker, "ListLabels", began)

    def asynchronous(self, worker: int) -> None:
        """A worker with the client for asyncio."""
        asyncio.run(self._asynchronous(worker))

    async def _asynchronous(self, worker: int) -> None:
        name = f"worker-{worker}"
        async with AsyncClient(self._target) as client:
            for session in self._in_turn(worker):
                began = time.monotonic()
                batch = await client.next_batch(session, name, 2)
                self._count(worker, "NextBatch", began)
                began = time.monotonic()
                truth = {item: is_spam(item) for item in batch.item_ids}
                await client.add_labels(session, truth, name, batch=batch)
                self._count(worker, "AddLabels", began)
                self.acknowledged.update((session, item) for item in truth)
                began = time.monotonic()
                await client.get_pool("large")
                self._count(worker, "GetPool", began)

    def _in_turn(self, worker: int) -> Iterator[str]:
        while not self.stop.is_set():
            worker += 1
            yield self._sessions[worker % len(self._sessions)]

    def goes_on(self, failed: Callable[[], bool]) -> None:
        """Wait until every worker has made some more calls."""
        wanted = {worker: done + CALLS for worker, done in self.done.items()}
        while not failed() and any(self.done[worker] < n for worker, n in wanted.items()):
            self.stop.wait(0.01)


@pytest.mark.parametrize(
    ("replicas", "rounds", "callers"),
    [
        pytest.param(2, 0, 2, id="short"),
        pytest.param(3, 3, 4, id="full", marks=[pytest.mark.fault, pytest.mark.timeout(600)]),
    ],
)
def test_no_call_fails(
    pools: Pools, redis_url: str, tmp_path: Path, replicas: int, rounds: int, callers: int
) -> None:
    """Every acknowledged label is there exactly once; ``rounds`` 0: one replica, once."""
    replaced = [0] if rounds == 0 else [*range(replicas)] * rounds
    with fleet(pools, redis_url, tmp_path, replicas) as (running, again):
        target = ",".join(server.listen for server in running)
        with Client(target) as client:
            sessions = [
                client.create_session("large", candidates=Seals(10)).session_id for _ in range(6)
            ]
        load = Load(target, sessions)
        load.done.update(dict.fromkeys(range(callers), 0))
        with ThreadPoolExecutor(callers) as threads:
            workers = [threads.submit(load.blocking, worker) for worker in range(1, callers)]
            workers.append(threads.submit(load.asynchronous, 0))
            try:
                for number in replaced:
                    load.goes_on(lambda: any(worker.done() for worker in workers))
                    running[number].terminate()
                    assert running[number].wait() == 0
                    again(number)
                load.goes_on(lambda: any(worker.done() for worker in workers))
            finally:
                load.stop.set()
            for worker in workers:
                worker.result()
        with Client(target) as client:
            records = [(s, record) for s in sessions for record in client.list_labels(s)]
    assert Counter((s, record.item_id) for s, record in records) == load.acknowledged
    assert set(load.acknowledged.values()) == {1}
    assert {record.outcome for _, record in records} == {Outcome.NEW}
    print(
        f"\n{len(replaced)} restarts of {replicas} replicas in turn, 0 of "
        f"{load.calls.total()} calls failed, the slowest took {load.slowest_s:.2f} s, "
        f"{len(records)} labels, each there once: {dict(load.calls)}"
    )
