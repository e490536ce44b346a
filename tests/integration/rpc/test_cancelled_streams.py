"""Callers that go away in the midst of a stream: the server stays up and frees what it held."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import grpc
from tests.fixtures.servers import Pools, ServerProcess

from coresift.v1 import selection_pb2 as pb
from coresift.v1 import selection_pb2_grpc

CALLERS, CALLS = 6, 30


def cancel_in_the_midst(listen: str, caller: int) -> int:
    """Streams that were cancelled after 0, 1 or 2 messages."""
    cancelled = 0
    with grpc.insecure_channel(listen) as channel:
        service = selection_pb2_grpc.SelectionServiceStub(channel)
        for number in range(CALLS):
            request = pb.ScoreCoresetRequest(
                request_id=uuid4().hex, pool="large", method="k_center", budget=2_000, seed=number
            )
            request.grace_period.FromSeconds(1)
            stream = service.ScoreCoreset(request)
            try:
                for _ in range((caller + number) % 3):
                    next(stream)
            except grpc.RpcError as error:
                # Jobs that nobody waits for any more fill the queue for a while.
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
            cancelled += stream.cancel()
    return cancelled


def test_the_server_survives_callers_that_go_away(pools: Pools, tmp_path: Path) -> None:
    options = ("--pool", pools.large.directory, "--data-dir", tmp_path)
    with ServerProcess(*options) as server, ThreadPoolExecutor(CALLERS) as callers:
        done = callers.map(
            lambda caller: cancel_in_the_midst(server.listen, caller), range(CALLERS)
        )
        assert sum(done) > 0
        with grpc.insecure_channel(server.listen) as channel:
            service = selection_pb2_grpc.SelectionServiceStub(channel)
            listed = service.ListPools(pb.ListPoolsRequest())
        assert len(listed.pools) == 1
        assert server.process.poll() is None
