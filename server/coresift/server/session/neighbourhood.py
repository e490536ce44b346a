"""The neighbours of a session's items: looked up when an item is leased, kept in the store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from coresift.server.arrays import Rows
from coresift.server.metrics import Metrics
from coresift.server.pool.pool import Pool
from coresift.server.session.workers import Workers
from coresift.server.state.store import Store

LOOK_UP_ROWS = 512
"""Searched together: one batch of the pool's exact search."""


class Neighbourhood:
    """Neighbours by row, for one session, pool version and k.

    A row is looked up once: in the pool's own table, here, in the store (another replica did
    it), or by a search of the pool. What is asked while a search runs is searched together
    after it: a pass over the pool costs much the same for one row as for many.
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
        self._demanded: set[int] = set()
        """Of the pending ones those that nobody had asked for before they were needed."""
        self._queue: list[int] = []
        self._is_running = False

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
        self._demanded.update(self._begin(wanted))
        # A look-up belongs to all who wait for it: one caller's cancellation must not end it.
        for waiting in [self._pending[row] for row in wanted if row in self._pending]:
            await asyncio.shield(waiting)
        return np.stack([self._known[row] for row in wanted])

    def prefetch(self, rows: Sequence[int]) -> None:
        """Start the look-up of rows that will probably be labelled soon.

        Not while calls come too fast: it would make them wait, and costs less for many at once.
        """
        if not self.stored_in_pool and self.k and not self._workers.is_pressed():
            self._begin(rows)

    def _begin(self, rows: Sequence[int]) -> list[int]:
        """Look up what is neither known nor on its way; returns those rows."""
        loop = asyncio.get_running_loop()
        known, pending = self._known, self._pending
        begun = [row for row in dict.fromkeys(rows) if row not in known and row not in pending]
        for row in begun:
            self._pending[row] = loop.create_future()
        self._queue += begun
        if self._queue and not self._is_running:
            self._is_running = True
            self._workers.spawn(self._run())
        return begun

    async def _run(self) -> None:
        try:
            while self._queue:
                rows, self._queue = self._queue[:LOOK_UP_ROWS], self._queue[LOOK_UP_ROWS:]
                try:
                    await self._look_up(rows)
                except BaseException as error:
                    self._settle(rows, error)
                    if not isinstance(error, Exception):
                        raise
                else:
                    self._settle(rows, None)
        finally:
            self._is_running = False
            left, self._queue = self._queue, []
            self._settle(left, asyncio.CancelledError())

    def _settle(self, rows: list[int], error: BaseException | None) -> None:
        self._demanded.difference_update(rows)
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
                waiting.exception()  # a failed prefetch that nobody waits for is no defect

    async def _look_up(self, rows: list[int]) -> None:
        array = np.array(rows, np.int32)
        version = self.pool.manifest.version
        stored, known = await self._store.get_neighbours(self._uid, version, self.k, array)
        self._known.update(zip(stored.tolist(), known, strict=True))
        self._prefetched.inc(len(stored))
        missing = array[~np.isin(array, stored)]
        if not len(missing):
            return
        with self._metrics.stage("neighbours"):
            found = await self._workers.run(lambda: self.pool.neighbours(missing, self.k))
        self._known.update(zip(missing.tolist(), found, strict=True))
        on_demand = sum(row in self._demanded for row in missing.tolist())
        self._on_demand.inc(on_demand)
        self._prefetched.inc(len(missing) - on_demand)
        await self._store.put_neighbours(self._uid, version, missing, found)
