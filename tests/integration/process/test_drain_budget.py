"""What is left at the end of a drain is ended so that its caller goes elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
from tests.fixtures.servers import Pools, ServerProcess, refusal_of

from coresift.v1 import selection_pb2 as pb
from coresift.v1 import selection_pb2_grpc


def test_a_call_that_outlasts_the_drain_is_told_so(
    pools: Pools, redis_url: str, tmp_path: Path
) -> None:
    options = ["--pool", pools.things.directory, "--state", redis_url, "--artifacts", tmp_path]
    server = ServerProcess(*options, "--drain-s", "2").start()
    ended = threading.Event()

    def parts() -> Iterator[pb.PutSignalsRequest]:
        """A header that the server has taken, then nothing until the call has ended."""
        header = pb.SignalHeader(request_id="r", name="s", pool="things", columns=["c"])
        header.kind, header.count, header.sha256 = pb.SIGNAL_KIND_NUMBER, 600, bytes(32)
        yield pb.PutSignalsRequest(header=header)
        while not server.samples()['coresift_calls_open{call_class="uploading"}']:
            pass
        server.terminate()
        ended.wait(20)

    try:
        with grpc.insecure_channel(server.listen) as channel:
            stub = selection_pb2_grpc.SelectionServiceStub(channel)
            began = time.monotonic()
            found = refusal_of(lambda: stub.PutSignals(parts(), timeout=20))
            ended.set()
        assert (found.code, found.reason) == ("UNAVAILABLE", "DRAINING")
        assert found.retry_after_s is not None
        assert server.wait() == 0
        assert time.monotonic() - began < 10
    finally:
        ended.set()
        if server.process.poll() is None:
            server.kill()
    assert server.other_lines == []
