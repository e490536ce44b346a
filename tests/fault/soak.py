"""Ten minutes of mixed load with cancellations: nothing may grow, nothing may be left.

``python -m tests.fault.soak [--minutes 10]`` prints a table and ends with 1 if a promise is broken.

gRPC's library keeps 80 bytes and more of every call that ends while one of its operations is under
way (grpc/grpc#43360, open in 1.85): ``--patient`` gives no call up, and shows what is ours.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
import numpy as np
import psutil
import redis
from tests.fixtures.pools import write_inputs
from tests.fixtures.servers import ServerProcess

from coresift.server.pool.builder import BuildOptions, build_pool
from coresift.server.state.embedded import EmbeddedRedis
from coresift.v1 import selection_pb2 as pb
from coresift.v1 import selection_pb2_grpc

ITEMS, DIMENSION = 1_000, 32
CALLERS = 12
SESSIONS = 8
LABELLED, NEIGHBOURS = 500, 10
"""Items, all of them labelled from the start; and what is kept of each that was ever leased: a
session soon holds all that it ever will, and what grows then is left behind by calls."""
SAMPLE_S = 3.0
WARM_S = 20.0
"""Of the same load, before what is there at rest is counted."""
WARM_SHARE = 0.3
MOST_MB_A_MINUTE = 1.0
REST_S = 60.0
"""In which everything must be back where it was."""
EXPECTED = frozenset(
    {"CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "FAILED_PRECONDITION"}
)


@dataclass(frozen=True)
class Sample:
    """Of the server, at a moment."""

    at_s: float
    rss_mb: float
    descriptors: int
    threads: int
    tasks: int
    redis_clients: int
    permits: int
    """Held, waited for, and calls under way."""

    HEADER = "    s   RSS MB  descriptors  threads  tasks  redis  permits"

    def __str__(self) -> str:
        return (
            f"{self.at_s:5.0f} {self.rss_mb:8.1f} {self.descriptors:12d} {self.threads:8d} "
            f"{self.tasks:6d} {self.redis_clients:6d} {self.permits:8d}"
        )


def sample(server: ServerProcess, state: redis.Redis, began: float) -> Sample:
    """Measure."""
    process, metrics = psutil.Process(server.process.pid), server.samples()
    held = ("coresift_calls_", "coresift_workers_")
    return Sample(
        at_s=time.monotonic() - began,
        rss_mb=process.memory_info().rss / 2**20,
        descriptors=process.num_fds(),
        threads=process.num_threads(),
        tasks=int(metrics["coresift_asyncio_tasks"]),
        redis_clients=len(state.client_list()),
        permits=int(
            sum(v for k, v in metrics.items() if k.startswith(held) and "refused" not in k)
        ),
    )


class Caller:
    """Makes calls at random, and gives up many of them."""

    def __init__(
        self, address: str, number: int, codes: Counter[str], *, is_patient: bool = False
    ) -> None:
        self._address, self._codes, self._is_patient = address, codes, is_patient
        self._random = random.Random(number)
        self._name = f"ann-{number}"
        self._item = itertools.count(number, CALLERS)

    async def run(self, ends: float) -> None:
        """Call until ``ends``, on one connection after the other."""
        while time.monotonic() < ends:
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(self._address, options=options) as channel:
                stub = selection_pb2_grpc.SelectionServiceStub(channel)
                for _ in range(self._random.randint(5, 60)):
                    if time.monotonic() >= ends:
                        break
                    await self._call(stub)
                last = asyncio.create_task(self._call(stub))
                if self._is_patient:
                    await last
                await asyncio.sleep(0.001)  # the connection goes in the midst of a call
            await last

    async def _call(self, stub: Any) -> None:
        makes: list[Callable[[Any], Awaitable[object]]] = [
            self._next, self._next, self._label, self._label, self._get, self._progress,
            self._search, self._predict, self._consensus, self._list_labels, self._coreset,
        ]  # fmt: skip
        work = asyncio.ensure_future(self._random.choice(makes)(stub))
        if not self._is_patient and self._random.random() < 0.3:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait({work}, timeout=self._random.expovariate(1 / 0.02))
            work.cancel()
        try:
            await work
            self._codes["OK"] += 1
        except asyncio.CancelledError:
            self._codes["given up"] += 1
        except grpc.aio.AioRpcError as error:
            self._codes[error.code().name] += 1
        except grpc.aio.UsageError:
            self._codes["connection closed"] += 1

    @property
    def _session(self) -> str:
        return f"soak-{self._random.randrange(SESSIONS)}"

    def _deadline(self) -> float:
        short = () if self._is_patient else (0.005, 0.05)
        return self._random.choice([*short, 20.0, 20.0, 20.0])

    async def _next(self, stub: Any) -> object:
        request = pb.NextBatchRequest(
            session_id=self._session, request_id=str(uuid4()), annotator=self._name, size=5
        )
        request.lease_duration.FromMilliseconds(2_000)
        return await stub.NextBatch(request, timeout=self._deadline())

    async def _label(self, stub: Any) -> object:
        n = next(self._item) % LABELLED  # the log may grow, not what a session considers
        label = pb.Label(item_id=f"item-{n}", class_name="negative" if n % 3 else "positive")
        request = pb.AddLabelsRequest(
            session_id=self._session, request_id=str(uuid4()), annotator=self._name, labels=[label]
        )
        return await stub.AddLabels(request, timeout=self._deadline())

    async def _get(self, stub: Any) -> object:
        request = pb.GetSessionRequest(session_id=self._session)
        return await stub.GetSession(request, timeout=self._deadline())

    async def _progress(self, stub: Any) -> object:
        request = pb.GetSessionProgressRequest(session_id=self._session)
        return await stub.GetSessionProgress(request, timeout=self._deadline())

    async def _consensus(self, stub: Any) -> object:
        request = pb.ListConsensusRequest(session_id=self._session)
        return await stub.ListConsensus(request, timeout=self._deadline())

    async def _search(self, stub: Any) -> object:
        item = f"item-{self._random.randrange(ITEMS)}"
        request = pb.SearchPoolRequest(pool="soak", item_id=item, count=20)
        return await stub.SearchPool(request, timeout=self._deadline())

    async def _predict(self, stub: Any) -> object:
        request = pb.PredictRequest(session_id=self._session, top=pb.PoolTop(count=ITEMS))
        return await self._read(stub.Predict(request, timeout=self._deadline()))

    async def _list_labels(self, stub: Any) -> object:
        request = pb.ListLabelsRequest(session_id=self._session)
        return await self._read(stub.ListLabels(request, timeout=self._deadline()))

    async def _coreset(self, stub: Any) -> object:
        request = pb.ScoreCoresetRequest(
            request_id=str(uuid4()), pool="soak", method="k_center", budget=50
        )
        request.grace_period.FromSeconds(1)
        return await self._read(stub.ScoreCoreset(request, timeout=self._deadline()))

    async def _read(self, call: Any) -> None:
        """A stream, perhaps cut after its first message."""
        async for _ in call:
            if not self._is_patient and self._random.random() < 0.2:
                call.cancel()
                return


async def soak(
    server: ServerProcess, state: redis.Redis, seconds: float, *, is_patient: bool = False
) -> list[Sample]:
    """Samples at rest, under load, and at rest again; raises AssertionError for wrong answers."""
    began, codes = time.monotonic(), Counter[str]()
    ends = began + seconds
    callers = [Caller(server.listen, n, codes, is_patient=is_patient) for n in range(CALLERS)]
    load = [asyncio.create_task(caller.run(ends)) for caller in callers]
    samples = []
    print(Sample.HEADER, flush=True)
    while time.monotonic() < ends:
        await asyncio.wait(load, timeout=SAMPLE_S)
        samples.append(await asyncio.to_thread(sample, server, state, began))
        if len(samples) % 5 == 0:
            print(samples[-1], flush=True)
    await asyncio.gather(*load)
    print(dict(codes))
    unknown = set(codes) - EXPECTED - {"OK", "given up", "connection closed"}
    assert not unknown, unknown
    return samples


def slope(samples: list[Sample]) -> float:
    """MB a minute of the resident memory after the warm-up, by least squares."""
    kept = [s for s in samples if s.at_s >= WARM_SHARE * samples[-1].at_s]
    return 60 * float(np.polyfit([s.at_s for s in kept], [s.rss_mb for s in kept], 1)[0])


def leaks(server: ServerProcess, state: redis.Redis, before: Sample) -> list[str]:
    """What is not back where it was ``REST_S`` after the load."""
    gc.collect()  # the callers' channels, whose connections stay open until then
    ends = time.monotonic() + REST_S
    while True:
        after = sample(server, state, 0.0)
        found = [
            f"{name}: {getattr(before, name)} before, {getattr(after, name)} after"
            for name, more in (
                ("permits", 0),
                ("tasks", 2),
                ("descriptors", 12),  # connections to Redis are kept for the next calls
                ("threads", 8),  # as are threads
                ("redis_clients", 12),
            )
            if getattr(after, name) > getattr(before, name) + more
        ]
        if not found or time.monotonic() > ends:
            return found
        time.sleep(1.0)


def prepare(folder: Path) -> Path:
    """A pool."""
    X = np.random.default_rng(0).normal(size=(ITEMS, DIMENSION)).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    build_pool(BuildOptions(write_inputs(folder, X), folder / "pool", name="soak"))
    return folder / "pool"


def create_sessions(server: ServerProcess) -> None:
    """Sessions whose views have their full size from the start."""
    with grpc.insecure_channel(server.listen) as channel:
        stub = selection_pb2_grpc.SelectionServiceStub(channel)
        for n in range(SESSIONS):
            config = pb.SessionConfig(pool="soak", task=pb.TASK_BINARY, votes_per_item=20)
            config.candidates.seals.k = NEIGHBOURS
            session = f"soak-{n}"
            stub.CreateSession(
                pb.CreateSessionRequest(session_id=session, request_id=str(uuid4()), config=config)
            )
            labels = [
                pb.Label(item_id=f"item-{n}", class_name="positive" if n % 3 else "negative")
                for n in range(LABELLED)
            ]
            stub.AddLabels(
                pb.AddLabelsRequest(
                    session_id=session, request_id=str(uuid4()), annotator="first", labels=labels
                )
            )


def main() -> int:
    """The number of broken promises, 1 at most."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--patient", action="store_true", help="no call is given up")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="coresift-soak-") as name:
        folder = Path(name)
        pool = prepare(folder)
        embedded = EmbeddedRedis(folder / "state")
        asyncio.run(embedded.start())
        try:
            state = redis.Redis.from_url(embedded.url)
            places = ("--pool", pool, "--state", embedded.url, "--artifacts", folder / "artifacts")
            with ServerProcess(*places) as server:
                create_sessions(server)
                cold = sample(server, state, time.monotonic())
                asyncio.run(soak(server, state, WARM_S, is_patient=options.patient))
                leaks(server, state, cold)  # until it rests: pools of connections are filled now
                before = sample(server, state, time.monotonic())
                load = soak(server, state, 60 * options.minutes, is_patient=options.patient)
                samples = asyncio.run(load)
                grows, left = slope(samples), leaks(server, state, before)
                defects = [e for e in server.events if e.get("level") == "error"]
            state.close()
        finally:
            asyncio.run(embedded.stop())
    print(f"resident memory: {grows:+.2f} MB a minute after warm-up (most {MOST_MB_A_MINUTE:g})")
    print("left after the load:", "; ".join(left) or "nothing")
    print("errors in the log:", len(defects), defects[:3], server.other_lines[:3])
    return int(grows >= MOST_MB_A_MINUTE or bool(left) or bool(defects or server.other_lines))


if __name__ == "__main__":
    sys.exit(main())
