"""Defects that reviews found, as callers met them: each must stay away."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import grpc
import numpy as np
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from tests.fixtures.servers import Pools, Replicas, is_spam, refusal_of

from coresift.client import Client
from coresift.client.convert import StringColumn
from coresift.v1 import selection_pb2 as pb
from coresift.v1.selection_pb2_grpc import SelectionServiceStub

Stubs = tuple[SelectionServiceStub, SelectionServiceStub]


@pytest.fixture(scope="module")
def stubs(replicas: Replicas) -> Iterator[Stubs]:
    """One for each replica."""
    with (
        grpc.insecure_channel(replicas.first.listen) as one,
        grpc.insecure_channel(replicas.second.listen) as two,
    ):
        yield SelectionServiceStub(one), SelectionServiceStub(two)


def new_id() -> str:
    return f"r-{uuid4()}"


def a_batch(session: str, **fields: Any) -> pb.NextBatchRequest:
    return pb.NextBatchRequest(
        request_id=new_id(), session_id=session, annotator="ann", size=6, **fields
    )


def some_labels(session: str, items: list[str]) -> pb.AddLabelsRequest:
    labels = [pb.Label(item_id=item, class_name=is_spam(item)) for item in items]
    return pb.AddLabelsRequest(
        request_id=new_id(), session_id=session, annotator="ann", labels=labels
    )


def test_a_batch_is_repeated_by_a_replica_that_has_not_seen_its_configuration(
    stubs: Stubs, client: Client
) -> None:
    one, two = stubs
    session = client.create_session("things").session_id
    two.NextBatch(a_batch(session))  # its view is of the first configuration
    one.UpdateSession(
        pb.UpdateSessionRequest(
            request_id=new_id(),
            session_id=session,
            update_mask=FieldMask(paths=["strategy"]),
            config=pb.SessionConfig(strategy=pb.Strategy(name="random")),
        )
    )
    request = a_batch(session)
    first = one.NextBatch(request)
    assert first.basis.config_version == 2
    assert two.NextBatch(request) == first
    labels = some_labels(session, [pick.item_id for pick in first.picks])
    assert two.AddLabels(labels) == one.AddLabels(labels)


def test_repeated_calls_name_the_pool_version_of_then(
    stubs: Stubs, client: Client, pools: Pools
) -> None:
    versions = [info.version for info in client.list_pools() if info.name == "growing"]
    old, new = versions
    session = client.create_session("growing", pool_version=old).session_id
    batch = a_batch(session, include_metadata=True)
    first = stubs[0].NextBatch(batch)
    labels = some_labels(session, [pick.item_id for pick in first.picks[:3]])
    labelled = stubs[0].AddLabels(labels)
    assert first.basis.pool_version == labelled.basis.pool_version == old
    assert client.update_session(session, pool_version=new).pool_version == new
    later = a_batch(session)
    assert stubs[0].NextBatch(later).basis.pool_version == new
    for stub in (*stubs, *stubs):  # the second one has never seen the session before
        assert stub.NextBatch(batch) == first
        assert stub.AddLabels(labels) == labelled
        assert stub.NextBatch(later).basis.pool_version == new


@pytest.mark.parametrize("number", ["9" * 5_000, "9" * 30, "1²", "٣"])
def test_numbers_in_forged_page_tokens(stubs: Stubs, client: Client, number: str) -> None:
    session = client.create_session("things").session_id
    stub = stubs[0]

    def forged(text: str) -> str:
        return base64.urlsafe_b64encode(text.encode()).decode()

    leases = pb.ListLeasesRequest(session_id=session, page_token=forged(f"leases:{number}:ann"))
    listed = pb.ListPoolsRequest(page_token=forged(f"pools:{number}:v:name"))
    for call in (lambda: stub.ListLeases(leases), lambda: stub.ListPools(listed)):
        refusal = refusal_of(call)
        assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_PAGE_TOKEN")
        assert refusal.fields == ("page_token",)


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("extra", [b"", b"\0\0\0\0"])
def test_a_chunk_without_items(stubs: Stubs, pools: Pools, columns: int, extra: bytes) -> None:
    """It adds nothing; with values for nobody it is refused."""
    ids = pools.grown.item_ids
    values = np.arange(len(ids) * columns, dtype="<f4").tobytes()
    empty = pb.SignalChunk(item_ids=pb.StringColumn(offsets=bytes(4)), values=extra)
    whole = pb.SignalChunk(item_ids=StringColumn.of(ids).part(0, len(ids)), values=values)
    digest, chunks = hashlib.sha256(), [empty, whole, empty]
    for chunk in chunks:
        digest.update(chunk.item_ids.data + chunk.item_ids.offsets + chunk.values)
    header = pb.SignalHeader(
        request_id=new_id(),
        pool="growing",
        name=f"s-{uuid4()}",
        kind=pb.SIGNAL_KIND_NUMBER,
        columns=[f"c{n}" for n in range(columns)],
        count=len(ids),
        sha256=digest.digest(),
    )
    parts = [pb.PutSignalsRequest(chunk=chunk) for chunk in chunks]
    messages = [pb.PutSignalsRequest(header=header), *parts]
    if extra:
        refusal = refusal_of(lambda: stubs[0].PutSignals(iter(messages)))
        assert (refusal.reason, refusal.fields) == ("INVALID_SIGNAL", ("chunk.values",))
    else:
        assert stubs[0].PutSignals(iter(messages)).signal.count == len(ids)
