"""Every RPC's class: what it takes of the server, and how much of that there is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from coresift.server.session.work.gate import GateLimits

MIB = 1 << 20
SMALL_BYTES, LARGE_BYTES = 4 * MIB, 64 * MIB
"""Of a request: of names and numbers; of vectors, weights, files."""


class CallClass(StrEnum):
    """What a call mostly needs."""

    STATE = "state"
    """One or two trips to the state store."""
    SELECTING = "selecting"
    """The session's model, sometimes seconds of numerics (which have permits of their own)."""
    READING = "reading"
    """A long stream from the log."""
    UPLOADING = "uploading"
    """A long stream to the server: its memory."""
    ATTACHED = "attached"
    """A watcher of a job that works elsewhere."""


@dataclass(frozen=True, slots=True)
class ClassLimits:
    """Of a class: permits for working calls, and how many may be open, pauses counted."""

    gate: GateLimits
    open: int


LIMITS = {
    CallClass.STATE: ClassLimits(GateLimits(64, 256, adapts=True, rests=True), 512),
    CallClass.SELECTING: ClassLimits(GateLimits(64, 256, adapts=True, rests=True), 1024),
    CallClass.READING: ClassLimits(GateLimits(8, 32), 64),
    CallClass.UPLOADING: ClassLimits(GateLimits(4, 16), 16),
    CallClass.ATTACHED: ClassLimits(GateLimits(64, 64), 256),
}


@dataclass(frozen=True, slots=True)
class CallRule:
    """How calls of a method are treated.

    Attributes:
        call_class: whose permits they need.
        computes: cannot do without a worker thread: refused at the door while those are crowded.
        refusable: changes nothing before it needs a worker thread, and may be refused there.
        max_bytes: of a request message.
    """

    call_class: CallClass
    computes: bool = False
    refusable: bool = False
    max_bytes: int = SMALL_BYTES


_STATE = CallRule(CallClass.STATE)
_SELECTING = CallRule(CallClass.SELECTING, refusable=True)
_COMPUTING = CallRule(CallClass.SELECTING, computes=True, refusable=True, max_bytes=LARGE_BYTES)
_CONFIGURING = CallRule(CallClass.STATE, max_bytes=LARGE_BYTES)
_UPLOADING = CallRule(CallClass.UPLOADING, max_bytes=LARGE_BYTES)

RULES = {
    "CreateSession": _CONFIGURING,  # prior weights
    "GetSession": _STATE,
    "ListSessions": _STATE,
    "UpdateSession": _CONFIGURING,
    "DeleteSession": _STATE,
    "UndeleteSession": _STATE,
    "ExportSession": CallRule(CallClass.READING),
    "ImportSession": _UPLOADING,
    "EraseAnnotator": _STATE,
    "GetSessionProgress": _SELECTING,
    "NextBatch": _SELECTING,
    "AddLabels": _STATE,
    "RenewLeases": _STATE,
    "ReleaseLeases": _STATE,
    "ListLeases": _STATE,
    "ListConsensus": _SELECTING,
    "ListLabels": CallRule(CallClass.READING),
    "Predict": _COMPUTING,
    "ScoreVectors": _COMPUTING,
    "SearchPool": _COMPUTING,
    "GetHead": _SELECTING,
    "PutSignals": _UPLOADING,
    "ListSignals": _STATE,
    "DeleteSignals": _STATE,
    "ScoreCoreset": CallRule(CallClass.ATTACHED, max_bytes=LARGE_BYTES),
    "CancelCoreset": _STATE,
    "GetPool": _STATE,
    "ListPools": _STATE,
    "GetItems": _STATE,
}
"""The rule of every method of the service; health and reflection have none."""
