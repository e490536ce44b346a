"""Deadlines that tell an answer that lies unread from one that did not come.

A stall of the event loop ends with all deadlines that passed during it, in the turn in which what
came during it is read: those who wait would be ended before they see their answers, connections
closed and breakers opened, of a Redis that answered at once.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

TURNS = 3
"""Of the loop from what is read to those who wait for it, with one to spare."""


class answered_within:  # noqa: N801, as asyncio.timeout
    """TimeoutError for what takes longer than so many seconds, and then some turns of the loop.

    ``depth``: how many such deadlines may be around each other. The inner one ends first, even
    where both passed in one turn: it knows more of what did not answer.
    """

    __slots__ = ("_depth", "_handle", "_limit", "_seconds")

    def __init__(self, seconds: float, depth: int = 1) -> None:
        self._seconds, self._depth = seconds, depth

    async def __aenter__(self) -> None:
        self._limit = asyncio.timeout(None)
        await self._limit.__aenter__()
        loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle = loop.call_later(
            self._seconds, self._passed, self._depth * TURNS
        )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._handle.cancel()
        await self._limit.__aexit__(kind, error, traceback)

    def _passed(self, turns: int) -> None:
        loop = asyncio.get_running_loop()
        if turns:
            self._handle = loop.call_soon(self._passed, turns - 1)
        else:
            self._limit.reschedule(loop.time())
