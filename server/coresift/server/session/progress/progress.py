"""How far a session is, and whether to go on: GetSessionProgress."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass

import numpy as np

from coresift.server.arrays import Rows
from coresift.server.session.live.live import LiveSession
from coresift.server.session.progress.advice import StopAdvice, advise, exhausted
from coresift.server.session.progress.measures import Measures, measure
from coresift.server.session.setup.config import SessionConfig
from coresift.server.session.view.view import View
from coresift.server.session.work.latest import Latest
from coresift.server.session.work.workers import Workers
from coresift.server.state.store import Store

KEPT_SESSIONS = 1_000
"""Whose measures are kept: as many as there are live sessions."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a session is; see GetSessionProgressResponse."""

    config: SessionConfig
    config_version: int
    revision: int
    head_version: str
    pool_items: int
    eligible_items: int
    labelled_items: int
    votes: int
    unsure_votes: int
    labels_per_hour: float
    live_leases: int
    candidates: int
    considered_share: float
    classes: tuple[tuple[str, int, int], ...]
    """Name, votes present, votes absent (multilabel)."""
    unfitted_classes: tuple[str, ...]
    hidden_items: int
    measures: Measures
    advice: StopAdvice
    reason: str
    """Of the advice, in a sentence."""


class ProgressReports:
    """GetSessionProgress, over a store and the replica's live sessions."""

    def __init__(self, store: Store, workers: Workers) -> None:
        self._store, self._workers = store, workers
        self._latest: Latest[Measures] = Latest(workers, KEPT_SESSIONS)

    async def of(self, live: LiveSession) -> Progress:
        """Counts of labels, leases and candidates, with the head up to the newest label.

        What only labels change is computed once a revision; leases and hidden items are those of
        this moment.
        """
        began = time.monotonic()
        measures = await self._measures(live, began)
        candidates, considered = await live.candidate_counts(began)
        leases = await self._store.count_leases(live.uid)
        is_exhausted = await self._is_exhausted(live)
        config, view = measures.config, live.view
        materials = await live.materials(config)
        advice, reason = advise(config, materials.eligible_items, measures, exhausted=is_exhausted)
        live.metrics.advised(advice.name.lower())
        return Progress(
            config=config,
            config_version=measures.config_version,
            revision=measures.revision,
            head_version=measures.head_version,
            pool_items=materials.pool.manifest.items,
            eligible_items=materials.eligible_items,
            labelled_items=measures.labelled_items,
            votes=measures.votes,
            unsure_votes=measures.unsure_votes,
            labels_per_hour=float(view.labels_per_hour()),
            live_leases=leases,
            candidates=candidates,
            considered_share=considered,
            classes=measures.classes,
            unfitted_classes=measures.unfitted_classes,
            hidden_items=len(view.hidden),
            measures=measures,
            advice=advice,
            reason=reason,
        )

    async def _measures(self, live: LiveSession, began: float) -> Measures:
        async def find(began: float) -> tuple[Hashable, Callable[[], Awaitable[Measures]]]:
            state = await live.fitted(began)
            snapshot = state.snapshot
            materials = await live.materials(snapshot.config)
            # A later pool version may have come with the hidden rows, but not with the snapshot.
            items = materials.pool.manifest.items
            hidden = {row: offset for row, offset in live.view.hidden.items() if row < items}

            async def make() -> Measures:
                return await self._workers.run(lambda: measure(materials, state, hidden))

            key = (snapshot.revision, snapshot.nonce, snapshot.config_version, len(hidden))
            return key, make

        return await self._latest.of(live.uid, began, find)

    async def _is_exhausted(self, live: LiveSession) -> bool:
        config = live.config
        materials = await live.materials(config)
        if live.config is not config:  # changed meanwhile
            return await self._is_exhausted(live)
        voted, lacking, hidden = _rows_of(live.view)
        return await self._workers.run(lambda: exhausted(materials, config, voted, lacking, hidden))


def _rows_of(view: View) -> tuple[Rows, Rows, Rows]:
    """Rows with votes, those of them that lack votes, and hidden ones."""
    lacking = np.fromiter(view.under_voted, np.int32, len(view.under_voted))
    return view.voted(), lacking, view.hidden.rows()
