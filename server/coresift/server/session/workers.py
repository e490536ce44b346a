"""Worker threads for numerics, so that nothing long runs on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any, TypeVar

T = TypeVar("T")


class Workers:
    """A bounded pool of threads, and the background tasks that a drain waits for."""

    def __init__(self, threads: int, prepare: Callable[[], None] | None = None) -> None:
        """``prepare`` runs first on each thread."""
        self._threads = ThreadPoolExecutor(threads, "numerics", prepare)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, work: Callable[[], T]) -> T:
        """Run ``work`` to its end on a worker thread, even if the caller goes away."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def run_stoppable(self, work: Callable[[Callable[[], bool]], T]) -> T:
        """Run ``work(stop)``; ``stop()`` turns true when the caller is gone."""
        gone = Event()
        try:
            return await self.run(lambda: work(gone.is_set))
        finally:
            gone.set()

    async def shared(self, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work``, which goes on if this caller goes away: others wait for it too."""
        task = self.spawn(work)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start background work that outlives the call; `drain` waits for it."""
        spawned = asyncio.get_running_loop().create_task(work)
        self._tasks.add(spawned)
        spawned.add_done_callback(self._tasks.discard)
        return spawned

    async def drain(self, grace_s: float) -> None:
        """Wait for background work, then cancel what is left after ``grace_s``."""
        if self._tasks:
            _, late = await asyncio.wait(set(self._tasks), timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._threads.shutdown(wait=True, cancel_futures=True)
