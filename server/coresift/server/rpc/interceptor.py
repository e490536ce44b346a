"""Around every call: metrics, one line of log, and errors as rich statuses."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import structlog

from coresift.server.errors import CoresiftError, Reason
from coresift.server.metrics import Metrics
from coresift.server.rpc.status import CODES, to_status

log = structlog.get_logger()

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of the selection service; health and reflection pass untouched."""

    def __init__(self, metrics: Metrics, service: str) -> None:
        self._metrics, self._service = metrics, service

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(handler_call_details)
        service, _, method = handler_call_details.method.lstrip("/").partition("/")
        if handler is None or service != self._service:
            return handler
        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
        }[handler.request_streaming, handler.response_streaming]
        inner = handler.unary_unary or handler.unary_stream or handler.stream_unary
        kind = make.__name__.removesuffix("_rpc_method_handler")
        watch = self._watch(kind, method)
        return make(
            watch.stream(inner) if handler.response_streaming else watch.unary(inner),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _watch(self, kind: str, method: str) -> _Watch:
        return _Watch(self._metrics, kind, self._service, method)


@dataclass(frozen=True, slots=True)
class _Call:
    """A call under way: when it began (perf_counter), and facts for the log."""

    began: float
    facts: dict[str, str]


class _Watch:
    """Counts, times, logs and translates the calls of one method."""

    def __init__(self, metrics: Metrics, kind: str, service: str, method: str) -> None:
        labels = (kind, service, method)
        self._method = method
        self._started = metrics.rpc_started.labels(*labels)
        self._seconds = metrics.rpc_seconds.labels(*labels)
        self._handled, self._labels = metrics.rpc_handled, labels

    def unary(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        async def handle(request: Any, context: Any) -> Any:
            call = self._begun(request, context)
            try:
                response = await inner(request, context)
            except BaseException as error:
                await self._failed(error, context, call)
                raise
            self._ended("OK", call)
            return response

        return handle

    def stream(self, inner: Callable[..., AsyncGenerator[Any, None]]) -> Callable[..., Any]:
        async def handle(request: Any, context: Any) -> AsyncIterator[Any]:
            call = self._begun(request, context)
            try:
                async with aclosing(inner(request, context)) as responses:
                    async for response in responses:
                        yield response
            except BaseException as error:
                await self._failed(error, context, call)
                raise
            self._ended("OK", call)

        return handle

    def _begun(self, request: Any, context: Any) -> _Call:
        """What the log will say of the call, read while it is alive.

        The generator of a cancelled stream is closed some time after gRPC has freed the call:
        asking the context for the peer then ends the process with a segmentation fault.
        """
        self._started.inc()
        facts = {"peer": context.peer()}
        if session_id := getattr(request, "session_id", ""):
            facts["session_id"] = session_id
        metadata = dict(context.invocation_metadata() or ())
        if trace := metadata.get("traceparent"):
            facts["traceparent"] = str(trace)
        return _Call(time.perf_counter(), facts)

    async def _failed(self, error: BaseException, context: Any, call: _Call) -> None:
        if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            self._ended("CANCELLED", call)
            return
        if not isinstance(error, CoresiftError):
            incident = secrets.token_hex(6)
            log.error("incident", incident=incident, method=self._method, exc_info=error)
            error = CoresiftError(
                Reason.INTERNAL, f"a defect of the server, incident {incident}", incident=incident
            )
        self._ended(CODES[error.reason].name, call, reason=error.reason.value)
        await context.abort_with_status(to_status(error))

    def _ended(self, code: str, call: _Call, **facts: str) -> None:
        seconds = time.perf_counter() - call.began
        self._handled.labels(*self._labels, code).inc()
        self._seconds.observe(seconds)
        ms = round(1e3 * seconds, 2)
        log.info("call", method=self._method, code=code, ms=ms, **call.facts, **facts)
