"""A core-set job on the replica that runs it: where it is, who is attached, how it is stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from threading import Event
from typing import Any, TypeVar

from coresift.server.pool.failures import Cancelled
from coresift.server.session.coresets.coreset_records import Progress, job_cancelled
from coresift.server.session.coresets.coreset_requests import Asked, JobSpec

T = TypeVar("T")

POLL_S = 0.25
"""How often a stream says something, and looks at a job of another replica."""


@dataclass(slots=True)
class Run:
    """A job on this replica."""

    spec: JobSpec
    asked: Asked
    progress: Progress = field(default_factory=lambda: Progress("queued", 0.0))
    attached: int = 0
    attached_at: float = field(default_factory=time.monotonic)
    """When somebody was last attached."""
    is_cancelled: bool = False
    is_lost: bool = False
    """Another replica is the owner."""
    has_turn: bool = False
    stop: Event = field(default_factory=Event)
    """Asked by the numerics between blocks."""
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    """The same, for the event loop."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Streams need wait no longer: it ended, or was cancelled and is about to."""
    task: asyncio.Task[None] | None = None
    _seconds: dict[str, float] = field(default_factory=dict)
    _began: float = field(default_factory=time.perf_counter)

    def begin(self, task: asyncio.Task[None]) -> None:
        """It is this task from now on."""
        self.task = task
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # seen by the streams, if there are any
        self.over.set()

    def report(self, phase: str, share: float, objective: float | None) -> None:
        """Say where the work is; a new phase ends the one before."""
        if phase != self.progress.phase:
            self._seconds = self.seconds()
            self._began = time.perf_counter()
        self.progress = Progress(phase, share, objective)

    def seconds(self) -> dict[str, float]:
        """Seconds by phase, so far."""
        phase = self.progress.phase
        now = self._seconds.get(phase, 0.0) + time.perf_counter() - self._began
        return self._seconds | {phase: now}

    def give_up(self) -> None:
        """Stop it."""
        self.stop.set()
        self.stopped.set()

    def cancel(self) -> None:
        """Stop it because its job was cancelled. Its streams end at once."""
        self.is_cancelled = True
        self.give_up()
        self.over.set()

    async def unless_stopped(self, work: Awaitable[T]) -> T:
        """What ``work`` answers; it is given up once the run is stopped. Cancelled."""
        doing: asyncio.Future[T] = asyncio.ensure_future(work)
        # Once it is given up, nobody wants to know what becomes of it.
        doing.add_done_callback(lambda done: done.cancelled() or done.exception())
        stopping = asyncio.ensure_future(self.stopped.wait())
        try:
            either: set[asyncio.Future[Any]] = {doing, stopping}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                raise Cancelled
            return doing.result()
        finally:
            doing.cancel()
            stopping.cancel()

    async def follow(self) -> AsyncIterator[Progress]:
        """Progress until it ends; raises what it raised. JOB_CANCELLED."""
        assert self.task is not None  # noqa: S101 - set before anyone sees the run
        self.attached += 1
        try:
            yield self.progress
            while not await happens(self.over, POLL_S):
                yield self.progress
            if self.is_cancelled:
                raise job_cancelled(self.spec.job_id)
            self.task.result()
        finally:
            self.attached -= 1
            self.attached_at = time.monotonic()


async def happens(event: asyncio.Event, within_s: float) -> bool:
    """Wait for an event, at most so long; whether it happened."""
    try:
        await asyncio.wait_for(event.wait(), within_s)
    except TimeoutError:
        return False
    return True
