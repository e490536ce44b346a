"""Scans of a pool that several calls share.

A scan streams all vectors, whoever it is for: for sixteen sessions it takes three times as long as
for one. Who comes while one is under way joins it where it is, as long as there is room: those who
ride together slow each other down, and more than may wait are refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from coresift.server.pool.pool import Pool
from coresift.server.selection.circular_scan import CircularScan, Rider
from coresift.server.selection.leaders import Leaders
from coresift.server.session.work.call import CALL, Call, resting
from coresift.server.session.work.gate import Gate, GateLimits, Refused
from coresift.server.session.work.scan_steps import Scan, Steps
from coresift.server.session.work.workers import Workers

T = TypeVar("T")

RIDERS = GateLimits(places=16, queue=64, adapts=True, of_session=8)
"""Who ride at a time, on all pools together, and who wait to. Eight take twice as long as one: that
much may a flood of one session do to the others."""


class _Shared:
    """A pool's scan under way.

    Attributes:
        call: on whose behalf it works. It bears no session, as it may be for many, and no tenant
            once it was for several.
        ends: of those who ride.
    """

    def __init__(self, pool: Pool, call: Call) -> None:
        self.scan, self.call = CircularScan(pool), call
        self.ends: set[asyncio.Future[None]] = set()

    def joined(self, leaders: Sequence[Leaders], call: Call) -> asyncio.Future[None]:
        """Take a caller along; the answer is there when its turn is over."""
        loop = asyncio.get_running_loop()
        end = loop.create_future()
        self.ends.add(end)
        end.add_done_callback(self._forget)
        self.scan.join(Rider(leaders, lambda: loop.call_soon_threadsafe(_end, end)))
        if call.tenant != self.call.tenant:
            self.call.tenant = ""
        return end

    def _forget(self, end: asyncio.Future[None]) -> None:
        self.ends.discard(end)
        if not end.cancelled():
            end.exception()  # looked at, even where its caller is gone


class SharedScans:
    """One scan of a pool at a time, for all who want one. For the event loop only."""

    def __init__(self, workers: Workers, refused: Refused | None = None) -> None:
        """``refused`` is told of refusals."""
        self._workers = workers
        self._gate = Gate("scans", RIDERS, refused)
        self._scans: dict[Pool, _Shared] = {}

    def check(self) -> None:
        """Refuse the running task's call if it would wait too long to ride. OVERLOADED."""
        self._gate.check(CALL.get())

    async def run(self, steps: Steps[T]) -> T:
        """What the steps return. They run on worker threads, and share their scans."""
        while True:
            step = await self._workers.run(lambda: _advanced(steps))
            if isinstance(step, _Done):
                return step.result
            await self.show(step.pool, step.leaders)

    async def show(self, pool: Pool, leaders: Sequence[Leaders]) -> None:
        """Show leaders every row of the pool. Those of a caller that goes away drop out.

        OVERLOADED for who would wait too long to ride.
        """
        call = CALL.get()
        self.check()
        with resting():
            place = await self._gate.enter(call)
        try:
            await self._ride(pool, leaders, call)
        finally:
            place.end()

    async def _ride(self, pool: Pool, leaders: Sequence[Leaders], call: Call) -> None:
        shared = self._scans.get(pool)
        if shared is None:
            # Its callers were let in before: what it is for had a thread already.
            own = replace(call, session="", refusable=False, permit=None)
            shared = self._scans[pool] = _Shared(pool, own)
            end = shared.joined(leaders, call)
            self._workers.begin(self._run(pool, shared), own)
        else:
            end = shared.joined(leaders, call)
        try:
            await self._workers.joined(end)
        finally:
            for each in leaders:
                each.is_over = True

    async def _run(self, pool: Pool, shared: _Shared) -> None:
        try:
            while not shared.scan.is_empty:
                await self._workers.run(shared.scan.turn)
        except BaseException as error:
            for end in tuple(shared.ends):
                _fail(end, error)
            raise
        finally:
            del self._scans[pool]


def _end(end: asyncio.Future[None]) -> None:
    if not end.done():
        end.set_result(None)


def _fail(end: asyncio.Future[None], error: BaseException) -> None:
    if isinstance(error, asyncio.CancelledError):
        end.cancel()
    elif not end.done():
        end.set_exception(error)


@dataclass(frozen=True, slots=True)
class _Done(Generic[T]):
    result: T


def _advanced(steps: Steps[T]) -> Scan | _Done[T]:
    """The next scan that the steps need, or their result."""
    try:
        return next(steps)
    except StopIteration as done:
        return _Done(done.value)
