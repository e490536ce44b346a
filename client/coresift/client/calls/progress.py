"""How far a session is, and whether to go on."""

from __future__ import annotations

from dataclasses import dataclass

from coresift.client.calls.basis import Basis, basis
from coresift.client.calls.session import Session, id_of
from coresift.client.enums import StopAdvice, member
from coresift.client.flow import Flow, Rpc, call
from coresift.v1 import selection_pb2 as pb

PROGRESS = Rpc("GetSessionProgress", pb.GetSessionProgressRequest, pb.GetSessionProgressResponse)


@dataclass(frozen=True)
class ClassCount:
    """Votes for a class, and (multilabel) votes that it is absent."""

    class_name: str
    positive: int
    negative: int


@dataclass(frozen=True)
class Estimate:
    """A measured share, 0..1, and the bounds of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ValidationScore:
    """How well the head does on the labelled validation items; intervals of 95 %."""

    items: int
    accuracy: Estimate | None
    """Share of right predictions; None: multilabel."""
    average_precision: Estimate | None
    """Of the positive class; multilabel: mean over the classes with both sides. None: multiclass,
    or a side is missing."""


@dataclass(frozen=True)
class RandomSample:
    """What the random sample says: the items labelled in an unbroken run of the fixed hash order.

    Bounds hold at ``confidence``, at all looks together.
    """

    class_name: str
    items: int
    positives: int
    confidence: float
    prevalence: Estimate | None
    """Share of positives among the items that may be labelled; None: the run is empty."""
    recall: float | None
    """Share of all positives that is labelled; None: none is known."""
    recall_low: float
    """Lower bound of the recall."""
    lift: float | None
    """Share of positives among labelled items outside the run, over the prevalence."""
    labels_needed: int | None
    """Least number of further random labels that can certify the target recall; 0: it is
    certified; None: no target, or no such number."""


@dataclass(frozen=True)
class Progress:
    """How far a session is."""

    basis: Basis
    pool_items: int
    eligible_items: int
    """Items that the filter admits; all without a filter."""
    labelled_items: int
    votes: int
    unsure_votes: int
    live_leases: int
    candidates: int
    """Items that the candidate policy admits and that have no label."""
    considered_share: float
    """Share of the pool, 0..1, that is labelled or a candidate."""
    classes: tuple[ClassCount, ...]
    unfitted_classes: tuple[str, ...]
    hidden_items: int
    labels_per_hour: float
    """Of the last hour in which there were labels."""
    validation: ValidationScore | None
    """None: no validation items, or none of them has a label."""
    head_agreement: tuple[float, ...]
    """Cohen's kappa of successive heads on a fixed random sample, oldest first."""
    random_sample: RandomSample | None
    """None: multiclass and multilabel without ``stop.class_name``."""
    stop_advice: StopAdvice
    stop_reason: str
    """Why, in a sentence."""


def progress(session: str | Session) -> Flow[Progress]:
    """Count labels, leases and candidates, and say how far the effort is and whether to stop."""
    request = pb.GetSessionProgressRequest(session_id=id_of(session))
    return progress_of((yield from call(PROGRESS, request, request.session_id)))


def progress_of(message: pb.GetSessionProgressResponse) -> Progress:
    """Decode a session's progress."""
    has = message.HasField
    return Progress(
        basis=basis(message.basis),
        pool_items=message.pool_items,
        eligible_items=message.eligible_items,
        labelled_items=message.labelled_items,
        votes=message.votes,
        unsure_votes=message.unsure_votes,
        live_leases=message.live_leases,
        candidates=message.candidates,
        considered_share=message.considered_share,
        classes=tuple(ClassCount(c.class_name, c.positive, c.negative) for c in message.classes),
        unfitted_classes=tuple(message.unfitted_classes),
        hidden_items=message.hidden_items,
        labels_per_hour=message.labels_per_hour,
        validation=_validation(message.validation) if has("validation") else None,
        head_agreement=tuple(message.head_agreement),
        random_sample=_random_sample(message.random_sample) if has("random_sample") else None,
        stop_advice=member(pb.StopAdvice, StopAdvice, message.stop_advice),
        stop_reason=message.stop_reason,
    )


def _validation(score: pb.ValidationScore) -> ValidationScore:
    accuracy = precision = None
    if score.HasField("accuracy"):
        accuracy = Estimate(score.accuracy, score.accuracy_low, score.accuracy_high)
    if score.HasField("average_precision"):
        precision = Estimate(
            score.average_precision, score.average_precision_low, score.average_precision_high
        )
    return ValidationScore(score.items, accuracy, precision)


def _random_sample(sample: pb.RandomSample) -> RandomSample:
    has = sample.HasField
    prevalence = None
    if has("prevalence"):
        prevalence = Estimate(sample.prevalence, sample.prevalence_low, sample.prevalence_high)
    return RandomSample(
        class_name=sample.class_name,
        items=sample.items,
        positives=sample.positives,
        confidence=sample.confidence,
        prevalence=prevalence,
        recall=sample.recall if has("recall") else None,
        recall_low=sample.recall_low,
        lift=sample.lift if has("lift") else None,
        labels_needed=sample.labels_needed if has("labels_needed") else None,
    )
