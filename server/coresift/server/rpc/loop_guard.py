"""Whether the event loop keeps up with the calls, and which share of them it can take if not.

gRPC hands calls to the loop one by one; those that the loop has not come to wait where nothing
can see or refuse them. So the server calls itself: a call that does nothing takes as long as
every other call waits.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import grpc
import grpc.aio

PERIOD_S = 0.05
"""Between two calls."""
LONGEST_S = 0.1
"""Of a call: longer is late enough."""
LATE_S = 0.006
"""Of the fastest of a few calls: a standing queue, and no chance delay."""
BUSY, BUSY_LOOKS = 0.4, 10
"""Of a core, over some calls, that the loop's thread has. With less, something else keeps it from
working, and it would be no faster with fewer calls."""
LOOKS = 3
PATIENCE_S = 0.5
"""For which it must be late before calls are refused."""
LEAST = 0.02
LESS, MORE = 0.75, 0.04

Probe = Callable[..., grpc.aio.UnaryUnaryCall[bytes, bytes]]

PROBE = "/grpc.health.v1.Health/Check"


class LoopGuard:
    """Adapts the share of calls that are let in to the time that a call waits for the loop.

    Attributes:
        share: of the calls, 1 where the loop keeps up.
    """

    def __init__(self, observe: Callable[[float], None] | None = None) -> None:
        """``observe`` is told of every wait, seconds."""
        self.share = 1.0
        self._observe = observe or (lambda seconds: None)
        self._late_since: float | None = None

    @cached_property
    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="coresift-")

    @property
    def address(self) -> str:
        """Where the server must listen for its own calls: nobody else can open the directory."""
        return f"unix:{Path(self._folder.name) / 'probe'}"

    def has_time(self) -> bool:
        """Whether to let a call in."""
        return self.share >= 1.0 or random.random() < self.share  # noqa: S311 - no secret

    async def watch(self) -> None:
        """Measure until cancelled."""
        try:
            async with grpc.aio.insecure_channel(self.address) as channel:
                probe: Probe = channel.unary_unary(PROBE)
                waits: deque[float] = deque(maxlen=LOOKS)
                stamps: deque[tuple[float, float]] = deque(maxlen=BUSY_LOOKS)
                while True:
                    waits.append(await self._wait(probe))
                    stamps.append((time.monotonic(), time.thread_time()))
                    (first, cpu), (now, more) = stamps[0], stamps[-1]
                    is_busy = more - cpu >= BUSY * (now - first)
                    self.judge(min(waits) if is_busy else 0.0, now)
        finally:
            self._folder.cleanup()

    async def _wait(self, probe: Probe) -> float:
        await asyncio.sleep(PERIOD_S)
        began = time.perf_counter()
        with suppress(grpc.aio.AioRpcError):  # it took too long
            await probe(b"", timeout=LONGEST_S)
        seconds = time.perf_counter() - began
        self._observe(seconds)
        return seconds

    def judge(self, wait_s: float, now: float) -> None:
        """Adapt the share to the shortest of the last waits; ``now``: monotonic seconds."""
        if wait_s <= LATE_S:
            self._late_since = None
            self.share = min(1.0, self.share + MORE)
            return
        if self._late_since is None:
            self._late_since = now
        if self.share < 1.0 or now - self._late_since >= PATIENCE_S:
            self.share = max(LEAST, LESS * self.share)
