"""Histories made by hand: what an honest service would have answered and written.

A story tells one session, call by call; what a test then changes in its answers, its log or its
remains is what a law must find.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tests.fault.history.checker import judge
from tests.fault.history.evidence import Evidence, Finding, Violation
from tests.fault.history.model import whole
from tests.fault.history.operations import operations_of, rows_of, value_of
from tests.fault.history.record import READS, Attempt, Outcome, Remains

from coresift.server.head import Task
from coresift.server.session.replay import Report
from coresift.server.session.setup.config import SessionConfig
from coresift.server.state.entries import (
    ConfigEntry,
    Entry,
    ExpiryEntry,
    GrantEntry,
    LabelsEntry,
    ReleaseEntry,
)
from coresift.v1 import selection_pb2 as pb

STEP_MS = 1_000
LEASE_MS = 100_000
CLASSES = ("negative", "positive")


class Story:
    """One session. Each call begins when the one before has ended; an entry lies in its middle.

    Attributes:
        attempts, log: what came of it; tests change them.
    """

    def __init__(self, *, votes_per_item: int = 1, budget: int | None = None) -> None:
        self.attempts: list[Attempt] = []
        self.log: list[Entry] = []
        self.now_ms = 1_000_000
        self.replayed: Report | None = None
        self.config = SessionConfig(
            "p", "v", Task.BINARY, CLASSES, votes_per_item=votes_per_item, label_budget=budget
        )
        self.version = 0
        request = pb.CreateSessionRequest(request_id="create", session_id="story")
        self._write_config("create")
        answer = pb.CreateSessionResponse()
        self.tell("CreateSession", request, answer)

    @property
    def offset(self) -> int:
        """Of the next entry."""
        return len(self.log) + 1

    @property
    def revision(self) -> int:
        """Of the newest labels."""
        return whole(self.log).revision

    def new_id(self) -> str:
        """A request_id."""
        return f"request-{len(self.attempts)}"

    def basis(self) -> pb.Basis:
        """Of this moment."""
        return pb.Basis(revision=self.revision, config_version=self.version)

    def tell(
        self,
        kind: str,
        request: Any,
        answer: Any = None,
        *,
        outcome: Outcome | None = None,
        reason: str = "",
        intent: str = "",
    ) -> Attempt:
        """Add an attempt that ends half a step after what was written last."""
        outcome = outcome or (Outcome.UNKNOWN if answer is None else Outcome.OK)
        attempt = Attempt(
            number=len(self.attempts),
            frontend=0,
            server=0,
            kind=kind,
            session="story",
            request_id="" if kind in READS else request.request_id,
            intent=intent,
            request=request.SerializeToString(deterministic=True),
            invoked_ms=self.now_ms - STEP_MS / 4,
            completed_ms=self.now_ms + STEP_MS / 4,
            outcome=outcome,
            reason=reason,
            answer=b"" if answer is None else answer.SerializeToString(deterministic=True),
        )
        self.attempts.append(attempt)
        self.now_ms += STEP_MS
        return attempt

    def again(self, attempt: Attempt, answer: Any = None, *, reason: str = "") -> None:
        """Send an attempt's request once more: the same answer, or another, or a refusal."""
        self.attempts.append(
            replace(
                attempt,
                number=len(self.attempts),
                invoked_ms=self.now_ms - STEP_MS / 4,
                completed_ms=self.now_ms + STEP_MS / 4,
                outcome=Outcome.REFUSED if reason else Outcome.OK,
                reason=reason,
                answer=attempt.answer if answer is None else answer.SerializeToString(),
            )
        )
        self.now_ms += STEP_MS

    def configure(self, **fields: Any) -> Attempt:
        """An UpdateSession."""
        self.config = replace(self.config, **fields)
        request = pb.UpdateSessionRequest(request_id=self.new_id(), session_id="story")
        self._write_config(request.request_id)
        answer = pb.UpdateSessionResponse()
        answer.session.basis.CopyFrom(self.basis())
        return self.tell("UpdateSession", request, answer)

    def _write_config(self, request_id: str) -> None:
        self.version += 1
        packed = self.config.settings().config
        self.log.append(ConfigEntry(self.offset, self.now_ms, request_id, self.version, packed))

    def grant(
        self, annotator: str, *rows: int, lease_ms: int = LEASE_MS, review: bool = False
    ) -> Attempt:
        """A NextBatch that leases these rows."""
        request = pb.NextBatchRequest(
            request_id=self.new_id(), session_id="story", annotator=annotator, size=len(rows) or 1
        )
        request.lease_duration.FromMilliseconds(lease_ms)
        request.purpose = pb.PURPOSE_REVIEW if review else pb.PURPOSE_NEW
        answer = pb.NextBatchResponse(basis=self.basis())
        if rows:
            entry = GrantEntry(
                offset=self.offset,
                time_ms=self.now_ms,
                request_id=request.request_id,
                annotator=annotator,
                rows=rows,
                size=request.size,
                deadline_ms=self.now_ms + lease_ms,
                view_offset=self.offset - 1,
                view_revision=self.revision,
                config_version=self.version,
                context=b"",
                review=review,
            )
            self.log.append(entry)
            answer.lease_deadline.FromMilliseconds(entry.deadline_ms)
            for row in rows:
                answer.picks.add(item_id=f"item-{row}", lease_token=b"token")
        return self.tell("NextBatch", request, answer)

    def label(
        self,
        annotator: str,
        labels: Mapping[int, str],
        *,
        leased: bool = True,
        answered: bool = True,
    ) -> Attempt:
        """An AddLabels; an empty class takes a label back."""
        request = pb.AddLabelsRequest(
            request_id=self.new_id(), session_id="story", annotator=annotator
        )
        for row, class_name in labels.items():
            label = request.labels.add(
                item_id=f"item-{row}", lease_token=b"token" if leased else b""
            )
            if class_name:
                label.class_name = class_name
            else:
                label.retraction.SetInParent()
        item_ids = tuple(label.item_id for label in request.labels)
        entry = LabelsEntry(
            offset=self.offset,
            time_ms=self.now_ms,
            request_id=request.request_id,
            nonce=b"nonce %d" % self.offset,
            annotator=annotator,
            rows=rows_of(item_ids),
            item_ids=item_ids,
            values=tuple(value_of(label, CLASSES) for label in request.labels),
            outcomes=(),
        )
        outcomes = whole(self.log).outcomes(entry, [leased] * len(labels))
        self.log.append(replace(entry, outcomes=tuple(map(int, outcomes))))
        answer = pb.AddLabelsResponse(
            basis=self.basis(), outcomes=[pb.LabelOutcome.ValueType(int(o)) for o in outcomes]
        )
        return self.tell("AddLabels", request, answer if answered else None)

    def release(self, annotator: str, row: int, reason: int = 1) -> Attempt:
        """A ReleaseLeases of one row."""
        held = annotator in whole(self.log).holders.get(row, ())
        request = pb.ReleaseLeasesRequest(
            request_id=self.new_id(),
            session_id="story",
            annotator=annotator,
            item_ids=[f"item-{row}"],
            reason=pb.ReleaseReason.ValueType(reason),
        )
        if held or reason != 1:
            entry = ReleaseEntry(
                self.offset, self.now_ms, request.request_id, annotator, (row,), reason
            )
            self.log.append(entry)
        answer = pb.ReleaseLeasesResponse(released=[f"item-{row}"] if held else [])
        return self.tell("ReleaseLeases", request, answer)

    def renew(self, annotator: str, *rows: int, lease_ms: int = LEASE_MS) -> Attempt:
        """A RenewLeases of leases that are all live."""
        request = pb.RenewLeasesRequest(
            request_id=self.new_id(), session_id="story", annotator=annotator
        )
        request.item_ids.extend(f"item-{row}" for row in rows)
        request.lease_duration.FromMilliseconds(lease_ms)
        answer = pb.RenewLeasesResponse(renewed=request.item_ids)
        answer.lease_deadline.FromMilliseconds(self.now_ms + lease_ms)
        return self.tell("RenewLeases", request, answer)

    def expire(self, *leases: tuple[int, str]) -> None:
        """What the next call finds to have ended."""
        self.log.append(ExpiryEntry(self.offset, self.now_ms, leases))

    def wait(self, milliseconds: int) -> None:
        """Let time pass."""
        self.now_ms += milliseconds

    def get_session(self) -> Attempt:
        """A GetSession."""
        answer = pb.GetSessionResponse()
        answer.session.basis.CopyFrom(self.basis())
        return self.tell("GetSession", pb.GetSessionRequest(session_id="story"), answer)

    def progress(self) -> Attempt:
        """A GetSessionProgress."""
        model = whole(self.log)
        answer = pb.GetSessionProgressResponse(
            basis=self.basis(), votes=model.vote_count, labelled_items=len(model.votes)
        )
        request = pb.GetSessionProgressRequest(session_id="story")
        return self.tell("GetSessionProgress", request, answer)

    def list_leases(self) -> Attempt:
        """A ListLeases."""
        answer = pb.ListLeasesResponse()
        for row, names in whole(self.log).holders.items():
            for name in sorted(names):
                lease = answer.leases.add(item_id=f"item-{row}", annotator=name)
                lease.deadline.FromMilliseconds(self.now_ms + LEASE_MS)
        return self.tell("ListLeases", pb.ListLeasesRequest(session_id="story"), answer)

    def list_labels(self) -> Attempt:
        """A ListLabels of everything."""
        answer = pb.ListLabelsResponse()
        for entry in self.log:
            if isinstance(entry, LabelsEntry):
                for item_id, value, outcome in zip(
                    entry.item_ids, entry.values, entry.outcomes, strict=True
                ):
                    record = answer.labels.add(revision=entry.offset, annotator=entry.annotator)
                    record.outcome = pb.LabelOutcome.ValueType(outcome)
                    record.label.item_id = item_id
                    if value:
                        record.label.class_name = CLASSES[value[0]]
                    else:
                        record.label.retraction.SetInParent()
        return self.tell("ListLabels", pb.ListLabelsRequest(session_id="story"), answer)

    def change(self, attempt: Attempt, **fields: Any) -> None:
        """Let an attempt have gone otherwise."""
        self.attempts[attempt.number] = replace(attempt, **fields)

    def remains(self) -> Remains:
        """What Redis holds after this log."""
        model = whole(self.log)
        leases = {f"{row}:{name}" for row, names in model.holders.items() for name in names}
        hands: dict[str, set[int]] = {}
        for row, names in model.holders.items():
            for name in names:
                hands.setdefault(name, set()).add(row)
        nonces = [entry.nonce for entry in self.log if isinstance(entry, LabelsEntry)]
        numbers = {
            "pos": len(self.log),
            "rev": model.revision,
            "cv": self.version,
            "votes": model.vote_count,
            "quota": model.quota,
            "budget": -1 if self.config.label_budget is None else self.config.label_budget,
        }
        meta = {name: str(number).encode() for name, number in numbers.items()}
        return Remains(
            session="story",
            entries=(),
            meta=meta | {"nonce": nonces[-1] if nonces else b""},
            leases=dict.fromkeys(leases, 0.0),
            held=dict(Counter(int(lease.split(":")[0]) for lease in leases)),
            votes={row: dict(votes) for row, votes in model.votes.items()},
            skips=frozenset(
                [f"{row}:{name}" for row, name in model.skips] + [str(row) for row in model.hidden]
            ),
            extra=dict(model.extra),
            hands={name: frozenset(rows) for name, rows in hands.items()},
        )

    def findings(
        self, remains: Remains | None = None, *, failed_over: bool = False
    ) -> list[Finding]:
        """What each law finds."""
        return judge(
            Evidence(
                "story",
                operations_of(self.attempts),
                tuple(self.log),
                remains or self.remains(),
                self.replayed,
                failed_over,
            )
        )

    def facts(self) -> dict[str, int]:
        """Facts that each law checks."""
        return {finding.law: finding.facts for finding in self.findings()}

    def violations(self) -> list[Violation]:
        """All of them."""
        return [violation for finding in self.findings() for violation in finding.violations]

    def broken(self, remains: Remains | None = None, *, failed_over: bool = False) -> set[str]:
        """Names of the broken laws."""
        findings = self.findings(remains, failed_over=failed_over)
        return {finding.law for finding in findings if finding.violations}
