"""Worker threads for numerics, so that nothing long runs on the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from threading import Event
from typing import Any, TypeVar

from coresift.server.pool.parallel import stay_behind
from coresift.server.session.work.call import BACKGROUND, CALL, Call, resting
from coresift.server.session.work.gate import Gate, GateLimits, Refused

T = TypeVar("T")

WAITING = 256
"""Calls that may wait for a thread."""
REST_S, MOST_REST = 0.008, 2.0
"""After work that slows calls down, for each that came meanwhile; at most so many times as long
as it took: most calls of a crowd then find it at rest, and people who think hardly delay it."""


class Workers:
    """A bounded pool of threads, and the background tasks that a drain waits for.

    Attributes:
        gate: who has a thread, and who waits for one.
        is_pressed: whether calls come too fast, here or before: what can wait had better.
        calls: how many have come so far, for whatever they came.
    """

    def __init__(
        self,
        threads: int,
        prepare: Callable[[], None] | None = None,
        refused: Refused | None = None,
    ) -> None:
        """``prepare`` runs first on each thread; ``refused`` is told of refusals."""
        self.gate = Gate("computations", GateLimits(threads, WAITING, adapts=True), refused)
        self.is_pressed: Callable[[], bool] = lambda: self.gate.is_pressed
        self.calls: Callable[[], int] = lambda: 0
        self._threads = ThreadPoolExecutor(threads, "numerics", prepare)
        self._behind = ThreadPoolExecutor(1, "behind", stay_behind)
        self._sparing, self._rests_until = asyncio.Lock(), 0.0
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, work: Callable[[], T]) -> T:
        """Run ``work`` to its end on a worker thread, even if the caller goes away meanwhile.

        A call that needs a thread for the first time is refused where it would wait too long
        (OVERLOADED); later ones, and work that no call waits for, wait.
        """
        call = CALL.get()
        if call.refusable:
            self.gate.check(call)
            call.refusable = False
            turn = await self.gate.enter(call)
        else:
            turn = await self.gate.enter(call, first=call is not BACKGROUND)
        try:
            running = self._threads.submit(work)
        except BaseException:
            turn.end()
            raise
        try:
            return await asyncio.wrap_future(running)
        finally:
            if running.done():
                turn.end()
            else:  # the thread is taken until the work notices that nobody waits
                loop = asyncio.get_running_loop()
                running.add_done_callback(lambda _: loop.call_soon_threadsafe(turn.end))

    async def run_stoppable(self, work: Callable[[Callable[[], bool]], T]) -> T:
        """Run ``work(stop)``; ``stop()`` turns true when the caller is gone."""
        gone = Event()
        try:
            return await self.run(lambda: work(gone.is_set))
        finally:
            gone.set()

    async def run_behind(self, work: Callable[[], T]) -> T:
        """Run ``work`` that nobody waits for yet, on what all others leave of the cores."""
        return await asyncio.get_running_loop().run_in_executor(self._behind, work)

    async def run_sparingly(self, work: Callable[[], T]) -> T:
        """`run_behind` for ``work`` of which there may be no end: one at a time for all, with a
        rest after each, the longer the more calls came during it."""
        async with self._sparing:
            await asyncio.sleep(self._rests_until - time.monotonic())
            began, before = time.monotonic(), self.calls()
            try:
                return await self.run_behind(work)
            finally:
                ended, came = time.monotonic(), self.calls() - before
                self._rests_until = ended + min(REST_S * came, MOST_REST * (ended - began))

    async def shared(self, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work``, which goes on if this caller goes away: others wait for it too, or its
        result is kept for the next.

        Meanwhile the call holds no permit: what works for all of them holds a thread.
        """
        return await self.joined(self.begin(work, replace(CALL.get(), permit=None)))

    def begin(self, work: Coroutine[Any, Any, T], call: Call) -> asyncio.Task[T]:
        """Start work on behalf of ``call``, for those who will have `joined` it."""
        task = self._start(work, call)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def joined(self, task: asyncio.Future[T]) -> T:
        """Await what `begin` started, or a part of it, which goes on if this caller goes away, and
        hold no permit meanwhile."""
        with resting():
            try:
                return await asyncio.shield(task)
            finally:
                CALL.get().refusable = False

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start background work that outlives the call; `drain` waits for it."""
        return self._start(work, BACKGROUND)

    def _start(self, work: Coroutine[Any, Any, T], call: Call) -> asyncio.Task[T]:
        context = copy_context()
        context.run(CALL.set, call)
        started = asyncio.get_running_loop().create_task(work, context=context)
        self._tasks.add(started)
        started.add_done_callback(self._tasks.discard)
        return started

    async def drain(self, grace_s: float) -> None:
        """Wait for background work, and for what it starts meanwhile; then cancel what is left
        after ``grace_s``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                while self._tasks:
                    await asyncio.wait(set(self._tasks))
        late = set(self._tasks)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for threads in (self._threads, self._behind):
            threads.shutdown(wait=True, cancel_futures=True)
