"""What a flow asks of the client that runs it: steps, and the settings they are made by."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from google.protobuf.message import Message

from coresift.client.affinity import Routes
from coresift.client.channel import DEFAULT_TARGET

T_co = TypeVar("T_co", covariant=True)

SESSION_KEY = "x-coresift-session"
"""Call metadata that lets a proxy send the calls of one session to one replica."""
SESSION_ID = re.compile(r"[A-Za-z0-9._:/-]{1,64}")


@dataclass(frozen=True)
class Settings:
    """How calls are made; times in seconds."""

    timeout_s: float = 30.0
    """Of one unary call, its retries included. Streams have none: keepalive ends dead ones."""
    max_attempts: int = 8
    routes: Routes = field(default_factory=lambda: Routes(DEFAULT_TARGET))
    backoff_first_s: float = 0.1
    backoff_most_s: float = 5.0
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = field(default=random.random)
    """Uniform in [0, 1): how much of a pause is waited (full jitter)."""


class Stream(Protocol):
    """An open stream of answers; the driver knows how to read it."""

    def cancel(self) -> bool: ...


@dataclass(frozen=True)
class Ask:
    """Step: tell the client's `Settings`."""


@dataclass(frozen=True)
class Send:
    """Step: call a method with one answer. ``request`` is a message, or an iterable of them
    for a client stream."""

    name: str
    request: Message | Iterable[Message]
    metadata: Sequence[tuple[str, str]]
    timeout_s: float | None
    address: str


@dataclass(frozen=True)
class Open:
    """Step: call a method that answers with a stream; gives the `Stream`."""

    name: str
    request: Message
    metadata: Sequence[tuple[str, str]]
    address: str


@dataclass(frozen=True)
class Probe:
    """Step: ask a replica's health service; gives the bytes of its answer.

    ``request``: bytes of its message; without any the server as a whole is asked about.
    ``apart``: on a channel of its own: that of the calls leaves a replica that does not serve.
    """

    address: str
    timeout_s: float
    request: bytes = b""
    apart: bool = False


@dataclass(frozen=True)
class Receive:
    """Step: the next message of a stream, None after the last."""

    stream: Stream


@dataclass(frozen=True)
class Sleep:
    """Step: wait."""

    seconds: float


@dataclass(frozen=True)
class Emit(Generic[T_co]):
    """Step: hand a value to the caller who iterates."""

    value: T_co


Step = Ask | Send | Open | Probe | Receive | Sleep


def metadata(session_id: str) -> tuple[tuple[str, str], ...]:
    """Call metadata of a session's calls."""
    # gRPC would refuse some others in its own way; the server refuses them all in ours.
    return ((SESSION_KEY, session_id),) if SESSION_ID.fullmatch(session_id) else ()
