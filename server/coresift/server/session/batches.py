"""Handing out items: the flow of a NextBatch through view, ranking, proposals and claim."""

from __future__ import annotations

import secrets
import struct
import time
from dataclasses import dataclass

import msgpack
import numpy as np

from coresift.server.arrays import Rows
from coresift.server.errors import CoresiftError, Reason
from coresift.server.metrics import Metrics
from coresift.server.session.live import LiveSession, check_reached
from coresift.server.session.proposals import expansion, over_ask, proposals
from coresift.server.session.ranking import PickReason, Ranking
from coresift.server.session.tokens import SALT_BYTES, lease_token
from coresift.server.session.workers import Workers
from coresift.server.state.entries import Entry, GrantEntry, LabelsEntry
from coresift.server.state.store import (
    RETRACTION,
    Behind,
    Claim,
    Granted,
    Proposal,
    Request,
    Rewound,
    Store,
    ViewKey,
)

PAYLOAD = struct.Struct("<dhB")
"""Score, predicted class, reason: what a grant says of an item."""
MAX_TRIPS = 6
"""Claims of one NextBatch. Two suffice unless the configuration changes or leases expire."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A NextBatch, checked."""

    request: Request
    annotator: str
    size: int
    lease_ms: int | None
    min_revision: int | None


@dataclass(frozen=True, slots=True)
class Pick:
    """A leased item."""

    row: int
    score: float
    predicted: int
    """Class number, -1 without a head."""
    reason: PickReason
    token: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """The answer of NextBatch."""

    live: LiveSession
    revision: int
    config_version: int
    head_version: str
    phase: str
    picks: tuple[Pick, ...]
    deadline_ms: int | None
    next_available_ms: int | None


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
            ranking = await self._ranking(live, began, ask)
            # Looked up now: while this call waits its turn, another one may sync the view.
            is_fresh = live.synced_since(began)
            async with live.claiming:
                if _is_outdated(live, ask, ranking, is_fresh):
                    continue
                view, claim = live.view, await self._claim(live, ask, ranking, is_fresh)
                claimed_at = time.monotonic()
                with self._metrics.stage("claim"):
                    result = await self._store.claim(live.uid, claim)
                match result:
                    case Granted():
                        if not result.replayed:
                            await live.apply(view, result.entries, claimed_at)
                        # Others took what was proposed, or set free what was not.
                        more = len(claim.proposals) >= over_ask(ask.size) and result.entries
                        again = more or any(map(_frees, result.entries))
                        if result.rows or not again or trip + 1 == MAX_TRIPS:
                            return self._answer(live, ask, result)
                    case Behind():
                        await live.apply(view, result.entries, claimed_at)
                    case Rewound():
                        live.rewound(view)
        raise CoresiftError(
            Reason.STATE_UNAVAILABLE,
            "the session's configuration or log changes too fast",
            retry_after_s=0.1,
        )

    async def _ranking(self, live: LiveSession, began: float, ask: Ask) -> Ranking:
        """The newest ranking at hand if the claim may accept it, otherwise a fresh one."""
        ranking = live.ranking
        if ranking is not None and ranking.snapshot.config_version == live.view.config_version:
            revision = ranking.snapshot.revision
            enough = live.view.revision if ask.min_revision is None else ask.min_revision
            if revision >= enough:
                return ranking
        return await live.ranked(began)

    async def _claim(self, live: LiveSession, ask: Ask, ranking: Ranking, is_fresh: bool) -> Claim:
        """The claim of a ranking; ``is_fresh``: it has every label acknowledged before the call."""
        snapshot = ranking.snapshot
        offset, proposed = await self._propose(live, ask, ranking)
        min_revision = ask.min_revision
        if min_revision is None and is_fresh:
            min_revision = snapshot.revision
        context = msgpack.packb(
            [
                "COLD_START" if ranking.reason is PickReason.COLD_START else "SELECTING",
                ranking.state.version,
                secrets.token_bytes(SALT_BYTES),
            ]
        )
        return Claim(
            request=ask.request,
            annotator=ask.annotator,
            size=ask.size,
            lease_ms=ask.lease_ms or live.config.lease_ms,
            view=ViewKey(offset, snapshot.revision, snapshot.nonce, snapshot.config_version),
            min_revision=min_revision,
            proposals=proposed,
            context=context,
        )

    async def _propose(
        self, live: LiveSession, ask: Ask, ranking: Ranking
    ) -> tuple[int, list[Proposal]]:
        """Free rows, best first, some more than asked, and the offset of the view they are
        from: replay proposes from the same."""
        wanted, annotator = over_ask(ask.size), ask.annotator
        view = live.view
        offset, found = view.offset, proposals(ranking, view, annotator, wanted)
        while len(found) < wanted and not ranking.scored.complete:
            ranking = await live.deepened(ranking)
            view = live.view
            offset, found = view.offset, proposals(ranking, view, annotator, wanted)
        near = np.empty(0, np.int32)
        if len(found) < wanted:
            near = await self._near_leased(live)
            if view is not live.view or offset != view.offset:
                view = live.view
                offset, found = view.offset, proposals(ranking, view, annotator, wanted)
        # Nothing awaits here: all that depends on the view is of one moment.
        pool = live.pool
        missing = wanted - len(found) if ranking.scored.complete else 0
        if missing:
            blocked = view.blocked_rows(annotator)
            found += await self._workers.run(
                lambda: expansion(pool, ranking, near, blocked, missing)
            )
        packed = [Proposal(p.row, PAYLOAD.pack(p.score, p.predicted, p.reason)) for p in found]
        return offset, packed

    async def _near_leased(self, live: LiveSession) -> Rows:
        """Neighbours of the items that are leased, ascending, up to the moment of the return."""
        near, leases = np.empty(0, np.int32), None
        for _ in range(MAX_TRIPS):
            if live.neighbourhood is None or leases == live.view.leases.keys():
                break
            leases = set(live.view.leases)
            found = await live.neighbourhood.of(np.array(sorted(leases), np.int32))
            near = np.unique(found).astype(np.int32)
        return near

    def _answer(self, live: LiveSession, ask: Ask, granted: Granted) -> Batch:
        """The answer of a grant, the same for the first and for every repeated call."""
        phase, head_version, salt = msgpack.unpackb(granted.context)
        picks = []
        for row, payload in zip(granted.rows, granted.payloads, strict=True):
            score, predicted, reason = PAYLOAD.unpack(payload)
            token = lease_token(live.secret, salt, row, ask.annotator)
            picks.append(Pick(row, score, predicted, PickReason(reason), token))
        next_available_ms = None
        if not picks:
            waiting = granted.next_deadline_ms is not None and (
                live.view.waits_for_budget(ask.annotator, live.pool.manifest.items)
                if granted.budget_spent
                else live.view.waits_for(ask.annotator)
            )
            phase = "WAITING" if waiting else "EXHAUSTED"
            next_available_ms = granted.next_deadline_ms if waiting else None
        elif not granted.replayed:
            self._metrics.leases.labels("granted").inc(len(picks))
            if live.neighbourhood is not None:
                live.neighbourhood.prefetch(granted.rows)
        self._metrics.batches.labels(phase.lower()).inc()
        return Batch(
            live=live,
            revision=granted.revision,
            config_version=granted.config_version,
            head_version=head_version,
            phase=phase,
            picks=tuple(picks),
            deadline_ms=granted.deadline_ms if picks else None,
            next_available_ms=next_available_ms,
        )


def _frees(entry: Entry) -> bool:
    """Whether an entry may make an item free that was not."""
    if isinstance(entry, LabelsEntry):
        return RETRACTION in entry.values
    return not isinstance(entry, GrantEntry)


def _is_outdated(live: LiveSession, ask: Ask, ranking: Ranking, is_fresh: bool) -> bool:
    """Whether the view has learnt of labels that the call's ranking should include."""
    return (
        not is_fresh and ask.min_revision is None and ranking.snapshot.revision < live.view.revision
    )
