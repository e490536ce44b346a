"""A session's view on this replica, caught up with the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import numpy as np

from coresift.server.errors import CoresiftError, Reason
from coresift.server.metrics import Metrics
from coresift.server.session.setup.config import SessionConfig
from coresift.server.session.view.label_times import LabelTimes
from coresift.server.session.view.view import View
from coresift.server.session.view.view_files import ViewFiles, is_worth
from coresift.server.session.work.call import in_turn, resting
from coresift.server.session.work.workers import Workers
from coresift.server.state.entries import Entry, ExpiryEntry, LabelsEntry
from coresift.server.state.store import Store
from coresift.server.state.values import (
    Behind,
    Granted,
    LogRead,
    Rewound,
    SessionRecord,
)

LOG_PAGE = 2_000
"""Log entries read at a time."""
APPLY_ENTRIES = 4
"""Entries applied at a time: at most 4,000 labels, about 10 ms."""
FAR_ENTRIES = 5_000
FAR_VOTES = 20_000
"""A view that lacks more than this many entries or votes is built anew, aside."""


class FollowedView:
    """The view of one session. Made and used on the event loop only.

    Attributes:
        view: what was applied; another object after a rebuild, one that is empty after a rewind.
        label_times: of the labels that no batch has been chosen with.
        committed: newest revision that a call of this replica is known to have written: where the
            view lacks it, a claim would only find that out. A hint: it may be too low.
    """

    def __init__(
        self,
        record: SessionRecord,
        store: Store,
        workers: Workers,
        metrics: Metrics,
        files: ViewFiles,
        rebuilds: asyncio.Semaphore,
    ) -> None:
        self.uid = record.uid
        self._first_record = record
        self._store, self._workers, self._metrics = store, workers, metrics
        self._files, self._rebuilds = files, rebuilds
        self._syncing = asyncio.Lock()
        self._rebuilding: asyncio.Task[None] | None = None
        self._forget()

    def _forget(self) -> None:
        """Begin with nothing. Whoever keeps more of the log forgets it here, too."""
        self.view, self.label_times = self._first_view(), LabelTimes()
        self.committed = 0
        self._kept_size = 0
        self._synced_at = -np.inf

    def _adopt(self, read: LogRead) -> None:
        """Told of what was read when the view had come to the end of the log."""

    def _first_view(self) -> View:
        record = self._first_record
        # The configuration of the record may be newer than the log's start: entries overwrite it.
        return View(SessionConfig.from_settings(record.settings), record.config_version)

    async def apply(self, view: View, reply: Granted | Behind, seen_at: float) -> None:
        """Apply the entries that the store returned to a claim of ``view`` begun at ``seen_at``."""
        if not await self._apply_in_pieces(view, reply.entries):
            return  # the view was dropped meanwhile
        if reply.is_whole:
            self._synced_at = max(self._synced_at, seen_at)

    def synced_since(self, began: float) -> bool:
        """Whether the view holds everything acknowledged before ``began``."""
        return self._synced_at >= began

    def rewound(self, view: View) -> None:
        """The log was rewound by a failover: drop the view that was built from it."""
        if view is not self.view:
            return  # someone noticed before
        self._metrics.log_rewinds.inc()
        self._forget()

    async def sync(self, began: float) -> None:
        """Make the view include everything acknowledged before ``began`` (monotonic seconds)."""
        while self._synced_at < began:
            async with in_turn(self._syncing):
                if self._synced_at < began:
                    await self._catch_up()

    async def config_of(self, version: int) -> SessionConfig:
        """The configuration that an answer of the store names.

        Raises:
            CoresiftError: STATE_UNAVAILABLE if a failover has cut the log short since.
        """
        if version not in self.view.configs:  # another replica changed it
            await self.sync(time.monotonic())
        config = self.view.configs.get(version)
        if config is None:
            raise CoresiftError(
                Reason.STATE_UNAVAILABLE,
                f"the log has lost configuration {version} in a failover",
                retry_after_s=0.1,
            )
        return config

    async def _catch_up(self) -> None:
        """Read a piece of the log, or all of a long one."""
        rebuilding = self._rebuilding
        # One that has ended may not be forgotten yet: awaiting it would not let the loop do so.
        if rebuilding is not None and not rebuilding.done():  # begun by a call that has gone away
            with resting():
                await asyncio.shield(rebuilding)
            return
        seen_at, view = time.monotonic(), self.view
        with self._metrics.stage("catch_up"):
            read = await self._store.catch_up(self.uid, view.key(), LOG_PAGE)
        if view is not self.view:
            return  # dropped meanwhile
        if isinstance(read, Rewound):
            self.rewound(view)
        elif _is_far(view, read.record):
            await self._rebuild(view)
        elif await self._apply_in_pieces(view, read.entries) and _is_whole(view, read):
            self._synced_at = max(self._synced_at, seen_at)
            # A failover may have lost what is beyond; of what was written since, claims tell.
            self.committed = min(self.committed, view.revision)
            self._adopt(read)

    async def _rebuild(self, view: View) -> None:
        """Replace a view that is far behind; few at a time on a replica, so that after an outage
        the others' calls are served. The wait ends with the caller, the work goes on."""
        with resting():
            await self._rebuilds.acquire()
            self._rebuilding = self._workers.spawn(self._build(view))
            self._rebuilding.add_done_callback(self._end_rebuild)
            await asyncio.shield(self._rebuilding)

    def _end_rebuild(self, done: asyncio.Task[None]) -> None:
        if self._rebuilding is done:
            self._rebuilding = None
        self._rebuilds.release()
        if not done.cancelled():
            done.exception()  # seen by the caller, or the caller is gone

    async def _build(self, view: View) -> None:
        """The same view with the rest of the log, built on other threads, from the newest file
        where there is nothing yet."""
        built = view.copy() if view.offset else await self._files.load(self.uid)
        if built is None:
            built = self._first_view()
        if not view.offset:
            self._kept_size = built.size
        while view is self.view:
            seen_at = time.monotonic()
            read = await self._store.catch_up(self.uid, built.key(), LOG_PAGE)
            if isinstance(read, Rewound):
                self.rewound(view)
                return
            await asyncio.to_thread(built.apply, read.entries)
            self._note(read.entries)
            # A claim may have moved the old view further on meanwhile.
            if view is self.view and built.offset >= max(read.record.offset, view.offset):
                self.view = built
                self._synced_at = max(self._synced_at, seen_at)
                self._adopt(read)
                self._keep()

    def _note(self, entries: Sequence[Entry]) -> None:
        """Keep of new entries what is measured."""
        for entry in entries:
            if isinstance(entry, LabelsEntry):
                self.label_times.add(entry.offset, entry.time_ms)
            elif isinstance(entry, ExpiryEntry) and self._store.expired_here(entry):
                pool = self._metrics.of_pool(self.view.config.pool)
                pool.leased("expired", len(entry.leases))

    def _keep(self) -> None:
        """Have the view kept as a file where it has grown enough."""
        if is_worth(self.view.size, self._kept_size):
            self._kept_size = self.view.size
            self._workers.spawn(self._files.save(self.uid, lambda: self.view))

    async def _apply_in_pieces(self, view: View, entries: Sequence[Entry]) -> bool:
        """Apply entries, letting other calls run between; False if the view was dropped."""
        for start in range(0, len(entries), APPLY_ENTRIES):
            if view is not self.view:
                return False
            view.apply(entries[start : start + APPLY_ENTRIES])
            if start + APPLY_ENTRIES < len(entries):
                await asyncio.sleep(0)
        self._note(entries)
        if view is not self.view:
            return False
        self._keep()
        return True


def _is_far(view: View, record: SessionRecord) -> bool:
    """Whether much of the log is missing in a view."""
    missing = record.offset - view.offset
    return missing > FAR_ENTRIES or record.votes - view.vote_count > FAR_VOTES


def _is_whole(view: View, read: LogRead) -> bool:
    """Whether a view that has applied a piece of the log has all that there was."""
    return view.offset >= read.record.offset


def check_reached(field: str, wanted: int, revision: int) -> None:
    """Refuse a revision that the log does not have yet. REVISION_NOT_REACHED."""
    if wanted > revision:
        raise CoresiftError(
            Reason.REVISION_NOT_REACHED,
            f"{field} is {wanted}, the newest revision {revision}",
            field=field,
        )
