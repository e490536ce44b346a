"""Batches and leases: what an annotator holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from coresift.client.calls.basis import Basis, basis
from coresift.client.calls.session import Session, id_of
from coresift.client.convert import Seconds, duration, moment, new_request_id
from coresift.client.enums import Phase, PickReason, Purpose, ReleaseReason, member, number
from coresift.client.flow import Flow, Iteration, Rpc, call, pages, part_id, parts
from coresift.v1 import selection_pb2 as pb

NEXT = Rpc("NextBatch", pb.NextBatchRequest, pb.NextBatchResponse)
RENEW = Rpc("RenewLeases", pb.RenewLeasesRequest, pb.RenewLeasesResponse)
RELEASE = Rpc("ReleaseLeases", pb.ReleaseLeasesRequest, pb.ReleaseLeasesResponse)
LIST = Rpc("ListLeases", pb.ListLeasesRequest, pb.ListLeasesResponse)

MOST_ITEMS = 1_000
"""Items of one RenewLeases or ReleaseLeases."""


@dataclass(frozen=True)
class Pick:
    """A leased item."""

    item_id: str
    score: float
    """The strategy's; larger is sooner. NaN where no strategy chose (see ``reason``)."""
    predicted_class: str
    """Empty: there is no head yet."""
    reason: PickReason
    lease_token: bytes = field(repr=False)
    metadata: Mapping[str, str]
    strategy: str = ""
    """The one that scored it: of a mix, one of its shares. Empty: none did."""


@dataclass(frozen=True)
class Batch(Sequence[Pick]):
    """Leased items, best first; a sequence of `Pick`."""

    picks: tuple[Pick, ...]
    phase: Phase
    lease_deadline: datetime | None
    """When these leases end; None without picks."""
    next_available_time: datetime | None
    """WAITING: when the next lease of others ends."""
    strategy: str
    """Name of the session's strategy."""
    details: Mapping[str, float]
    """What the strategy found on its way; "probcover": ``radius``, ``covered``."""
    basis: Basis

    @property
    def item_ids(self) -> list[str]:
        """Ids of the picks, best first."""
        return [pick.item_id for pick in self.picks]

    def __len__(self) -> int:
        return len(self.picks)

    def __getitem__(self, index: int) -> Pick:  # type: ignore[override]
        return self.picks[index]

    def __iter__(self) -> Iterator[Pick]:
        return iter(self.picks)


@dataclass(frozen=True)
class Renewal:
    """Leases that now end at ``lease_deadline``, and named items that are leased no more."""

    lease_deadline: datetime
    renewed: tuple[str, ...]
    lost: tuple[str, ...]


@dataclass(frozen=True)
class Lease:
    """An item in an annotator's hands."""

    item_id: str
    annotator: str
    deadline: datetime
    lease_token: bytes = field(repr=False)
    """Empty unless one annotator's leases were asked for."""
    metadata: Mapping[str, str]


def next_batch(
    session: str | Session,
    annotator: str,
    size: int = 10,
    *,
    lease_duration: Seconds | None = None,
    min_revision: int | None = None,
    include_metadata: bool = True,
    purpose: Purpose | str = Purpose.NEW,
    request_id: str | None = None,
) -> Flow[Batch]:
    """Lease up to ``size`` (1..1000) of the best items to label next.

    Args:
        lease_duration: seconds or a timedelta, 1 s to 24 h; None: the session's.
        min_revision: the head must include the labels up to it; None: every label that was
            acknowledged before this call.
        include_metadata: hand back the pool's metadata columns.
        purpose: "new" (items that lack votes) or "review" (items that others labelled and that
            are worth a second look: each then takes one more vote).

    Raises:
        PreconditionFailed: REVISION_NOT_REACHED; REQUEST_EXPIRED for a repeated request_id;
            HEAD_NOT_FITTED for a review.
    """
    request = pb.NextBatchRequest(
        request_id=request_id or new_request_id(),
        session_id=id_of(session),
        annotator=annotator,
        size=size,
        lease_duration=duration(lease_duration),
        min_revision=min_revision,
        include_metadata=include_metadata,
        purpose=number(pb.Purpose, Purpose, purpose),
    )
    reply = yield from call(NEXT, request, request.session_id)
    available = reply.next_available_time if reply.HasField("next_available_time") else None
    return Batch(
        picks=tuple(map(_pick, reply.picks)),
        phase=member(pb.Phase, Phase, reply.phase),
        lease_deadline=moment(reply.lease_deadline) if reply.HasField("lease_deadline") else None,
        next_available_time=None if available is None else moment(available),
        strategy=reply.strategy,
        details=dict(reply.details),
        basis=basis(reply.basis),
    )


def renew_leases(
    session: str | Session,
    annotator: str,
    item_ids: Sequence[str] = (),
    *,
    lease_duration: Seconds | None = None,
    request_id: str | None = None,
) -> Flow[Renewal]:
    """Move the deadline of an annotator's leases (all of them without ``item_ids``)."""
    request_id = request_id or new_request_id()
    cuts = parts(len(item_ids), MOST_ITEMS) or [slice(0)]
    renewed: list[str] = []
    lost: list[str] = []
    deadlines: list[datetime] = []
    for part, cut in enumerate(cuts):
        request = pb.RenewLeasesRequest(
            request_id=part_id(request_id, part, len(cuts)),
            session_id=id_of(session),
            annotator=annotator,
            item_ids=item_ids[cut],
            lease_duration=duration(lease_duration),
        )
        reply = yield from call(RENEW, request, request.session_id)
        deadlines.append(moment(reply.lease_deadline))
        renewed.extend(reply.renewed)
        lost.extend(reply.lost)
    return Renewal(min(deadlines), tuple(renewed), tuple(lost))


def release_leases(
    session: str | Session,
    annotator: str,
    item_ids: Sequence[str],
    reason: ReleaseReason | str = ReleaseReason.RETURN,
    *,
    request_id: str | None = None,
) -> Flow[list[str]]:
    """Hand items back without labels; returns those whose lease was live.

    ``reason``: "return" (free again), "skip" (never offered to this annotator again) or
    "cannot_label" (to nobody).
    """
    request_id = request_id or new_request_id()
    wire_reason = number(pb.ReleaseReason, ReleaseReason, reason)
    cuts = parts(len(item_ids), MOST_ITEMS) or [slice(0)]
    released: list[str] = []
    for part, cut in enumerate(cuts):
        request = pb.ReleaseLeasesRequest(
            request_id=part_id(request_id, part, len(cuts)),
            session_id=id_of(session),
            annotator=annotator,
            item_ids=item_ids[cut],
            reason=wire_reason,
        )
        released.extend((yield from call(RELEASE, request, request.session_id)).released)
    return released


def list_leases(
    session: str | Session,
    annotator: str = "",
    *,
    include_metadata: bool = True,
    page_size: int = 0,
) -> Iteration[Lease]:
    """Live leases by item, then annotator; with ``annotator`` only theirs, with tokens."""

    def page(token: str) -> Flow[tuple[list[Lease], str]]:
        request = pb.ListLeasesRequest(
            session_id=id_of(session),
            annotator=annotator,
            page_size=page_size,
            page_token=token,
            include_metadata=include_metadata,
        )
        reply = yield from call(LIST, request, request.session_id)
        return [_lease(lease) for lease in reply.leases], reply.next_page_token

    yield from pages(page)


def _pick(pick: pb.Pick) -> Pick:
    return Pick(
        item_id=pick.item_id,
        score=pick.score,
        predicted_class=pick.predicted_class,
        reason=member(pb.PickReason, PickReason, pick.reason),
        lease_token=pick.lease_token,
        metadata=dict(pick.metadata),
        strategy=pick.strategy,
    )


def _lease(lease: pb.Lease) -> Lease:
    return Lease(
        item_id=lease.item_id,
        annotator=lease.annotator,
        deadline=moment(lease.deadline),
        lease_token=lease.lease_token,
        metadata=dict(lease.metadata),
    )
