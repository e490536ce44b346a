"""The server that works on a core-set is killed: the next attacher starts it again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
from tests.fixtures.servers import Pools, Replicas, ServerProcess, serve_options

from coresift.server.state.redis_store import RedisStore
from coresift.v1 import selection_pb2 as pb
from coresift.v1.selection_pb2_grpc import SelectionServiceStub


def an_order(request_id: str = "") -> pb.ScoreCoresetRequest:
    return pb.ScoreCoresetRequest(
        request_id=request_id or f"job-{uuid4()}",
        pool="large",
        method="k_center",
        budget=8_000,
        seed=5,
    )


def told(parts: list[pb.ScoreCoresetResponse]) -> tuple[bytes, str]:
    """The bytes of the chunks, and the name of the file."""
    chunks = [part.chunk.SerializeToString(deterministic=True) for part in parts]
    return b"".join(chunks), parts[-1].summary.content_hash


async def lapse(redis_url: str, job_id: str) -> None:
    """As if the 8 seconds had passed that a heartbeat lives."""
    store = await RedisStore.connect(redis_url)
    assert await store.delete_document("owners", job_id)
    await store.close()


@pytest.fixture
def survivor(replicas: Replicas) -> Iterator[SelectionServiceStub]:
    with grpc.insecure_channel(replicas.first.listen) as channel:
        yield SelectionServiceStub(channel)


def test_the_next_attacher_gets_the_same_bytes(
    survivor: SelectionServiceStub, pools: Pools, redis_url: str, tmp_path: Path
) -> None:
    """Also one that was attached to it through another replica all the time."""
    undisturbed = told(list(survivor.ScoreCoreset(an_order())))
    request = an_order()
    killed = ServerProcess(*serve_options(pools, tmp_path, "--state", redis_url)).start()
    with grpc.insecure_channel(killed.listen) as channel:
        doomed = SelectionServiceStub(channel).ScoreCoreset(request)
        plan = next(doomed).plan
        attached = survivor.ScoreCoreset(request)
        assert next(attached).plan == plan
        for part in doomed:
            if part.progress.phase == "select" and part.progress.share > 0:
                break
        killed.kill()
        with pytest.raises(grpc.RpcError) as caught:
            list(doomed)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    asyncio.run(lapse(redis_url, request.request_id))
    parts = list(survivor.ScoreCoreset(request))
    assert parts[0].plan == plan
    assert told(parts) == undisturbed
    assert told(list(attached)) == undisturbed
    assert list(tmp_path.rglob("*.parquet")) == []
