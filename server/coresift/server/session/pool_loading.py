"""Loads the pools of a server, and every version that appears while it serves.

One thread looks, downloads and opens; the event loop only publishes what is open. What cannot be
loaded is tried again, less and less often, and the versions that are served go on being so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Event
from typing import TypeVar

import structlog

from coresift.server.errors import StartError
from coresift.server.metrics import Metrics
from coresift.server.pool.cache import Cache
from coresift.server.pool.daemon_threads import DaemonThreads
from coresift.server.pool.parallel import stay_behind
from coresift.server.pool.sources import PoolSource
from coresift.server.pool.watching import Look, VersionKey, WatchedSource
from coresift.server.session.setup.pools import Pools

log = structlog.get_logger()
T = TypeVar("T")

EARLY_S = 1.0
"""Between two looks when calls ask for a version that is not here."""
LEAST_PAUSE_S = 5.0
"""Between two attempts to load a version that failed."""
CLOSE_S = 1.0
"""At the end, for what is under way; a driver that does not answer is not waited for."""


class PoolLoading:
    """Keeps `Pools` filled from the sources. For the event loop; closes what it opened."""

    def __init__(
        self,
        sources: Sequence[PoolSource],
        cache: Cache,
        pools: Pools,
        metrics: Metrics,
        stop: Event,
        refresh_s: float,
    ) -> None:
        """``stop`` is the one of the sources; ``refresh_s`` 0: no look after the start."""
        self._cache, self._pools, self._metrics = cache, pools, metrics
        self._stop, self._refresh_s = stop, refresh_s
        pause_s = max(refresh_s, LEAST_PAUSE_S)
        self._watched = [WatchedSource(s, pools.holds, stop, pause_s) for s in sources]
        self._present: dict[WatchedSource, set[VersionKey]] = {}
        self._threads = DaemonThreads(1, "pools", stay_behind)
        self._asked = asyncio.Event()

    async def start(self, leave: asyncio.Event) -> None:
        """Load what every source has. StartError, also when ``leave`` is set before the end."""
        leaving = asyncio.ensure_future(leave.wait())
        try:
            for watched in self._watched:
                loading = asyncio.ensure_future(self._on_thread(watched.first))
                await asyncio.wait({loading, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if not loading.done():
                    self._stop.set()
                    loading.cancel()
                    raise StartError("told to stop before the pools were loaded")
                self._take(watched, await loading)
        finally:
            leaving.cancel()
        await self._on_thread(self._evict)

    async def watch(self) -> None:
        """Look for new versions until cancelled."""
        watched = [w for w in self._watched if not w.source.is_fixed()]
        if not watched or not self._refresh_s:
            return
        loop = asyncio.get_running_loop()
        names = {name for w in watched if (name := w.source.name) is not None}
        self._pools.expect_more(names, lambda: loop.call_soon_threadsafe(self._asked.set))
        while True:
            await asyncio.sleep(EARLY_S)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), max(0.0, self._refresh_s - EARLY_S))
            self._asked.clear()
            for each in watched:
                await self._refresh(each)

    async def _refresh(self, watched: WatchedSource) -> None:
        name = watched.source.name or ""
        try:
            look = await self._on_thread(watched.look)
            self._take(watched, look)
            if look.loaded:
                await self._on_thread(self._evict)
        except Exception as problem:  # whatever it is, serving goes on and the next look comes
            log.warning("no look at a pool", place=str(watched.source.place), error=str(problem))
            self._metrics.observe_refresh(name, "failed")
            return
        outcomes = ["loaded"] * len(look.loaded) + ["failed"] * len(look.failed)
        for outcome in outcomes or ["unchanged"]:
            self._metrics.observe_refresh(name, outcome)

    def _take(self, watched: WatchedSource, look: Look) -> None:
        """Publish what is new, say what failed, offer no longer what is gone."""
        for loaded in look.loaded:
            manifest = loaded.pool.manifest
            self._pools.add(loaded.pool)
            self._metrics.serves(
                manifest.name,
                manifest.version,
                items=manifest.items,
                index_bytes=loaded.pool.nbytes(),
                load_s=loaded.seconds,
            )
            log.info(
                "pool version loaded",
                pool=manifest.name,
                version=manifest.version,
                items=manifest.items,
                seconds=round(loaded.seconds, 3),
                place=str(watched.source.place),
            )
        for found, problem in look.failed:
            said = str(problem) or repr(problem)
            log.warning("pool version not loaded", place=str(found.place), error=said)
        self._present[watched] = look.present
        self._pools.offer_only(set().union(*self._present.values()))

    def _evict(self) -> None:
        """Remove cached versions that neither the sources have nor anybody uses."""
        for watched in self._watched:
            source = watched.source
            if source.name is not None and source.is_cached:
                there = {version for name, version in self._all_present() if name == source.name}
                for gone in self._cache.evict(source.name, there):
                    log.info("cached pool version removed", pool=source.name, version=gone)

    def _all_present(self) -> set[VersionKey]:
        return set().union(*self._present.values())

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def close(self) -> None:
        """Stop what is under way, then close every pool: nobody may use them any more."""
        self._stop.set()
        if not await asyncio.to_thread(self._threads.leave, CLOSE_S):
            log.warning("pools are still being looked at", waited_s=CLOSE_S)
        for watched in self._watched:
            watched.close()
