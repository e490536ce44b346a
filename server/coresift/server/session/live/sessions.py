"""The sessions that a replica has seen lately."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from coresift.server.caller import CALLER
from coresift.server.errors import CoresiftError, Reason
from coresift.server.metrics import Metrics
from coresift.server.session.live.live import LiveSession
from coresift.server.session.ranking.kept_candidates import KEPT_BYTES
from coresift.server.session.setup.materials import Loader
from coresift.server.session.setup.pools import Pools
from coresift.server.session.view.view_files import ViewFiles
from coresift.server.session.work.shared_scans import SharedScans
from coresift.server.session.work.workers import Workers
from coresift.server.state.store import Store

CACHED_SESSIONS = 1_000
REBUILDS_AT_ONCE = 2
"""Long logs that this replica reads at the same time; they share one interpreter."""
WEIGHED = 16
"""Sessions that a call weighs on the average: all of them, every few calls."""


class LiveSessions:
    """The sessions that this replica has seen lately, by id.

    One that is dropped while calls use it serves them to their end: they hold it.

    Attributes:
        files: where their views are kept.
        scans: of pools, which they share.
    """

    def __init__(
        self,
        pools: Pools,
        loader: Loader,
        store: Store,
        workers: Workers,
        metrics: Metrics,
        files: ViewFiles,
        *,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        rebuilds = asyncio.Semaphore(REBUILDS_AT_ONCE)
        self.scans = SharedScans(workers, metrics.refused_by("scans"))
        self._make = (pools, loader, store, workers, metrics, files, rebuilds, self.scans)
        self._store, self.files = store, files
        self._sessions: OrderedDict[str, LiveSession] = OrderedDict()
        self._kept_bytes = kept_bytes
        self._calls = 0

    async def open(self, session_id: str) -> LiveSession:
        """The session, from the cache or the store. SESSION_NOT_FOUND."""
        live = self._sessions.get(session_id)
        if live is None:
            live = LiveSession(await self._store.read(session_id), *self._make)
            live = self._sessions.setdefault(session_id, live)
            while len(self._sessions) > CACHED_SESSIONS:
                self._sessions.popitem(last=False)
        check_visible(live.config.pool)
        self._sessions.move_to_end(session_id)
        self._calls += WEIGHED
        if self._calls >= len(self._sessions):
            self._calls = 0
            self._shed()
        return live

    def _shed(self) -> None:
        """Keep the memory in bounds: sessions not used for longest are dropped, the vectors of
        one that is too large by itself."""
        weights = {name: live.nbytes for name, live in self._sessions.items()}
        kept = sum(weights.values())
        *idle, newest = self._sessions
        for session_id in idle:
            if kept <= self._kept_bytes:
                return
            kept -= weights[session_id]
            del self._sessions[session_id]
        if kept > self._kept_bytes:
            self._sessions[newest].shed()

    def drop(self, session_id: str) -> bool:
        """Forget a session; False if it was not cached."""
        return self._sessions.pop(session_id, None) is not None


def check_visible(pool: str) -> None:
    """Refuse a session on a pool that is hidden from the caller. SESSION_NOT_FOUND."""
    if not CALLER.get().sees(pool):
        raise CoresiftError(Reason.SESSION_NOT_FOUND, "There is no such session.")
