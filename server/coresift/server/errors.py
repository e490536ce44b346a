"""What can go wrong, in the domain's words. Nothing here knows gRPC or Redis."""

from __future__ import annotations

from enum import StrEnum


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


class CoresiftError(Exception):
    """A refusal with its reason.

    Args:
        reason: one of `Reason`.
        message: one sentence for a person, with the limit and the value.
        field: path of the request's field that is wrong (``labels[3].item_id``).
        retry_after_s: seconds after which the same call may succeed.
        metadata: further facts for machines.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        field: str | None = None,
        retry_after_s: float | None = None,
        **metadata: str,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s
        self.metadata = metadata


class StartError(Exception):
    """The server cannot start; the message says why and what to do."""


def invalid(field: str, message: str) -> CoresiftError:
    """A refusal of one field: ``field`` names it, ``message`` completes "<field> ..."."""
    return CoresiftError(Reason.INVALID_FIELD, f"{field} {message}", field=field)
