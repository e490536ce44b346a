"""What a session's annotators say together: ListConsensus."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass

from coresift.server.session.live.live import LiveSession
from coresift.server.session.view.snapshot import Snapshot
from coresift.server.session.view.view import View
from coresift.server.session.view.votes import (
    AnnotatorAgreement,
    Decisions,
    ItemConsensus,
    annotators_of,
    decide,
    items_after,
)
from coresift.server.session.work.latest import Latest
from coresift.server.session.work.workers import Workers

KEPT_SESSIONS = 16
"""Whose decisions are kept between the pages of a list."""


@dataclass(frozen=True, slots=True)
class ConsensusPage:
    """Part of the list, and the decisions that it comes from."""

    decisions: Decisions
    items: tuple[ItemConsensus, ...]
    annotators: tuple[AnnotatorAgreement, ...]
    has_more: bool


Counted = tuple[Decisions, tuple[AnnotatorAgreement, ...]]


class ConsensusLists:
    """ListConsensus, over the replica's live sessions."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._latest: Latest[Counted] = Latest(workers, KEPT_SESSIONS)

    async def page(
        self, live: LiveSession, after: int, count: int, *, only_conflicts: bool
    ) -> ConsensusPage:
        """Items beyond row ``after``, from every label acknowledged before the call."""
        began = time.monotonic()

        async def find(began: float) -> tuple[Hashable, Callable[[], Awaitable[Counted]]]:
            await live.sync(began)
            view = live.view
            key = (view.revision, view.nonce, view.config_version)
            return key, lambda: self._decide(view)

        decisions, annotators = await self._latest.of(live.uid, began, find)
        items, has_more = await self._workers.run(
            lambda: items_after(decisions, after, count, only_conflicts=only_conflicts)
        )
        return ConsensusPage(decisions, items, annotators, has_more)

    async def _decide(self, view: View) -> Counted:
        snapshot = Snapshot.of(view)

        def work() -> Counted:
            decisions = decide(snapshot)
            return decisions, annotators_of(decisions)

        return await self._workers.run(work)
