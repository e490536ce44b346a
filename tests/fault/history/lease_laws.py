"""Nobody labels an item twice by accident: quotas, budgets, and leases by the store's clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import inf
from typing import TypeGuard

from tests.fault.history.evidence import Evidence, Finding
from tests.fault.history.model import Hold, holds_of, walk
from tests.fault.history.operations import Operation, lease_ms_of, milliseconds, row_of, rows_of

from coresift.server.session.setup.config import SessionConfig
from coresift.server.state.entries import (
    ConfigEntry,
    Entry,
    ExpiryEntry,
    GrantEntry,
    LabelsEntry,
)
from coresift.server.state.values import Settings
from coresift.v1 import selection_pb2 as pb

SLACK_MS = 50.0
"""Between the clock of the history and that of Redis, on one machine."""


def grants_keep_the_quota(evidence: Evidence, finding: Finding) -> None:
    """No grant makes leases and votes exceed the quota, or repeats what an annotator did."""
    for model, entry in walk(evidence.log):
        if isinstance(entry, GrantEntry):
            finding.check(
                len(set(entry.rows)) == len(entry.rows) <= entry.size,
                "an item twice, or more items than asked for",
                entries=[entry],
            )
            for row in entry.rows:
                why = model.objection(row, entry.annotator, review=entry.review)
                finding.check(not why, why, entries=[entry])


def answers_keep_the_quota(evidence: Evidence, finding: Finding) -> None:
    """As far as answers alone tell: an item for one vote never has two live leases.

    A second look raises an item's quota for good: such items are left out.
    """
    if _is_reconfigured(evidence, "votes_per_item") or evidence.first_config.votes_per_item > 1:
        return
    touched = _touched(evidence)
    raised = {row for entry in evidence.log if _is_review(entry) for row in entry.rows}
    for item_id, grants in _answered_grants(evidence).items():
        if row_of(item_id) in raised or evidence.failed_over:
            continue
        for (began, ends, first), (begins, _, second) in pairwise(grants):
            is_clear = not any(
                names(item_id) and starts <= begins + SLACK_MS and until >= began - SLACK_MS
                for starts, until, names in touched.get(first.request.annotator, ())
            )
            if is_clear:
                finding.check(
                    begins >= ends, f"{item_id} was leased to two at a time", [first, second]
                )


def budget_is_kept(evidence: Evidence, finding: Finding) -> None:
    """No grant makes votes and leases together exceed the budget."""
    for model, entry in walk(evidence.log):
        if isinstance(entry, GrantEntry) and model.config and model.config.label_budget is not None:
            after = model.vote_count + model.lease_count + len(entry.rows)
            finding.check(
                after <= model.config.label_budget,
                f"{after} votes and leases of {model.config.label_budget}",
                entries=[entry],
            )


def outcomes_are_true(evidence: Evidence, finding: Finding) -> None:
    """Each label did what its outcome says: new, corrected, late, beyond the quota."""
    sent: dict[str, list[Operation]] = {}
    for operation in evidence.of_kind("AddLabels"):
        sent.setdefault(operation.request_id, []).append(operation)
    for model, entry in walk(evidence.log):
        if not isinstance(entry, LabelsEntry):
            continue
        senders = [op for op in sent.get(entry.request_id, ()) if evidence.fits(op, entry)]
        for operation in senders[:1]:  # one without a sender breaks another law
            shown = [bool(label.lease_token) for label in operation.request.labels]
            wanted = model.outcomes(entry, shown)
            finding.check(
                wanted == tuple(entry.outcomes),
                f"outcomes {tuple(entry.outcomes)}, by the log {tuple(map(int, wanted))}",
                [operation],
                [entry],
            )


def deadlines_are_kept(evidence: Evidence, finding: Finding) -> None:
    """A lease ends by time at its deadline: not before, and nobody sees it after."""
    renewals = _renewals(evidence)
    unclear = [
        op for op in evidence.of_kind("RenewLeases") if evidence.failed_over or _is_unclear(op)
    ]
    for hold in holds_of(evidence.log):
        if any(
            op.request.annotator == hold.annotator and op.began_ms - SLACK_MS < hold.end_ms
            for op in unclear
        ):
            continue  # it may have moved the deadline: nobody knows
        moved = [
            (at, deadline)
            for at, deadline in renewals.get((hold.row, hold.annotator), ())
            if hold.grant.time_ms <= at <= hold.end_ms
        ]
        _check_end(evidence, finding, hold, moved)


def _check_end(
    evidence: Evidence, finding: Finding, hold: Hold, moved: Sequence[tuple[int, int]]
) -> None:
    deadlines = [hold.grant.deadline_ms, *(deadline for _, deadline in moved)]
    offset = len(evidence.log) + 1 if hold.end is None else hold.end.offset
    if isinstance(hold.end, ExpiryEntry):
        before = [deadline for at, deadline in moved if at < hold.end_ms]
        newest = before[-1] if before else hold.grant.deadline_ms
        finding.check(
            hold.end_ms >= newest,
            f"row {hold.row} expired {newest - hold.end_ms:.0f} ms before its deadline",
            entries=[hold.grant, hold.end],
        )
    elif hold.end is not None:
        finding.check(
            hold.end_ms <= max(deadlines),
            f"row {hold.row} was still leased after its deadline",
            entries=[hold.grant, hold.end],
        )
    last = next(
        (entry for entry in reversed(evidence.log[: offset - 1]) if _settles(entry)), hold.grant
    )
    finding.check(
        last.time_ms <= max(deadlines),
        f"row {hold.row} was not taken back at its deadline",
        entries=[hold.grant, last],
    )


def renewals_are_true(evidence: Evidence, finding: Finding) -> None:
    """What was renewed was leased at that moment; what was lost was not."""
    holds: dict[tuple[int, str], list[Hold]] = {}
    for hold in holds_of(evidence.log):
        holds.setdefault((hold.row, hold.annotator), []).append(hold)
    for operation, _ in evidence.acknowledged("RenewLeases"):
        at = _renewed_at(operation)
        if at is None or evidence.failed_over:
            continue
        annotator = operation.request.annotator
        for row in rows_of(operation.answer.renewed):
            mine = holds.get((row, annotator), ())
            live = any(hold.grant.time_ms <= at <= hold.end_ms for hold in mine)
            finding.check(live, f"row {row} was renewed, but not leased", [operation])
        for row in rows_of(operation.answer.lost):
            mine = holds.get((row, annotator), ())
            live = any(hold.grant.time_ms < at < hold.end_ms for hold in mine)
            finding.check(not live, f"row {row} was called lost, but leased", [operation])


def lease_lists_are_true(evidence: Evidence, finding: Finding) -> None:
    """A listed lease was granted, and not ended by anything acknowledged before."""
    holds: dict[tuple[int, str], list[Hold]] = {}
    for hold in holds_of(evidence.log):
        holds.setdefault((hold.row, hold.annotator), []).append(hold)
    for operation, at in evidence.acknowledged("ListLeases"):
        for lease in operation.answer.leases:
            mine = holds.get((row_of(lease.item_id), lease.annotator), ())
            live = any(
                hold.grant.time_ms <= at + SLACK_MS and hold.end_ms >= operation.began_ms - SLACK_MS
                for hold in mine
            )
            known = live or evidence.failed_over
            late = milliseconds(lease.deadline) < operation.began_ms - SLACK_MS
            finding.check(known, f"{lease.item_id} was listed, but not leased", [operation])
            finding.check(not late, f"{lease.item_id} was listed after its deadline", [operation])


def _is_review(entry: Entry) -> TypeGuard[GrantEntry]:
    return isinstance(entry, GrantEntry) and entry.review


def _settles(entry: object) -> bool:
    """Whether an operation ends what is due before it is written."""
    return not isinstance(entry, ConfigEntry | ExpiryEntry)


def _renewed_at(operation: Operation) -> int | None:
    """When the store renewed, by its clock; None where the request does not tell."""
    lease_ms = lease_ms_of(operation.request)
    return None if lease_ms is None else milliseconds(operation.answer.lease_deadline) - lease_ms


def _is_unclear(operation: Operation) -> bool:
    if operation.acknowledged_ms is None:
        return operation.may_have_happened
    return _renewed_at(operation) is None


def _renewals(evidence: Evidence) -> dict[tuple[int, str], list[tuple[int, int]]]:
    """(row, annotator) to (moment, new deadline) of acknowledged renewals, in order."""
    found: dict[tuple[int, str], list[tuple[int, int]]] = {}
    for operation, _ in evidence.acknowledged("RenewLeases"):
        at = _renewed_at(operation)
        if at is not None:
            deadline = milliseconds(operation.answer.lease_deadline)
            for row in rows_of(operation.answer.renewed):
                found.setdefault((row, operation.request.annotator), []).append((at, deadline))
    return {key: sorted(moments) for key, moments in found.items()}


def _answered_grants(evidence: Evidence) -> dict[str, list[tuple[int, int, Operation]]]:
    """Item to its acknowledged leases in order: begin and deadline by the store's clock."""
    found: dict[str, list[tuple[int, int, Operation]]] = {}
    for operation, _ in evidence.acknowledged("NextBatch"):
        lease_ms = lease_ms_of(operation.request)
        if lease_ms is not None and operation.request.purpose != pb.PURPOSE_REVIEW:
            ends = milliseconds(operation.answer.lease_deadline)
            for pick in operation.answer.picks:
                found.setdefault(pick.item_id, []).append((ends - lease_ms, ends, operation))
    return {
        item_id: sorted(grants, key=lambda grant: grant[0]) for item_id, grants in found.items()
    }


def _touched(
    evidence: Evidence,
) -> dict[str, list[tuple[float, float, Callable[[str], bool]]]]:
    """Annotator to what may have moved or ended leases: first start, last end, of which items."""
    found: dict[str, list[tuple[float, float, Callable[[str], bool]]]] = {}
    for operation in evidence.of_kind("AddLabels", "ReleaseLeases", "RenewLeases"):
        request = operation.request
        if operation.kind == "AddLabels":
            items = {label.item_id for label in request.labels}
        else:
            items = set(request.item_ids)
        names = items.__contains__ if items else lambda item_id: True
        until = max(attempt.completed_ms for attempt in operation.attempts)
        if operation.acknowledged_ms is None:
            until = inf  # it may be done still
        found.setdefault(request.annotator, []).append((operation.began_ms, until, names))
    return found


def _is_reconfigured(evidence: Evidence, name: str) -> bool:
    """Whether a field of the configuration ever changed."""
    values = {
        getattr(SessionConfig.from_settings(Settings(0, None, entry.config)), name)
        for entry in evidence.log
        if isinstance(entry, ConfigEntry)
    }
    return len(values) > 1
