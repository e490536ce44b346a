"""Live sessions: a replica's views with their heads and rankings, caught up with the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from coresift.server.errors import CoresiftError, Reason
from coresift.server.head import Head
from coresift.server.metrics import Metrics
from coresift.server.pool.pool import Pool
from coresift.server.selection.candidates import Seals, neighbours_of
from coresift.server.session.candidates import Candidates, candidates_of, counts, seeds_of
from coresift.server.session.config import SessionConfig
from coresift.server.session.gate import CALL
from coresift.server.session.materials import Loader, Materials
from coresift.server.session.neighbourhood import Neighbourhood
from coresift.server.session.pools import Pools
from coresift.server.session.ranking import Ranking, deeper, rank
from coresift.server.session.review import review
from coresift.server.session.snapshot import HeadState, Snapshot, head_of, head_state, positive_rows
from coresift.server.session.view import View
from coresift.server.session.view_files import ViewFiles, is_worth
from coresift.server.session.workers import Workers
from coresift.server.state.entries import Entry, ExpiryEntry
from coresift.server.state.store import Behind, Granted, LogRead, Rewound, SessionRecord, Store

LOG_PAGE = 2_000
"""Log entries read at a time."""
APPLY_ENTRIES = 16
"""Entries applied at a time: at most 16,000 labels, about 30 ms."""
FAR_ENTRIES = 5_000
FAR_VOTES = 20_000
"""A view that lacks more than this many entries or votes is built anew, aside."""
KEPT_BYTES = 1 << 30
"""Memory for views, materials and vectors of candidates, over all sessions."""
KEPT_MATERIALS = 2
"""The current configuration's, and those of an earlier one that a core-set job asks for."""
NO_CANDIDATES = Candidates(np.empty(0, np.int32))


class LiveSession:
    """One session on this replica. Made and used on the event loop only."""

    def __init__(
        self,
        record: SessionRecord,
        pools: Pools,
        loader: Loader,
        store: Store,
        workers: Workers,
        metrics: Metrics,
        files: ViewFiles,
        rebuilds: asyncio.Semaphore,
    ) -> None:
        self.session_id, self.uid, self.secret = record.session_id, record.uid, record.secret
        self.claiming = asyncio.Lock()
        self._pools, self._store, self._workers = pools, store, workers
        self._loader, self._metrics = loader, metrics
        self._files, self._rebuilds = files, rebuilds
        self._refreshing, self._syncing = asyncio.Lock(), asyncio.Lock()
        self._rebuilding: asyncio.Task[None] | None = None
        self._first_record = record
        self._forget()

    def _forget(self) -> None:
        self.view = self._first_view()
        self._kept_size = 0
        self.ranking: Ranking | None = None
        self.review: Ranking | None = None
        self.head_state: HeadState | None = None
        self._materials: dict[SessionConfig, Materials] = {}
        self._neighbourhood: Neighbourhood | None = None
        self._candidates: tuple[int, Candidates] = (0, NO_CANDIDATES)
        self._synced_at = -np.inf

    def _first_view(self) -> View:
        record = self._first_record
        # The configuration of the record may be newer than the log's start: entries overwrite it.
        return View(SessionConfig.from_settings(record.settings), record.config_version)

    @property
    def config(self) -> SessionConfig:
        """The configuration as of the view."""
        return self.view.config

    @property
    def pool(self) -> Pool:
        """The pool version that the session works on."""
        return self._pools.of_session(self.config.pool, self.config.pool_version)

    @property
    def neighbourhood(self) -> Neighbourhood | None:
        """Neighbours under the current configuration; None where no candidates come from them."""
        k, pool = neighbours_of(self.config.candidates), self.pool
        if not k:
            return None
        current = self._neighbourhood
        wanted = min(k, pool.manifest.items - 1)
        if current is None or current.pool is not pool or current.k != wanted:
            current = self._neighbourhood = Neighbourhood(
                self.uid, pool, k, self._store, self._workers, self._metrics
            )
            self._candidates = (0, NO_CANDIDATES)
        return current

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
            with _resting():
                await self._syncing.acquire()
            try:
                if self._synced_at < began:
                    await self._catch_up()
            finally:
                self._syncing.release()

    async def _catch_up(self) -> None:
        """Read a piece of the log, or all of a long one."""
        if self._rebuilding is not None:  # begun by a call that has gone away
            with _resting():
                await asyncio.shield(self._rebuilding)
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
            self._adopt(read)

    async def _rebuild(self, view: View) -> None:
        """Replace a view that is far behind; few at a time on a replica, so that after an outage
        the others' calls are served. The wait ends with the caller, the work goes on."""
        with _resting():
            await self._rebuilds.acquire()
            self._rebuilding = self._workers.spawn(self._build(view))
            self._rebuilding.add_done_callback(self._end_rebuild)
            await asyncio.shield(self._rebuilding)

    def _end_rebuild(self, done: asyncio.Task[None]) -> None:
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
            # A claim may have moved the old view further on meanwhile.
            if view is self.view and built.offset >= max(read.record.offset, view.offset):
                self.view = built
                self._synced_at = max(self._synced_at, seen_at)
                self._adopt(read)
                self._keep()

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
        expired = sum(len(e.leases) for e in entries if isinstance(e, ExpiryEntry))
        if expired:
            self._metrics.leases.labels("expired").inc(expired)
        if view is not self.view:
            return False
        self._keep()
        return True

    def _adopt(self, read: LogRead) -> None:
        """Use the head that another replica published for the view's revision."""
        state, record, packed = self.head_state, read.record, read.head
        # A claim may have moved the view beyond what was read.
        of_view = (record.revision, record.nonce, record.config_version) == (
            self.view.revision,
            self.view.nonce,
            self.view.config_version,
        )
        if packed is not None and of_view and (state is None or not self._current(state.snapshot)):
            self.head_state = HeadState(Snapshot.of(self.view), Head.unpack(packed))

    def _current(self, snapshot: Snapshot) -> bool:
        view = self.view
        return snapshot.lineage is view.lineage and (
            (snapshot.revision, snapshot.config_version) == (view.revision, view.config_version)
        )

    def is_own(self, ranking: Ranking) -> bool:
        """Whether a ranking is of this view's log and configuration."""
        snapshot, view = ranking.snapshot, self.view
        return snapshot.lineage is view.lineage and snapshot.config_version == view.config_version

    async def fitted(self, began: float) -> HeadState:
        """The head of every label acknowledged before ``began``; concurrent callers share fits."""

        async def refresh() -> HeadState:
            async with self._refreshing:
                return await self._fitted(began)

        await self.sync(began)  # a caller that goes away need not wait for a rebuild
        return await self._workers.shared(refresh())

    async def _fitted(self, began: float) -> HeadState:
        await self.sync(began)
        state = self.head_state
        if state is None or not self._current(state.snapshot):
            snapshot = Snapshot.of(self.view)
            materials = await self.materials(snapshot.config)
            with self._metrics.stage("fit"):
                state = await self._workers.run(lambda: head_state(materials, snapshot))
            self.head_state = state
            if state.head is not None and not state.is_prior:
                packed, version = state.head.pack(), state.version
                self._workers.spawn(self._publish(version, packed))
        return state

    async def materials(self, config: SessionConfig) -> Materials:
        """What a configuration of the session refers to; those of the last two are kept."""
        if config not in self._materials:
            loaded = await self._workers.run(lambda: self._loader.load(config))
            self._materials[config] = loaded
            while len(self._materials) > KEPT_MATERIALS:
                del self._materials[next(iter(self._materials))]
            return loaded
        return self._materials[config]

    async def _publish(self, version: str, packed: bytes) -> None:
        try:
            await self._store.publish_head(self.uid, version, packed)
        except CoresiftError:
            return  # only a cache: another replica will fit for itself

    async def ranked(self, began: float) -> Ranking:
        """A ranking from every label acknowledged before ``began``; callers share it."""

        async def refresh() -> Ranking:
            async with self._refreshing:
                state = await self._fitted(began)
                if self.ranking is None or self.ranking.snapshot is not state.snapshot:
                    materials = await self.materials(state.snapshot.config)
                    candidates = await self._candidates_of(materials, state.snapshot)
                    self.ranking = await self._rank(materials, state, candidates)
                    self._observe(candidates)
                return self.ranking

        await self.sync(began)
        return await self._workers.shared(refresh())

    async def reviewed(self, began: float) -> Ranking:
        """Labelled items for a second look, of every label acknowledged before ``began``.

        HEAD_NOT_FITTED while the labels determine no head.
        """
        ranking = await self.ranked(began)
        head = head_of(ranking.state)

        async def refresh() -> Ranking:
            async with self._refreshing:
                if self.review is None or self.review.snapshot is not ranking.snapshot:
                    with self._metrics.stage("review"):
                        self.review = await self._workers.run(lambda: review(ranking, head))
                return self.review

        return await self._workers.shared(refresh())

    async def deepened(self, ranking: Ranking, wanted: int = 0) -> Ranking:
        """The same ranking with more rows, ``wanted`` at least (or all there are)."""
        with self._metrics.stage("score"):
            more = await self._workers.run(lambda: deeper(ranking, wanted))
        if self.ranking is ranking:
            self.ranking = more
        return more

    async def _rank(
        self, materials: Materials, state: HeadState, candidates: Candidates | None
    ) -> Ranking:
        near = None
        if state.head is None and self.neighbourhood is not None:
            near = await self.neighbourhood.of(positive_rows(state.snapshot))
        with self._metrics.stage("score"):
            return await self._workers.run(lambda: rank(materials, state, candidates, near))

    async def _candidates_of(self, materials: Materials, snapshot: Snapshot) -> Candidates | None:
        """The candidates of a snapshot; None for the whole pool."""
        seeds, neighbourhood = seeds_of(snapshot), self.neighbourhood
        found = np.empty((0, 0), np.int32)
        if seeds is not None and neighbourhood is not None:
            if isinstance(snapshot.config.candidates, Seals):
                return await self._grown_candidates(neighbourhood, snapshot)
            found = await neighbourhood.of(seeds)
        return await self._workers.run(lambda: candidates_of(materials, snapshot, seeds, found))

    async def _grown_candidates(
        self, neighbourhood: Neighbourhood, snapshot: Snapshot
    ) -> Candidates:
        """SEALS: the union of the neighbours of every item that ever had a label. It only grows."""
        done, candidates = self._candidates
        if done < len(snapshot.ever):
            found, pool = await neighbourhood.of(snapshot.ever[done:]), self.pool
            candidates = await self._workers.run(lambda: candidates.grown(pool, found, KEPT_BYTES))
            if neighbourhood is self._neighbourhood:  # else the configuration changed meanwhile
                self._candidates = (len(snapshot.ever), candidates)
        return candidates

    @property
    def nbytes(self) -> int:
        """Memory of the candidates' vectors, the view, and what its configurations refer to."""
        materials = sum(materials.nbytes for materials in self._materials.values())
        known = 0 if self._neighbourhood is None else self._neighbourhood.nbytes
        return self._candidates[1].nbytes + self.view.nbytes + materials + known

    def shed(self) -> None:
        """Give the vectors' memory back: the next rankings gather them from the pool."""
        done, candidates = self._candidates
        self._candidates = (done, Candidates(candidates.rows))
        if self.ranking is not None and self.ranking.candidates is not None:
            rows = self.ranking.candidates.rows  # perhaps older ones than those we have now
            self.ranking = replace(self.ranking, candidates=Candidates(rows))

    async def candidate_counts(self, began: float) -> tuple[int, float]:
        """Unlabelled candidates, and the share of the pool that is labelled or a candidate."""
        async with self._refreshing:
            await self.sync(began)
            snapshot = Snapshot.of(self.view)
            materials = await self.materials(snapshot.config)
            candidates = await self._candidates_of(materials, snapshot)
        return await self._workers.run(lambda: counts(materials, candidates, snapshot))

    def _observe(self, candidates: Candidates | None) -> None:
        items = self.pool.manifest.items
        count = items if candidates is None else len(candidates.rows)
        self._metrics.candidates.observe(count)
        self._metrics.considered.observe(count / items)


@contextmanager
def _resting() -> Iterator[None]:
    """The call waits for what other work does, and gives its permit to others meanwhile."""
    permit = CALL.get().permit
    if permit is not None:
        permit.pause()
    try:
        yield
    finally:
        if permit is not None:
            permit.resume()


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
