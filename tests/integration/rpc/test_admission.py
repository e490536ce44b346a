"""Sizes, deadlines, permits and the age of connections, over the wire."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import Queue
from uuid import uuid4

import grpc
import pytest
from tests.fixtures.redis_topologies import until
from tests.fixtures.servers import Pools, ServerProcess, refusal_of
from tests.integration.rpc.test_auth_matrix import upload

from coresift.client import Client
from coresift.server.rpc.call_classes import LIMITS, CallClass
from coresift.v1 import selection_pb2 as pb
from coresift.v1 import selection_pb2_grpc

MIB = 1 << 20
PREFIX = "/coresift.v1.SelectionService/"


def test_a_request_that_is_far_too_long_is_not_read(channel: grpc.Channel) -> None:
    labels = [pb.Label(item_id="x" * MIB) for _ in range(5)]
    request = pb.AddLabelsRequest(session_id="s", request_id="r", annotator="a", labels=labels)
    body = request.SerializeToString()
    found = refusal_of(lambda: channel.unary_unary(PREFIX + "AddLabels")(body, timeout=20))
    assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "TOO_LARGE")
    assert found.metadata["max_bytes"] == str(4 * MIB)
    assert f"at most {4 * MIB} bytes, got {len(body)}" in found.message
    assert found.retry_after_s is None


@pytest.mark.parametrize("method", ["GetSession", "NextBatch", "Predict", "ScoreCoreset"])
def test_bytes_that_are_no_request(channel: grpc.Channel, method: str) -> None:
    found = refusal_of(lambda: channel.unary_stream(PREFIX + method)(b"\xff" * 9, timeout=20))
    assert (found.code, found.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert method in found.message


def test_bytes_that_are_no_chunk(channel: grpc.Channel) -> None:
    put = channel.stream_unary(PREFIX + "PutSignals")
    found = refusal_of(lambda: put(iter([b"\xff" * 9]), timeout=20))
    assert (found.code, found.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")


def test_compressed_requests_are_refused(channel: grpc.Channel) -> None:
    get = channel.unary_unary(PREFIX + "GetSession")
    with pytest.raises(grpc.RpcError) as caught:
        get(b"", compression=grpc.Compression.Gzip, timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_name_that_is_none_is_not_logged(service: ServerProcess, channel: grpc.Channel) -> None:
    stub, trace = selection_pb2_grpc.SelectionServiceStub(channel), f"trace-{uuid4()}-" + "x" * 999
    found = refusal_of(
        lambda: stub.GetSession(
            pb.GetSessionRequest(session_id="x" * MIB),
            metadata=(("x-request-id", trace),),
            timeout=20,
        )
    )
    assert (found.code, found.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")

    def lines() -> list[dict[str, object]]:
        return [e for e in service.events if trace.startswith(str(e.get("x_request_id", " ")))]

    until(lambda: bool(lines()), "the call is in the log")
    assert len(str(lines())) < 1_000


def test_calls_without_a_deadline_have_the_servers(
    pools: Pools, redis_url: str, tmp_path: Path
) -> None:
    options = ["--pool", pools.things.directory, "--state", redis_url, "--artifacts", tmp_path]
    with (
        ServerProcess(*options, "--default-deadline-s", "0.001") as server,
        grpc.insecure_channel(server.listen) as channel,
    ):
        stub = selection_pb2_grpc.SelectionServiceStub(channel)
        config = pb.SessionConfig(pool="things", task=pb.TASK_BINARY)
        name = f"session-{uuid4()}"
        create = pb.CreateSessionRequest(session_id=name, request_id=name, config=config)
        assert stub.CreateSession(create, timeout=20)  # its own counts
        progress = pb.GetSessionProgressRequest(session_id=name)
        with pytest.raises(grpc.RpcError) as caught:
            [stub.GetSessionProgress(progress) for _ in range(200)]  # a call may take less
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "0.001 s" in caught.value.details()
        assert stub.GetSession(pb.GetSessionRequest(session_id=name), timeout=20)


def test_connections_that_end_lose_no_call(pools: Pools, redis_url: str, tmp_path: Path) -> None:
    options = ["--pool", pools.things.directory, "--state", redis_url, "--artifacts", tmp_path]
    with ServerProcess(*options, "--max-connection-age-s", "0.4") as server:
        with Client(server.listen, max_attempts=1) as client:
            session = client.create_session("things").session_id
        ends = time.monotonic() + 2.5

        def call(_: int) -> int:
            done = 0
            # A call may set out just as its connection ends: the client sends it again.
            with Client(server.listen) as client:
                while time.monotonic() < ends:
                    assert client.get_session(session)
                    done += 1
            return done

        with ThreadPoolExecutor(8) as threads:
            assert min(threads.map(call, range(8))) > 1


def test_what_is_under_way_is_shown(service: ServerProcess, client: Client) -> None:
    client.get_pool("things")
    samples = service.samples()
    for name in ("state", "selecting", "reading", "uploading", "attached"):
        for what in ("working", "queued", "open"):
            assert f'coresift_calls_{what}{{call_class="{name}"}}' in samples
    assert samples["coresift_asyncio_tasks"] > 0
    assert samples["coresift_event_loop_lag_seconds_count"] > 0
    assert samples["coresift_workers_queued"] == 0


class OpenUpload:
    """A PutSignals whose messages are sent one by one."""

    def __init__(self, stub: selection_pb2_grpc.SelectionServiceStub) -> None:
        self._header, self._chunk = upload(f"s-{uuid4()}", f"r-{uuid4()}")
        self._parts: Queue[pb.PutSignalsRequest | None] = Queue()
        self._parts.put(self._header)
        self.call = stub.PutSignals.future(iter(self._parts.get, None), timeout=60)

    def finish(self) -> None:
        """Send the rest; the signal is kept."""
        self._parts.put(self._chunk)
        self._parts.put(None)
        assert self.call.result().signal.name == self._header.header.name

    def cancel(self) -> None:
        self._parts.put(None)
        self.call.cancel()


def refused_and_open(server: ServerProcess) -> tuple[float, float]:
    """Uploads refused for too many open ones, and how many are open."""
    samples = server.samples()
    refused = 'coresift_calls_refused_total{call_class="uploading",cause="open"}'
    return samples.get(refused, 0.0), samples['coresift_calls_open{call_class="uploading"}']


def test_one_upload_more_than_the_server_takes(
    pools: Pools, redis_url: str, tmp_path: Path
) -> None:
    options = ["--pool", pools.growing.directory, "--state", redis_url, "--artifacts", tmp_path]
    most = LIMITS[CallClass.UPLOADING].open
    with (
        ServerProcess(*options) as server,
        grpc.insecure_channel(server.listen) as channel,
        ExitStack() as ended,
    ):
        stub = selection_pb2_grpc.SelectionServiceStub(channel)

        def begin() -> OpenUpload:
            begun = OpenUpload(stub)
            ended.callback(begun.cancel)
            return begun

        def until_open(count: int) -> None:
            until(lambda: refused_and_open(server)[1] == count, f"{count} uploads are open")

        uploads = [begin() for _ in range(most)]
        until_open(most)
        assert refused_and_open(server) == (0, most)
        for times in (1, 2):
            found = refusal_of(begin().call.result)
            assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
            assert found.retry_after_s is not None
            assert found.retry_after_s > 0
            assert refused_and_open(server) == (times, most)
        # Others are not concerned.
        assert stub.ListPools(pb.ListPoolsRequest(), timeout=20)
        uploads[0].finish()
        until_open(most - 1)
        uploads[1].cancel()
        until_open(most - 2)
        later = [begin(), begin()]
        until_open(most)
        for each in (*uploads[2:], *later):
            each.finish()
        until_open(0)
        assert refused_and_open(server) == (2, 0)
