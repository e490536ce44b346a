"""The history of a run: every attempt of every call, from its start to its end.

Times are milliseconds since the epoch by one monotonic clock of this process, which also stamps
what Redis and the servers do on the same machine.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import astuple, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgpack

from coresift.v1 import selection_pb2 as pb

_EPOCH_NS = time.time_ns() - time.monotonic_ns()

MESSAGES: dict[str, tuple[Any, Any]] = {
    name: (getattr(pb, f"{name}Request"), getattr(pb, f"{name}Response"))
    for name in (
        "CreateSession",
        "GetSession",
        "UpdateSession",
        "GetSessionProgress",
        "NextBatch",
        "AddLabels",
        "RenewLeases",
        "ReleaseLeases",
        "ListLeases",
        "ListLabels",
    )
}
"""RPC to its request and answer; the messages of a stream are kept merged into one."""

READS = frozenset({"GetSession", "GetSessionProgress", "ListLeases", "ListLabels"})


def now_ms() -> float:
    """This moment."""
    return (_EPOCH_NS + time.monotonic_ns()) / 1e6


class Outcome(StrEnum):
    """How an attempt ended."""

    OK = "ok"
    REFUSED = "refused"
    """With a reason that says that nothing was done."""
    UNKNOWN = "unknown"
    """Done or not: a lost connection, a deadline, a state store that did not answer."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a call."""

    number: int
    """Its place in the order of completion."""
    frontend: int
    server: int
    kind: str
    session: str
    request_id: str
    """Empty for reads."""
    intent: str
    """What is wrong with it on purpose; empty: nothing."""
    request: bytes
    invoked_ms: float
    completed_ms: float
    outcome: Outcome
    reason: str
    """ErrorInfo's reason, else the status code; empty where it went well."""
    answer: bytes


@dataclass(frozen=True, slots=True)
class Remains:
    """What a session left in Redis."""

    session: str
    entries: tuple[bytes, ...]
    """The log, packed."""
    meta: dict[str, bytes]
    leases: dict[str, float]
    """ "row:annotator" to deadline."""
    held: dict[int, int]
    votes: dict[int, dict[str, bytes]]
    skips: frozenset[str]
    extra: dict[int, int]
    hands: dict[str, frozenset[int]]


@dataclass(slots=True)
class History:
    """A run: how it was made, its attempts, and what its sessions left."""

    seed: int
    fault: str
    calls: int
    attempts: list[Attempt] = field(default_factory=list)
    injected: Counter[str] = field(default_factory=Counter)
    """Faults, by kind."""
    sessions: dict[str, Remains] = field(default_factory=dict)
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        """Write it for `load`."""
        content = (
            self.seed,
            self.fault,
            self.calls,
            [astuple(attempt) for attempt in self.attempts],
            dict(self.injected),
            [_plain(remains) for remains in self.sessions.values()],
            self.seconds,
        )
        path.write_bytes(msgpack.packb(content))

    @classmethod
    def load(cls, path: Path) -> History:
        """Read what `save` wrote."""
        content = msgpack.unpackb(path.read_bytes(), strict_map_key=False)
        seed, fault, calls, attempts, injected, sessions, seconds = content
        history = cls(seed, fault, calls, seconds=seconds, injected=Counter(injected))
        for attempt in attempts:
            fields = [*attempt]
            fields[10] = Outcome(fields[10])
            history.attempts.append(Attempt(*fields))
        for session, entries, meta, leases, held, votes, skips, extra, hands in sessions:
            names = {name: frozenset(rows) for name, rows in hands.items()}
            history.sessions[session] = Remains(
                session, tuple(entries), meta, leases, held, votes, frozenset(skips), extra, names
            )
        return history


def _plain(remains: Remains) -> tuple[Any, ...]:
    *start, skips, extra, hands = astuple(remains)
    return (*start, sorted(skips), extra, {name: sorted(rows) for name, rows in hands.items()})
