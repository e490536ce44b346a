"""The documents that describe a core-set job: what it is and how it ended, and where it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import msgpack

from coresift.server.caller import bare
from coresift.server.errors import CoresiftError, Reason
from coresift.server.session.coresets.coreset_requests import JobSpec, Pinned
from coresift.server.state.values import Request

FORMAT = 3
"""Of a job's document. Whatever an older release could not read takes the next number."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a job is: the phase, the share of it that is done (0..1), the objective so far."""

    phase: str
    share: float
    objective: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """How a job ended well."""

    count: int
    objective: float | None
    covering_radius: float | None
    mean_max_similarity: float | None
    measured_items: int
    class_counts: dict[int, int]
    details: dict[str, float]
    seconds: dict[str, float]
    uri: str
    content_hash: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job failed, in the words of the error that ended it; it would fail again."""

    reason: str
    message: str
    field: str | None
    metadata: dict[str, str]

    @classmethod
    def of(cls, error: CoresiftError) -> Failure:
        """What is kept of an error."""
        return cls(error.reason.value, error.message, error.field, error.metadata)

    def error(self) -> CoresiftError:
        """The error again, for whoever attaches."""
        again = CoresiftError(Reason(self.reason), self.message, field=self.field)
        again.metadata = self.metadata
        return again


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job's document.

    ``status`` is running, finished (then there is a summary), failed (then there is a failure)
    or cancelled.
    """

    spec: JobSpec
    status: str
    summary: Summary | None = None
    failure: Failure | None = None

    def pack(self) -> bytes:
        """As the store keeps it."""
        return bytes(msgpack.packb({"format": FORMAT, **asdict(self)}))

    @classmethod
    def unpack(cls, document: bytes) -> JobRecord:
        """The inverse of `pack`. FORMAT_TOO_NEW, REQUEST_EXPIRED for another release's."""
        content = msgpack.unpackb(document, strict_map_key=False)
        written = content.get("format", 1)
        if written > FORMAT:
            raise CoresiftError(
                Reason.FORMAT_TOO_NEW,
                f"a newer release wrote this job (record format {written}, here {FORMAT})",
            )
        if written < FORMAT:
            raise CoresiftError(
                Reason.REQUEST_EXPIRED,
                f"an older release wrote this job (record format {written}, here {FORMAT}): "
                "ask for it again under another request_id",
                field="request_id",
            )
        summary, failure = content["summary"], content["failure"]
        return cls(
            _spec(content["spec"]),
            content["status"],
            None if summary is None else Summary(**summary),
            None if failure is None else Failure(**failure),
        )

    def check(self, request: Request) -> JobRecord:
        """This, if the request asked for it. REQUEST_ID_REUSED, and what `alive` raises."""
        if self.spec.digest != request.digest:
            raise CoresiftError(
                Reason.REQUEST_ID_REUSED,
                f"job {bare(self.spec.job_id)!r} was asked for with other parameters",
                field="request_id",
            )
        return self.alive()

    def alive(self) -> JobRecord:
        """This, unless no result will come of it. JOB_CANCELLED, or why it failed."""
        if self.status == "cancelled":
            raise job_cancelled(self.spec.job_id)
        if self.failure is not None:
            raise self.failure.error()
        return self


def _spec(fields: Any) -> JobSpec:
    signals = tuple(
        Pinned(**signal | {"columns": tuple(signal["columns"])}) for signal in fields["signals"]
    )
    return JobSpec(**fields | {"signals": signals, "notes": tuple(fields["notes"])})


def job_cancelled(job_id: str) -> CoresiftError:
    """The error of whoever waits for a cancelled job."""
    return CoresiftError(Reason.JOB_CANCELLED, f"job {bare(job_id)!r} was cancelled")


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Who runs a job, and where it is."""

    owner: str
    progress: Progress

    def pack(self) -> bytes:
        """As the store keeps it."""
        progress = self.progress
        return bytes(
            msgpack.packb([self.owner, progress.phase, progress.share, progress.objective])
        )

    @classmethod
    def unpack(cls, document: bytes) -> Heartbeat:
        """The inverse of `pack`; what a newer release adds at the end is left out."""
        owner, phase, share, objective = msgpack.unpackb(document)[:4]
        return cls(owner, Progress(phase, share, objective))
