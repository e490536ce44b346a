"""Requests on their way in: how many are read at a time, and what becomes of silent clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from coresift.server.caller import CALLER, Caller
from coresift.server.metrics import Metrics
from coresift.server.rpc import admission as admissions
from coresift.server.rpc import interceptor
from coresift.server.rpc.admission import Admission
from coresift.server.rpc.call_classes import LIMITS, CallClass
from coresift.server.rpc.interceptor import CallInterceptor
from coresift.server.session.work.call import CALL
from coresift.server.session.work.workers import Workers
from coresift.v1 import selection_pb2 as pb
from coresift.v1 import selection_pb2_grpc

SERVICE = "coresift.v1.SelectionService"
PREFIX = f"/{SERVICE}/"
BRIEF_S = 0.3


class Echo(selection_pb2_grpc.SelectionServiceServicer):
    """Answers at once; says which sessions the calls were counted for."""

    def __init__(self) -> None:
        self.sessions: list[str] = []

    async def GetSession(  # noqa: N802
        self, request: pb.GetSessionRequest, context: Any
    ) -> pb.GetSessionResponse:
        self.sessions.append(CALL.get().session)
        return pb.GetSessionResponse()

    async def ListLabels(  # noqa: N802
        self, request: pb.ListLabelsRequest, context: Any
    ) -> AsyncIterator[pb.ListLabelsResponse]:
        yield pb.ListLabelsResponse()

    async def PutSignals(  # noqa: N802
        self, requests: AsyncIterator[pb.PutSignalsRequest], context: Any
    ) -> pb.PutSignalsResponse:
        async for _ in requests:
            pass
        return pb.PutSignalsResponse()


class Tenants(grpc.aio.ServerInterceptor):
    """Takes callers at their word."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        for key, value in details.invocation_metadata:
            if key == "tenant":
                CALLER.set(Caller(tenant=value))
        return await continuation(details)


class Served:
    """A server of `Echo`, and its admission."""

    def __init__(self, channel: grpc.aio.Channel, metrics: Metrics, echo: Echo) -> None:
        self.channel, self.echo, self._metrics = channel, echo, metrics
        self.stub = selection_pb2_grpc.SelectionServiceStub(channel)

    def silent(self, name: str, tenant: str = "") -> grpc.aio.StreamUnaryCall[bytes, bytes]:
        """A call that has sent no message yet."""
        return self.channel.stream_unary(PREFIX + name)(metadata=(("tenant", tenant),))

    def count(self, what: str, call_class: str = "state") -> float:
        labels = {"call_class": call_class}
        return self._metrics.registry.get_sample_value(f"coresift_calls_{what}", labels) or 0.0

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(default_deadline_s: float = 20.0) -> AsyncIterator[Served]:
    metrics, workers, echo = Metrics(), Workers(1), Echo()  # type: ignore[abstract]
    calls = CallInterceptor(metrics, SERVICE, Admission(metrics, workers.gate), default_deadline_s)
    server = grpc.aio.server(interceptors=[Tenants(), calls])
    selection_pb2_grpc.add_SelectionServiceServicer_to_server(echo, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Served(channel, metrics, echo)
    finally:
        await server.stop(0)
        await workers.drain(1)


@pytest.fixture
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interceptor, "IDLE_S", BRIEF_S)


async def code_of(call: Any) -> grpc.StatusCode:
    async with asyncio.timeout(20):
        code: grpc.StatusCode = await call.code()
    return code


async def test_a_call_counts_as_open_before_its_request_is_read() -> None:
    async with serving() as served:
        call = served.silent("GetSession")
        await served.until(lambda: served.count("open") == 1)
        await call.write(pb.GetSessionRequest(session_id="s").SerializeToString())
        await call.done_writing()
        assert await code_of(call) is grpc.StatusCode.OK
        await served.until(lambda: served.count("open") == 0)
        assert served.count("working") == 0


async def test_requests_that_arrive_slowly_leave_their_places_to_others_up_to_a_number() -> None:
    places = LIMITS[CallClass.STATE].gate.places
    async with serving() as served:
        late = [served.silent("GetSession") for _ in range(places)]
        await served.until(lambda: served.count("working") == places - admissions.LATE)
        assert await served.stub.GetSession(pb.GetSessionRequest(session_id="s"), timeout=20)
        for call in late[1:]:
            call.cancel()
        await late[0].write(b"")
        await late[0].done_writing()
        assert await code_of(late[0]) is grpc.StatusCode.OK
        await served.until(lambda: served.count("open") == 0)
        assert served.count("working") == 0


async def test_a_call_without_a_request() -> None:
    async with serving() as served:
        call = served.silent("GetSession")
        await call.done_writing()
        assert await code_of(call) is grpc.StatusCode.INVALID_ARGUMENT
        assert "request is missing" in await call.details()


async def test_a_second_request_is_not_read() -> None:
    async with serving() as served:
        call = served.silent("GetSession")
        await call.write(b"")
        await call.write(b"")
        assert await code_of(call) is grpc.StatusCode.OK
        assert len(served.echo.sessions) == 1


@pytest.mark.usefixtures("_brief")
async def test_a_silent_client_is_given_up() -> None:
    async with serving() as served:
        for name in ("GetSession", "ListLabels", "PutSignals"):
            call = served.silent(name)
            assert await code_of(call) is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "sent nothing" in await call.details()


async def test_an_upload_may_take_longer_than_the_default_deadline() -> None:
    async with serving(default_deadline_s=BRIEF_S) as served:
        call = served.silent("PutSignals")
        for _ in range(5):
            await call.write(b"")
            await asyncio.sleep(BRIEF_S / 3)
        await call.done_writing()
        assert await code_of(call) is grpc.StatusCode.OK


async def test_one_tenant_does_not_take_all_open_calls() -> None:
    most = LIMITS[CallClass.UPLOADING].open
    async with serving() as served:
        large = [served.silent("PutSignals", "large") for _ in range(most)]
        await served.until(lambda: sum(call.done() for call in large) == most // 4)
        small = served.silent("PutSignals", "small")
        await served.until(lambda: served.count("open", "uploading") == most - most // 4 + 1)
        more = served.silent("PutSignals", "large")
        assert await code_of(more) is grpc.StatusCode.RESOURCE_EXHAUSTED
        for call in (*large, small):
            call.cancel()
        await served.until(lambda: served.count("open", "uploading") == 0)


async def test_a_call_counts_for_the_session_that_its_request_names() -> None:
    async with serving() as served:
        other, evil = (("x-coresift-session", "other"),), (("x-coresift-session", "acme|s"),)
        for metadata in (other, evil, ()):
            await served.stub.GetSession(pb.GetSessionRequest(session_id="s"), metadata=metadata)
        assert served.echo.sessions == ["s"] * 3
