"""Results that are dear and the same for every caller at one state of a session."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from coresift.server.session.workers import Workers

T = TypeVar("T")

Find = Callable[[], Awaitable[tuple[Hashable, Callable[[], Awaitable[T]]]]]
"""Catches up with the session; returns what identifies its state, and how to make the result."""


@dataclass(slots=True)
class _Kept(Generic[T]):
    """The newest result of a session: (key, result), or none yet."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    newest: tuple[Hashable, T] | None = None


class Latest(Generic[T]):
    """The newest result of each of the sessions asked for last. For the event loop only."""

    def __init__(self, workers: Workers, sessions: int) -> None:
        """``sessions``: of how many to keep one."""
        self._workers, self._sessions = workers, sessions
        self._kept: OrderedDict[str, _Kept[T]] = OrderedDict()

    async def of(self, uid: str, find: Find[T]) -> T:
        """The result for the state that ``find`` finds.

        Callers of one session take turns, so a result is made once for all who wait meanwhile;
        it is finished even if its caller goes away.
        """
        kept = self._kept.setdefault(uid, _Kept())
        self._kept.move_to_end(uid)
        while len(self._kept) > self._sessions:
            self._kept.popitem(last=False)

        async def refresh() -> T:
            async with kept.lock:
                key, make = await find()
                if kept.newest is None or kept.newest[0] != key:
                    kept.newest = key, await make()
                return kept.newest[1]

        return await self._workers.shared(refresh())
