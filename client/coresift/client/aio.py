"""The asyncio client."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any, ParamSpec, Self, TypeVar, cast

import grpc
import grpc.aio

from coresift.client.affinity import Routes
from coresift.client.calls import (
    backup,
    configure,
    consensus,
    coreset,
    health,
    labels,
    leases,
    model,
    move,
    pools,
    progress,
    session,
    signals,
)
from coresift.client.channel import DEFAULT_TARGET, Line, Lines, channel_options
from coresift.client.client import Method, as_method
from coresift.client.credentials import Pem, TokenSource, access
from coresift.client.errors import CoresiftError, from_status
from coresift.client.flow import Flow, Iteration
from coresift.client.steps import Ask, Emit, Open, Probe, Receive, Send, Settings, Sleep

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
        token: TokenSource | None = None,
        tls: bool = False,
        ca: Pem | None = None,
        certificate: tuple[Pem, Pem] | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        insecure_token: bool = False,
        max_attempts: int = 8,
    ) -> None:
        self.target = target
        routes = Routes(target)
        self._settings = Settings(timeout_s=timeout_s, max_attempts=max_attempts, routes=routes)
        self._access = access(
            is_local=routes.is_local,
            token=token,
            tls=tls,
            ca=ca,
            certificate=certificate,
            credentials=credentials,
            insecure_token=insecure_token,
        )
        self._lines: Lines[grpc.aio.Channel] = Lines(self._connect)

    def _connect(self, address: str, *, watched: bool = True) -> grpc.aio.Channel:
        authority = self._settings.routes.authority_of(address)
        options = channel_options(authority, direct=self._access.direct, watched=watched)
        if self._access.channel is None:
            return grpc.aio.insecure_channel(address, options)
        return grpc.aio.secure_channel(address, self._access.channel, options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; running calls end with an error."""
        for channel in self._lines.close():
            await channel.close()

    def with_timeout(self, timeout_s: float) -> Self:
        """The same connection with another timeout."""
        other = copy.copy(self)
        other._settings = replace(self._settings, timeout_s=timeout_s)
        return other

    def with_address(self, address: str) -> Self:
        """The same connection to one replica alone, ``host:port``."""
        other = copy.copy(self)
        routes = self._settings.routes.pinned(address)
        other._settings = replace(self._settings, routes=routes)
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
            case Send() | Open() | Probe():
                return await self._call(step)
            case Receive():
                message = await cast("Any", step.stream).read()
                return None if message is grpc.aio.EOF else message
            case Sleep():
                return await asyncio.sleep(step.seconds)
            case _:
                raise AssertionError(f"unknown step {step!r}")

    async def _call(self, step: Send | Open | Probe) -> Any:
        if isinstance(step, Probe) and step.apart:
            async with self._connect(step.address, watched=False) as channel:
                return await Line(channel).check(step.request, timeout=step.timeout_s)
        for channel in self._lines.unused(self._settings.routes.known):
            await channel.close()
        with self._lines.to(step.address) as line:
            if isinstance(step, Probe):
                return await line.check(step.request, timeout=step.timeout_s)
            method = getattr(line.stub, step.name)
            shown = (*step.metadata, *self._access.metadata())
            if isinstance(step, Open):
                opened = method(step.request, metadata=shown)
                opened.add_done_callback(line.lasting())
                return opened
            return await method(step.request, timeout=step.timeout_s, metadata=shown)

    check_health = awaiting(health.check_health)
    create_session = awaiting(configure.create_session)
    get_session = awaiting(session.get_session)
    list_sessions = iterating(session.list_sessions)
    update_session = awaiting(configure.update_session)
    delete_session = awaiting(session.delete_session)
    undelete_session = awaiting(backup.undelete_session)
    export_session = awaiting(backup.export_session)
    import_session = awaiting(backup.import_session)
    erase_annotator = awaiting(backup.erase_annotator)
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
