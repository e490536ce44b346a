"""Another annotator's name in packed log entries."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from typing import Any

import msgpack

from coresift.server.session.copies.backup_contents import annotators_of
from coresift.server.state.entries import ExpiryEntry, unpack_entry
from coresift.server.state.values import Request

PREFIX = "erased-"


def entries_naming(blobs: Sequence[bytes], name: str) -> int:
    """How many packed entries bear a name."""
    entries = [unpack_entry(0, blob) for blob in blobs if _may(blob, name)]
    return sum(name in annotators_of(entry) for entry in entries)


def _may(blob: bytes, name: str) -> bool:
    """Whether a packed entry may bear a name: cheaper than to unpack it."""
    return name.encode() in blob


def renamed(blob: bytes, name: str, other: str) -> bytes:
    """A packed entry with another name; the same bytes where it does not bear the first."""
    if not _may(blob, name):
        return blob
    entry = unpack_entry(0, blob)
    if name not in annotators_of(entry):
        return blob
    fields: dict[bytes, Any] = msgpack.unpackb(blob, raw=True)
    if isinstance(entry, ExpiryEntry):
        fields[b"l"] = [
            f"{row}:{other if holder == name else holder}" for row, holder in entry.leases
        ]
    else:
        fields[b"a"] = other.encode()
    packed: bytes = msgpack.packb(fields, use_bin_type=False)
    return packed


def replacement_for(secret: bytes, request: Request) -> str:
    """Another name, the same whenever the request is repeated; nothing of the old one is in it."""
    digest = hmac.digest(secret, b"erased\0" + request.request_id.encode(), "sha256")
    return PREFIX + base64.b32encode(digest).decode()[:16].lower()
