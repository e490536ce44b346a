"""The asyncio client."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any, ParamSpec, Self, TypeVar, cast

import grpc
import grpc.aio

from coresift.client.calls import (
    configure,
    consensus,
    coreset,
    labels,
    leases,
    model,
    move,
    pools,
    progress,
    session,
    signals,
)
from coresift.client.channel import DEFAULT_TARGET, channel_options
from coresift.client.client import Method, as_method
from coresift.client.errors import CoresiftError, from_status
from coresift.client.flow import Ask, Emit, Flow, Iteration, Open, Receive, Send, Settings, Sleep
from coresift.v1 import selection_pb2_grpc

P = ParamSpec("P")
T = TypeVar("T")


def awaiting(flow: Callable[P, Flow[T]]) -> Method[P, Coroutine[Any, Any, T]]:
    """A coroutine method that runs a flow to its end."""

    async def method(self: AsyncClient, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(flow(*args, **kwargs))

    return cast("Method[P, Coroutine[Any, Any, T]]", as_method(method, flow, r"\2"))


def iterating(flow: Callable[P, Iteration[T]]) -> Method[P, AsyncIterator[T]]:
    """A method whose asynchronous iterator runs a flow as it is read."""

    def method(self: AsyncClient, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        return self._steps(flow(*args, **kwargs), [])

    return cast("Method[P, AsyncIterator[T]]", as_method(method, flow, r"AsyncIterator[\2]"))


class AsyncClient:
    """`Client` for asyncio: the same methods, to be awaited; make it inside the event loop.

    The lists (`list_sessions`, `list_labels`, ...) are asynchronous iterators.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout_s: float = 30.0,
        credentials: grpc.ChannelCredentials | None = None,
        max_attempts: int = 8,
    ) -> None:
        self.target = target
        self._settings = Settings(timeout_s=timeout_s, max_attempts=max_attempts)
        self._channel = (
            grpc.aio.insecure_channel(target, channel_options())
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, channel_options())
        )
        self._stub = selection_pb2_grpc.SelectionServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; running calls end with an error."""
        await self._channel.close()

    def with_timeout(self, timeout_s: float) -> Self:
        """The same connection with another timeout."""
        other = copy.copy(self)
        other._settings = replace(self._settings, timeout_s=timeout_s)
        return other

    async def _run(self, flow: Flow[T]) -> T:
        returned: list[T] = []
        async for _ in self._steps(cast("Iteration[Any]", flow), returned):
            raise AssertionError("a flow that is run emits nothing")
        return returned[0]

    async def _steps(self, flow: Iteration[T], returned: list[Any]) -> AsyncIterator[T]:
        """Perform the steps of a flow, yielding what it emits; ``returned`` gets its result."""
        answer: Any = None
        failure: CoresiftError | None = None
        try:
            while True:
                step = flow.send(answer) if failure is None else flow.throw(failure)
                answer = failure = None
                if isinstance(step, Emit):
                    yield step.value
                    continue
                try:
                    answer = await self._perform(step)
                except grpc.aio.AioRpcError as error:
                    failure = from_status(
                        error.code(), error.details() or "", tuple(error.trailing_metadata() or ())
                    )
        except StopIteration as stop:
            returned.append(stop.value)
        finally:
            flow.close()

    async def _perform(self, step: object) -> Any:
        match step:
            case Ask():
                return self._settings
            case Send():
                method = getattr(self._stub, step.name)
                return await method(step.request, timeout=step.timeout_s, metadata=step.metadata)
            case Open():
                return getattr(self._stub, step.name)(step.request, metadata=step.metadata)
            case Receive():
                message = await cast("Any", step.stream).read()
                return None if message is grpc.aio.EOF else message
            case Sleep():
                return await asyncio.sleep(step.seconds)
            case _:
                raise AssertionError(f"unknown step {step!r}")

    create_session = awaiting(configure.create_session)
    get_session = awaiting(session.get_session)
    list_sessions = iterating(session.list_sessions)
    update_session = awaiting(configure.update_session)
    delete_session = awaiting(session.delete_session)
    move_session = awaiting(move.move_session)
    progress = awaiting(progress.progress)

    next_batch = awaiting(leases.next_batch)
    renew_leases = awaiting(leases.renew_leases)
    release_leases = awaiting(leases.release_leases)
    list_leases = iterating(leases.list_leases)
    add_labels = awaiting(labels.add_labels)
    import_labels = awaiting(labels.import_labels)
    list_labels = iterating(labels.list_labels)
    list_consensus = iterating(consensus.list_consensus)
    annotator_agreement = awaiting(consensus.annotator_agreement)

    predict = awaiting(model.predict)
    score_vectors = awaiting(model.score_vectors)
    search_pool = awaiting(pools.search_pool)
    get_items = awaiting(pools.get_items)
    head = awaiting(model.head)

    put_signals = awaiting(signals.put_signals)
    list_signals = iterating(signals.list_signals)
    delete_signals = awaiting(signals.delete_signals)

    score_coreset = awaiting(coreset.score_coreset)
    cancel_coreset = awaiting(coreset.cancel_coreset)

    get_pool = awaiting(pools.get_pool)
    list_pools = iterating(pools.list_pools)
