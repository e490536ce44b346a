"""Calls of many annotators at once, as the client library sends them: what is refused for overload
is sent again after the time that the server asks for."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import numpy as np

from coresift.client.errors import CoresiftError, from_status
from coresift.client.retry import Retry
from coresift.client.steps import Settings
from coresift.v1 import selection_pb2_grpc

ANNOTATORS = 64
CHANNELS = 4
CALL_S = 60.0
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]

Turn = Callable[[int], Awaitable[None]]
"""What an annotator does, by number."""


class Stubs:
    """A few channels in turn; counts what was refused."""

    def __init__(self, channels: list[grpc.aio.Channel]) -> None:
        self._stubs = itertools.cycle(map(selection_pb2_grpc.SelectionServiceStub, channels))
        self.refused = 0

    async def call(self, method: str, request: Any) -> Any:
        """The answer.

        Raises:
            CoresiftError: refused as often as the client library bears it.
        """
        retry = Retry(Settings(), timed=False)
        while True:
            try:
                return await getattr(next(self._stubs), method)(request, timeout=CALL_S)
            except grpc.aio.AioRpcError as error:
                trailers = tuple(error.trailing_metadata() or ())
                failure = from_status(error.code(), error.details() or "", trailers)
            if failure.code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise failure
            self.refused += 1
            await asyncio.sleep(retry.pause(failure).seconds)


@asynccontextmanager
async def stubs(address: str) -> AsyncIterator[Stubs]:
    """Stubs on channels of their own."""
    async with AsyncExitStack() as stack:
        yield Stubs(
            [
                await stack.enter_async_context(grpc.aio.insecure_channel(address, OPTIONS))
                for _ in range(CHANNELS)
            ]
        )


@dataclass
class Turns:
    """Turns that are begun during a time.

    Attributes:
        seconds: of that time.
        times: seconds of each turn, its pauses included.
        in_time: turns that ended during the time as well.
        failed: turns that gave up.
    """

    seconds: float
    times: list[float] = field(default_factory=list)
    in_time: int = 0
    failed: int = 0

    def __post_init__(self) -> None:
        self.began = time.perf_counter()

    @property
    def rate(self) -> float:
        """A second."""
        return self.in_time / self.seconds

    @property
    def goes_on(self) -> bool:
        """Whether the time is not over."""
        return time.perf_counter() < self.began + self.seconds

    def quantile_ms(self, share: float) -> float:
        """Of those that did not fail; NaN if there is none."""
        return 1e3 * float(np.quantile(self.times, share)) if self.times else float("nan")

    async def take(self, turn: Turn, annotator: int, began: float) -> None:
        """Take a turn that was due at ``began``."""
        try:
            await turn(annotator)
        except CoresiftError as error:
            if error.code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            self.failed += 1
        else:
            self.times.append(time.perf_counter() - began)
            self.in_time += self.goes_on


async def open_loop(turn: Turn, rate: float, seconds: float) -> Turns:
    """Turns that begin at a fixed rate, whatever becomes of them; timed from when each is due."""
    turns, running = Turns(seconds), []
    for number in range(int(rate * seconds)):
        due = turns.began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        running.append(asyncio.create_task(turns.take(turn, number % ANNOTATORS, due)))
    await asyncio.gather(*running)
    return turns


async def closed_loop(turn: Turn, seconds: float) -> Turns:
    """Turns of annotators who begin the next when the last is over."""
    turns = Turns(seconds)

    async def annotate(annotator: int) -> None:
        while turns.goes_on:
            await turns.take(turn, annotator, time.perf_counter())

    await asyncio.gather(*(annotate(annotator) for annotator in range(ANNOTATORS)))
    return turns
