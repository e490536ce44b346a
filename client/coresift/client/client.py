"""The blocking client."""

from __future__ import annotations

import copy
import functools
import inspect
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ParamSpec, Protocol, Self, TypeVar, cast

import grpc
from google.protobuf.message import Message

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
from coresift.client.credentials import Pem, TokenSource, access
from coresift.client.errors import CoresiftError, from_status
from coresift.client.flow import Flow, Iteration
from coresift.client.steps import Ask, Emit, Open, Probe, Receive, Send, Settings, Sleep

P = ParamSpec("P")
T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)


class Method(Protocol[P, R_co]):
    """A method with the arguments of a flow."""

    def __get__(self, instance: object, owner: type | None = None, /) -> Callable[P, R_co]: ...


def as_method(function: Callable[..., Any], flow: Callable[..., Any], form: str) -> Any:
    """Give a driver's function the name, docstring and signature of its flow."""
    functools.update_wrapper(function, flow)
    signature = inspect.signature(flow)
    answer = re.sub(r"^(Flow|Iteration)\[(.*)\]$", form, str(signature.return_annotation))
    me = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    function.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[me, *signature.parameters.values()], return_annotation=answer
    )
    return function


def blocking(flow: Callable[P, Flow[T]]) -> Method[P, T]:
    """A method that runs a flow to its end."""

    def method(self: Client, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(flow(*args, **kwargs))

    return cast("Method[P, T]", as_method(method, flow, r"\2"))


def iterating(flow: Callable[P, Iteration[T]]) -> Method[P, Iterator[T]]:
    """A method whose iterator runs a flow as it is read."""

    def method(self: Client, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self._iterate(flow(*args, **kwargs))

    return cast("Method[P, Iterator[T]]", as_method(method, flow, r"Iterator[\2]"))


class Client:
    """A connection to the service. Threads may share it; use it as a context manager.

    Args:
        target: ``host:port``, several with commas between them, or any gRPC name. The calls of
            one session go to one of the replicas that are listed or that the host's name stands
            for; to another one while that does not answer.
        timeout_s: of one call with one answer, its retries included.
        token: who calls: a text, or a callable that gives it for each call (`TokenFile`).
        tls: encrypt; the server's certificate must be of an authority that this machine trusts.
        ca: the authorities to trust instead: path of a PEM file, or its content as bytes.
            Implies ``tls``.
        certificate: our own certificate chain and its key, each as ``ca``. Implies ``tls``.
        credentials: of TLS in any other way (`grpc.ssl_channel_credentials`).
        insecure_token: send the token without TLS to other machines too, but past any HTTP proxy.
        max_attempts: how often a call is sent to each replica at most, when none is available.

    Raises ValueError: the target is empty; the token would travel unencrypted.

    Calls raise `CoresiftError`. Every write sends a ``request_id``, its own for each call unless
    one is given; a write that is repeated with the same id takes effect once.
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
        self._lines: Lines[grpc.Channel] = Lines(self._connect)

    def _connect(self, address: str, *, watched: bool = True) -> grpc.Channel:
        authority = self._settings.routes.authority_of(address)
        options = channel_options(authority, direct=self._access.direct, watched=watched)
        if self._access.channel is None:
            return grpc.insecure_channel(address, options)
        return grpc.secure_channel(address, self._access.channel, options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; running calls end with an error."""
        for channel in self._lines.close():
            channel.close()

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

    def _run(self, flow: Flow[T]) -> T:
        steps = self._steps(cast("Iteration[Any]", flow))
        try:
            next(steps)
        except StopIteration as stop:
            return cast("T", stop.value)
        raise AssertionError("a flow that is run emits nothing")

    def _iterate(self, flow: Iteration[T]) -> Iterator[T]:
        yield from self._steps(flow)

    def _steps(self, flow: Iteration[T]) -> Any:
        """Perform the steps of a flow, yielding what it emits; returns what it returns."""
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
                    answer = self._perform(step)
                except grpc.RpcError as error:
                    call = cast("grpc.Call", error)
                    failure = from_status(
                        call.code(), call.details() or "", call.trailing_metadata() or ()
                    )
        except StopIteration as stop:
            return stop.value
        finally:
            flow.close()

    def _perform(self, step: object) -> Any:
        match step:
            case Ask():
                return self._settings
            case Send() | Open() | Probe():
                return self._call(step)
            case Receive():
                return next(cast("Iterator[Any]", step.stream), None)
            case Sleep():
                return time.sleep(step.seconds)
            case _:
                raise AssertionError(f"unknown step {step!r}")

    def _call(self, step: Send | Open | Probe) -> Any:
        if isinstance(step, Probe) and step.apart:
            with self._connect(step.address, watched=False) as channel:
                return Line(channel).check(step.request, timeout=step.timeout_s)
        for channel in self._lines.unused(self._settings.routes.known):
            channel.close()
        with self._lines.to(step.address) as line:
            if isinstance(step, Probe):
                return line.check(step.request, timeout=step.timeout_s)
            method = getattr(line.stub, step.name)
            shown = (*step.metadata, *self._access.metadata())
            if isinstance(step, Open):
                opened = method(step.request, metadata=shown)
                ended = line.lasting()
                if not opened.add_callback(ended):  # it has ended already
                    ended()
                return opened
            sent = step.request if isinstance(step.request, Message) else iter(step.request)
            return method(sent, timeout=step.timeout_s, metadata=shown)

    check_health = blocking(health.check_health)
    create_session = blocking(configure.create_session)
    get_session = blocking(session.get_session)
    list_sessions = iterating(session.list_sessions)
    update_session = blocking(configure.update_session)
    delete_session = blocking(session.delete_session)
    undelete_session = blocking(backup.undelete_session)
    export_session = blocking(backup.export_session)
    import_session = blocking(backup.import_session)
    erase_annotator = blocking(backup.erase_annotator)
    move_session = blocking(move.move_session)
    progress = blocking(progress.progress)

    next_batch = blocking(leases.next_batch)
    renew_leases = blocking(leases.renew_leases)
    release_leases = blocking(leases.release_leases)
    list_leases = iterating(leases.list_leases)
    add_labels = blocking(labels.add_labels)
    import_labels = blocking(labels.import_labels)
    list_labels = iterating(labels.list_labels)
    list_consensus = iterating(consensus.list_consensus)
    annotator_agreement = blocking(consensus.annotator_agreement)

    predict = blocking(model.predict)
    score_vectors = blocking(model.score_vectors)
    search_pool = blocking(pools.search_pool)
    get_items = blocking(pools.get_items)
    head = blocking(model.head)

    put_signals = blocking(signals.put_signals)
    list_signals = iterating(signals.list_signals)
    delete_signals = blocking(signals.delete_signals)

    score_coreset = blocking(coreset.score_coreset)
    cancel_coreset = blocking(coreset.cancel_coreset)

    get_pool = blocking(pools.get_pool)
    list_pools = iterating(pools.list_pools)
