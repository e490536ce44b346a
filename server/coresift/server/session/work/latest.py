"""Results that are dear and the same for every caller at one state of a session."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from coresift.server.session.work.refreshes import Refreshes
from coresift.server.session.work.workers import Workers

T = TypeVar("T")

Find = Callable[[float], Awaitable[tuple[Hashable, Callable[[], Awaitable[T]]]]]
"""Catches up with what was acknowledged before a monotonic time; returns what identifies the
session's state, and how to make the result."""


class _Kept(Generic[T]):
    """The newest result of a session: (key, result), or none yet."""

    def __init__(self, workers: Workers) -> None:
        self.refreshes = Refreshes[T](workers, asyncio.Lock())
        self.newest: tuple[Hashable, T] | None = None


class Latest(Generic[T]):
    """The newest result of each of the sessions asked for last. For the event loop only."""

    def __init__(self, workers: Workers, sessions: int) -> None:
        """``sessions``: of how many to keep one."""
        self._workers, self._sessions = workers, sessions
        self._kept: OrderedDict[str, _Kept[T]] = OrderedDict()

    async def of(self, uid: str, began: float, find: Find[T]) -> T:
        """The result for the state that ``find`` finds, made once for all who wait meanwhile.

        ``find`` is the same for all callers of one session; ``began``: when this one did.
        """
        kept = self._kept.setdefault(uid, _Kept(self._workers))
        self._kept.move_to_end(uid)
        while len(self._kept) > self._sessions:
            self._kept.popitem(last=False)

        async def refresh(began: float) -> T:
            key, make = await find(began)
            if kept.newest is None or kept.newest[0] != key:
                kept.newest = key, await make()
            return kept.newest[1]

        return await kept.refreshes.of(began, refresh)
