"""What a NextBatch asks, what its grant keeps, and the answer that is made of that."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import msgpack

from coresift.server.session.live.live import LiveSession
from coresift.server.session.ranking.offers import Proposed
from coresift.server.session.ranking.ranking import PickReason, Ranking
from coresift.server.session.setup.lease_tokens import SALT_BYTES, lease_token
from coresift.server.session.setup.materials import Materials
from coresift.server.state.values import (
    Claim,
    Granted,
    Proposal,
    Request,
)

PAYLOAD = struct.Struct("<dhBB")
"""Score, predicted class, reason, place in the mix: what a grant says of an item."""
REASONS = {int(reason): reason for reason in PickReason}


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


class Pick(NamedTuple):
    """A leased item."""

    row: int
    score: float
    predicted: int
    """Class number, -1 without a head."""
    reason: PickReason
    component: int
    """Place in the session's mix of the strategy that scored it."""
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


def proposals_of(ranking: Ranking, found: list[Proposed]) -> list[Proposal]:
    """Proposals as the store takes them, with their groups where a group has one lease."""
    groups, pack = ranking.materials.kept_groups([p.row for p in found]), PAYLOAD.pack
    return [
        Proposal(row, pack(score, predicted, reason, component), group)
        for (row, score, predicted, reason, component), group in zip(found, groups, strict=True)
    ]


def context_of(ranking: Ranking) -> bytes:
    """What all items of a grant have in common, with a new salt for their tokens."""
    packed: bytes = msgpack.packb(
        [
            "COLD_START" if ranking.is_cold else "SELECTING",
            ranking.state.version,
            secrets.token_bytes(SALT_BYTES),
            dict(ranking.details),
        ]
    )
    return packed


def answer_of(live: LiveSession, ask: Ask, granted: Granted, materials: Materials | None) -> Batch:
    """The answer of a grant, the same for the first and for every repeated call.

    ``materials``: of the ranking; None where the answer was kept.
    """
    phase, head_version, salt, details = msgpack.unpackb(granted.context)
    picks = []
    for row, payload in zip(granted.rows, granted.payloads, strict=True):
        score, predicted, reason, component = PAYLOAD.unpack(payload)
        token = lease_token(live.secret, salt, row, ask.annotator)
        picks.append(Pick(row, score, predicted, REASONS[reason], component, token))
    next_available_ms = None
    if not picks and materials is not None:  # what is stored has picks
        waiting = granted.next_deadline_ms is not None and (
            live.view.waits_for_budget(ask.annotator, materials.eligible_items, materials.eligible)
            if granted.budget_spent
            else not ask.review and _waits(live, ask.annotator, materials)
        )
        phase = "WAITING" if waiting else "EXHAUSTED"
        next_available_ms = granted.next_deadline_ms if waiting else None
    elif picks and not granted.replayed:
        live.metrics.leased("granted", len(picks))
        if live.neighbourhood is not None:
            live.neighbourhood.prefetch(granted.rows)
    live.metrics.answered(phase.lower())
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


def measure(live: LiveSession, claim: Claim, granted: Granted) -> None:
    """Publish how old the labels are that the head of the grant lacks."""
    if granted.rows:
        now_ms = granted.deadline_ms - claim.lease_ms
        live.metrics.chosen(live.label_times.age_s(granted.revision, now_ms))


def _waits(live: LiveSession, annotator: str, materials: Materials) -> bool:
    """Whether the end of a lease could leave the annotator an item."""
    one_lease = materials.rule is not None and materials.rule.one_lease
    if one_lease and live.view.leases:
        return True  # a lease keeps the rest of its group back
    return live.view.waits_for(annotator, materials.eligible)
