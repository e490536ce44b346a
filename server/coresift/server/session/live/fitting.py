"""A session's view with its head: fitted here or adopted from another replica."""

from __future__ import annotations

import asyncio

from coresift.server.errors import CoresiftError
from coresift.server.head import Head
from coresift.server.metrics import Metrics, PoolMetrics
from coresift.server.pool.pool import Pool
from coresift.server.session.setup.config import SessionConfig
from coresift.server.session.setup.materials import Loader, Materials
from coresift.server.session.setup.pools import Pools
from coresift.server.session.view.catching_up import FollowedView
from coresift.server.session.view.snapshot import HeadState, Snapshot, head_state
from coresift.server.session.view.view_files import ViewFiles
from coresift.server.session.work.refreshes import Refreshes
from coresift.server.session.work.workers import Workers
from coresift.server.state.store import Store
from coresift.server.state.values import LogRead, SessionRecord

KEPT_MATERIALS = 2
"""The current configuration's, and those of an earlier one that a core-set job asks for."""


class FittedView(FollowedView):
    """The view and the head of one session. Made and used on the event loop only.

    Attributes:
        head_state: the newest head here; None before the first.
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
    ) -> None:
        super().__init__(record, store, workers, metrics, files, rebuilds)
        self._pools, self._loader = pools, loader
        self._refreshing = asyncio.Lock()
        self._heads = Refreshes[HeadState](workers, self._refreshing)

    def _forget(self) -> None:
        super()._forget()
        self.head_state: HeadState | None = None
        self._materials: dict[SessionConfig, Materials] = {}

    @property
    def config(self) -> SessionConfig:
        """The configuration as of the view."""
        return self.view.config

    @property
    def metrics(self) -> PoolMetrics:
        """What is measured of the sessions on the pool."""
        return self._metrics.of_pool(self.config.pool)

    @property
    def pool(self) -> Pool:
        """The pool version that the session works on."""
        return self._pools.of_session(self.config.pool, self.config.pool_version)

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

    async def fitted(self, began: float) -> HeadState:
        """The head of every label acknowledged before ``began``; concurrent callers share fits."""
        await self.sync(began)  # a caller that goes away need not wait for a rebuild
        return await self._heads.of(began, self._fitted)

    async def _fitted(self, began: float) -> HeadState:
        await self.sync(began)
        return await self._state_of(self._snapshot())

    def _snapshot(self) -> Snapshot:
        """Of the view as it is: that of the head where there is one already."""
        state = self.head_state
        if state is not None and self._current(state.snapshot):
            return state.snapshot
        return Snapshot.of(self.view)

    async def _state_of(self, snapshot: Snapshot) -> HeadState:
        state = self.head_state
        if state is None or state.snapshot is not snapshot:
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
