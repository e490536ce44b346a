"""The sessions that a replica has seen lately."""

from __future__ import annotations

from collections import OrderedDict

from coresift.server.metrics import Metrics
from coresift.server.session.live import KEPT_BYTES, LiveSession
from coresift.server.session.materials import Loader
from coresift.server.session.pools import Pools
from coresift.server.session.workers import Workers
from coresift.server.state.store import Store

CACHED_SESSIONS = 1_000


class LiveSessions:
    """The sessions that this replica has seen lately, by id."""

    def __init__(
        self, pools: Pools, loader: Loader, store: Store, workers: Workers, metrics: Metrics
    ) -> None:
        self._make = (pools, loader, store, workers, metrics)
        self._store = store
        self._sessions: OrderedDict[str, LiveSession] = OrderedDict()

    async def open(self, session_id: str) -> LiveSession:
        """The session, from the cache or the store. SESSION_NOT_FOUND."""
        live = self._sessions.get(session_id)
        if live is None:
            live = LiveSession(await self._store.read(session_id), *self._make)
            live = self._sessions.setdefault(session_id, live)
            while len(self._sessions) > CACHED_SESSIONS:
                self._sessions.popitem(last=False)
        self._sessions.move_to_end(session_id)
        self._shed()
        return live

    def _shed(self) -> None:
        """Keep the memory of candidates' vectors in bounds: those not used for longest go."""
        kept = sum(live.kept_bytes for live in self._sessions.values())
        for live in self._sessions.values():
            if kept <= KEPT_BYTES:
                break
            kept -= live.kept_bytes
            live.shed()

    def drop(self, session_id: str) -> bool:
        """Forget a session; False if it was not cached."""
        return self._sessions.pop(session_id, None) is not None
