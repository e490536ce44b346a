"""Labels: give them, read them back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from itertools import chain, islice

from coresift.client.calls.basis import Basis, basis
from coresift.client.calls.leases import Lease, Pick
from coresift.client.calls.session import Session, id_of
from coresift.client.convert import moment, new_request_id
from coresift.client.enums import Outcome, member
from coresift.client.errors import CoresiftError
from coresift.client.flow import Flow, Iteration, Rpc, call, mapped, part_id, parts, stream
from coresift.v1 import selection_pb2 as pb

ADD = Rpc("AddLabels", pb.AddLabelsRequest, pb.AddLabelsResponse)
LIST = Rpc("ListLabels", pb.ListLabelsRequest, pb.ListLabelsResponse)

MOST_LABELS = 1_000
"""Labels of one AddLabels."""


class Special(Enum):
    """Labels that name no class."""

    UNSURE = "unsure"
    """The annotator looked and cannot tell: counts as a vote, trains nothing."""
    RETRACT = "retract"
    """Takes back the annotator's label."""


UNSURE = Special.UNSURE
RETRACT = Special.RETRACT


@dataclass(frozen=True)
class Classes:
    """A multilabel value: classes known present and known absent; the rest is unknown."""

    present: Sequence[str] = ()
    absent: Sequence[str] = ()


LabelValue = str | Classes | Special


@dataclass(frozen=True)
class Label:
    """An item's label: a class name, `Classes`, `UNSURE` or `RETRACT`."""

    item_id: str
    value: LabelValue
    lease_token: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class LabelResult:
    """The committed labels: an outcome each, in the order given, and the newest revision."""

    item_ids: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    basis: Basis

    @property
    def revision(self) -> int:
        """Revision of these labels: `next_batch` with ``min_revision`` waits for it."""
        return self.basis.revision

    @property
    def counts(self) -> Counter[Outcome]:
        """How many labels had which outcome."""
        return Counter(self.outcomes)


@dataclass(frozen=True)
class LabelRecord:
    """A label of the log."""

    revision: int
    annotator: str
    item_id: str
    value: LabelValue
    outcome: Outcome
    time: datetime


def add_labels(
    session: str | Session,
    labels: Mapping[str, LabelValue] | Iterable[Label],
    annotator: str,
    *,
    batch: Iterable[Pick | Lease] = (),
    request_id: str | None = None,
) -> Flow[LabelResult]:
    """Record labels and end the annotator's leases on these items.

    Args:
        labels: item_id to value, or `Label` objects. More than 1,000 are sent as several calls,
            each all or none.
        annotator: who says so.
        batch: the picks (or leases) that these labels answer: gives the lease tokens. Labels
            without a token are accepted as imports.

    Raises:
        InvalidInput: CONFLICTING_LABELS, UNKNOWN_CLASS, LEASE_TOKEN_FOREIGN. With more than
            1,000 labels a note on the exception says how many were recorded before.
        NotFound: SESSION_NOT_FOUND, ITEM_NOT_FOUND.
    """
    if isinstance(labels, Mapping):
        labels = [Label(item_id, value) for item_id, value in labels.items()]
    tokens = {pick.item_id: pick.lease_token for pick in batch}
    messages = [_wire(label, tokens) for label in labels]
    cuts = parts(len(messages), MOST_LABELS) or [slice(0)]
    request_id = request_id or new_request_id()
    outcomes: list[Outcome] = []
    for part, cut in enumerate(cuts):
        request = pb.AddLabelsRequest(
            request_id=part_id(request_id, part, len(cuts)),
            session_id=id_of(session),
            annotator=annotator,
            labels=messages[cut],
        )
        try:
            reply = yield from call(ADD, request, request.session_id)
        except CoresiftError as error:
            if outcomes:
                error.add_note(f"the first {len(outcomes)} labels of this call are recorded")
            raise
        outcomes.extend(member(pb.LabelOutcome, Outcome, outcome) for outcome in reply.outcomes)
    ids = tuple(message.item_id for message in messages)
    return LabelResult(ids, tuple(outcomes), basis(reply.basis))


def import_labels(
    session: str | Session,
    labels: Mapping[str, LabelValue] | Iterable[Label | tuple[str, LabelValue]],
    annotator: str,
    *,
    on_progress: Callable[[int], None] | None = None,
    request_id: str | None = None,
) -> Flow[LabelResult]:
    """Record many labels that exist already, 1,000 a call, read as they are sent.

    Args:
        labels: item_id to value, or pairs, or `Label` objects. An item may come again in another
            call: the later label counts.
        annotator: who says so.
        on_progress: called with the labels recorded so far.
        request_id: the same id with the same labels takes up an import that was broken off.

    Raises:
        As `add_labels`.
    """
    pairs: Iterable[Label | tuple[str, LabelValue]]
    pairs = labels.items() if isinstance(labels, Mapping) else labels
    request_id = request_id or new_request_id()
    rest = (pair if isinstance(pair, Label) else Label(*pair) for pair in pairs)
    results: list[LabelResult] = []
    done = 0
    while (part := list(islice(rest, MOST_LABELS))) or not results:
        part_id = f"{request_id}/{len(results)}"
        try:
            results.append((yield from add_labels(session, part, annotator, request_id=part_id)))
        except CoresiftError as error:
            if done:
                error.add_note(f"the first {done} labels of this import are recorded")
            raise
        done += len(part)
        if on_progress is not None:
            on_progress(done)
    return LabelResult(
        item_ids=tuple(chain.from_iterable(result.item_ids for result in results)),
        outcomes=tuple(chain.from_iterable(result.outcomes for result in results)),
        basis=results[-1].basis,
    )


def list_labels(
    session: str | Session, start_revision: int = 0, end_revision: int | None = None
) -> Iteration[LabelRecord]:
    """The log's labels of revisions [start_revision, end_revision), in order; None: all so far.

    Raises:
        PreconditionFailed: REVISION_NOT_REACHED.
    """
    request = pb.ListLabelsRequest(
        session_id=id_of(session), start_revision=start_revision, end_revision=end_revision
    )
    messages = stream(LIST, request, request.session_id)
    yield from mapped(messages, lambda message: map(_record, message.labels))


def _wire(label: Label, tokens: Mapping[str, bytes]) -> pb.Label:
    message = pb.Label(
        item_id=label.item_id, lease_token=label.lease_token or tokens.get(label.item_id, b"")
    )
    match label.value:
        case str():
            message.class_name = label.value
        case Classes(present, absent):
            message.classes.CopyFrom(pb.MultilabelValue(present=present, absent=absent))
        case Special.UNSURE:
            message.unsure.SetInParent()
        case Special.RETRACT:
            message.retraction.SetInParent()
        case _:
            raise TypeError(
                "a label is a class name, Classes(present, absent), UNSURE or RETRACT, "
                f"got {label.value!r} for item {label.item_id!r}"
            )
    return message


def _value(label: pb.Label) -> LabelValue:
    match label.WhichOneof("value"):
        case "classes":
            return Classes(tuple(label.classes.present), tuple(label.classes.absent))
        case "unsure":
            return UNSURE
        case "retraction":
            return RETRACT
        case _:
            return label.class_name


def _record(record: pb.LabelRecord) -> LabelRecord:
    return LabelRecord(
        revision=record.revision,
        annotator=record.annotator,
        item_id=record.label.item_id,
        value=_value(record.label),
        outcome=member(pb.LabelOutcome, Outcome, record.outcome),
        time=moment(record.time),
    )
