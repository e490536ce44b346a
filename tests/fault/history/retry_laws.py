"""Retries are safe, and refusals say what is wrong."""

from __future__ import annotations

from typing import Any

from tests.fault.history.evidence import NOT_REPLICATED, Evidence, Finding
from tests.fault.history.lease_laws import SLACK_MS
from tests.fault.history.operations import Operation, milliseconds
from tests.fault.history.record import READS, Outcome

from coresift.v1 import selection_pb2 as pb

RETRIED = frozenset(
    {
        "OVERLOADED",
        "DRAINING",
        "STATE_UNAVAILABLE",
        "STATE_FULL",
        "STATE_READ_ONLY",
        "STATENOT_REPLICATED",
    }
)
"""Reasons that any call may meet while something is broken."""


def same_request_same_answer(evidence: Evidence, finding: Finding) -> None:
    """A repeated request has one answer; a NextBatch until its leases end, none afterwards."""
    for operation in evidence.operations:
        if operation.kind in READS or len(operation.attempts) == 1:
            continue
        if operation.kind in NOT_REPLICATED and evidence.failed_over:
            continue
        is_batch = operation.kind == "NextBatch"
        kept = [a for a in operation.answers if not is_batch or a.picks]
        for answer in kept[1:]:
            finding.check(
                _same(answer) == _same(kept[0]), "a second answer that differs", [operation]
            )
        if is_batch and kept:
            _check_batch(finding, operation, kept[0])


def _check_batch(finding: Finding, operation: Operation, kept: pb.NextBatchResponse) -> None:
    deadline = milliseconds(kept.lease_deadline)
    known_at = next(
        attempt.completed_ms
        for attempt in sorted(operation.attempts, key=lambda a: a.completed_ms)
        if attempt.outcome is Outcome.OK and pb.NextBatchResponse.FromString(attempt.answer).picks
    )
    for attempt in operation.attempts:
        if attempt.outcome is Outcome.OK and attempt.invoked_ms > known_at:
            picks = pb.NextBatchResponse.FromString(attempt.answer).picks
            finding.check(bool(picks), "a repeated NextBatch lost its answer", [operation])
            finding.check(
                attempt.invoked_ms <= deadline + SLACK_MS,
                "a NextBatch was answered after its leases had ended",
                [operation],
            )
        if attempt.reason == "REQUEST_EXPIRED":
            finding.check(
                attempt.completed_ms >= deadline - SLACK_MS,
                "a NextBatch was called expired before its leases had ended",
                [operation],
            )


def other_body_is_refused(evidence: Evidence, finding: Finding) -> None:
    """A request_id that was answered is refused with another body."""
    known: dict[str, tuple[float, Operation]] = {}
    for operation, at in evidence.acknowledged("AddLabels", "RenewLeases", "ReleaseLeases"):
        known.setdefault(operation.request_id, (at, operation))
    for operation in evidence.operations:
        if operation.intent == "reuse" and operation.request_id in known:
            at, first = known[operation.request_id]
            for attempt in operation.attempts:
                if attempt.invoked_ms > at and attempt.outcome is not Outcome.UNKNOWN:
                    finding.check(
                        attempt.reason in {"REQUEST_ID_REUSED", *RETRIED},
                        f"a reused request_id ended with {attempt.reason or 'an answer'}",
                        [first, operation],
                    )


def refusals_fit(evidence: Evidence, finding: Finding) -> None:
    """What is wrong is refused for its reason, what is right is not, and nothing is INTERNAL."""
    for operation in evidence.operations:
        for attempt in operation.attempts:
            if attempt.outcome is Outcome.UNKNOWN:
                finding.check(
                    attempt.reason not in {"INTERNAL", "UNKNOWN"},
                    f"{operation.kind} ended with {attempt.reason}",
                    [operation],
                )
            elif attempt.outcome is Outcome.OK:
                finding.check(
                    operation.intent in {"", "stale"},
                    f"{operation.kind} with {operation.intent} was accepted",
                    [operation],
                )
            else:
                finding.check(
                    attempt.reason in RETRIED | _allowed(operation),
                    f"{operation.kind} ({operation.intent or 'right'}) was refused: "
                    f"{attempt.reason}",
                    [operation],
                )


_REASONS = {
    "reuse": {"REQUEST_ID_REUSED"},
    "foreign token": {"LEASE_TOKEN_FOREIGN"},
    "conflict": {"CONFLICTING_LABELS"},
    "unknown class": {"UNKNOWN_CLASS"},
    "ahead": {"REVISION_NOT_REACHED"},
    "stale": {"CONFIG_VERSION_MISMATCH"},
}
"""Intent to the reasons that fit it."""


def _allowed(operation: Operation) -> set[str]:
    allowed = set(_REASONS.get(operation.intent, ()))
    if operation.kind == "NextBatch" and not operation.intent:
        if operation.request.purpose == pb.PURPOSE_REVIEW:
            allowed.add("HEAD_NOT_FITTED")
        if len(operation.attempts) > 1:
            allowed.add("REQUEST_EXPIRED")
    return allowed


def _same(answer: Any) -> object:
    """Equal for answers that must be the same; NaN equals itself."""
    if isinstance(answer, pb.CreateSessionResponse):  # its configuration is that of the moment
        return answer.session.session_id, milliseconds(answer.session.create_time)
    return answer.SerializeToString(deterministic=True)
