"""The client's logic as generators, without any I/O.

A flow is written once, as a generator that yields steps (send this, receive, sleep) and gets
their results; `Client` and `AsyncClient` only perform the steps. Every RPC of the service may
be sent again: reads change nothing, writes carry a request_id.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, cast

from google.protobuf.message import Message

from coresift.client.errors import CoresiftError

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)
T = TypeVar("T")
U = TypeVar("U")
T_co = TypeVar("T_co", covariant=True)

SESSION_KEY = "x-coresift-session"
"""Call metadata that lets a proxy send the calls of one session to one replica."""


@dataclass(frozen=True)
class Settings:
    """How calls are made; times in seconds."""

    timeout_s: float = 30.0
    """Of one unary call, its retries included. Streams have none: keepalive ends dead ones."""
    max_attempts: int = 8
    backoff_first_s: float = 0.1
    backoff_most_s: float = 5.0
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = field(default=random.random)
    """Uniform in [0, 1): how much of a pause is waited (full jitter)."""


@dataclass(frozen=True)
class Rpc(Generic[Q, R]):
    """A method of the service: its name and the types of its messages."""

    name: str
    request: type[Q]
    reply: type[R]


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


@dataclass(frozen=True)
class Open:
    """Step: call a method that answers with a stream; gives the `Stream`."""

    name: str
    request: Message
    metadata: Sequence[tuple[str, str]]


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


Step = Ask | Send | Open | Receive | Sleep
Flow = Generator[Step, Any, T]
"""Performs steps and returns a T."""
Iteration = Generator[Step | Emit[T], Any, None]
"""Performs steps and emits values of type T."""


def call(rpc: Rpc[Q, R], request: Q, session_id: str = "") -> Flow[R]:
    """Call a method with one answer, again where that may help, within one timeout."""
    return (yield from _send(rpc, request, session_id, timed=True))


def upload(rpc: Rpc[Q, R], requests: Iterable[Q]) -> Flow[R]:
    """Call a client-streaming method; ``requests`` is iterated anew for each attempt."""
    return (yield from _send(rpc, requests, "", timed=False))


def _send(rpc: Rpc[Q, R], request: Q | Iterable[Q], session_id: str, *, timed: bool) -> Flow[R]:
    retry = Retry((yield Ask()), timed=timed)
    while True:
        try:
            reply: R = yield Send(rpc.name, request, metadata(session_id), retry.left_s())
        except CoresiftError as error:
            yield retry.pause(error)
        else:
            return reply


class Retry:
    """Decides after a failure whether and when to try again.

    Exponential backoff with full jitter on top of what google.rpc.RetryInfo asks for; never
    beyond the deadline of the call.
    """

    def __init__(self, settings: Settings, *, timed: bool) -> None:
        self._settings = settings
        self._deadline = settings.clock() + settings.timeout_s if timed else None
        self._failures = 0

    def left_s(self) -> float | None:
        """Seconds left for an attempt; None without a deadline."""
        if self._deadline is None:
            return None
        return max(self._deadline - self._settings.clock(), 0.001)

    def reset(self) -> None:
        """Forget earlier failures: the server has made progress since."""
        self._failures = 0

    def pause(self, error: CoresiftError) -> Sleep:
        """The wait before the next attempt; raises ``error`` if there must be none."""
        self._failures += 1
        if not error.retryable or self._failures >= self._settings.max_attempts:
            raise error
        doubled = self._settings.backoff_first_s * 2 ** (self._failures - 1)
        seconds = self._settings.jitter() * min(doubled, self._settings.backoff_most_s)
        if error.retry_after is not None:
            seconds += error.retry_after.total_seconds()
        left = self.left_s()
        if left is not None and seconds >= left:
            raise error
        return Sleep(seconds)


def stream(rpc: Rpc[Q, R], request: Q, session_id: str = "") -> Iteration[R]:
    """Emit the answers of a stream; tries again only as long as none has come."""
    retry = Retry((yield Ask()), timed=False)
    while True:
        begun = False
        opened: Stream | None = None
        try:
            opened = yield Open(rpc.name, request, metadata(session_id))
            while (message := (yield Receive(opened))) is not None:
                begun = True
                yield Emit(message)
        except CoresiftError as error:
            if begun:
                raise
            yield retry.pause(error)
        else:
            return
        finally:
            if opened is not None:
                opened.cancel()


def mapped(iteration: Iteration[T], expand: Callable[[T], Iterable[U]]) -> Iteration[U]:
    """Emit what ``expand`` makes of each emitted value."""
    answer: Any = None
    failure: CoresiftError | None = None
    try:
        while True:
            step = iteration.send(answer) if failure is None else iteration.throw(failure)
            answer = failure = None
            if isinstance(step, Emit):
                for value in expand(step.value):
                    yield Emit(value)
                continue
            try:
                answer = yield step
            except CoresiftError as error:
                failure = error
    except StopIteration:
        return
    finally:
        iteration.close()


def gather(iteration: Iteration[T]) -> Flow[list[T]]:
    """All values that an iteration emits."""
    values: list[T] = []

    def keep(value: T) -> Iterable[T]:
        values.append(value)
        return ()

    yield from cast("Flow[None]", mapped(iteration, keep))
    return values


def pages(fetch: Callable[[str], Flow[tuple[Iterable[T], str]]]) -> Iteration[T]:
    """Emit the entries of all pages; ``fetch`` reads the page of a token."""
    token = ""
    while True:
        entries, token = yield from fetch(token)
        for entry in entries:
            yield Emit(entry)
        if not token:
            return


def parts(total: int, most: int) -> list[slice]:
    """Cut ``total`` entries into consecutive slices of at most ``most``."""
    return [slice(start, min(start + most, total)) for start in range(0, total, most)]


def part_id(request_id: str, number: int, count: int) -> str:
    """The request_id of part ``number`` of ``count``: a repeated call repeats every part."""
    return request_id if count <= 1 else f"{request_id}/{number}"


def metadata(session_id: str) -> tuple[tuple[str, str], ...]:
    """Call metadata of a session's calls."""
    # Header values are ASCII; the server refuses any other id by its own rule.
    return ((SESSION_KEY, session_id),) if session_id.isascii() and session_id.strip() else ()
