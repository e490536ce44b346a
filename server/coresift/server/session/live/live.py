"""Live sessions: a replica's views with their heads and rankings."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from coresift.server.metrics import Metrics
from coresift.server.session.live.fitting import FittedView
from coresift.server.session.ranking.candidates import Candidates, counts
from coresift.server.session.ranking.kept_candidates import KeptCandidates
from coresift.server.session.ranking.neighbourhood import Neighbourhood
from coresift.server.session.ranking.ordering import deepen_in_steps, deeper, rank_in_steps
from coresift.server.session.ranking.ranking import Ranking
from coresift.server.session.ranking.review import review
from coresift.server.session.setup.materials import Loader, Materials
from coresift.server.session.setup.pools import Pools
from coresift.server.session.view.snapshot import HeadState, Snapshot, head_of, positive_rows
from coresift.server.session.view.view_files import ViewFiles
from coresift.server.session.work.call import BACKGROUND, CALL, in_turn
from coresift.server.session.work.claims import Claims
from coresift.server.session.work.refreshes import Refreshes
from coresift.server.session.work.shared_scans import SharedScans
from coresift.server.session.work.workers import Workers
from coresift.server.state.store import Store
from coresift.server.state.values import SessionRecord

MOST_AHEAD_S = 0.25
"""How long a ranking may take that begins before it is asked for: who comes with more labels would
wait for both."""


class LiveSession(FittedView):
    """One session on this replica. Made and used on the event loop only.

    Attributes:
        asked: newest revision that a batch was leased at; -1 before the first.
        claims: under way, of those that propose and claim.
        scans: passes over the pool, shared with the other sessions.
    """

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
        scans: SharedScans,
    ) -> None:
        super().__init__(record, pools, loader, store, workers, metrics, files, rebuilds)
        self.session_id, self.secret = record.session_id, record.secret
        self.claims, self.scans = Claims(), scans
        self._deepening = asyncio.Lock()
        self._rankings = Refreshes[Ranking](workers, self._refreshing)
        self._reviews = Refreshes[Ranking](workers, self._refreshing)

    def _forget(self) -> None:
        super()._forget()
        self.ranking: Ranking | None = None
        self.asked, self._took_s = -1, 0.0
        self._ahead: tuple[int, int, int] | None = None
        self.review: Ranking | None = None
        self._kept = KeptCandidates(self.uid, self._store, self._workers, self._metrics)

    @property
    def neighbourhood(self) -> Neighbourhood | None:
        """Neighbours under the current configuration; None where no candidates come from them."""
        return self._kept.neighbourhood(self.config, self.pool)

    def is_own(self, ranking: Ranking) -> bool:
        """Whether a ranking is of this view's log and configuration."""
        snapshot, view = ranking.snapshot, self.view
        return snapshot.lineage is view.lineage and snapshot.config_version == view.config_version

    async def ranked(self, began: float) -> Ranking:
        """A ranking from every label acknowledged before ``began``; callers share it."""
        await self.sync(began)
        return await self._rankings.of(began, self._ranked)

    def rank_ahead(self, known: int) -> None:
        """Begin to rank with labels that were just acknowledged, if calls asked for batches after
        all those before, up to revision ``known``: the next one does, too, and waits for less."""
        is_due = self.asked >= known and self._took_s <= MOST_AHEAD_S
        if is_due and not (self._refreshing.locked() or self._workers.is_pressed()):
            # What fails is tried again when a call needs it.
            call = replace(CALL.get(), kind="RankAhead", refusable=False, permit=None)
            self._workers.begin(self.ranked(time.monotonic()), call)

    async def _ranked(self, began: float) -> Ranking:
        await self.sync(began)
        snapshot, began_at = self._snapshot(), time.monotonic()
        if self.ranking is None or self.ranking.snapshot is not snapshot:
            if self.head_state is None or self.head_state.snapshot is not snapshot:
                # Beside the fit: on two cores a session has one place, and that is the fit's.
                # What fails is tried again when the candidates are asked for.
                beside = replace(CALL.get(), session="", permit=None)
                self._workers.begin(self._kept.ahead(snapshot, self.neighbourhood), beside)
            state = await self._state_of(snapshot)
            materials = await self.materials(snapshot.config)
            candidates = await self._candidates_of(materials, snapshot)
            self.ranking = await self._rank(materials, state, candidates)
            self._took_s = time.monotonic() - began_at
            self._observe(candidates)
        return self.ranking

    async def reviewed(self, began: float) -> Ranking:
        """Labelled items for a second look, of every label acknowledged before ``began``.

        HEAD_NOT_FITTED while the labels determine no head.
        """
        await self.sync(began)
        return await self._reviews.of(began, self._reviewed)

    async def _reviewed(self, began: float) -> Ranking:
        ranking = await self._ranked(began)
        head = head_of(ranking.state)
        if self.review is None or self.review.snapshot is not ranking.snapshot:
            with self._metrics.stage("review"):
                self.review = await self._workers.run(lambda: review(ranking, head))
        return self.review

    async def deepened(self, ranking: Ranking, wanted: int = 0) -> Ranking:
        """The same ranking with more rows: ``wanted`` at least, or all there are, or as many as
        another call has brought up since."""
        async with in_turn(self._deepening):
            newest = self.ranking
            if newest is not None and newest.continues(ranking):
                return newest
            with self._metrics.stage("score"):
                more = await self.scans.run(deepen_in_steps(ranking, wanted))
            if self.ranking is ranking:
                self.ranking = more
            return more

    def deepen_ahead(self, ranking: Ranking, wanted: int) -> None:
        """Begin to make more rows before calls wait for them."""
        # Not the ranking itself, which would keep the vectors of its candidates.
        rows = sum(len(order.scored.rows) for order in ranking.orders)
        these = ranking.snapshot.revision, ranking.snapshot.config_version, rows
        if self.ranking is ranking and self._ahead != these:
            self._ahead = these
            # What fails is tried again when a call needs it.
            self._workers.begin(self._deepen_ahead(ranking, wanted), BACKGROUND)

    async def _deepen_ahead(self, ranking: Ranking, wanted: int) -> None:
        more = await self._workers.run_behind(lambda: deeper(ranking, wanted))
        if self.ranking is ranking:
            self.ranking = more

    async def _rank(
        self, materials: Materials, state: HeadState, candidates: Candidates | None
    ) -> Ranking:
        near = None
        if state.head is None and self.neighbourhood is not None:
            near = await self.neighbourhood.of(positive_rows(state.snapshot))
        with self._metrics.stage("score"):
            return await self.scans.run(rank_in_steps(materials, state, candidates, near))

    async def _candidates_of(self, materials: Materials, snapshot: Snapshot) -> Candidates | None:
        """The candidates of a snapshot; None for the whole pool."""
        return await self._kept.of(materials, snapshot, self.neighbourhood)

    @property
    def nbytes(self) -> int:
        """Memory of the candidates' vectors, the view, and what its configurations refer to."""
        materials = sum(materials.nbytes for materials in self._materials.values())
        return self._kept.nbytes + self.view.nbytes + materials

    def shed(self) -> None:
        """Give the vectors' memory back: the next rankings gather them from the pool."""
        self._kept.shed()
        if self.ranking is not None and self.ranking.candidates is not None:
            rows = self.ranking.candidates.rows  # perhaps older ones than those we have now
            self.ranking = replace(self.ranking, candidates=Candidates(rows))

    async def candidate_counts(self, began: float) -> tuple[int, float]:
        """Unlabelled candidates, and the share of the pool that is labelled or a candidate."""
        async with in_turn(self._refreshing):
            await self.sync(began)
            snapshot = Snapshot.of(self.view)
            materials = await self.materials(snapshot.config)
            candidates = await self._candidates_of(materials, snapshot)
        return await self._workers.run(lambda: counts(materials, candidates, snapshot))

    def _observe(self, candidates: Candidates | None) -> None:
        items = self.pool.manifest.items
        count = items if candidates is None else len(candidates.rows)
        self.metrics.ranked(count, items)
