"""Answers agree with each other, in the order in which people saw them."""

from __future__ import annotations

from typing import Any

from tests.fault.history.evidence import NOT_REPLICATED, Evidence, Finding
from tests.fault.history.model import walk
from tests.fault.history.operations import Operation, value_of

from coresift.server.state.entries import LabelsEntry


def revisions_are_monotone(evidence: Evidence, finding: Finding) -> None:
    """What begins after an answer sees at least its revision and configuration version."""
    seen = sorted(
        (at, *basis)
        for operation, at in evidence.acknowledged(*_WITH_BASIS)
        if (basis := _basis(operation)) is not None
        and not (evidence.failed_over and operation.kind in NOT_REPLICATED)
    )
    marks = _rising(seen)
    for operation, _ in evidence.acknowledged(*_WITH_BASIS):
        basis = _basis(operation)
        if basis is None:
            continue
        revision, version = _before(marks, operation.began_ms)
        finding.check(
            basis[0] >= revision and basis[1] >= version,
            f"{operation.kind} saw revision {basis[0]} of configuration {basis[1]} after "
            f"{revision} of {version}",
            [operation],
        )


def labels_are_read(evidence: Evidence, finding: Finding) -> None:
    """Items are not offered again after their label was acknowledged."""
    labelled: dict[tuple[str, str], float] = {}
    taken_back: set[tuple[str, str]] = set()
    for operation in evidence.of_kind("AddLabels"):
        at = operation.acknowledged_ms
        for label in operation.request.labels:
            key = (label.item_id, operation.request.annotator)
            if label.WhichOneof("value") == "retraction":
                taken_back.add(key)
            elif at is not None:
                labelled[key] = min(at, labelled.get(key, at))
    for operation, _ in evidence.acknowledged("NextBatch"):
        for pick in operation.answer.picks:
            key = (pick.item_id, operation.request.annotator)
            again = key in labelled and labelled[key] < operation.began_ms
            finding.check(
                key in taken_back or not again, f"{pick.item_id} was offered again", [operation]
            )


def label_lists_are_true(evidence: Evidence, finding: Finding) -> None:
    """ListLabels streams the log: every acknowledged label of its range, nothing else."""
    written = {entry.offset: entry for entry in evidence.log if isinstance(entry, LabelsEntry)}
    acknowledged = [
        (at, operation.answer.basis.revision)
        for operation, at in evidence.acknowledged("AddLabels")
    ]
    for operation, _ in evidence.acknowledged("ListLabels"):
        if evidence.failed_over:
            continue
        start, end = operation.request.start_revision, None
        if operation.request.HasField("end_revision"):
            end = operation.request.end_revision
        listed: dict[int, list[tuple[Any, ...]]] = {}
        for record in operation.answer.labels:
            value = value_of(record.label, evidence.classes)
            item = (record.annotator, record.label.item_id, value, int(record.outcome))
            listed.setdefault(record.revision, []).append(item)
        for revision, items in listed.items():
            entry = written.get(revision)
            finding.check(
                entry is not None and items == _items(entry),
                f"revision {revision} is listed as it is not",
                [operation],
                [entry] if entry else (),
            )
        last = max((r for at, r in acknowledged if at < operation.began_ms), default=0)
        wanted = {r for r in written if start <= r <= last and (end is None or r < end)}
        finding.check(
            wanted <= listed.keys() and all(start <= r < (end or r + 1) for r in listed),
            f"of the revisions {sorted(wanted)} only {sorted(listed)} are listed",
            [operation],
        )


def progress_is_true(evidence: Evidence, finding: Finding) -> None:
    """GetSessionProgress counts what the log counts at its revision."""
    counts: dict[int, tuple[int, int]] = {}
    for model, _ in walk(evidence.log):
        counts[model.revision] = (model.vote_count, len(model.votes))
    for model, entry in walk(evidence.log):
        if entry is evidence.log[-1]:
            model.apply(entry)
            counts[model.revision] = (model.vote_count, len(model.votes))
            break
    for operation, _ in evidence.acknowledged("GetSessionProgress"):
        answer = operation.answer
        told = (answer.votes, answer.labelled_items)
        by_log = counts.get(answer.basis.revision)
        if told != by_log and evidence.failed_over:  # it read what no replica had
            finding.limits += 1
            continue
        finding.check(
            told == by_log, f"votes and labelled items {told}, by the log {by_log}", [operation]
        )


_WITH_BASIS = (
    "NextBatch",
    "AddLabels",
    "GetSession",
    "GetSessionProgress",
    "UpdateSession",
)


def _basis(operation: Operation) -> tuple[int, int] | None:
    """Revision and configuration version that an answer must have seen; None: it names none."""
    answer = operation.answer
    if operation.kind in {"GetSession", "UpdateSession"}:
        basis = answer.session.basis
    else:
        basis = answer.basis
    if operation.kind == "NextBatch" and operation.request.HasField("min_revision"):
        return None
    return basis.revision, basis.config_version


def _rising(seen: list[tuple[float, int, int]]) -> list[tuple[float, int, int]]:
    """Moments with the highest numbers seen up to them."""
    revision = version = 0
    marks = []
    for at, own_revision, own_version in seen:
        revision, version = max(revision, own_revision), max(version, own_version)
        marks.append((at, revision, version))
    return marks


def _before(marks: list[tuple[float, int, int]], at: float) -> tuple[int, int]:
    low, high = 0, len(marks)
    while low < high:
        middle = (low + high) // 2
        if marks[middle][0] < at:
            low = middle + 1
        else:
            high = middle
    return marks[low - 1][1:] if low else (0, 0)


def _items(entry: LabelsEntry) -> list[tuple[Any, ...]]:
    columns = zip(entry.item_ids, entry.values, entry.outcomes, strict=True)
    return [(entry.annotator, *column) for column in columns]
