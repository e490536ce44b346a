"""Handing out items: the flow of a NextBatch through view, ranking, proposals and claim."""

from __future__ import annotations

import secrets
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass

import msgpack
import numpy as np

from coresift.server.arrays import Rows
from coresift.server.errors import CoresiftError, Reason
from coresift.server.metrics import Metrics
from coresift.server.session.live import LiveSession, check_reached
from coresift.server.session.materials import Materials
from coresift.server.session.proposals import (
    Proposed,
    chosen,
    expansion,
    is_plain,
    is_short,
    lacks,
    offer,
    over_ask,
)
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
    review: bool = False
    """Labelled items for a second look, not new ones."""


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
    details: Mapping[str, float]
    """What the strategies found on their way."""


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
                        limited = not is_plain(ranking.snapshot.config)
                        more = limited or len(claim.proposals) >= over_ask(ask.size)
                        again = (more and result.entries) or any(map(_frees, result.entries))
                        if result.rows or not again or trip + 1 == MAX_TRIPS:
                            return self._answer(live, ask, result, ranking.materials)
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
        ranking = live.review if ask.review else live.ranking
        if ranking is not None and ranking.snapshot.config_version == live.view.config_version:
            revision = ranking.snapshot.revision
            enough = live.view.revision if ask.min_revision is None else ask.min_revision
            if revision >= enough:
                return ranking
        return await (live.reviewed(began) if ask.review else live.ranked(began))

    async def _claim(self, live: LiveSession, ask: Ask, ranking: Ranking, is_fresh: bool) -> Claim:
        """The claim of a ranking; ``is_fresh``: it has every label acknowledged before the call."""
        snapshot = ranking.snapshot
        rule = snapshot.config.groups
        offset, proposed = await self._propose(live, ask, ranking)
        min_revision = ask.min_revision
        if min_revision is None and is_fresh:
            min_revision = snapshot.revision
        context = msgpack.packb(
            [
                "COLD_START" if ranking.is_cold else "SELECTING",
                ranking.state.version,
                secrets.token_bytes(SALT_BYTES),
                dict(ranking.details),
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
            review=ask.review,
            one_label=rule is not None and rule.one_label and not ask.review,
        )

    async def _propose(
        self, live: LiveSession, ask: Ask, ranking: Ranking
    ) -> tuple[int, list[Proposal]]:
        """Free rows, best first, some more than asked, and the offset of the view they are
        from: replay proposes from the same."""
        wanted, annotator = over_ask(ask.size), ask.annotator
        offered = offer(ranking, live.view, annotator, wanted)
        while lacks(offered, ranking, wanted):
            ranking = await live.deepened(ranking)
            offered = offer(ranking, live.view, annotator, wanted)
        near, blocked, short = np.empty(0, np.int32), np.empty(0, np.int32), False
        if not ask.review and is_short(offered, wanted):
            near, short = await self._near_leased(live), True
            offered = offer(ranking, live.view, annotator, wanted)
            blocked = live.view.blocked_rows(annotator)

        def work() -> list[Proposed]:
            return chosen(offered, ranking, wanted, lambda n: expansion(ranking, near, blocked, n))

        with self._metrics.stage("arrange"):
            if short or not is_plain(ranking.snapshot.config):
                found = await self._workers.run(work)
            else:
                found = work()
        return offered.offset, _packed(ranking, found)

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

    def _answer(self, live: LiveSession, ask: Ask, granted: Granted, materials: Materials) -> Batch:
        """The answer of a grant, the same for the first and for every repeated call."""
        phase, head_version, salt, details = msgpack.unpackb(granted.context)
        picks = []
        for row, payload in zip(granted.rows, granted.payloads, strict=True):
            score, predicted, reason = PAYLOAD.unpack(payload)
            token = lease_token(live.secret, salt, row, ask.annotator)
            picks.append(Pick(row, score, predicted, PickReason(reason), token))
        next_available_ms = None
        if not picks:
            waiting = granted.next_deadline_ms is not None and (
                live.view.waits_for_budget(
                    ask.annotator, materials.eligible_items, materials.eligible
                )
                if granted.budget_spent
                else not ask.review and _waits(live, ask.annotator, materials)
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
            details=details,
        )


def _packed(ranking: Ranking, found: list[Proposed]) -> list[Proposal]:
    """Proposals as the store takes them, with their groups where a group has one lease."""
    groups = ranking.materials.kept_groups([p.row for p in found])
    return [
        Proposal(p.row, PAYLOAD.pack(p.score, p.predicted, p.reason), group)
        for p, group in zip(found, groups, strict=True)
    ]


def _waits(live: LiveSession, annotator: str, materials: Materials) -> bool:
    """Whether the end of a lease could leave the annotator an item."""
    one_lease = materials.rule is not None and materials.rule.one_lease
    if one_lease and live.view.leases:
        return True  # a lease keeps the rest of its group back
    return live.view.waits_for(annotator, materials.eligible)


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
