"""What was acknowledged stands in the log exactly once, and nothing else does."""

from __future__ import annotations

from typing import Any

from tests.fault.history.evidence import KIND_OF_ENTRY, Evidence, Finding
from tests.fault.history.operations import Operation, milliseconds, rows_of

from coresift.server.state.entries import (
    ConfigEntry,
    Entry,
    ExpiryEntry,
    GrantEntry,
    LabelsEntry,
    ReleaseEntry,
)
from coresift.server.state.values import Release
from coresift.v1 import selection_pb2 as pb


def labels_are_kept(evidence: Evidence, finding: Finding) -> None:
    """Every acknowledged AddLabels is in the log once, as it was sent and answered."""
    for operation, _ in evidence.acknowledged("AddLabels"):
        entries = evidence.entries_of(operation)
        if not finding.check(
            len(entries) == 1, f"{len(entries)} entries of acknowledged labels", [operation]
        ):
            continue
        [entry] = entries
        assert isinstance(entry, LabelsEntry)
        answer = operation.answer
        same = (
            evidence.fits(operation, entry)
            and tuple(entry.outcomes) == tuple(answer.outcomes)
            and entry.offset == answer.basis.revision
        )
        finding.check(same, "the labels differ from the acknowledged ones", [operation], [entry])


def grants_are_kept(evidence: Evidence, finding: Finding) -> None:
    """Every acknowledged grant is in the log once, with its items and its basis."""
    for operation, _ in evidence.acknowledged("NextBatch"):
        entries = evidence.entries_of(operation)
        granted = next((answer for answer in operation.answers if answer.picks), None)
        if granted is None:
            # Asked anew by a later attempt, whose answer was lost, it may have got something.
            if len(operation.attempts) == 1:
                finding.check(not entries, "nothing was answered, yet leased", [operation], entries)
            continue
        if not entries and evidence.failed_over:
            finding.limits += 1
            continue
        if not finding.check(
            len(entries) == 1, f"{len(entries)} entries of an acknowledged grant", [operation]
        ):
            continue
        [entry] = entries
        assert isinstance(entry, GrantEntry)
        same = (
            entry.rows == rows_of(pick.item_id for pick in granted.picks)
            and entry.deadline_ms == milliseconds(granted.lease_deadline)
            and entry.view_revision == granted.basis.revision
            and entry.config_version == granted.basis.config_version
        )
        if not same and evidence.failed_over:
            finding.limits += 1  # lost, and granted again to the same request
            continue
        finding.check(same, "the grant differs from the acknowledged one", [operation], [entry])


def other_writes_are_kept(evidence: Evidence, finding: Finding) -> None:
    """Acknowledged releases and configurations are in the log once."""
    for operation, _ in evidence.acknowledged("ReleaseLeases"):
        entries = evidence.entries_of(operation)
        released = rows_of(operation.answer.released)
        silent = operation.request.reason == pb.RELEASE_REASON_RETURN and not released
        if finding.check(
            len(entries) == (0 if silent else 1),
            f"{len(entries)} entries of an acknowledged release",
            [operation],
        ):
            for entry in entries:
                assert isinstance(entry, ReleaseEntry)
                wanted = released if entry.reason == Release.RETURN else _rows(operation.request)
                finding.check(set(entry.rows) == set(wanted), "other rows", [operation], [entry])
    for operation, _ in evidence.acknowledged("UpdateSession"):
        version = operation.answer.session.basis.config_version
        versions = [
            entry.config_version
            for entry in evidence.entries_of(operation)
            if isinstance(entry, ConfigEntry)
        ]
        finding.check(versions == [version], f"version {version} stands as {versions}", [operation])


def log_has_no_strangers(evidence: Evidence, finding: Finding) -> None:
    """The log holds, once each, only what somebody sent and nobody was refused."""
    sent: dict[tuple[str, str], list[Operation]] = {}
    for operation in evidence.operations:
        sent.setdefault((operation.kind, operation.request_id), []).append(operation)
    seen: set[tuple[str, str]] = set()
    for entry in evidence.log:
        if isinstance(entry, ExpiryEntry):
            continue
        key = (KIND_OF_ENTRY[type(entry)], entry.request_id)
        if entry.offset == 1:
            key = ("CreateSession", entry.request_id)
        finding.check(key not in seen, f"{key} stands twice", entries=[entry])
        seen.add(key)
        senders = [
            operation
            for operation in sent.get(key, ())
            if operation.may_have_happened and _fits(evidence, operation, entry)
        ]
        finding.check(bool(senders), f"nobody sent {key} like that", sent.get(key, ()), [entry])


def _fits(evidence: Evidence, operation: Operation, entry: Entry) -> bool:
    request: Any = operation.request
    match entry:
        case LabelsEntry():
            return evidence.fits(operation, entry)
        case GrantEntry():
            review = request.purpose == pb.PURPOSE_REVIEW
            asked = (entry.annotator, entry.size, entry.review)
            return bool(asked == (request.annotator, request.size, review))
        case ReleaseEntry():
            given = (entry.annotator, entry.reason) == (request.annotator, request.reason)
            return given and set(entry.rows) <= set(_rows(request))
        case _:
            return True


def _rows(request: pb.ReleaseLeasesRequest) -> tuple[int, ...]:
    return rows_of(request.item_ids)
