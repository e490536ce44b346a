"""A session's neighbours and candidates, as long as a replica keeps them."""

from __future__ import annotations

import asyncio
from functools import partial

import numpy as np

from coresift.server.metrics import Metrics
from coresift.server.pool.pool import Pool
from coresift.server.selection.candidates import Seals, neighbours_of
from coresift.server.session.ranking.candidates import Candidates, candidates_of, seeds_of
from coresift.server.session.ranking.neighbourhood import Neighbourhood
from coresift.server.session.setup.config import SessionConfig
from coresift.server.session.setup.materials import Materials
from coresift.server.session.view.snapshot import Snapshot
from coresift.server.session.work.workers import Workers
from coresift.server.state.store import Store

KEPT_BYTES = 1 << 30
"""Memory for views, materials and vectors of candidates, over all sessions. The vectors of one may
take all of it, until others need room (`shed`)."""
SEEDS_AT_ONCE = 10_000
"""Whose neighbours are asked for together: of a million it would pause the event loop for 0.7 s."""
NO_CANDIDATES = Candidates(np.empty(0, np.int32))


class KeptCandidates:
    """Neighbours under the newest configuration, and the candidates that they made so far."""

    def __init__(self, uid: str, store: Store, workers: Workers, metrics: Metrics) -> None:
        self._uid, self._store, self._workers, self._metrics = uid, store, workers, metrics
        self._neighbourhood: Neighbourhood | None = None
        self._growing = asyncio.Lock()
        self._forget()

    def _forget(self) -> None:
        self._seeds_done, self._candidates = 0, NO_CANDIDATES
        self._lineage: object = None

    def neighbourhood(self, config: SessionConfig, pool: Pool) -> Neighbourhood | None:
        """Neighbours under a configuration; None where no candidates come from them."""
        k = neighbours_of(config.candidates)
        if not k:
            return None
        current = self._neighbourhood
        wanted = min(k, pool.manifest.items - 1)
        if current is None or current.pool is not pool or current.k != wanted:
            current = self._neighbourhood = Neighbourhood(
                self._uid, pool, k, self._store, self._workers, self._metrics
            )
            self._forget()
        return current

    async def ahead(self, snapshot: Snapshot, neighbourhood: Neighbourhood | None) -> None:
        """Look up and gather what `of` will need, as far as that does not need the head."""
        if neighbourhood is not None and isinstance(snapshot.config.candidates, Seals):
            await self._grown(neighbourhood, snapshot)

    async def of(
        self, materials: Materials, snapshot: Snapshot, neighbourhood: Neighbourhood | None
    ) -> Candidates | None:
        """The candidates of a snapshot; None for the whole pool."""
        seeds, found = seeds_of(snapshot), np.empty((0, 0), np.int32)
        if seeds is not None and neighbourhood is not None:
            if isinstance(snapshot.config.candidates, Seals):
                return await self._grown(neighbourhood, snapshot)
            found = await neighbourhood.of(seeds)
        return await self._workers.run(lambda: candidates_of(materials, snapshot, seeds, found))

    async def _grown(self, neighbourhood: Neighbourhood, snapshot: Snapshot) -> Candidates:
        """SEALS: the union of the neighbours of every item that ever had a label. It only grows."""
        async with self._growing:
            if self._lineage is not snapshot.lineage:  # a failover took labels back
                self._forget()
                self._lineage = snapshot.lineage
            done, candidates = self._seeds_done, self._candidates
            while done < len(snapshot.ever):
                seeds = snapshot.ever[done : done + SEEDS_AT_ONCE]
                found = await neighbourhood.of(seeds)
                grow = partial(candidates.grown, neighbourhood.pool, found, KEPT_BYTES)
                candidates, done = await self._workers.run(grow), done + len(seeds)
                if neighbourhood is self._neighbourhood:  # else the configuration changed meanwhile
                    self._seeds_done, self._candidates = done, candidates
            return candidates

    @property
    def nbytes(self) -> int:
        """Memory of the candidates' vectors and of the neighbours that are known."""
        known = 0 if self._neighbourhood is None else self._neighbourhood.nbytes
        return self._candidates.nbytes + known

    def shed(self) -> None:
        """Give the vectors' memory back: the next rankings gather them from the pool."""
        self._candidates = Candidates(self._candidates.rows)
