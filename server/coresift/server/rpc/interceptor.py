"""Around every call: admission, deadlines, limits of size, and errors as rich statuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from coresift.server.caller import CALLER
from coresift.server.errors import CoresiftError, Reason, invalid
from coresift.server.metrics import Metrics
from coresift.server.rpc.admission import Admission
from coresift.server.rpc.call_classes import RULES
from coresift.server.rpc.call_facts import answer_facts, request_facts
from coresift.server.rpc.call_record import CallRecord, CallRecorder
from coresift.server.rpc.checks import is_name
from coresift.server.rpc.status import end_with
from coresift.server.session.work.call import CALL, Call, Permit

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]

SESSION_KEY = "x-coresift-session"
"""Metadata that names the session before the request is read."""
DRAIN_RETRY_S = 0.2
IDLE_S = 60.0
"""How long a call waits for the next message of its client, which may set no deadline."""
_SIDES = ("unary", "stream")


class _IdleError(Exception):
    """The client sent nothing for too long."""


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of the selection service; health and reflection pass untouched."""

    def __init__(
        self, metrics: Metrics, service: str, admission: Admission, default_deadline_s: float
    ) -> None:
        """``default_deadline_s``: of unary calls whose clients set none; not of uploads."""
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
        kind = f"{_SIDES[handler.request_streaming]}_{_SIDES[handler.response_streaming]}"
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
        self._is_upload = handler.request_streaming
        # To gRPC all requests are streams: else it would read them, of any number of calls at a
        # time, before anybody is asked. Without a deserializer the bytes come as they are: their
        # size is checked first.
        self._handler: Any
        if handler.response_streaming:
            self._handler = grpc.stream_stream_rpc_method_handler(
                self._stream, response_serializer=handler.response_serializer
            )
        else:
            self._handler = grpc.stream_unary_rpc_method_handler(
                self._unary, response_serializer=handler.response_serializer
            )

    def handler_for(self, session: str) -> Any:
        """The handler of the call that the running task is for, or one that refuses it.

        That streams whatever the method does, and so reads nothing.
        """
        caller = CALLER.get()
        session = caller.kept_as(session) if is_name(session) else ""
        call = Call(self._name, caller.tenant, session, refusable=self._rule.refusable)
        CALL.set(call)
        try:
            self._admission.check(self._rule, call)
        except CoresiftError as error:
            status = self._recorder.refused(error)

            async def refuse(requests: object, context: Any) -> None:
                await end_with(status, context)

            return grpc.stream_stream_rpc_method_handler(refuse)
        return self._handler

    async def _unary(self, raws: AsyncIterable[bytes], context: Any) -> Any:
        left_s, call = context.time_remaining(), CALL.get()
        record = self._recorder.begun(context, left_s)
        self._admission.opened(self._rule, call)
        has_default = left_s is None and not self._is_upload
        limit = asyncio.timeout(self.default_s if has_default else None)
        try:
            async with limit:
                request = await self._enter(call, raws, record, left_s)
                response = await self._inner(request, context)
        except BaseException as error:
            if isinstance(error, TimeoutError) and limit.expired():
                text = f"no answer within {self.default_s:g} s, the default of calls without one"
                await self._end_late(text, record, context)
            await self._abort(error, call, record, context)
            raise
        finally:
            self._admission.ended(self._rule, call)
        record.facts.update(answer_facts(response))
        self._recorder.ended("OK", record)
        return response

    async def _stream(self, raws: AsyncIterable[bytes], context: Any) -> AsyncGenerator[Any, None]:
        left_s, call = context.time_remaining(), CALL.get()
        record = self._recorder.begun(context, left_s)
        task = self._admission.opened(self._rule, call)
        # gRPC leaves the generator of a cancelled call to the garbage collector.
        task.add_done_callback(lambda _: self._admission.ended(self._rule, call))
        try:
            request = await self._enter(call, raws, record, left_s)
            permit = cast("Permit", call.permit)
            async with aclosing(self._inner(request, context)) as responses:
                async for response in responses:
                    permit.pause()  # the client may read slowly
                    yield response
                    permit.resume()
        except BaseException as error:
            await self._abort(error, call, record, context)
            raise
        finally:
            self._admission.ended(self._rule, call)
        self._recorder.ended("OK", record)

    async def _enter(
        self, call: Call, raws: AsyncIterable[bytes], record: CallRecord, left_s: float | None
    ) -> Any:
        """The request, or the requests as they come, once the call has a permit. OVERLOADED,
        TOO_LARGE, INVALID_FIELD."""
        await self._admission.enter(self._rule, call, left_s)
        coming = aiter(raws)
        if self._is_upload:
            self._admission.begins(self._rule, call)
            return self._arriving(coming, call, record)
        with self._admission.arrival(call):
            raw = await self._next(coming)
        if raw is None:
            raise invalid("request", f"is missing: {self._name} takes one")
        request = self._read(raw)
        record.facts.update(request_facts(request))
        session = str(getattr(request, "session_id", ""))
        if is_name(session):
            kept = CALLER.get().kept_as(session)
            await self._admission.enter_for(kept, self._rule, call, left_s)
        self._admission.begins(self._rule, call)
        return request

    async def _abort(
        self, error: BaseException, call: Call, record: CallRecord, context: Any
    ) -> None:
        """End the call with the status of the error, if anybody waits for one."""
        if isinstance(error, _IdleError):
            text = f"the client sent nothing for {IDLE_S:g} s"
            await self._end_late(text, record, context)
        if isinstance(error, asyncio.CancelledError) and self._admission.was_stopped(call):
            error = CoresiftError(
                Reason.DRAINING, "the replica shuts down", retry_after_s=DRAIN_RETRY_S
            )
        status = self._recorder.failed(error, record)
        if status is not None:
            await end_with(status, context)

    async def _end_late(self, text: str, record: CallRecord, context: Any) -> None:
        """End the call with DEADLINE_EXCEEDED; raises what gRPC ends it with."""
        self._recorder.ended("DEADLINE_EXCEEDED", record)
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, text)

    async def _next(self, coming: AsyncIterator[bytes]) -> bytes | None:
        """The client's next message; None: it has sent all."""
        try:
            async with asyncio.timeout(IDLE_S):
                return await anext(coming, None)
        except TimeoutError:
            raise _IdleError from None

    def _read(self, raw: bytes) -> Any:
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

    async def _arriving(
        self, coming: AsyncIterator[bytes], call: Call, record: CallRecord
    ) -> AsyncIterator[Any]:
        """Requests as they come; the call works only when it has one."""
        permit, is_first = cast("Permit", call.permit), True
        while True:
            permit.pause()
            try:
                raw = await self._next(coming)
            finally:
                permit.resume()
            if raw is None:
                return
            request = self._read(raw)
            if is_first:
                record.facts.update(request_facts(request))
                is_first = False
            yield request
