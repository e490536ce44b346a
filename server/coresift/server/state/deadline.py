"""A deadline for answers that lie unread while the event loop is late.

Where calls come faster than they can even be refused, a turn of the loop takes a second. An answer
that came within a millisecond is read after that: to take it for missing would close connections
and open breakers, and make the loop later still.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

LATE_S = 0.05
"""How late the loop may be at a deadline that counts."""
MOST_TIMES = 4
"""How often it is put off: then nothing came in several turns of the loop."""


class answered_within:  # noqa: N801, as asyncio.timeout
    """TimeoutError for what takes longer than so many seconds; the time by which the loop is late
    at the end of them is given to it once more. ``async with`` it."""

    __slots__ = ("_left", "_limit", "_seconds", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds, self._left = seconds, MOST_TIMES

    async def __aenter__(self) -> None:
        self._limit = asyncio.timeout(None)
        await self._limit.__aenter__()
        self._wait(self._seconds)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        await self._limit.__aexit__(kind, error, traceback)

    def _wait(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        self._timer = loop.call_at(due, self._passed, due)

    def _passed(self, due: float) -> None:
        now = asyncio.get_running_loop().time()
        if now - due > LATE_S and self._left:
            self._left -= 1
            self._wait(min(now - due, self._seconds))
        else:
            self._limit.reschedule(now)
