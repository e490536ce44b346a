"""What the store keeps of a core-set job: its specification, its status, and how it ended."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import msgpack

from coresift.server.errors import CoresiftError, Reason
from coresift.server.session.coreset_plans import JobSpec
from coresift.server.state.store import Request


@dataclass(frozen=True, slots=True)
class Summary:
    """How a job ended well."""

    count: int
    covering_radius: float | None
    seconds: dict[str, float]
    uri: str
    content_hash: str


def pack_job(spec: JobSpec, status: str, summary: Summary | None) -> bytes:
    """A job's document; ``status`` is running, finished or cancelled."""
    content = {"spec": asdict(spec), "status": status}
    if summary is not None:
        content["summary"] = asdict(summary)
    return bytes(msgpack.packb(content))


def unpack_job(document: bytes) -> tuple[JobSpec, str]:
    """The job of a document and its status."""
    content = msgpack.unpackb(document)
    return JobSpec(**content["spec"]), content["status"]


def same_job(request: Request, document: bytes) -> JobSpec:
    """The job of a document if this request asked for it. REQUEST_ID_REUSED, JOB_CANCELLED."""
    spec, status = unpack_job(document)
    if spec.digest != request.digest:
        raise CoresiftError(
            Reason.REQUEST_ID_REUSED,
            f"job {spec.job_id!r} was asked for with other parameters",
            field="request_id",
        )
    if status == "cancelled":
        raise job_cancelled(spec.job_id)
    return spec


def job_cancelled(job_id: str) -> CoresiftError:
    """The error of whoever waits for a cancelled job."""
    return CoresiftError(Reason.JOB_CANCELLED, f"job {job_id!r} was cancelled")
