"""What is said of every call: metrics, and one line of log."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import grpc
import structlog

from coresift.server.errors import CoresiftError, Reason
from coresift.server.logs import UNNAMED
from coresift.server.metrics import Metrics
from coresift.server.rpc.audit import audited, traced
from coresift.server.rpc.call_facts import Facts
from coresift.server.rpc.status import CODES, to_status
from coresift.server.session.work.call import CALL, Call

log = structlog.get_logger()

MAX_FIELD = 200
"""Characters of a field's path."""
TRACES = ("trace_id", "span_id", "x_request_id", "session_id")
"""What an incident's own line says of its call."""
CODE_NAMES = {"OK", "CANCELLED", "DEADLINE_EXCEEDED"} | {code.name for code in CODES.values()}
"""Of the statuses that calls end with: each is counted from 0 on."""
REFUSALS_S = 1.0
"""Refusals for overload are many: one line tells of all in such a time."""


@dataclass(frozen=True, slots=True)
class CallRecord:
    """A call under way.

    Attributes:
        began: perf_counter.
        ends: when the client gives up, of the same clock; None: never.
        call: what the session layer learns of it.
        facts: for the log.
    """

    began: float
    ends: float | None
    call: Call
    facts: Facts


class CallRecorder:
    """Counts, times and logs the calls of one method."""

    def __init__(self, metrics: Metrics, kind: str, service: str, method: str) -> None:
        labels = (kind, service, method)
        self.method = method
        self._started = metrics.rpc_started.labels(*labels)
        self._seconds = metrics.rpc_seconds.labels(*labels)
        self._handled = {code: metrics.rpc_handled.labels(*labels, code) for code in CODE_NAMES}
        self._refused, self._told_at = 0, -REFUSALS_S

    def begun(self, context: Any, left_s: float | None) -> CallRecord:
        """A call that came in, its request not read yet; what the log will say of it is read
        while it is alive.

        The generator of a cancelled stream is closed some time after gRPC has freed the call:
        asking the context for the peer then ends the process with a segmentation fault.
        """
        self._started.inc()
        facts: Facts = {"peer": context.peer(), **audited(context)}
        facts |= traced(context.invocation_metadata() or ())
        now = time.perf_counter()
        return CallRecord(now, None if left_s is None else now + left_s, CALL.get(), facts)

    def refused(self, error: CoresiftError) -> grpc.Status:
        """The status of a call refused at the door."""
        self._started.inc()
        self._handled[CODES[error.reason].name].inc()
        self._refused += 1
        now = time.monotonic()
        if now - self._told_at >= REFUSALS_S:
            log.warning("overloaded", method=self.method, refused=self._refused)
            self._refused, self._told_at = 0, now
        return _overloaded(error.message, error.retry_after_s, error.metadata["cause"])

    def failed(self, error: BaseException, record: CallRecord) -> grpc.Status | None:
        """The status of a failed call; None where nobody waits for one."""
        if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            is_late = record.ends is not None and time.perf_counter() >= record.ends
            self.ended("DEADLINE_EXCEEDED" if is_late else "CANCELLED", record)
            return None
        if not isinstance(error, CoresiftError):
            incident = secrets.token_hex(6)
            traces = {key: record.facts[key] for key in TRACES if key in record.facts}
            log.error("incident", incident=incident, method=self.method, **traces, exc_info=error)
            error = CoresiftError(
                Reason.INTERNAL, f"a defect of the server, incident {incident}", incident=incident
            )
        self.ended(CODES[error.reason].name, record, **_told(error))
        return to_status(error)

    def ended(self, code: str, record: CallRecord, **facts: str | int) -> None:
        """Count and log the end of a call."""
        seconds = time.perf_counter() - record.began
        self._handled[code].inc()
        self._seconds.observe(seconds)
        ms, facts = round(1e3 * seconds, 2), record.facts | facts
        if "annotator" in facts and not record.call.names_annotators:
            facts[UNNAMED] = facts.pop("annotator")
        log.info("call", method=self.method, code=code, ms=ms, **facts)


def _told(error: CoresiftError) -> Facts:
    """What the log says of a refusal: not its message, which may quote labels."""
    facts: Facts = {"reason": error.reason.value}
    if error.field is not None:
        facts["field"] = error.field[:MAX_FIELD]
    facts |= {key: error.metadata[key] for key in ("item_id", "incident") if key in error.metadata}
    return facts


@lru_cache(1024)
def _overloaded(message: str, retry_after_s: float | None, cause: str) -> grpc.Status:
    """Made once: a refusal should cost next to nothing."""
    error = CoresiftError(Reason.OVERLOADED, message, retry_after_s=retry_after_s, cause=cause)
    return to_status(error)
