"""Checks a history: every law on every session."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.fault.history import answer_laws, lease_laws, log_laws, retry_laws, state_laws
from tests.fault.history.evidence import Evidence, Finding, Violation
from tests.fault.history.operations import operations_of
from tests.fault.history.record import Attempt, History, Outcome

from coresift.server.session.replay import Report
from coresift.server.state.entries import unpack_entry

LAWS: dict[str, Callable[[Evidence, Finding], None]] = {
    "labels kept": log_laws.labels_are_kept,
    "grants kept": log_laws.grants_are_kept,
    "releases, settings kept": log_laws.other_writes_are_kept,
    "no strangers in the log": log_laws.log_has_no_strangers,
    "quota, by the log": lease_laws.grants_keep_the_quota,
    "quota, by answers": lease_laws.answers_keep_the_quota,
    "budget": lease_laws.budget_is_kept,
    "outcomes": lease_laws.outcomes_are_true,
    "deadlines": lease_laws.deadlines_are_kept,
    "renewals": lease_laws.renewals_are_true,
    "lists of leases": lease_laws.lease_lists_are_true,
    "revisions monotone": answer_laws.revisions_are_monotone,
    "read your labels": answer_laws.labels_are_read,
    "same request, same answer": retry_laws.same_request_same_answer,
    "other body refused": retry_laws.other_body_is_refused,
    "refusals fit": retry_laws.refusals_fit,
    "lists of labels": answer_laws.label_lists_are_true,
    "progress": answer_laws.progress_is_true,
    "state follows the log": state_laws.state_follows_the_log,
    "model agrees": state_laws.model_agrees_with_the_view,
    "replay": state_laws.replay_picks_the_same,
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What all laws found, by law."""

    facts: Mapping[str, int]
    limits: Mapping[str, int]
    """Documented losses that were met."""
    violations: Sequence[Violation]


def check(history: History, replayed: Mapping[str, Report], *, failed_over: bool) -> Verdict:
    """Judge a history.

    Args:
        replayed: session to what a replay of its log found.
        failed_over: Redis lost its master on the way.
    """
    attempts: dict[str, list[Attempt]] = {session: [] for session in history.sessions}
    for attempt in history.attempts:
        attempts.setdefault(attempt.session, []).append(attempt)
    findings: list[Finding] = []
    for session, own in attempts.items():
        remains = history.sessions.get(session)
        if remains is None or not remains.entries:
            lost = Finding("no strangers in the log", session)
            lost.check(not _acknowledged(own), "an acknowledged session is gone")
            findings.append(lost)
            continue
        log = [unpack_entry(offset, blob) for offset, blob in enumerate(remains.entries, 1)]
        evidence = Evidence(
            session, operations_of(own), log, remains, replayed.get(session), failed_over
        )
        findings += judge(evidence)
    return _sum(findings)


def judge(evidence: Evidence) -> list[Finding]:
    """Every law on one session."""
    findings = []
    for name, law in LAWS.items():
        finding = Finding(name, evidence.session)
        law(evidence, finding)
        findings.append(finding)
    return findings


def _sum(findings: Sequence[Finding]) -> Verdict:
    facts: dict[str, Any] = dict.fromkeys(LAWS, 0)
    limits: dict[str, Any] = dict.fromkeys(LAWS, 0)
    for finding in findings:
        facts[finding.law] += finding.facts
        limits[finding.law] += finding.limits
    violations = [violation for finding in findings for violation in finding.violations]
    return Verdict(facts, limits, violations)


def _acknowledged(attempts: Sequence[Attempt]) -> bool:
    return any(
        attempt.kind == "CreateSession" and attempt.outcome is Outcome.OK for attempt in attempts
    )
