"""Entries of a session's log: one committed operation each, packed with MessagePack.

The scripts in ``lua/`` write them; the field names here are theirs (one letter on disk).

Servers of neighbouring releases work on one session at a time, so what they write must agree:

- Without a new format (``FORMAT`` in ``prelude.lua``) a release may add fields to entries, to
  meta, to kept answers, and keys of its own, as long as a release that neither knows nor carries
  them on still grants, counts and ranks rightly. Unknown fields are passed over here; entries of
  a release before a field came are read with its default.
- Whatever else changes what labels, leases or picks mean needs a new format: other kinds of
  entries, other contents of a field, rules that all scripts must keep. Sessions then get the
  format with the first such entry; older servers refuse them as a whole, with FORMAT_TOO_NEW.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack

from coresift.server.errors import CoresiftError, Reason


@dataclass(frozen=True, slots=True)
class LabelsEntry:
    """Labels of one annotator. Its offset is a revision.

    Every entry has a random nonce (``n`` on disk); labels always had one.
    """

    offset: int
    time_ms: int
    request_id: str
    nonce: bytes
    annotator: str
    rows: tuple[int, ...]
    item_ids: tuple[str, ...]
    values: tuple[bytes, ...]
    outcomes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GrantEntry:
    """Leases given, and the view that the picks come from."""

    offset: int
    time_ms: int
    request_id: str
    annotator: str
    rows: tuple[int, ...]
    size: int
    """Asked for."""
    deadline_ms: int
    view_offset: int
    view_revision: int
    config_version: int
    context: bytes
    review: bool = False
    """A second look: each row's quota was raised to its votes and leases with this one, if it
    was lower."""
    nonce: bytes = b""


@dataclass(frozen=True, slots=True)
class ReleaseEntry:
    """Leases handed back, or items skipped or hidden."""

    offset: int
    time_ms: int
    request_id: str
    annotator: str
    rows: tuple[int, ...]
    reason: int
    nonce: bytes = b""


@dataclass(frozen=True, slots=True)
class ExpiryEntry:
    """Leases whose deadline passed."""

    offset: int
    time_ms: int
    leases: tuple[tuple[int, str], ...]
    """Row and annotator."""
    nonce: bytes = b""


@dataclass(frozen=True, slots=True)
class ConfigEntry:
    """A configuration that holds from here on."""

    offset: int
    time_ms: int
    request_id: str
    config_version: int
    config: bytes
    nonce: bytes = b""


Entry = LabelsEntry | GrantEntry | ReleaseEntry | ExpiryEntry | ConfigEntry


def unpack_entry(offset: int, blob: bytes) -> Entry:
    """The entry that stands packed at ``offset`` of a log.

    On disk ``t`` is the kind, ``m`` the time, ``q`` the request, ``a`` the annotator; the scripts
    that append an entry say what the other letters mean.

    Raises:
        CoresiftError: FORMAT_TOO_NEW for a kind that this release does not know.
    """
    fields = msgpack.unpackb(blob, raw=True)
    unpack_kind = _KINDS.get(fields[b"t"])
    if unpack_kind is None:
        raise CoresiftError(
            Reason.FORMAT_TOO_NEW,
            f"Log entry {offset} was written by a newer release (kind {fields[b't']!r}).",
        )
    return unpack_kind(offset, fields)


def _labels(offset: int, fields: dict[bytes, Any]) -> LabelsEntry:
    rows, item_ids, values = (msgpack.unpackb(fields[key], raw=True) for key in (b"r", b"i", b"v"))
    return LabelsEntry(
        offset,
        fields[b"m"],
        fields[b"q"].decode(),
        fields[b"n"],
        fields[b"a"].decode(),
        tuple(rows),
        tuple(item_id.decode() for item_id in item_ids),
        tuple(values),
        tuple(fields[b"u"]),
    )


def _grant(offset: int, fields: dict[bytes, Any]) -> GrantEntry:
    return GrantEntry(
        offset,
        fields[b"m"],
        fields[b"q"].decode(),
        fields[b"a"].decode(),
        tuple(fields[b"r"]),
        fields[b"z"],
        fields[b"e"],
        fields[b"p"],
        fields[b"v"],
        fields[b"c"],
        fields[b"x"],
        fields.get(b"k", False),
        fields.get(b"n", b""),
    )


def _release(offset: int, fields: dict[bytes, Any]) -> ReleaseEntry:
    return ReleaseEntry(
        offset,
        fields[b"m"],
        fields[b"q"].decode(),
        fields[b"a"].decode(),
        tuple(fields[b"r"]),
        fields[b"w"],
        fields.get(b"n", b""),
    )


def _expiry(offset: int, fields: dict[bytes, Any]) -> ExpiryEntry:
    leases = (lease.split(b":", 1) for lease in fields[b"l"])
    return ExpiryEntry(
        offset,
        fields[b"m"],
        tuple((int(row), annotator.decode()) for row, annotator in leases),
        fields.get(b"n", b""),
    )


def _config(offset: int, fields: dict[bytes, Any]) -> ConfigEntry:
    return ConfigEntry(
        offset,
        fields[b"m"],
        fields[b"q"].decode(),
        fields[b"v"],
        fields[b"c"],
        fields.get(b"n", b""),
    )


_KINDS: dict[bytes, Callable[[int, dict[bytes, Any]], Entry]] = {
    b"L": _labels,
    b"G": _grant,
    b"R": _release,
    b"X": _expiry,
    b"C": _config,
}
