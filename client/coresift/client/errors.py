"""What can go wrong in a call, as exceptions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"


class Reason(StrEnum):
    """Why a call was refused or failed: the names of ``ErrorReason`` in ``errors.proto``."""

    INVALID_FIELD = "INVALID_FIELD"
    INVALID_VECTOR = "INVALID_VECTOR"
    UNKNOWN_CLASS = "UNKNOWN_CLASS"
    CONFLICTING_LABELS = "CONFLICTING_LABELS"
    LEASE_TOKEN_FOREIGN = "LEASE_TOKEN_FOREIGN"  # noqa: S105 - a reason, no secret
    UNKNOWN_METHOD = "UNKNOWN_METHOD"
    INVALID_PAGE_TOKEN = "INVALID_PAGE_TOKEN"  # noqa: S105 - a reason, no secret
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    INVALID_SIGNAL = "INVALID_SIGNAL"
    INVALID_BACKUP = "INVALID_BACKUP"
    TOKEN_MISSING = "TOKEN_MISSING"  # noqa: S105 - a reason, no secret
    TOKEN_INVALID = "TOKEN_INVALID"  # noqa: S105 - a reason, no secret
    SCOPE_MISSING = "SCOPE_MISSING"
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND"
    POOL_NOT_FOUND = "POOL_NOT_FOUND"
    ITEM_NOT_FOUND = "ITEM_NOT_FOUND"
    SIGNAL_NOT_FOUND = "SIGNAL_NOT_FOUND"
    JOB_NOT_FOUND = "JOB_NOT_FOUND"
    SESSION_EXISTS = "SESSION_EXISTS"
    SIGNAL_EXISTS = "SIGNAL_EXISTS"
    HEAD_NOT_FITTED = "HEAD_NOT_FITTED"
    REQUEST_EXPIRED = "REQUEST_EXPIRED"
    IMMUTABLE_FIELD = "IMMUTABLE_FIELD"
    REVISION_NOT_REACHED = "REVISION_NOT_REACHED"
    FORMAT_TOO_NEW = "FORMAT_TOO_NEW"
    JOB_CANCELLED = "JOB_CANCELLED"
    POOL_LACKS_NEIGHBOURS = "POOL_LACKS_NEIGHBOURS"
    ARTIFACT_MISSING = "ARTIFACT_MISSING"
    CONFIG_VERSION_MISMATCH = "CONFIG_VERSION_MISMATCH"
    TOO_LARGE = "TOO_LARGE"
    OVERLOADED = "OVERLOADED"
    STATE_FULL = "STATE_FULL"
    STATE_UNAVAILABLE = "STATE_UNAVAILABLE"
    POOL_VERSION_NOT_LOADED = "POOL_VERSION_NOT_LOADED"
    DRAINING = "DRAINING"
    STATE_READ_ONLY = "STATE_READ_ONLY"
    STATE_NOT_REPLICATED = "STATE_NOT_REPLICATED"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True)
class FieldViolation:
    """A field of the request that is wrong, by its path in ``selection.proto``, and why."""

    field: str
    description: str


class CoresiftError(Exception):
    """A call was refused or failed.

    The subclass says what kind of failure it is (`InvalidInput`, `NotFound`, ...), ``reason``
    exactly which one.

    Attributes:
        reason: one of `Reason`; None if the failure is not Coresift's own (no connection, a
            deadline) or is one that this client does not know; then ``metadata["reason"]`` has
            the name if there is one.
        message: one sentence for a person.
        field_violations: the fields that are wrong, for refused input.
        metadata: the limit or value meant, for machines.
        retry_after: how long the server asks to wait; None if it does not say.
        code: the gRPC status code.
    """

    def __init__(
        self,
        reason: Reason | None,
        message: str,
        *,
        field_violations: Iterable[FieldViolation] = (),
        metadata: Mapping[str, str] | None = None,
        retry_after: timedelta | None = None,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field_violations = tuple(field_violations)
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        self.code = code

    @property
    def retryable(self) -> bool:
        """Whether the same request may be sent again: UNAVAILABLE, or told when to come back."""
        if self.code is grpc.StatusCode.UNAVAILABLE:
            return True
        told = self.retry_after is not None
        return told and self.code is grpc.StatusCode.RESOURCE_EXHAUSTED


class InvalidInput(CoresiftError):  # noqa: N818 - reads as what happened
    """The request is wrong and changed nothing; ``field_violations`` says where."""


class NotFound(CoresiftError):  # noqa: N818
    """No such session, pool, item, signal or job."""


class ItemsMissing(NotFound):
    """A pool lacks items that a session has labelled: ``item_ids``."""

    def __init__(self, pool: str, item_ids: Sequence[str], labelled: int) -> None:
        first = ", ".join(item_ids[:5])
        more = f" and {len(item_ids) - 5} more" if len(item_ids) > 5 else ""
        super().__init__(
            Reason.ITEM_NOT_FOUND,
            f"pool {pool!r} lacks {len(item_ids)} of {labelled} labelled items: {first}{more}",
            code=grpc.StatusCode.NOT_FOUND,
        )
        self.item_ids = tuple(item_ids)


class NotAllowed(CoresiftError):  # noqa: N818
    """The token is missing, unknown, expired, or lacks the scope that the call needs."""


class AlreadyExists(CoresiftError):  # noqa: N818
    """The session id or the signal's name is taken."""


class PreconditionFailed(CoresiftError):  # noqa: N818
    """The session or job is not in the state that the call needs (e.g. no positive label yet)."""


class Conflict(CoresiftError):  # noqa: N818
    """Somebody else changed the session: read it again, then decide."""


class ResourceExhausted(CoresiftError):  # noqa: N818
    """Too large for the server, or more than it admits now."""


class Unavailable(CoresiftError):  # noqa: N818
    """No server, or one that cannot work now; retries were of no use."""


class DeadlineExceeded(CoresiftError):  # noqa: N818
    """The call took longer than its timeout. A write may have happened: the same request_id
    finds out."""


class InternalError(CoresiftError):
    """A defect of the server; the message names an incident id that stands in its log."""


BY_CODE: dict[grpc.StatusCode, type[CoresiftError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.OUT_OF_RANGE: InvalidInput,
    grpc.StatusCode.UNAUTHENTICATED: NotAllowed,
    grpc.StatusCode.PERMISSION_DENIED: NotAllowed,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionFailed,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.INTERNAL: InternalError,
}


def from_status(
    code: grpc.StatusCode, message: str, trailers: Iterable[tuple[str, str | bytes]]
) -> CoresiftError:
    """The exception of a status and the google.rpc details in its trailers."""
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    told_when = False
    for detail in _details(trailers).details:
        detail.Unpack(info)
        detail.Unpack(bad)
        told_when = detail.Unpack(retry) or told_when
    metadata = dict(info.metadata)
    known = info.reason in Reason.__members__
    if info.reason and not known:
        metadata["reason"] = info.reason
    return BY_CODE.get(code, CoresiftError)(
        reason=Reason[info.reason] if known else None,
        message=message or code.name,
        field_violations=[FieldViolation(v.field, v.description) for v in bad.field_violations],
        metadata=metadata,
        retry_after=retry.retry_delay.ToTimedelta() if told_when else None,
        code=code,
    )


def _details(trailers: Iterable[tuple[str, str | bytes]]) -> status_pb2.Status:
    status = status_pb2.Status()
    for key, value in trailers:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                status.ParseFromString(value)
            except DecodeError:  # a proxy's invention: the code and text still hold
                return status_pb2.Status()
    return status
