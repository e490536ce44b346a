"""Around every call: admission, deadlines, limits of size, and errors as rich statuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from coresift.server.caller import CALLER
from coresift.server.errors import CoresiftError, Reason, invalid
from coresift.server.metrics import Metrics
from coresift.server.rpc.admission import Admission
from coresift.server.rpc.call_classes import RULES
from coresift.server.rpc.call_record import CallRecord, CallRecorder
from coresift.server.session.call import CALL, Call

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]

SESSION_KEY = "x-coresift-session"
"""Metadata that names the session before the request is read."""
DRAIN_RETRY_S = 0.2
_MAKERS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
}


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of the selection service; health and reflection pass untouched."""

    def __init__(
        self, metrics: Metrics, service: str, admission: Admission, default_deadline_s: float
    ) -> None:
        """``default_deadline_s``: of unary calls whose clients set none."""
        self._metrics, self._service = metrics, service
        self._admission, self._default_s = admission, default_deadline_s
        self._methods: dict[str, _Method] = {}

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(handler_call_details)
        service, _, name = handler_call_details.method.lstrip("/").partition("/")
        if handler is None or service != self._service:
            return handler
        method = self._methods.get(name)
        if method is None:
            method = _Method(name, handler, self._recorder(name, handler), self._admission)
            method.default_s = self._default_s
            self._methods[name] = method
        session = ""
        for key, value in handler_call_details.invocation_metadata or ():
            if key == SESSION_KEY:
                session = str(value)
        return method.handler_for(session)

    def _recorder(self, name: str, handler: grpc.RpcMethodHandler[Any, Any]) -> CallRecorder:
        make = _MAKERS[handler.request_streaming, handler.response_streaming]
        kind = make.__name__.removesuffix("_rpc_method_handler")
        return CallRecorder(self._metrics, kind, self._service, name)


class _Method:
    """Treats the calls of one method."""

    default_s: float

    def __init__(
        self,
        name: str,
        handler: grpc.RpcMethodHandler[Any, Any],
        recorder: CallRecorder,
        admission: Admission,
    ) -> None:
        self._name, self._rule = name, RULES[name]
        self._inner: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary
        self._decode: Any = handler.request_deserializer
        self._recorder, self._admission = recorder, admission
        self._take: Any = self._arriving if handler.request_streaming else self._read
        make: Any = _MAKERS[handler.request_streaming, handler.response_streaming]
        # Without a deserializer the bytes come as they are: their size is checked first.
        self._handler = make(
            self._stream if handler.response_streaming else self._unary,
            response_serializer=handler.response_serializer,
        )

    def handler_for(self, session: str) -> Any:
        """The handler of the call that the running task is for, or one that refuses it.

        That streams whatever the method does, and so reads nothing.
        """
        caller = CALLER.get()
        session = session and caller.kept_as(session)
        call = Call(self._name, caller.tenant, session, refusable=self._rule.refusable)
        CALL.set(call)
        try:
            self._admission.check(self._rule, call)
        except CoresiftError as error:
            status = self._recorder.refused(error)

            async def refuse(requests: object, context: Any) -> None:
                await context.abort_with_status(status)

            return grpc.stream_stream_rpc_method_handler(refuse)
        return self._handler

    async def _unary(self, raw: Any, context: Any) -> Any:
        left_s, call = context.time_remaining(), CALL.get()
        record: CallRecord | None = None
        self._admission.opened(self._rule, call)
        limit = asyncio.timeout(self.default_s if left_s is None else None)
        try:
            async with limit:
                request = self._take(raw, call)
                record = self._recorder.begun(_session_of(request), context, left_s)
                await self._enter(call, request, left_s)
                response = await self._inner(request, context)
        except BaseException as error:
            record = record or self._recorder.begun("", context, left_s)
            if isinstance(error, TimeoutError) and limit.expired():
                self._recorder.ended("DEADLINE_EXCEEDED", record)
                text = f"no answer within {self.default_s:g} s, the default of calls without one"
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, text)
            await self._abort(error, call, record, context)
            raise
        finally:
            self._admission.ended(self._rule, call)
        self._recorder.ended("OK", record)
        return response

    async def _stream(self, raw: Any, context: Any) -> AsyncGenerator[Any, None]:
        left_s, call = context.time_remaining(), CALL.get()
        record: CallRecord | None = None
        task = self._admission.opened(self._rule, call)
        # gRPC leaves the generator of a cancelled call to the garbage collector.
        task.add_done_callback(lambda _: self._admission.ended(self._rule, call))
        try:
            request = self._take(raw, call)
            record = self._recorder.begun(_session_of(request), context, left_s)
            permit = await self._enter(call, request, left_s)
            async with aclosing(self._inner(request, context)) as responses:
                async for response in responses:
                    permit.pause()  # the client may read slowly
                    yield response
                    permit.resume()
        except BaseException as error:
            record = record or self._recorder.begun("", context, left_s)
            await self._abort(error, call, record, context)
            raise
        finally:
            self._admission.ended(self._rule, call)
        self._recorder.ended("OK", record)

    async def _enter(self, call: Call, request: Any, left_s: float | None) -> Any:
        """Wait for a permit. OVERLOADED."""
        if session := _session_of(request):
            call.session = CALLER.get().kept_as(session)
        return await self._admission.enter(self._rule, call, left_s)

    async def _abort(
        self, error: BaseException, call: Call, record: CallRecord, context: Any
    ) -> None:
        """End the call with the status of the error, if anybody waits for one."""
        if isinstance(error, asyncio.CancelledError) and self._admission.was_stopped(call):
            error = CoresiftError(
                Reason.DRAINING, "the replica shuts down", retry_after_s=DRAIN_RETRY_S
            )
        status = self._recorder.failed(error, record)
        if status is not None:
            await context.abort_with_status(status)

    def _read(self, raw: bytes, _: Call) -> Any:
        """The request. TOO_LARGE, INVALID_FIELD."""
        limit = self._rule.max_bytes
        if len(raw) > limit:
            raise CoresiftError(
                Reason.TOO_LARGE,
                f"a request of {self._name} has at most {limit} bytes, got {len(raw)}",
                max_bytes=str(limit),
            )
        try:
            return self._decode(raw)
        except DecodeError:
            raise invalid("request", f"is no message of {self._name}") from None

    async def _arriving(self, raws: AsyncIterable[bytes], call: Call) -> AsyncIterator[Any]:
        """Requests as they come; the call works only when it has one."""
        coming = aiter(raws)
        while True:
            if call.permit is not None:
                call.permit.pause()
            try:
                raw = await anext(coming)
            except StopAsyncIteration:
                return
            finally:
                if call.permit is not None:
                    call.permit.resume()
            yield self._read(raw, call)


def _session_of(request: Any) -> str:
    return str(getattr(request, "session_id", ""))
