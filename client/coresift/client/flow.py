"""The client's logic as generators, without any I/O.

A flow is written once, as a generator that yields steps (send this, receive, sleep) and gets
their results; `Client` and `AsyncClient` only perform the steps. Every RPC of the service may
be sent again: reads change nothing, writes carry a request_id.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import grpc
from google.protobuf.message import Message

from coresift.client.errors import CoresiftError
from coresift.client.retry import Retry, affinity_key
from coresift.client.steps import Ask, Emit, Probe, Receive, Step, Stream

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)
T = TypeVar("T")
U = TypeVar("U")

PROBE_S = 1.0
"""How long a replica may take to say that it is there."""


@dataclass(frozen=True)
class Rpc(Generic[Q, R]):
    """A method of the service: its name and the types of its messages."""

    name: str
    request: type[Q]
    reply: type[R]


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
    retry = Retry((yield Ask()), timed=timed, key=affinity_key(request, session_id))
    while True:
        send = retry.send(rpc.name, request, session_id)
        try:
            reply: R = yield send
        except CoresiftError as error:
            failure = error
        else:
            return reply
        if retry.was_interrupted(failure):
            if (yield from _is_there(send.address)):
                retry.trust()
                continue
            failure = retry.silence()
        yield retry.pause(failure)


def _is_there(address: str) -> Flow[bool]:
    try:
        yield Probe(address, PROBE_S)
    except CoresiftError as error:
        return error.code not in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        )
    return True


def stream(
    rpc: Rpc[Q, R],
    request: Q,
    session_id: str = "",
    *,
    restart: Callable[[], bool] = lambda: False,
) -> Iteration[R]:
    """Emit the answers of a stream; tries again only as long as none has come.

    ``restart``: called when some have come: forgets them, or says that it cannot.
    """
    retry = Retry((yield Ask()), timed=False, key=affinity_key(request, session_id))
    while True:
        begun = False
        opened: Stream | None = None
        try:
            opened = yield retry.open(rpc.name, request, session_id)
            while (message := (yield Receive(opened))) is not None:
                begun = True
                yield Emit(message)
        except CoresiftError as error:
            if begun and not restart():
                retry.blame(error)
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
