"""The one table from domain errors to gRPC status codes, and the rich form of an error."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from coresift.server.errors import CoresiftError, Reason

DOMAIN = "coresift"
MAX_TEXT_BYTES = 400
"""Of a message or a value: a status travels in headers, which hold about 8 KiB."""

_BY_CODE = {
    grpc.StatusCode.INVALID_ARGUMENT: (
        Reason.INVALID_FIELD,
        Reason.INVALID_VECTOR,
        Reason.UNKNOWN_CLASS,
        Reason.CONFLICTING_LABELS,
        Reason.LEASE_TOKEN_FOREIGN,
        Reason.UNKNOWN_METHOD,
        Reason.INVALID_PAGE_TOKEN,
        Reason.REQUEST_ID_REUSED,
        Reason.INVALID_SIGNAL,
        Reason.INVALID_BACKUP,
    ),
    grpc.StatusCode.UNAUTHENTICATED: (Reason.TOKEN_MISSING, Reason.TOKEN_INVALID),
    grpc.StatusCode.PERMISSION_DENIED: (Reason.SCOPE_MISSING,),
    grpc.StatusCode.NOT_FOUND: (
        Reason.SESSION_NOT_FOUND,
        Reason.POOL_NOT_FOUND,
        Reason.ITEM_NOT_FOUND,
        Reason.SIGNAL_NOT_FOUND,
        Reason.JOB_NOT_FOUND,
    ),
    grpc.StatusCode.ALREADY_EXISTS: (Reason.SESSION_EXISTS, Reason.SIGNAL_EXISTS),
    grpc.StatusCode.FAILED_PRECONDITION: (
        Reason.HEAD_NOT_FITTED,
        Reason.REQUEST_EXPIRED,
        Reason.IMMUTABLE_FIELD,
        Reason.REVISION_NOT_REACHED,
        Reason.FORMAT_TOO_NEW,
        Reason.JOB_CANCELLED,
        Reason.POOL_LACKS_NEIGHBOURS,
        Reason.ARTIFACT_MISSING,
    ),
    grpc.StatusCode.ABORTED: (Reason.CONFIG_VERSION_MISMATCH,),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (
        Reason.TOO_LARGE,
        Reason.OVERLOADED,
        Reason.STATE_FULL,
    ),
    grpc.StatusCode.UNAVAILABLE: (
        Reason.STATE_UNAVAILABLE,
        Reason.POOL_VERSION_NOT_LOADED,
        Reason.DRAINING,
        Reason.STATE_READ_ONLY,
        Reason.STATE_NOT_REPLICATED,
    ),
    grpc.StatusCode.INTERNAL: (Reason.INTERNAL,),
}

CODES: dict[Reason, grpc.StatusCode] = {
    reason: code for code, reasons in _BY_CODE.items() for reason in reasons
}
"""Every reason with its status code."""


def to_status(error: CoresiftError) -> grpc.Status:
    """The status of an error with ErrorInfo and, where they apply, BadRequest and RetryInfo."""
    code, message = CODES[error.reason], _cut(error.message)
    metadata = {key: _cut(value) for key, value in error.metadata.items()}
    details = [
        _pack(
            error_details_pb2.ErrorInfo(reason=error.reason.value, domain=DOMAIN, metadata=metadata)
        )
    ]
    if error.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=message, reason=error.reason.value
        )
        details.append(_pack(error_details_pb2.BadRequest(field_violations=[violation])))
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
    return rpc_status.to_status(  # type: ignore[no-any-return]
        status_pb2.Status(code=code_pb2.Code.Value(code.name), message=message, details=details)
    )


async def end_with(status: grpc.Status, context: Any) -> None:
    """End the call of ``context``; raises what gRPC ends it with, whether or not anybody hears."""
    try:
        await context.abort_with_status(status)
    except grpc.aio.InternalError:  # the caller went away at this very moment
        raise asyncio.CancelledError from None


def _cut(text: str) -> str:
    """The text, or its beginning where it quotes something far too long."""
    data = text.encode()
    if len(data) <= MAX_TEXT_BYTES:
        return text
    return data[:MAX_TEXT_BYTES].decode(errors="ignore") + "..."


def _pack(message: object) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)  # type: ignore[arg-type]
    return packed
