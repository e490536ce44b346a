"""Results that are made anew in turn: once for all who asked before the making began."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from coresift.server.session.work.call import CALL, Call
from coresift.server.session.work.workers import Workers

T = TypeVar("T")

Make = Callable[[float], Awaitable[T]]
"""Makes the result from a state that has everything acknowledged before a monotonic time."""


@dataclass(slots=True, eq=False)
class _Refresh(Generic[T]):
    """A refresh to come.

    Attributes:
        asked_at: when the last of those who wait for it asked.
        call: on whose behalf it works.
    """

    make: Make[T]
    asked_at: float
    call: Call
    waiters: int = 0
    has_begun: bool = False


class Refreshes(Generic[T]):
    """One kind of result: at most one refresh is under way, and one waits for its turn.

    Who asks joins the one that waits, and so never gets a result from before it asked. That one
    is dropped when nobody waits for it any more. The one under way goes on: its result is kept.
    For the event loop only.
    """

    def __init__(self, workers: Workers, turn: asyncio.Lock) -> None:
        """``turn``: held while a result is made; others may take turns with it."""
        self._workers, self._turn = workers, turn
        self._next: tuple[_Refresh[T], asyncio.Task[T]] | None = None

    async def of(self, began: float, make: Make[T]) -> T:
        """The result for a caller that began at ``began`` (monotonic seconds).

        ``make`` is the same for all callers.
        """
        if self._next is None:
            refresh = _Refresh(make, began, replace(CALL.get(), permit=None))
            self._next = refresh, self._workers.begin(self._run(refresh), refresh.call)
        refresh, task = self._next
        refresh.asked_at = max(refresh.asked_at, began)
        refresh.call.refusable &= CALL.get().refusable
        refresh.waiters += 1
        try:
            return await self._workers.joined(task)
        finally:
            refresh.waiters -= 1
            if not (refresh.waiters or refresh.has_begun):
                task.cancel()
                self._next = None

    async def _run(self, refresh: _Refresh[T]) -> T:
        async with self._turn:
            refresh.has_begun = True
            self._next = None
            return await refresh.make(refresh.asked_at)
