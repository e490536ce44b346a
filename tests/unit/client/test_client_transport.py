"""Both clients against a gRPC server that answers scripted statuses."""

from __future__ import annotations

import queue
import socketserver
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from coresift.client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    FieldViolation,
    InvalidInput,
    Reason,
    Unavailable,
)
from coresift.v1 import selection_pb2 as pb
from coresift.v1 import selection_pb2_grpc


def status(code: grpc.StatusCode, reason: str, *, retry_s: float | None = None) -> Any:
    """A status as the service sends it."""
    info = error_details_pb2.ErrorInfo(domain="coresift", reason=reason, metadata={"limit": "1000"})
    violation = error_details_pb2.BadRequest.FieldViolation(field="size", description="too big")
    details = [info, error_details_pb2.BadRequest(field_violations=[violation])]
    if retry_s is not None:
        delay = Duration()
        delay.FromTimedelta(timedelta(seconds=retry_s))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        any_message = AnyMessage()
        any_message.Pack(detail)
        packed.append(any_message)
    return rpc_status.to_status(
        status_pb2.Status(code=code.value[0], message="size must be 1..1000", details=packed)
    )


class Scripted(selection_pb2_grpc.SelectionServiceServicer):
    """Answers each call with the next status of the script, and well when it has run out."""

    def __init__(self) -> None:
        self.script: list[Any] = []
        self.requests: list[Any] = []
        self.metadata: list[dict[str, Any]] = []
        self.delay_s = 0.0
        self.stop = threading.Event()

    def _heed(self, request: Any, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))  # type: ignore[arg-type]
        if self.delay_s:
            self.stop.wait(self.delay_s)
        if self.script:
            context.abort_with_status(self.script.pop(0))

    def NextBatch(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's names
        self._heed(request, context)
        return pb.NextBatchResponse(picks=[pb.Pick(item_id="a")], phase=pb.PHASE_SELECTING)

    def ListLabels(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        self._heed(request, context)
        for revision in range(3):
            label = pb.Label(item_id=f"i{revision}", class_name="c")
            yield pb.ListLabelsResponse(labels=[pb.LabelRecord(revision=revision, label=label)])

    def PutSignals(self, requests: Any, context: Any) -> Any:  # noqa: N802
        received = list(requests)
        self._heed(received, context)
        return pb.PutSignalsResponse(signal=pb.Signal(count=received[0].header.count))


@pytest.fixture
def service() -> Iterator[tuple[str, Scripted]]:
    servicer = Scripted()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    selection_pb2_grpc.add_SelectionServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", servicer
    servicer.stop.set()
    server.stop(None).wait()


@pytest.fixture(params=["sync", "asyncio"])
async def client(
    request: pytest.FixtureRequest, service: tuple[str, Scripted]
) -> AsyncIterator[Any]:
    """Either client behind awaitable methods."""
    if request.param == "sync":
        with Client(service[0], timeout_s=5) as blocking:
            yield Awaitable(blocking)
    else:
        async with AsyncClient(service[0], timeout_s=5) as asynchronous:
            yield asynchronous


class Awaitable:
    """A blocking client in the shape of the asynchronous one."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def with_timeout(self, timeout_s: float) -> Awaitable:
        return Awaitable(self._client.with_timeout(timeout_s))

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            return getattr(self._client, name)(*args, **kwargs)

        async def iterate(*args: Any, **kwargs: Any) -> Any:
            for value in getattr(self._client, name)(*args, **kwargs):
                yield value

        return iterate if name.startswith("list_") else call


async def test_unavailable_is_retried_with_the_same_request(
    client: Any, service: tuple[str, Scripted]
) -> None:
    _, servicer = service
    servicer.script = [status(grpc.StatusCode.UNAVAILABLE, "DRAINING", retry_s=0.01)] * 2
    batch = await client.next_batch("s", "ann", 3)
    assert batch.item_ids == ["a"]
    assert len(servicer.requests) == 3
    assert servicer.requests[0] == servicer.requests[1] == servicer.requests[2]
    assert servicer.metadata[0]["x-coresift-session"] == "s"


async def test_overload_is_retried_when_told_when(
    client: Any, service: tuple[str, Scripted]
) -> None:
    servicer = service[1]
    servicer.script = [status(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", retry_s=0.01)]
    await client.next_batch("s", "ann", 3)
    assert len(servicer.requests) == 2


async def test_refusals_are_decoded(client: Any, service: tuple[str, Scripted]) -> None:
    servicer = service[1]
    servicer.script = [status(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")]
    with pytest.raises(InvalidInput, match=r"size must be 1\.\.1000") as caught:
        await client.next_batch("s", "ann", 3)
    assert caught.value.reason is Reason.INVALID_FIELD
    assert caught.value.field_violations == (FieldViolation("size", "too big"),)
    assert caught.value.metadata == {"limit": "1000"}
    assert caught.value.retry_after is None
    assert len(servicer.requests) == 1


async def test_reasons_of_newer_servers(client: Any, service: tuple[str, Scripted]) -> None:
    service[1].script = [status(grpc.StatusCode.INVALID_ARGUMENT, "BRAND_NEW")]
    with pytest.raises(InvalidInput) as caught:
        await client.next_batch("s", "ann", 3)
    assert caught.value.reason is None
    assert caught.value.metadata["reason"] == "BRAND_NEW"


async def test_the_deadline_covers_all_attempts(client: Any, service: tuple[str, Scripted]) -> None:
    service[1].delay_s = 30
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await client.with_timeout(0.2).next_batch("s", "ann", 3)
    assert time.monotonic() - start < 5
    assert len(service[1].requests) == 1


async def test_streams(client: Any, service: tuple[str, Scripted]) -> None:
    servicer = service[1]
    servicer.script = [status(grpc.StatusCode.UNAVAILABLE, "DRAINING")]
    found = [record.item_id async for record in client.list_labels("s", 0)]
    assert found == ["i0", "i1", "i2"]
    assert len(servicer.requests) == 2


@pytest.mark.parametrize("session", ["", "two\nlines", "\x00", "ümlaut", "a b", "x" * 65])
async def test_ids_that_no_session_can_have_are_the_servers_to_refuse(
    client: Any, service: tuple[str, Scripted], session: str
) -> None:
    """They travel in the request only: no header could hold some of them."""
    servicer = service[1]
    servicer.script = [status(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")]
    with pytest.raises(InvalidInput):
        await client.next_batch(session, "ann", 3)
    assert [request.session_id for request in servicer.requests] == [session]
    assert "x-coresift-session" not in servicer.metadata[0]


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[queue.SimpleQueue[bytes]]:
    """The first bytes of whoever connects to the HTTP proxy that the environment names."""
    asked: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    class Hears(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            asked.put(self.request.recv(100))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Hears) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        for name in ("grpc_proxy", "https_proxy", "http_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_address[1]}")
        for name in ("no_grpc_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield asked
        server.shutdown()
        thread.join()


async def call(kind: type[Client | AsyncClient], target: str, **arguments: Any) -> None:
    """One call of either client."""
    if kind is Client:
        with Client(target, **arguments) as client:
            client.next_batch("s", "ann", 3)
    else:
        async with AsyncClient(target, **arguments) as client_of_asyncio:
            await client_of_asyncio.next_batch("s", "ann", 3)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_no_proxy_sees_a_token_in_plain_text(
    kind: type[Client], service: tuple[str, Scripted], proxy: queue.SimpleQueue[bytes]
) -> None:
    """Nor anything that is for this machine only."""
    away = {"target": "coresift.invalid:50051", "max_attempts": 1}
    await call(kind, service[0], token="secret")  # noqa: S106 - of no one
    with pytest.raises(Unavailable):
        await call(kind, **away, token="secret", insecure_token=True)  # noqa: S106
    assert proxy.empty()
    with pytest.raises(Unavailable):
        await call(kind, **away)
    assert proxy.get(timeout=10).startswith(b"CONNECT coresift.invalid:50051 ")


async def test_a_stream_may_be_left_early(client: Any) -> None:
    async for record in client.list_labels("s"):
        assert record.item_id == "i0"
        break


async def test_an_upload_is_repeated_whole(client: Any, service: tuple[str, Scripted]) -> None:
    servicer = service[1]
    servicer.script = [status(grpc.StatusCode.UNAVAILABLE, "DRAINING")]
    signal = await client.put_signals("p", "n", ["a", "b"], [1.0, 2.0])
    assert signal.count == 2
    first, second = servicer.requests
    assert first == second
    assert len(first) == 2


def test_no_server() -> None:
    with (
        Client("127.0.0.1:1", timeout_s=5, max_attempts=2) as client,
        pytest.raises(Unavailable) as e,
    ):
        client.get_session("s")
    assert e.value.reason is None
