"""The claims of a session that are under way on this replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

AT_ONCE = 8
"""Each waits for the store most of the time."""


class Claims:
    """Turns of claims: some overlap, the others take them one by one.

    A claim that overlaps others must propose as many rows more as they may take. For the event
    loop only.
    """

    def __init__(self) -> None:
        self._overlapping, self._alone = asyncio.Semaphore(AT_ONCE), asyncio.Lock()
        self._asked = 0

    @asynccontextmanager
    async def turn(self, size: int, overlaps: Callable[[], bool]) -> AsyncIterator[int]:
        """A turn for a batch of ``size``; yields how many rows others may take meanwhile.

        ``overlaps``: whether it may, which may turn out while it waits for its turn alone.
        """
        turn: asyncio.Semaphore | asyncio.Lock = self._overlapping if overlaps() else self._alone
        await turn.acquire()
        if turn is self._alone and overlaps():
            turn.release()
            turn = self._overlapping
            await turn.acquire()
        others = self._asked
        self._asked += size
        try:
            yield others
        finally:
            self._asked -= size
            turn.release()
