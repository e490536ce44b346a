"""Core-set jobs: the job is a resource, the stream an attachment."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import numpy as np
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from google.protobuf.duration_pb2 import Duration
from tests.fixtures.nearly_right import filled
from tests.fixtures.servers import Pools, Replicas, ServerProcess, refusal_of

from coresift.client import Client, CoresetProgress, NotFound, Reason
from coresift.v1 import selection_pb2 as pb
from coresift.v1.selection_pb2_grpc import SelectionServiceStub

PHASES = {"queued", "prepare", "select", "weigh", "measure", "store"}
LONG_BUDGET = 29_000
"""Of 30,000 items: takes a while."""


def a_request(pool: str = "large", **fields: Any) -> pb.ScoreCoresetRequest:
    fields = filled({"request_id": f"job-{uuid4()}", "method": "k_center", "budget": 300}, fields)
    return pb.ScoreCoresetRequest(pool=pool, **fields)


def kinds(parts: Iterator[pb.ScoreCoresetResponse]) -> list[str]:
    return [str(part.WhichOneof("part")) for part in parts]


@pytest.fixture(scope="module")
def other(replicas: Replicas) -> Iterator[SelectionServiceStub]:
    """The stub of the second replica."""
    with grpc.insecure_channel(replicas.second.listen) as channel:
        yield SelectionServiceStub(channel)


def test_plan_progress_chunks_summary(stub: SelectionServiceStub) -> None:
    request = a_request(method="random", budget=10_000, seed=4)
    parts = list(stub.ScoreCoreset(request))
    order = kinds(iter(parts))
    assert order[0] == "plan"
    assert order[-1] == "summary"
    assert order == sorted(order, key=["plan", "progress", "chunk", "summary"].index)
    assert {"progress", "chunk"} <= set(order)
    plan = parts[0].plan
    assert (plan.job_id, plan.method, plan.budget) == (request.request_id, "random", 10_000)
    assert plan.pool_items == 30_000
    assert (plan.basis.pool, plan.basis.config_version, plan.basis.seed) == ("large", 0, 4)
    assert plan.expected_time.ToTimedelta().total_seconds() > 0
    for part in parts:
        if part.HasField("progress"):
            assert part.progress.phase in PHASES
            assert 0 <= part.progress.share <= 1
        assert part.ByteSize() < 2**20
    ranks = b"".join(part.chunk.ranks for part in parts)
    np.testing.assert_array_equal(np.frombuffer(ranks, "<u4"), np.arange(10_000))
    summary = parts[-1].summary
    assert summary.count == 10_000
    assert {"queued", "prepare", "store"} <= set(summary.durations) <= PHASES
    table = pq.read_table(summary.uri.removeprefix("file://"))
    ids = b"".join(part.chunk.item_ids.data for part in parts).decode()
    assert "".join(map(str, table["item_id"].to_pylist())) == ids


def slow_k_center(
    X: np.ndarray[Any, Any], start: list[int], budget: int
) -> tuple[list[int], list[float]]:
    """Each centre is the farthest from all before it, ties by row."""
    X = X.astype(np.float64)
    distances = np.full(len(X), np.inf)
    for row in start:
        distances = np.minimum(distances, np.linalg.norm(X - X[row], axis=1))
    rows: list[int] = []
    scores: list[float] = []
    for _ in range(budget):
        row = int(np.argmax(distances))
        rows.append(row)
        scores.append(float(distances[row]))
        distances = np.minimum(distances, np.linalg.norm(X - X[row], axis=1))
    return rows, [*scores, float(distances.max())]


def test_k_center_goes_on_from_start_items(client: Client, pools: Pools) -> None:
    start = ["item-5", "item-17", "item-5"]
    result = client.score_coreset("k_center", 40, pool="things", start_item_ids=start)
    rows, scores = slow_k_center(pools.things.vectors, [5, 17], 40)
    assert list(result.item_ids) == [f"item-{row}" for row in rows]
    np.testing.assert_allclose(result.scores, scores[:-1], atol=1e-6)
    assert result.summary.covering_radius == pytest.approx(scores[-1], abs=1e-6)
    assert result.weights is not None
    X = pools.things.vectors.astype(np.float64)
    centres = X[[5, 17, *rows]]
    nearest = np.linalg.norm(X[:, None] - centres[None], axis=2).argmin(axis=1)
    np.testing.assert_array_equal(result.weights, np.bincount(nearest, minlength=42)[2:])


def test_k_center_of_a_seed(client: Client, pools: Pools) -> None:
    result = client.score_coreset("k_center", 30, pool="things", seed=8)
    first = int(result.item_ids[0].removeprefix("item-"))
    rows, scores = slow_k_center(pools.things.vectors, [first], 29)
    assert list(result.item_ids)[1:] == [f"item-{row}" for row in rows]
    assert result.scores[0] == np.inf
    np.testing.assert_allclose(result.scores[1:], scores[:-1], atol=1e-6)


def result_of(parts: Iterator[pb.ScoreCoresetResponse]) -> bytes:
    """Plan, chunks and summary, byte by byte."""
    told = [part for part in parts if not part.HasField("progress")]
    return b"".join(part.SerializeToString(deterministic=True) for part in told)


def test_the_same_request_attaches_on_any_replica(
    stub: SelectionServiceStub, other: SelectionServiceStub
) -> None:
    request = a_request()
    first = stub.ScoreCoreset(request)
    assert next(first).HasField("plan")
    second = result_of(other.ScoreCoreset(request))  # while it runs, or after it
    rest = result_of(first)
    assert second.endswith(rest)
    assert result_of(stub.ScoreCoreset(request)) == second
    changed = a_request(request_id=request.request_id, seed=1)
    for each in (stub, other):
        refusal = refusal_of(lambda each=each: each.ScoreCoreset(changed))  # type: ignore[misc]
        assert (refusal.reason, refusal.fields) == ("REQUEST_ID_REUSED", ("request_id",))


def test_a_result_outlives_the_session_going_on(client: Client) -> None:
    session = client.create_session("things")
    client.add_labels(session, {"item-1": "positive", "item-2": "negative"}, "ann")
    before = client.score_coreset("max_entropy", 9, session=session, request_id="proxy-1")
    client.add_labels(session, {"item-3": "positive", "item-4": "negative"}, "ann")
    again = client.score_coreset("max_entropy", 9, session=session, request_id="proxy-1")
    assert again.item_ids == before.item_ids
    assert again.plan == before.plan
    fresh = client.score_coreset("max_entropy", 9, session=session)
    assert fresh.plan.basis.revision > before.plan.basis.revision


def cancel(stub: SelectionServiceStub, request: pb.ScoreCoresetRequest) -> bool:
    order = pb.CancelCoresetRequest(request_id=f"c-{uuid4()}", job_id=request.request_id)
    return stub.CancelCoreset(order).cancelled


def ends(server: ServerProcess, end: str) -> float:
    """How many k-center jobs of a server ended so."""
    return server.samples().get(f'coresift_coreset_jobs_total{{end="{end}",method="k_center"}}', 0)


@pytest.mark.parametrize("through", ["the same", "another"])
def test_cancelling_ends_the_job(
    stub: SelectionServiceStub, other: SelectionServiceStub, service: ServerProcess, through: str
) -> None:
    """The owner gives up its work within 200 ms, whichever replica was told to."""
    seconds = []
    for _ in range(5):
        request, before = a_request(budget=LONG_BUDGET), ends(service, "cancelled")
        stream = stub.ScoreCoreset(request)
        until_selecting(stream)
        began = time.perf_counter()
        assert cancel(stub if through == "the same" else other, request)
        while ends(service, "cancelled") == before:
            pass
        seconds.append(time.perf_counter() - began)
        for attached in (stream, stub.ScoreCoreset(request), other.ScoreCoreset(request)):
            refusal = refusal_of(lambda attached=attached: attached)  # type: ignore[misc]
            assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "JOB_CANCELLED")
    # Of five, because the machine may do other things too.
    assert min(seconds) < 0.2


@pytest.mark.parametrize("through", ["the same", "another"])
def test_a_job_that_waits_for_its_turn_is_cancelled_too(
    stub: SelectionServiceStub, other: SelectionServiceStub, through: str
) -> None:
    """Two jobs have the turns; a third one waits, and those that come after it are not lost."""
    running = [a_request(budget=LONG_BUDGET, seed=seed) for seed in range(2)]
    streams = [stub.ScoreCoreset(request) for request in running]
    for stream in streams:
        until_selecting(stream)
    waiting, last = a_request(method="random"), a_request(method="random")
    queued, behind = stub.ScoreCoreset(waiting), stub.ScoreCoreset(last)
    for stream in (queued, behind):
        assert next(stream).HasField("plan")
        assert next(stream).progress.phase == "queued"
    elsewhere = other.ScoreCoreset(waiting)
    assert kinds(itertools.islice(elsewhere, 2)) == ["plan", "progress"]
    assert cancel(stub if through == "the same" else other, waiting)
    for stream in (queued, elsewhere):
        assert refusal_of(lambda stream=stream: stream).reason == "JOB_CANCELLED"  # type: ignore[misc]
    assert all(stream.is_active() for stream in streams)
    for request, stream in zip(running, streams, strict=True):
        assert cancel(stub, request)
        assert refusal_of(lambda stream=stream: stream).reason == "JOB_CANCELLED"  # type: ignore[misc]
    assert kinds(behind)[-1] == "summary"
    assert not cancel(stub, last)


def test_progress_comes_every_second_on_every_replica(
    stub: SelectionServiceStub, other: SelectionServiceStub
) -> None:
    request = a_request(method="herding", budget=LONG_BUDGET)
    owner = stub.ScoreCoreset(request)
    until_selecting(owner)
    for stream in (owner, other.ScoreCoreset(request)):
        moments, heard = [], []
        for part in stream:
            moments.append(time.monotonic())
            heard.append(part.progress)
            if len(moments) == 8:
                break
        assert max(b - a for a, b in itertools.pairwise(moments)) < 1.0
        shares = [progress.share for progress in heard if progress.phase == "select"]
        assert shares == sorted(shares)
        assert any(progress.HasField("objective") for progress in heard)
    assert cancel(other, request)
    owner.cancel()


def test_the_same_input_and_seed_give_the_same_file(
    stub: SelectionServiceStub, other: SelectionServiceStub
) -> None:
    """Whichever replica and request: the result is named by its bytes."""
    hashes = [
        list(through.ScoreCoreset(a_request(seed=seed, pacing_buckets=3)))[-1].summary.content_hash
        for seed, through in ((1, stub), (1, other), (2, stub))
    ]
    assert hashes[0] == hashes[1]
    assert hashes[0] != hashes[2]


def test_a_result_can_be_read_by_its_uri(client: Client) -> None:
    result = client.score_coreset("k_center", 200, pool="large")
    assert result.summary.uri.startswith("file://")
    data = Path(result.summary.uri.removeprefix("file://")).read_bytes()
    assert sha256(data).hexdigest() == result.summary.content_hash
    files, path = pyarrow.fs.FileSystem.from_uri(result.summary.uri)
    table = pq.read_table(path, filesystem=files)
    assert table["item_id"].to_pylist() == list(result.item_ids)
    for name, values in (("rank", result.ranks), ("score", result.scores)):
        np.testing.assert_array_equal(table[name].to_numpy(), values)


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_a_result_whose_file_is_not_there(
    stub: SelectionServiceStub, other: SelectionServiceStub, how: str
) -> None:
    request = a_request(method="random", seed=len(how))
    uri = list(stub.ScoreCoreset(request))[-1].summary.uri
    path = Path(uri.removeprefix("file://"))
    data = path.read_bytes()
    path.unlink()
    if how == "damaged":
        path.write_bytes(data[:-9] + b"x" + data[-8:])
    for each in (stub, other):
        refusal = refusal_of(lambda each=each: each.ScoreCoreset(request))  # type: ignore[misc]
        assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "ARTIFACT_MISSING")
        assert refusal.metadata["content_hash"] == path.stem
    path.write_bytes(data)
    assert list(other.ScoreCoreset(request))[-1].summary.uri == uri


def until_selecting(stream: Iterator[pb.ScoreCoresetResponse]) -> None:
    for part in stream:
        if part.progress.phase == "select":
            return
    raise AssertionError("it ended")


def test_a_detached_job_goes_on(
    stub: SelectionServiceStub, other: SelectionServiceStub, client: Client
) -> None:
    request = a_request(budget=8_000)
    stream = stub.ScoreCoreset(request)
    until_selecting(stream)
    stream.cancel()
    parts = list(other.ScoreCoreset(request))
    assert kinds(iter(parts))[-1] == "summary"
    assert parts[-1].summary.count == 8_000
    assert client.cancel_coreset(request.request_id) is False


def test_a_job_that_nobody_wants_ends_after_the_grace_period(
    stub: SelectionServiceStub, client: Client, service: ServerProcess
) -> None:
    before = ends(service, "abandoned")
    request = a_request(budget=LONG_BUDGET, grace_period=Duration(seconds=1))
    stream = stub.ScoreCoreset(request)
    until_selecting(stream)
    stream.cancel()
    while ends(service, "abandoned") == before:
        pass
    with pytest.raises(NotFound) as caught:
        client.cancel_coreset(request.request_id)
    assert caught.value.reason is Reason.JOB_NOT_FOUND


def test_progress_is_heard(client: Client) -> None:
    heard: list[CoresetProgress] = []
    client.score_coreset("k_center", 2_000, pool="large", on_progress=heard.append)
    shares = [progress.share for progress in heard if progress.phase == "select"]
    assert shares == sorted(shares)
