"""The packed columns of a result, cut into messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coresift.client import StringColumn
from coresift.client.convert import array
from coresift.server.rpc import coreset_calls
from coresift.server.rpc.coreset_calls import result_chunks
from coresift.v1 import selection_pb2 as pb


def a_batch(ids: list[str], *more: str) -> pa.RecordBatch:
    count = len(ids)
    columns: dict[str, Any] = {
        "item_id": pa.array(ids, pa.large_string()),
        "rank": np.arange(count, dtype=np.uint32),
        "score": np.linspace(0, 1, count),
    }
    if "weight" in more:
        columns["weight"] = np.arange(count) + 0.5
    if "bucket" in more:
        columns["bucket"] = (np.arange(count) // 2).astype(np.uint32)
    return pa.record_batch(columns)


def check(batch: pa.RecordBatch, chunks: list[pb.CoresetChunk]) -> None:
    """The chunks, one after the other, are the batch."""
    ids = StringColumn.joined(chunk.item_ids for chunk in chunks)
    assert list(ids) == batch["item_id"].to_pylist()
    for name, field, dtype in (
        ("rank", "ranks", "u4"),
        ("score", "scores", "f8"),
        ("weight", "weights", "f8"),
        ("bucket", "buckets", "u4"),
    ):
        packed = b"".join(getattr(chunk, field) for chunk in chunks)
        if name in batch.schema.names:
            np.testing.assert_array_equal(array(packed, dtype, -1), batch[name].to_numpy())
        else:
            assert packed == b""
    for chunk in chunks:
        count = len(chunk.ranks) // 4
        assert len(chunk.item_ids.offsets) == 4 * (count + 1)
        assert len(chunk.scores) == 8 * count


@given(
    st.lists(st.text(max_size=9)),
    st.sampled_from([(), ("weight",), ("bucket",), ("weight", "bucket")]),
    st.integers(1, 200),
    st.integers(0, 5),
)
def test_the_chunks_are_the_result(
    ids: list[str], more: tuple[str, ...], size: int, first: int
) -> None:
    batch = a_batch(ids, *more).slice(first)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coreset_calls, "CHUNK_BYTES", size)
        chunks = list(result_chunks(batch))
    check(batch, chunks)
    for chunk in chunks[:-1]:
        assert len(chunk.ranks) >= 4
    for chunk in chunks:
        assert chunk.ByteSize() <= size + 64 or len(chunk.ranks) == 4


@pytest.mark.parametrize("length", [1, 12, 256])
def test_a_message_has_a_quarter_of_a_mebibyte_to_one(length: int) -> None:
    batch = a_batch([f"{n}".ljust(length, "x")[:length] for n in range(60_000)], "weight")
    chunks = list(result_chunks(batch))
    check(batch, chunks)
    for chunk in chunks[:-1]:
        assert 2**18 <= chunk.ByteSize() <= 2**20
