"""Checks of what comes over the wire: every refusal names the field and the limit."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import duration_pb2, message

from coresift.server.caller import CALLER
from coresift.server.errors import CoresiftError, Reason, invalid
from coresift.server.pool.pool import Pool
from coresift.server.session.setup.config_checks import check_lease
from coresift.server.state.values import Request
from coresift.v1 import selection_pb2 as pb

MAX_BATCH = 1_000
MAX_LABELS = 1_000
MAX_VECTORS = 10_000
MAX_TOP = 100_000
MAX_PAGE = 1_000
DEFAULT_PAGE = 50

_NAME = re.compile(r"[A-Za-z0-9._:/-]{1,64}")
_SIGNAL_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_of(call: message.Message, request_id: str, *, field: str = "request_id") -> Request:
    """The identity of a write: its request_id, kept apart by tenant, and the hash of what it is
    and of its body: those of other methods may have the same bytes."""
    kept = own_name(field, request_id)
    kind = f"{call.DESCRIPTOR.full_name}\0".encode()
    body = kind + call.SerializeToString(deterministic=True)
    return Request(kept, blake2b(body, digest_size=16).digest())


def own_name(field: str, value: str) -> str:
    """What the store calls the caller's session, request or job of this name."""
    return CALLER.get().kept_as(name(field, value))


def is_name(value: str) -> bool:
    """Whether a session or a request may have this name."""
    return _NAME.fullmatch(value) is not None


def name(field: str, value: str) -> str:
    """A session_id or request_id, as the caller says it."""
    if not is_name(value):
        raise invalid(field, f"must have 1..64 characters of [A-Za-z0-9._:/-], got {value[:80]!r}")
    return value


def signal_name(field: str, value: str) -> str:
    """The name of a signal."""
    if not _SIGNAL_NAME.fullmatch(value):
        raise invalid(field, f"must have 1..64 characters of [A-Za-z0-9._-], got {value[:80]!r}")
    return value


def annotator(value: str) -> str:
    """An annotator's name."""
    if not 1 <= len(value.encode()) <= 128:
        raise invalid("annotator", f"must have 1..128 bytes, got {len(value.encode())}")
    return value


def count(field: str, value: int, most: int, least: int = 1) -> int:
    """A number in least..most."""
    if not least <= value <= most:
        raise invalid(field, f"must be {least}..{most}, got {value}")
    return value


def known(field: str, value: int, enum: Any) -> int:
    """An enum number that exists and is not UNSPECIFIED."""
    if value == 0 or value not in enum.values():
        names = ", ".join(enum.keys()[1:])
        raise invalid(field, f"must be one of {names}; got number {value}")
    return value


def lease_ms(call: Any, field: str = "lease_duration") -> int | None:
    """The lease duration in ms; None where the call has none."""
    if not call.HasField("lease_duration"):
        return None
    value = milliseconds(call.lease_duration)
    check_lease(field, value)
    return value


def milliseconds(duration: duration_pb2.Duration) -> int:
    """A duration in ms."""
    return duration.seconds * 1000 + duration.nanos // 1_000_000


def rows(pool: Pool, field: str, item_ids: Sequence[str]) -> npt.NDArray[np.int32]:
    """Rows of items. ITEM_NOT_FOUND names the first that the pool lacks.

    ``field`` is its path with ``{}`` for the place in the list: ``labels[{}].item_id``.
    """
    found = known_rows(pool, field, item_ids)
    if (missing := np.flatnonzero(found < 0)).size:
        i = int(missing[0])
        raise CoresiftError(
            Reason.ITEM_NOT_FOUND,
            f"{field.format(i)}: no item {item_ids[i]!r} in pool {pool.manifest.name!r}",
            field=field.format(i),
            item_id=item_ids[i],
        )
    return found


def known_rows(pool: Pool, field: str, item_ids: Sequence[str]) -> npt.NDArray[np.int32]:
    """Rows of items, -1 for those that the pool lacks; ``field`` as in `rows`."""
    for i, item_id in enumerate(item_ids):
        if not 1 <= len(item_id.encode()) <= 256:
            size = len(item_id.encode())
            raise invalid(field.format(i), f"must have 1..256 bytes, got {size}")
    return pool.ids.rows_of(item_ids).astype(np.int32)


def vectors(
    pool: Pool, field: str, given: pb.Vectors, most: int = MAX_VECTORS
) -> npt.NDArray[np.float32]:
    """Vectors float32 [n, d] in the pool's form. INVALID_VECTOR."""
    return pool.normalise(raw_vectors(pool, field, given, most), field=field)


def raw_vectors(
    pool: Pool, field: str, given: pb.Vectors, most: int = MAX_VECTORS
) -> npt.NDArray[np.float32]:
    """Vectors float32 [n, d] as they were given. INVALID_VECTOR for a wrong shape."""
    dimension = pool.manifest.dimension
    if given.dimension != dimension:
        raise CoresiftError(
            Reason.INVALID_VECTOR,
            f"{field}.dimension must be the pool's {dimension}, got {given.dimension}",
            field=f"{field}.dimension",
        )
    number, rest = divmod(len(given.data), 4 * dimension)
    if rest or not 1 <= number <= most:
        raise CoresiftError(
            Reason.INVALID_VECTOR,
            f"{field}.data must hold 1..{most} rows of {4 * dimension} bytes, "
            f"got {len(given.data)} bytes",
            field=f"{field}.data",
        )
    return np.frombuffer(given.data, "<f4").reshape(number, dimension)


def page_size(value: int) -> int:
    """Items of a page: 0 is 50, at most 1,000."""
    return min(value or DEFAULT_PAGE, MAX_PAGE)


def page_token(listed: str, last: str) -> str:
    """The token of the page after an entry with this key, in the list of this name."""
    return base64.urlsafe_b64encode(f"{listed}:{last}".encode()).decode()


def page_after(listed: str, token: str) -> str:
    """The key that a page starts after; empty for the first page. INVALID_PAGE_TOKEN."""
    if not token:
        return ""
    try:
        text = base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError):
        text = ""
    made_for, _, key = text.partition(":")
    if made_for != listed or not key:
        raise foreign_page_token()
    return key


def foreign_page_token() -> CoresiftError:
    """INVALID_PAGE_TOKEN."""
    return CoresiftError(
        Reason.INVALID_PAGE_TOKEN, "page_token was not made by this list", field="page_token"
    )


def small_number(text: str) -> int:
    """A number of up to ten digits in a page token. INVALID_PAGE_TOKEN."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):
        raise foreign_page_token()
    return int(text)


def packed_strings(field: str, column: pb.StringColumn) -> npt.NDArray[np.int32]:
    """The offsets of a packed column, int32. INVALID_FIELD if they do not fit the data."""
    if len(column.offsets) % 4 or len(column.offsets) < 4:
        raise invalid(f"{field}.offsets", "must hold at least one int32")
    offsets = np.frombuffer(column.offsets, "<i4")
    falls = (offsets[1:] < offsets[:-1]).any()
    if offsets[0] != 0 or falls or offsets[-1] != len(column.data):
        raise invalid(f"{field}.offsets", "must rise from 0 to the length of data")
    try:
        column.data.decode()
    except UnicodeDecodeError as error:
        raise invalid(f"{field}.data", "must be UTF-8") from error
    return offsets
