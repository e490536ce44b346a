"""Every write may be sent again: the same request_id has the same effect and the same answer."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from tests.fixtures.servers import Pools, Replicas, is_spam, refusal_of

from coresift.client import Client
from coresift.client.convert import StringColumn
from coresift.v1 import selection_pb2 as pb
from coresift.v1.selection_pb2_grpc import SelectionServiceStub


def new_id() -> str:
    return f"r-{uuid4()}"


@dataclass
class Write:
    """A write and another body for the same request_id."""

    rpc: str
    request: Any
    other: Any


def session_of(client: Client, *, held: int = 0) -> str:
    session = client.create_session("things").session_id
    if held:
        client.next_batch(session, "ann", held)
    return session


def a_signal(pools: Pools, name: str, request_id: str, value: float) -> list[pb.PutSignalsRequest]:
    ids = pools.grown.item_ids
    column = StringColumn.of(ids).part(0, len(ids))
    chunk = pb.SignalChunk(item_ids=column, values=np.full(len(ids), value, "<f4").tobytes())
    digest = hashlib.sha256(chunk.item_ids.data + chunk.item_ids.offsets + chunk.values)
    header = pb.SignalHeader(
        request_id=request_id,
        pool="growing",
        name=name,
        kind=pb.SIGNAL_KIND_NUMBER,
        columns=["loss"],
        count=len(ids),
        sha256=digest.digest(),
    )
    return [pb.PutSignalsRequest(header=header), pb.PutSignalsRequest(chunk=chunk)]


def creation(client: Client, pools: Pools) -> Write:
    config = pb.SessionConfig(pool="things", task=pb.TASK_BINARY)
    request = pb.CreateSessionRequest(request_id=new_id(), config=config)
    other = pb.CreateSessionRequest(
        request_id=request.request_id,
        config=pb.SessionConfig(pool="things", task=pb.TASK_BINARY, seed=1),
    )
    return Write("CreateSession", request, other)


def update(client: Client, pools: Pools) -> Write:
    def request(k: int, request_id: str) -> pb.UpdateSessionRequest:
        return pb.UpdateSessionRequest(
            request_id=request_id,
            session_id=session,
            update_mask=FieldMask(paths=["candidates"]),
            config=pb.SessionConfig(
                candidates=pb.CandidatePolicy(seals=pb.CandidatePolicy.Seals(k=k))
            ),
            expected_config_version=1,
        )

    session, request_id = session_of(client), new_id()
    return Write("UpdateSession", request(7, request_id), request(8, request_id))


def deletion(client: Client, pools: Pools) -> Write:
    session = session_of(client)
    request = pb.DeleteSessionRequest(request_id=new_id(), session_id=session)
    return Write("DeleteSession", request, None)


def undeletion(client: Client, pools: Pools) -> Write:
    session = session_of(client)
    client.delete_session(session)
    request = pb.UndeleteSessionRequest(request_id=new_id(), session_id=session)
    return Write("UndeleteSession", request, None)


def erasure(client: Client, pools: Pools) -> Write:
    session, request_id = session_of(client), new_id()
    requests = []
    for name in ("ann", "bob"):
        client.add_labels(session, {f"item-{name == 'ann':d}": "positive"}, name)
        requests.append(
            pb.EraseAnnotatorRequest(request_id=request_id, session_id=session, annotator=name)
        )
    return Write("EraseAnnotator", *requests)


def batch(client: Client, pools: Pools) -> Write:
    def request(size: int, request_id: str) -> pb.NextBatchRequest:
        return pb.NextBatchRequest(
            request_id=request_id, session_id=session, annotator="ann", size=size
        )

    session, request_id = session_of(client), new_id()
    return Write("NextBatch", request(5, request_id), request(6, request_id))


def labels(client: Client, pools: Pools) -> Write:
    def request(name: str, request_id: str) -> pb.AddLabelsRequest:
        return pb.AddLabelsRequest(
            request_id=request_id,
            session_id=session,
            annotator="ann",
            labels=[pb.Label(item_id=f"item-{n}", class_name=name) for n in range(5)],
        )

    session, request_id = session_of(client), new_id()
    return Write("AddLabels", request("positive", request_id), request("negative", request_id))


def renewal(client: Client, pools: Pools) -> Write:
    def request(seconds: int, request_id: str) -> pb.RenewLeasesRequest:
        return pb.RenewLeasesRequest(
            request_id=request_id,
            session_id=session,
            annotator="ann",
            lease_duration=Duration(seconds=seconds),
        )

    session, request_id = session_of(client, held=4), new_id()
    return Write("RenewLeases", request(3_600, request_id), request(60, request_id))


def release(client: Client, pools: Pools) -> Write:
    def request(reason: pb.ReleaseReason.ValueType, request_id: str) -> pb.ReleaseLeasesRequest:
        return pb.ReleaseLeasesRequest(
            request_id=request_id,
            session_id=session,
            annotator="ann",
            item_ids=held,
            reason=reason,
        )

    session, request_id = session_of(client, held=4), new_id()
    held = [lease.item_id for lease in client.list_leases(session)]
    return Write(
        "ReleaseLeases",
        request(pb.RELEASE_REASON_RETURN, request_id),
        request(pb.RELEASE_REASON_SKIP, request_id),
    )


def upload(client: Client, pools: Pools) -> Write:
    name, request_id = f"s-{uuid4()}", new_id()
    return Write(
        "PutSignals",
        a_signal(pools, name, request_id, 1.0),
        a_signal(pools, name, request_id, 2.0),
    )


def signal_deletion(client: Client, pools: Pools) -> Write:
    names = [f"s-{uuid4()}" for _ in range(2)]
    for name in names:
        client.put_signals("growing", name, pools.grown.item_ids, np.zeros(240))
    request_id = new_id()
    requests = [
        pb.DeleteSignalsRequest(request_id=request_id, pool="growing", name=name) for name in names
    ]
    return Write("DeleteSignals", *requests)


def coreset(client: Client, pools: Pools) -> Write:
    request_id = new_id()
    requests = [
        pb.ScoreCoresetRequest(
            request_id=request_id, pool="things", method="k_center", budget=20, seed=seed
        )
        for seed in (1, 2)
    ]
    return Write("ScoreCoreset", *requests)


def cancellation(client: Client, pools: Pools) -> Write:
    jobs = [client.score_coreset("random", 3, pool="things").plan.job_id for _ in range(2)]
    request_id = new_id()
    return Write(
        "CancelCoreset",
        *(pb.CancelCoresetRequest(request_id=request_id, job_id=job) for job in jobs),
    )


WRITES = [
    creation,
    update,
    deletion,
    undeletion,
    erasure,
    batch,
    labels,
    renewal,
    release,
    upload,
    signal_deletion,
    coreset,
    cancellation,
]


def send(stub: SelectionServiceStub, rpc: str, request: Any) -> bytes:
    """The answer's bytes; of a core-set its plan, result and summary.

    Sent again while the session is written anew, as clients do.
    """
    while True:
        sent = request if isinstance(request, Message) else iter(request)
        try:
            answer: Any = getattr(stub, rpc)(sent)
        except grpc.RpcError as error:
            if "is being written anew" not in error.details():
                raise
        else:
            break
    if rpc != "ScoreCoreset":
        return bytes(answer.SerializeToString(deterministic=True))
    parts = [part for part in answer if not part.HasField("progress")]
    return b"".join(part.SerializeToString(deterministic=True) for part in parts)


def test_every_write_is_here() -> None:
    methods = pb.DESCRIPTOR.services_by_name["SelectionService"].methods
    writes = {
        method.name
        for method in methods
        if "request_id" in method.input_type.fields_by_name or method.name == "PutSignals"
    }
    named = {
        "creation": "CreateSession",
        "update": "UpdateSession",
        "deletion": "DeleteSession",
        "undeletion": "UndeleteSession",
        "erasure": "EraseAnnotator",
        "batch": "NextBatch",
        "labels": "AddLabels",
        "renewal": "RenewLeases",
        "release": "ReleaseLeases",
        "upload": "PutSignals",
        "signal_deletion": "DeleteSignals",
        "coreset": "ScoreCoreset",
        "cancellation": "CancelCoreset",
    }
    assert {named[make.__name__] for make in WRITES} == writes


@pytest.fixture(scope="module")
def stubs(replicas: Replicas) -> Iterator[list[SelectionServiceStub]]:
    """One for each replica: a retry may go to another one."""
    channels = [grpc.insecure_channel(s.listen) for s in (replicas.first, replicas.second)]
    yield [SelectionServiceStub(channel) for channel in channels]
    for channel in channels:
        channel.close()


@pytest.mark.parametrize("make", WRITES)
def test_sent_again_it_is_answered_the_same(
    stubs: list[SelectionServiceStub],
    client: Client,
    pools: Pools,
    make: Callable[[Client, Pools], Write],
) -> None:
    write = make(client, pools)
    answers = [send(stub, write.rpc, write.request) for stub in (*stubs, *stubs)]
    assert set(answers) == {answers[0]}


@pytest.mark.parametrize("make", WRITES)
def test_sent_at_once_it_is_answered_the_same(
    stubs: list[SelectionServiceStub],
    client: Client,
    pools: Pools,
    make: Callable[[Client, Pools], Write],
) -> None:
    write = make(client, pools)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda stub: send(stub, write.rpc, write.request), stubs * 4))
    assert set(answers) == {answers[0]}


@pytest.mark.parametrize("make", [make for make in WRITES if make not in (deletion, undeletion)])
def test_with_another_body_it_is_refused(
    stubs: list[SelectionServiceStub],
    client: Client,
    pools: Pools,
    make: Callable[[Client, Pools], Write],
) -> None:
    write = make(client, pools)
    first = send(stubs[0], write.rpc, write.request)
    for stub in stubs:
        refusal = refusal_of(lambda stub=stub: send(stub, write.rpc, write.other))  # type: ignore[misc]
        assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "REQUEST_ID_REUSED")
        assert refusal.fields == ("request_id",)
    assert send(stubs[1], write.rpc, write.request) == first


def test_a_request_id_of_another_write_is_refused(
    stub: SelectionServiceStub, client: Client
) -> None:
    session, request_id = session_of(client), new_id()
    client.next_batch(session, "ann", 2, request_id=request_id)
    label = pb.Label(item_id="item-1", class_name="positive")
    request = pb.AddLabelsRequest(
        request_id=request_id, session_id=session, annotator="ann", labels=[label]
    )
    assert refusal_of(lambda: stub.AddLabels(request)).reason == "REQUEST_ID_REUSED"
    assert list(client.list_labels(session)) == []


def test_a_batch_is_the_same_after_labels_and_expires_with_its_leases(
    stub: SelectionServiceStub, client: Client
) -> None:
    session = session_of(client)
    request = pb.NextBatchRequest(
        request_id=new_id(),
        session_id=session,
        annotator="ann",
        size=6,
        lease_duration=Duration(seconds=1),
        include_metadata=True,
    )
    first = stub.NextBatch(request)
    items = [pick.item_id for pick in first.picks]
    client.add_labels(session, {i: is_spam(i) for i in items[:3]}, "ann")
    assert stub.NextBatch(request) == first
    until_expired(client, session)
    refusal = refusal_of(lambda: stub.NextBatch(request))
    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "REQUEST_EXPIRED")


def until_expired(client: Client, session: str) -> None:
    while list(client.list_leases(session)):
        pass


def test_a_creation_is_answered_the_same_when_its_signal_is_gone(
    stubs: list[SelectionServiceStub], client: Client, pools: Pools
) -> None:
    name = f"s-{uuid4()}"
    client.put_signals("growing", name, pools.grown.item_ids, np.zeros(240))
    strategy = pb.Strategy(name="signal")
    strategy.params.update({"name": name})

    def request(seed: int, request_id: str) -> pb.CreateSessionRequest:
        config = pb.SessionConfig(pool="growing", task=pb.TASK_BINARY, strategy=strategy, seed=seed)
        return pb.CreateSessionRequest(request_id=request_id, config=config)

    first = request(0, new_id())
    made = stubs[0].CreateSession(first)
    client.delete_signals("growing", name)
    for stub in stubs:
        assert stub.CreateSession(first) == made
        with_another_body = request(1, first.request_id)
        refusal = refusal_of(lambda: stub.CreateSession(with_another_body))  # noqa: B023
        assert refusal.reason == "REQUEST_ID_REUSED"
        refusal = refusal_of(lambda: stub.CreateSession(request(0, new_id())))  # noqa: B023
        assert refusal.reason == "SIGNAL_NOT_FOUND"


def test_a_late_retry_of_a_deletion_spares_a_new_signal(
    stub: SelectionServiceStub, client: Client, pools: Pools
) -> None:
    name, items = f"s-{uuid4()}", pools.grown.item_ids
    client.put_signals("growing", name, items, np.zeros(240))
    request = pb.DeleteSignalsRequest(request_id=new_id(), pool="growing", name=name)
    stub.DeleteSignals(request)
    again = client.put_signals("growing", name, items, np.ones(240))
    stub.DeleteSignals(request)
    assert again in list(client.list_signals("growing"))


def test_an_interrupted_upload_leaves_nothing(
    stub: SelectionServiceStub, client: Client, pools: Pools
) -> None:
    name, gone = f"s-{uuid4()}", threading.Event()
    messages = a_signal(pools, name, new_id(), 1.0)

    def halting() -> Iterator[pb.PutSignalsRequest]:
        yield from messages
        gone.wait()

    call = stub.PutSignals.future(halting())
    call.cancel()
    gone.set()
    assert call.code() is grpc.StatusCode.CANCELLED
    assert name not in [signal.name for signal in client.list_signals("growing")]
    stub.PutSignals(iter(messages))
    assert name in [signal.name for signal in client.list_signals("growing")]


def test_a_request_id_of_another_method_with_the_same_bytes_is_refused(
    stub: SelectionServiceStub, pools: Pools
) -> None:
    name, request_id = f"s-{uuid4()}", new_id()
    stub.PutSignals(iter(a_signal(pools, name, new_id(), 1.0)))
    deletion = pb.DeleteSignalsRequest(request_id=request_id, pool="growing", name=name)
    stub.DeleteSignals(deletion)
    erasure = pb.EraseAnnotatorRequest(request_id=request_id, session_id="growing", annotator=name)
    assert erasure.SerializeToString() == deletion.SerializeToString()
    assert refusal_of(lambda: stub.EraseAnnotator(erasure)).reason == "REQUEST_ID_REUSED"
    stub.DeleteSignals(deletion)
