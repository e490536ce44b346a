"""Passes over a pool that several calls share.

A pass streams all vectors, whoever it is for: for ten sessions it takes two or three times as long
as for one. While one is under way, those who come wait, and go together in the next, which takes
who is there when its thread begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from coresift.server.pool.pool import Pool
from coresift.server.selection.leaders import Leaders, show_pool
from coresift.server.session.call import CALL, Call
from coresift.server.session.scan_steps import Scan, Steps
from coresift.server.session.workers import Workers

T = TypeVar("T")

MOST_COLUMNS = 32
"""Side by side in one product, unless one caller has more. So many take about five times as long
as one; beyond that each takes as long as the one before, and all wait for the last."""


class _Pass:
    """A pass to come, or under way.

    Attributes:
        call: on whose behalf it works. It bears no session, as it may be for many, and no tenant
            where it is for several.
        waiters: who await it.
    """

    def __init__(self, pool: Pool, call: Call) -> None:
        self.pool, self.call, self.waiters = pool, call, 0
        self.task: asyncio.Task[None]
        self._leaders: list[Leaders] = []
        self._columns, self._has_begun = 0, False
        self._lock = Lock()

    def admits(self, leaders: Sequence[Leaders], call: Call) -> bool:
        """Take them along, if it has room and has not begun."""
        columns = sum(len(each.columns.offset) for each in leaders)
        with self._lock:
            is_full = self._columns > 0 and self._columns + columns > MOST_COLUMNS
            if self._has_begun or is_full:
                return False
            self._leaders += leaders
            self._columns += columns
        if call.tenant != self.call.tenant:
            self.call.tenant = ""
        return True

    def work(self) -> None:
        """The pass itself, on a worker thread."""
        with self._lock:
            self._has_begun = True
        show_pool(self.pool, self._leaders)


class SharedScans:
    """One pass over a pool at a time, for all who wait for one. For the event loop only."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._next: dict[Pool, _Pass] = {}
        self._turns: WeakKeyDictionary[Pool, asyncio.Lock] = WeakKeyDictionary()

    async def run(self, steps: Steps[T]) -> T:
        """What the steps return. They run on worker threads, and share their passes."""
        while True:
            step = await self._workers.run(lambda: _advanced(steps))
            if isinstance(step, _Done):
                return step.result
            await self.show(step.pool, step.leaders)

    async def show(self, pool: Pool, leaders: Sequence[Leaders]) -> None:
        """Show leaders every row of the pool. Those of a caller that goes away drop out."""
        shared = self._joined(pool, leaders)
        shared.waiters += 1
        try:
            await self._workers.joined(shared.task)
        finally:
            for each in leaders:
                each.is_over = True
            shared.waiters -= 1
            if not shared.waiters:
                shared.task.cancel()
                self._close(shared)

    def _joined(self, pool: Pool, leaders: Sequence[Leaders]) -> _Pass:
        call, shared = CALL.get(), self._next.get(pool)
        if shared is None or not shared.admits(leaders, call):
            # Its callers were let in before: what it is for had a thread already.
            shared = _Pass(pool, replace(call, session="", refusable=False, permit=None))
            shared.admits(leaders, call)
            shared.task = self._workers.begin(self._run(shared), shared.call)
            self._next[pool] = shared
        return shared

    async def _run(self, shared: _Pass) -> None:
        async with self._turns.setdefault(shared.pool, asyncio.Lock()):
            try:
                await self._workers.run(shared.work)
            finally:
                self._close(shared)

    def _close(self, shared: _Pass) -> None:
        if self._next.get(shared.pool) is shared:
            del self._next[shared.pool]


@dataclass(frozen=True, slots=True)
class _Done(Generic[T]):
    result: T


def _advanced(steps: Steps[T]) -> Scan | _Done[T]:
    """The next pass that the steps need, or their result."""
    try:
        return next(steps)
    except StopIteration as done:
        return _Done(done.value)
