"""Thousands of calls that are given up at any moment: nothing is held or counted afterwards."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from tests.fixtures.servers import Pools, ServerProcess

from coresift.client import Client
from coresift.server.rpc.call_classes import LIMITS, CallClass
from coresift.v1 import selection_pb2 as pb

PREFIX = "/coresift.v1.SelectionService/"
CALLERS, CALLS = 40, 75
CROWD = 3 * LIMITS[CallClass.UPLOADING].open
"""Uploads at once: more than may be open, however fast the server is and whatever it waits for."""
MOST_S = 0.5
"""For which a caller waits until it gives up."""
REST_S = 20.0

CODES = {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"}


class Caller:
    """Makes calls at random, waits for some, and gives up the others sooner or later."""

    def __init__(self, channel: grpc.aio.Channel, session: str, seed: int) -> None:
        self._channel, self._session = channel, session
        self._random = random.Random(seed)
        self._kinds: list[Callable[[float], Any]] = [
            self._get, self._garbage, self._search, self._predict, self._list, self._put,
        ]  # fmt: skip

    async def run(self) -> Counter[str]:
        """The codes that the calls ended with."""
        codes: Counter[str] = Counter()
        for _ in range(CALLS):
            timeout = self._random.choice([0.005, MOST_S, REST_S])
            call = self._random.choice(self._kinds)(timeout)
            giving_up = asyncio.get_running_loop().call_later(
                self._random.uniform(0, MOST_S), call.cancel
            )
            codes[await code_of(call)] += 1
            giving_up.cancel()
        return codes

    async def crowd(self) -> Counter[str]:
        """The codes of a crowd of uploads, all of them given up when the first is refused."""
        uploads = [self._put(REST_S) for _ in range(CROWD)]
        codes: Counter[str] = Counter()
        for ended in asyncio.as_completed(map(code_of, uploads)):
            code = await ended
            codes[code] += 1
            if code == "RESOURCE_EXHAUSTED":
                for upload in uploads:
                    upload.cancel()
        return codes

    def _get(self, timeout: float) -> Any:
        body = pb.GetSessionRequest(session_id=self._session).SerializeToString()
        return self._channel.unary_unary(PREFIX + "GetSession")(body, timeout=timeout)

    def _garbage(self, timeout: float) -> Any:
        return self._channel.unary_stream(PREFIX + "ListLabels")(b"\xff" * 9, timeout=timeout)

    def _search(self, timeout: float) -> Any:
        request = pb.SearchPoolRequest(pool="large", item_id="item-0", count=10)
        call = self._channel.unary_unary(PREFIX + "SearchPool")
        return call(request.SerializeToString(), timeout=timeout)

    def _predict(self, timeout: float) -> Any:
        request = pb.PredictRequest(session_id=self._session, top=pb.PoolTop(count=5_000))
        call = self._channel.unary_stream(PREFIX + "Predict")
        return call(request.SerializeToString(), timeout=timeout)

    def _list(self, timeout: float) -> Any:
        request = pb.ListLabelsRequest(session_id=self._session)
        call = self._channel.unary_stream(PREFIX + "ListLabels")
        return call(request.SerializeToString(), timeout=timeout)

    def _put(self, timeout: float) -> Any:
        async def chunks() -> AsyncIterator[bytes]:
            while True:
                await asyncio.sleep(self._random.uniform(0, MOST_S))  # a slow uploader
                yield b"\xff" if self._random.random() < 0.1 else b""

        return self._channel.stream_unary(PREFIX + "PutSignals")(chunks(), timeout=timeout)


async def code_of(call: Any) -> str:
    """The code that the call ends with."""
    code, details = await call.code(), await call.details()
    # What the client's library says of a stream cancelled just as it begins.
    return "CANCELLED" if details == "Internal error from Core" else str(code.name)


async def give_up_many(listen: str, session: str) -> Counter[str]:
    async with grpc.aio.insecure_channel(listen) as channel:
        refused = await Caller(channel, session, CALLERS).crowd()
        callers = [Caller(channel, session, seed).run() for seed in range(CALLERS)]
        return sum(await asyncio.gather(*callers), refused)


def held(server: ServerProcess) -> dict[str, float]:
    """What the server says that calls still hold."""
    names = ("coresift_calls_working", "coresift_calls_queued", "coresift_calls_open")
    names += ("coresift_workers_busy", "coresift_workers_queued")
    samples = server.samples()
    return {name: n for name, n in samples.items() if name.startswith(names) and n}


def test_calls_that_are_given_up_leave_nothing(pools: Pools, tmp_path: Path) -> None:
    options = ("--pool", pools.large.directory, "--data-dir", tmp_path)
    with ServerProcess(*options) as server:
        with Client(server.listen) as client:
            session = client.create_session("large", votes_per_item=20).session_id
            client.add_labels(session, dict.fromkeys(pools.large.item_ids, "positive"), "ann")
            client.add_labels(session, {"item-0": "negative"}, "ben")
        codes = asyncio.run(give_up_many(server.listen, session))
        assert codes.total() == CALLERS * CALLS + CROWD
        assert set(codes) == CODES
        ends = time.monotonic() + REST_S
        while (left := held(server)) and time.monotonic() < ends:
            time.sleep(0.1)
        assert not left
        assert not [event for event in server.events if event.get("level") == "error"]
