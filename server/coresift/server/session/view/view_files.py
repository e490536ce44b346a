"""Views kept as files, so that a cold replica need not read a long log from its start.

A pure cache: the store says which file of a session its log still begins with, and whatever is
wrong with it, the view is built from the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from coresift.server.artifacts import Artifacts
from coresift.server.errors import CoresiftError, Reason
from coresift.server.metrics import Metrics
from coresift.server.session.view.view import View
from coresift.server.session.view.view_columns import FORMAT, pack_view, unpack_view
from coresift.server.state.store import Store
from coresift.server.state.values import ViewFile

KIND = "views"
LEAST_GROWTH = 20_000
"""Entries and labels that a view must have gained before it is worth a file."""
GROWTH_SHARE = 8
"""And a share of 1/8 of what it has: writing the files of a growing log stays linear."""
SWEEP_PIECE = 100
TRIES = 60
"""Of a note while the store is away: half a minute. Others would not be noted either."""

log = structlog.get_logger()


def is_worth(size: int, kept: int) -> bool:
    """Whether a view of ``size`` (`View.size`) deserves a file where one of ``kept`` stands."""
    return size - kept >= max(LEAST_GROWTH, size // GROWTH_SHARE)


class ViewFiles:
    """The files of views in the artifact root, one a session; used on the event loop."""

    def __init__(self, artifacts: Artifacts, store: Store, metrics: Metrics) -> None:
        self._artifacts, self._store, self._metrics = artifacts, store, metrics
        self._writing = asyncio.Semaphore(1)  # a file of 1M labels takes 50 MB while it is made

    async def load(self, uid: str) -> View | None:
        """The newest kept view that the session's log begins with, if it can be read."""
        try:
            file = await self._store.get_view_file(uid)
            if file is None or file.format != FORMAT:
                return None
            view = await asyncio.to_thread(self._read, uid, file)
        except Exception as error:  # whatever a damaged file leads to: the log is the truth
            log.warning("kept view not used", uid=uid, error=str(error))
            self._metrics.view_files.labels("unusable").inc()
            return None
        self._metrics.view_files.labels("loaded").inc()
        return view

    def _read(self, uid: str, file: ViewFile) -> View:
        view = unpack_view(uid, self._artifacts.get(KIND, file.content_hash))
        if (view.offset, view.tip) != (file.offset, file.tip):
            raise ValueError("it is of another place in the log than was noted")
        return view

    async def save(self, uid: str, look: Callable[[], View]) -> None:
        """Keep what ``look`` shows once it is this call's turn, unless another replica just did.

        Failures are logged: the next growth tries again.
        """
        async with self._writing:
            try:
                await self._save(uid, look)
            except (CoresiftError, OSError) as error:
                log.warning("view not kept", uid=uid, error=str(error))
                self._metrics.view_files.labels("failed").inc()

    async def _save(self, uid: str, look: Callable[[], View]) -> None:
        kept = await self._store.get_view_file(uid)
        view = look()
        if not is_worth(view.size, 0 if kept is None else kept.size):
            return
        view = view.copy()

        def write() -> str:
            return self._artifacts.put(KIND, pack_view(uid, view)).content_hash

        content_hash = await asyncio.to_thread(write)
        file = ViewFile(FORMAT, view.offset, view.tip, view.size, content_hash)
        try:
            superseded = await self._noted(uid, file)
        except BaseException:
            # The session may be gone, or written anew without a name: nobody would remove it.
            await self._remove(content_hash)
            raise
        self._metrics.view_files.labels("written").inc()
        if superseded is None and kept is not None:
            superseded = kept.content_hash  # the lost reply named it
        if superseded is not None:
            await self._remove(superseded)

    async def _noted(self, uid: str, file: ViewFile) -> str | None:
        """As `Store.put_view_file`, until it is known what came of it: the file of a note whose
        reply was lost must stay, and that of no note must not."""
        tries = 0
        while True:
            try:
                return await self._store.put_view_file(uid, file)
            except CoresiftError as error:
                tries += 1
                if error.reason is not Reason.STATE_UNAVAILABLE or tries == TRIES:
                    raise
                await asyncio.sleep(error.retry_after_s or 0)

    async def sweep(self) -> None:
        """Remove the files of sessions that have been removed. Raises as the store does."""
        while gone := await self._store.gone_view_files(SWEEP_PIECE):
            for content_hash in gone:
                await self._remove(content_hash)
                await self._store.forget_view_file(content_hash)

    async def _remove(self, content_hash: str) -> None:
        await asyncio.to_thread(self._artifacts.remove, KIND, content_hash)
