"""The neighbours of a session's items: looked up when an item is leased, kept in the store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from threading import Event

import numpy as np
from prometheus_client import Counter

from coresift.server.arrays import Rows
from coresift.server.errors import CoresiftError
from coresift.server.metrics import Metrics
from coresift.server.pool.failures import Cancelled
from coresift.server.pool.pool import Pool
from coresift.server.pool.rows import Stop
from coresift.server.session.work.call import resting
from coresift.server.session.work.workers import Workers
from coresift.server.state.store import Store

LOOK_UP_ROWS = 512
"""Searched together: one batch of the pool's exact search."""
AHEAD_ROWS = 64
"""Searched together ahead of their need: more would hardly cost less a row, and end later."""
AHEAD_AFTER_S = 0.1
"""Nobody labels faster: what a script labels at once is looked up when it is needed, once."""
MOST_AHEAD = 2_048
"""Rows that wait to be looked up ahead; of more the oldest are left until they are needed."""


class Neighbourhood:
    """Neighbours by row, for one session, pool version and k.

    A row is looked up once: in the pool's own table, here, in the store (another replica did
    it), or by a search of the pool. What is asked while a search runs is searched together
    after it: a pass over the pool costs much the same for one row as for many. Rows that will
    probably be labelled soon are searched on what the calls leave of the cores; where one of
    them is needed before, that search makes room.
    """

    def __init__(
        self, uid: str, pool: Pool, k: int, store: Store, workers: Workers, metrics: Metrics
    ) -> None:
        self.pool = pool
        self.k = min(k, pool.manifest.items - 1)
        self._uid = uid
        self._store = store
        self._workers = workers
        self._metrics = metrics
        lookups = metrics.neighbour_lookups
        self._from_table, self._prefetched = lookups.labels("table"), lookups.labels("prefetched")
        self._on_demand = lookups.labels("on_demand")
        self._known: dict[int, Rows] = {}
        self._pending: dict[int, asyncio.Future[None]] = {}
        """Of rows that somebody waits for."""
        self._demanded: list[int] = []
        self._ahead: dict[int, float] = {}
        """Of rows that wait to be looked up ahead: monotonic, not before."""
        self._searched_ahead: frozenset[int] = frozenset()
        self._foreseen: set[int] = set()
        """Of the pending ones those that were to be looked up ahead."""
        self._overtaken = Event()
        self._searching: asyncio.Task[None] | None = None
        """Looks up what somebody waits for."""
        self._is_running_ahead = False

    @property
    def stored_in_pool(self) -> bool:
        """Whether the pool carries a table that is wide enough."""
        return bool(self.pool.manifest.neighbours >= self.k)

    @property
    def nbytes(self) -> int:
        """Memory of the neighbours known here, roughly."""
        return len(self._known) * (4 * self.k + 200)

    async def of(self, rows: Rows) -> Rows:
        """Neighbours int32 [n, k] of rows int32 [n], nearest first."""
        if not len(rows) or not self.k:
            return np.empty((len(rows), self.k), np.int32)
        if self.stored_in_pool:
            self._from_table.inc(len(rows))
            return await self._workers.run(lambda: self.pool.neighbours(rows, self.k))
        wanted = rows.tolist()
        self.demand(wanted)
        # A look-up belongs to all who wait for it: one caller's cancellation must not end it.
        if pending := [self._pending[row] for row in wanted if row in self._pending]:
            with resting():
                for waiting in pending:
                    await asyncio.shield(waiting)
        return np.stack([self._known[row] for row in wanted])

    def demand(self, rows: Sequence[int]) -> None:
        """Start the look-up of rows that a call needs, or will need soon."""
        if self.stored_in_pool or not self.k:
            return
        loop = asyncio.get_running_loop()
        for row in rows:
            if row in self._known or row in self._pending:
                continue
            self._pending[row] = loop.create_future()
            self._demanded.append(row)
            if row in self._ahead or row in self._searched_ahead:
                self._foreseen.add(row)
                self._ahead.pop(row, None)
            if row in self._searched_ahead:
                self._overtaken.set()
        if self._demanded and self._searching is None:
            self._searching = self._workers.spawn(self._look_up_demanded())

    def prefetch(self, rows: Sequence[int]) -> None:
        """Start the look-up of rows that will probably be labelled soon.

        Not while calls come too fast: it would make them wait, and costs less for many at once.
        """
        if self.stored_in_pool or not self.k or self._workers.is_pressed():
            return
        begin = time.monotonic() + AHEAD_AFTER_S
        for row in rows:
            if not (row in self._known or row in self._pending or row in self._searched_ahead):
                self._ahead.setdefault(row, begin)
        while len(self._ahead) > MOST_AHEAD:
            del self._ahead[next(iter(self._ahead))]
        if self._ahead and not self._is_running_ahead:
            self._is_running_ahead = True
            self._workers.spawn(self._look_up_ahead())

    async def _look_up_demanded(self) -> None:
        try:
            while self._demanded:
                rows = self._demanded[:LOOK_UP_ROWS]
                self._demanded = self._demanded[LOOK_UP_ROWS:]
                try:
                    await self._look_up(rows, self._workers.run)
                except BaseException as error:
                    self._settle(rows, error)
                    if not isinstance(error, Exception):
                        raise
        finally:
            self._searching = None
            left, self._demanded = self._demanded, []
            self._settle(left, asyncio.CancelledError())

    async def _look_up_ahead(self) -> None:
        try:
            while self._ahead:
                await asyncio.sleep(min(self._ahead.values()) - time.monotonic())
                if self._searching is not None:  # beside it both would take longer
                    await asyncio.wait([self._searching])
                    continue
                if not (rows := self._take_ahead()):
                    continue
                self._searched_ahead = frozenset(rows)
                self._overtaken = Event()
                try:
                    await self._look_up(rows, self._workers.run_sparingly, self._overtaken.is_set)
                except Cancelled:
                    now = time.monotonic()
                    self._ahead |= {row: now for row in rows if row not in self._pending}
                except CoresiftError:
                    pass  # who needs them will be told
        finally:
            self._overtaken.set()  # a drain does not wait for what nobody needs
            self._is_running_ahead, self._searched_ahead = False, frozenset()

    def _take_ahead(self) -> list[int]:
        """Those that have waited long enough, as many as are searched together."""
        now = time.monotonic()
        rows = list(islice((row for row, begin in self._ahead.items() if begin <= now), AHEAD_ROWS))
        for row in rows:
            del self._ahead[row]
        return rows

    async def _look_up(
        self,
        rows: list[int],
        run: Callable[[Callable[[], Rows]], Awaitable[Rows]],
        stop: Stop | None = None,
    ) -> None:
        array = np.array(rows, np.int32)
        version = self.pool.manifest.version
        stored, known = await self._store.get_neighbours(self._uid, version, self.k, array)
        self._know(stored.tolist(), known, self._prefetched)
        missing = array[~np.isin(array, stored)]
        if not len(missing):
            return
        with self._metrics.stage("neighbours"):
            found = await run(lambda: self.pool.neighbours(missing, self.k, stop=stop))
        is_ahead = stop is not None
        self._know(missing.tolist(), found, self._prefetched if is_ahead else None)
        await self._store.put_neighbours(self._uid, version, missing, found)

    def _know(self, rows: list[int], found: Rows, source: Counter | None) -> None:
        """Keep what was found; ``source``: how, None where it was needed at once."""
        for row in rows:
            if row not in self._known:
                how = self._prefetched if row in self._foreseen else source or self._on_demand
                how.inc()
        self._known.update(zip(rows, found, strict=True))
        self._settle(rows, None)

    def _settle(self, rows: list[int], error: BaseException | None) -> None:
        self._foreseen.difference_update(rows)
        for row in rows:
            waiting = self._pending.pop(row, None)
            if waiting is None or waiting.done():
                continue
            if error is None:
                waiting.set_result(None)
            elif isinstance(error, asyncio.CancelledError):
                waiting.cancel()
            else:
                waiting.set_exception(error)
                waiting.exception()  # whoever waited may be gone
