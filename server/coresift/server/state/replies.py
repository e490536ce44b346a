"""From what the scripts keep and reply to the values of ``store.py``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import msgpack

from coresift.server.errors import CoresiftError, Reason
from coresift.server.state.entries import Entry
from coresift.server.state.values import (
    Granted,
    Labelled,
    Outcome,
    Renewed,
    SessionRecord,
    Settings,
)

_MESSAGES = {
    Reason.SESSION_NOT_FOUND: "There is no such session.",
    Reason.FORMAT_TOO_NEW: "The session was written by a newer release (record format {}).",
    Reason.REQUEST_ID_REUSED: "request_id was used before with another body.",
    Reason.REQUEST_EXPIRED: "The leases of this request have ended; ask with a new request_id.",
    Reason.CONFIG_VERSION_MISMATCH: "The configuration version is {} by now.",
    Reason.REVISION_NOT_REACHED: "The newest revision is {}.",
    Reason.STATE_UNAVAILABLE: "The session is being written anew, without an annotator's name.",
}
_FIELDS = {
    Reason.REQUEST_ID_REUSED: "request_id",
    Reason.CONFIG_VERSION_MISMATCH: "expected_config_version",
    Reason.REVISION_NOT_REACHED: "min_revision",
}
_OUTCOMES = {int(outcome): outcome for outcome in Outcome}


def new_nonce() -> bytes:
    """Random bytes for the entries that one run of a script appends.

    Never the same for two runs: after a failover the same call may be done again behind other
    entries, and that must not look like the same log.
    """
    return os.urandom(8)


def pack(value: Any) -> bytes:
    """MessagePack as Redis's Lua reads it (its strings are the old raw type)."""
    packed: bytes = msgpack.packb(value, use_bin_type=False)
    return packed


def unpack(blob: bytes) -> Any:
    """What Redis's Lua packed: strings are bytes, keys too."""
    return msgpack.unpackb(blob, raw=True, strict_map_key=False)


def refusal(reason: Reason, detail: str = "") -> CoresiftError:
    """The error of a script's "refused"."""
    error = CoresiftError(reason, _MESSAGES[reason].format(detail), field=_FIELDS.get(reason))
    if reason is Reason.STATE_UNAVAILABLE:
        error.retry_after_s = 0.1
    if detail:
        error.metadata["newest"] = detail
    return error


def checked(reply: Sequence[Any]) -> Sequence[Any]:
    """A script's reply, unless it is a refusal."""
    if reply[0] == b"refused":
        raise refusal(Reason(reply[1].decode()), reply[2].decode())
    return reply


def record_of(fields: Sequence[bytes]) -> SessionRecord:
    """The session in a script's record (``prelude.lua``: record)."""
    (
        session_id,
        uid,
        secret,
        quota,
        budget,
        config,
        version,
        revision,
        nonce,
        offset,
        created,
        *newer,
    ) = fields
    # Answers kept by an older release lack what came later; those of a newer one have more.
    votes, tip = (*newer, b"0", b"")[:2]
    return SessionRecord(
        session_id=session_id.decode(),
        uid=uid.decode(),
        secret=secret,
        settings=Settings(int(quota), int(budget) if int(budget) >= 0 else None, config),
        config_version=int(version),
        revision=int(revision),
        nonce=nonce,
        offset=int(offset),
        created_ms=int(created),
        votes=int(votes),
        tip=tip,
    )


def granted_of(
    blob: bytes, *, replayed: bool, entries: tuple[Entry, ...], is_whole: bool
) -> Granted:
    """The answer of ``claim.lua``."""
    kept = unpack(blob)
    return Granted(
        rows=tuple(kept[b"r"]),
        payloads=tuple(kept[b"p"]),
        deadline_ms=kept[b"e"],
        revision=kept[b"v"],
        config_version=kept[b"c"],
        context=kept[b"x"],
        replayed=replayed,
        budget_spent=kept[b"b"] == 1,
        next_deadline_ms=kept[b"n"] if kept[b"n"] >= 0 else None,
        entries=entries,
        is_whole=is_whole,
    )


def labelled_of(blob: bytes, *, replayed: bool) -> Labelled:
    """The answer of ``labels.lua``."""
    kept = unpack(blob)
    return Labelled(
        outcomes=tuple(map(_OUTCOMES.__getitem__, kept[b"u"])),
        revision=kept[b"v"],
        nonce=kept[b"n"],
        config_version=kept[b"c"],
        replayed=replayed,
    )


def renewed_of(blob: bytes, *, by_row: bool) -> Renewed:
    """The answer of ``renew.lua``, in the order of the request or by row."""
    kept = unpack(blob)
    renewed = sorted(kept[b"y"]) if by_row else kept[b"y"]
    return Renewed(kept[b"t"], tuple(renewed), tuple(kept[b"x"]))
