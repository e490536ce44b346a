"""Handing out items: the flow of a NextBatch through view, ranking, proposals and claim."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from coresift.server.arrays import Rows
from coresift.server.errors import CoresiftError, Reason
from coresift.server.metrics import Metrics
from coresift.server.session.grants import Ask, Batch, answer_of, context_of, measure, proposals_of
from coresift.server.session.live.live import LiveSession
from coresift.server.session.ranking.proposals import is_plain, over_ask
from coresift.server.session.ranking.proposing import (
    Ahead,
    Deeper,
    NearLeased,
    Outdated,
    Proposals,
    Run,
    propose,
    sources,
)
from coresift.server.session.ranking.ranking import Ranking
from coresift.server.session.view.catching_up import check_reached
from coresift.server.session.work.workers import Workers
from coresift.server.state.entries import Entry, GrantEntry, LabelsEntry
from coresift.server.state.store import Store
from coresift.server.state.values import (
    RETRACTION,
    Behind,
    Claim,
    Granted,
    Rewound,
    ViewKey,
)

MAX_TRIPS = 6
"""Claims of one NextBatch, and look-ups before one of them. Two suffice unless the configuration
changes or leases come and go."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """What a call waits for its turn with.

    Attributes:
        began: monotonic, of the call.
        was_fresh: whether the ranking had every label acknowledged before the call from the start.
    """

    live: LiveSession
    ask: Ask
    ranking: Ranking
    began: float
    was_fresh: bool

    @property
    def is_plain(self) -> bool:
        """Whether the batch has no more to it than the best scores."""
        return is_plain(self.ranking.snapshot.config)

    def is_fresh(self) -> bool:
        """Whether the ranking has every label acknowledged before the call: known from the start,
        or since another call found that there is no newer one."""
        snapshot, view = self.ranking.snapshot, self.live.view
        return self.was_fresh or (
            self.live.synced_since(self.began)
            and snapshot.lineage is view.lineage
            and snapshot.revision >= view.revision
        )

    def overlaps(self) -> bool:
        """Whether its claim may go beside others: where it cannot turn out to be behind, and its
        items do not depend on each other, so that none is missed by those that others take."""
        return self.is_plain and (self.ask.min_revision is not None or self.is_fresh())


class Batches:
    """NextBatch, over a store and the replica's live sessions."""

    def __init__(self, store: Store, workers: Workers, metrics: Metrics) -> None:
        self._store, self._workers, self._metrics = store, workers, metrics

    async def next(self, live: LiveSession, ask: Ask) -> Batch:
        """Lease the best items that are free for the annotator.

        An up-to-date ranking needs one round trip to the store: the claim. If the log has moved,
        the claim answers with the missing entries, the head is fitted again and claims once more
        with the revision it has then, which is accepted however far the log has moved since.
        """
        began = time.monotonic()
        if ask.min_revision is not None and ask.min_revision > live.view.revision:
            await live.sync(began)
            check_reached("min_revision", ask.min_revision, live.view.revision)
        for trip in range(MAX_TRIPS):
            try:
                ranking = await self._ranking(live, began, ask)
            except CoresiftError:
                if (answered := await self._answered(live, ask)) is not None:
                    return answered
                raise
            turn = _Turn(live, ask, ranking, began, live.synced_since(began))
            async with live.claims.turn(ask.size, turn.overlaps) as others:
                is_fresh = turn.is_fresh()
                if _is_outdated(live, ask, ranking, is_fresh):
                    continue
                try:
                    view, claim = (
                        live.view,
                        await self._claim(live, ask, ranking, is_fresh, over_ask(ask.size, others)),
                    )
                except Outdated:
                    continue
                if view is not live.view:
                    continue
                claimed_at = time.monotonic()
                with self._metrics.stage("claim"):
                    result = await self._store.claim(live.uid, claim)
                match result:
                    case Granted():
                        if not result.replayed:
                            await live.apply(view, result, claimed_at)
                            live.asked = max(live.asked, result.revision)
                            measure(live, claim, result)
                        # Others took what was proposed, or set free what was not.
                        more = not turn.is_plain or len(claim.proposals) >= over_ask(ask.size)
                        again = not (result.is_whole or result.replayed)
                        again |= bool(more and result.entries) or any(map(_frees, result.entries))
                        if result.rows or not again or trip + 1 == MAX_TRIPS:
                            return answer_of(live, ask, result, ranking.materials)
                    case Behind():
                        await live.apply(view, result, claimed_at)
                    case Rewound():
                        live.rewound(view)
        raise CoresiftError(
            Reason.STATE_UNAVAILABLE,
            "the session's configuration or log changes too fast",
            retry_after_s=0.1,
        )

    async def _answered(self, live: LiveSession, ask: Ask) -> Batch | None:
        """The answer that the same request got before, if it got one.

        What it was granted from may be gone meanwhile: labels, a file, a pool version.
        """
        claim = Claim(
            request=ask.request,
            annotator=ask.annotator,
            size=ask.size,
            lease_ms=ask.lease_ms or live.config.lease_ms,
            view=live.view.key(),
            min_revision=0,
            proposals=(),
            context=b"",
        )
        result = await self._store.claim(live.uid, claim)
        if isinstance(result, Granted) and result.replayed:
            return answer_of(live, ask, result, None)
        return None

    async def _ranking(self, live: LiveSession, began: float, ask: Ask) -> Ranking:
        """The newest ranking at hand if the claim may accept it, otherwise a fresh one."""
        ranking = live.review if ask.review else live.ranking
        if ranking is not None and live.is_own(ranking):
            revision = ranking.snapshot.revision
            newest = max(live.view.revision, live.committed)
            if revision >= (newest if ask.min_revision is None else ask.min_revision):
                return ranking
        return await (live.reviewed(began) if ask.review else live.ranked(began))

    async def _claim(
        self, live: LiveSession, ask: Ask, ranking: Ranking, is_fresh: bool, wanted: int
    ) -> Claim:
        """The claim of a ranking, with ``wanted`` proposals.

        ``is_fresh``: the ranking has every label acknowledged before the call.
        """
        snapshot = ranking.snapshot
        rule = snapshot.config.groups
        proposals = await self._propose(live, ask, ranking, wanted)
        min_revision = ask.min_revision
        if min_revision is None and is_fresh:
            min_revision = snapshot.revision
        return Claim(
            request=ask.request,
            annotator=ask.annotator,
            size=ask.size,
            lease_ms=ask.lease_ms or live.config.lease_ms,
            view=ViewKey(
                proposals.offset,
                snapshot.revision,
                snapshot.nonce,
                snapshot.config_version,
                proposals.tip,
            ),
            min_revision=min_revision,
            proposals=proposals_of(ranking, proposals.rows),
            context=context_of(ranking),
            review=ask.review,
            one_label=rule is not None and rule.one_label and not ask.review,
        )

    async def _propose(
        self, live: LiveSession, ask: Ask, ranking: Ranking, wanted: int
    ) -> Proposals:
        """The proposals of a ranking. Outdated."""
        steps = propose(lambda: live.view, ranking, ask.annotator, ask.size, wanted)
        answer: Any = None
        try:
            while True:
                match steps.send(answer):
                    case Deeper(shallow, wanted):
                        answer = await live.deepened(shallow, wanted)
                    case Ahead(shallow, wanted):
                        live.deepen_ahead(shallow, wanted)
                    case NearLeased():
                        answer = await self._near_leased(live)
                    case Run(work, is_quick):
                        with self._metrics.stage("arrange"):
                            answer = work() if is_quick else await self._workers.run(work)
        except StopIteration as done:
            proposals: Proposals = done.value
            return proposals

    async def _near_leased(self, live: LiveSession) -> Rows:
        """Neighbours of `sources`, ascending, up to the moment of the return. Outdated."""
        near, known = np.empty(0, np.int32), np.empty(0, np.int32)
        for _ in range(MAX_TRIPS):
            wanted = sources(live.view)
            if live.neighbourhood is None or np.array_equal(known, wanted):
                return near
            known = wanted
            near = np.unique(await live.neighbourhood.of(known)).astype(np.int32)
        raise Outdated


def _frees(entry: Entry) -> bool:
    """Whether an entry may make an item free that was not."""
    if isinstance(entry, LabelsEntry):
        return RETRACTION in entry.values
    return not isinstance(entry, GrantEntry)


def _is_outdated(live: LiveSession, ask: Ask, ranking: Ranking, is_fresh: bool) -> bool:
    """Whether the view has learnt of labels that the call's ranking should include, or is of
    another log: one that a failover cut short has been read anew."""
    return ranking.snapshot.lineage is not live.view.lineage or (
        not is_fresh and ask.min_revision is None and ranking.snapshot.revision < live.view.revision
    )
