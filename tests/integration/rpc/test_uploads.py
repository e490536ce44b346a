"""PutSignals through a real server: what is kept, and that a refused upload leaves no trace."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from tests.fixtures.servers import Pools, ServerProcess, refusal_of

from coresift.client import All, Client, InvalidInput, Reason, Strategy, StringColumn
from coresift.v1 import selection_pb2 as pb
from coresift.v1.selection_pb2_grpc import SelectionServiceStub

ITEMS, CHUNK = 240, 60
NAN, INF = np.nan, np.inf

Change = Callable[[list[pb.PutSignalsRequest]], None]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="module")
def stub(pools: Pools, root: Path, redis_url: str) -> Iterator[SelectionServiceStub]:
    """A server whose artifact root nobody else writes to."""
    options = ("--pool", pools.grown.directory, "--state", redis_url, "--artifacts", root)
    with ServerProcess(*options) as server, grpc.insecure_channel(server.listen) as channel:
        yield SelectionServiceStub(channel)


def messages(
    values: npt.NDArray[Any], kind: int = pb.SIGNAL_KIND_NUMBER, ids: list[str] | None = None
) -> list[pb.PutSignalsRequest]:
    """An upload in chunks of 60 items, its hash still to be said: see `hashed`."""
    ids = [f"item-{n}" for n in range(ITEMS)] if ids is None else ids
    dtype = "<i4" if kind == pb.SIGNAL_KIND_CLASS else "<f4"
    table = np.asarray(values, dtype).reshape(len(ids), -1)
    header = pb.SignalHeader(
        request_id=f"r-{uuid4()}",
        pool="growing",
        name=f"s-{uuid4()}",
        kind=pb.SignalKind.ValueType(kind),
        columns=[f"c{n}" for n in range(table.shape[1])],
        count=ITEMS,
    )
    column = StringColumn.of(ids)
    parts = [pb.PutSignalsRequest(header=header)]
    for start in range(0, len(ids), CHUNK):
        stop = min(start + CHUNK, len(ids))
        chunk = pb.SignalChunk(
            item_ids=column.part(start, stop), values=table[start:stop].tobytes()
        )
        parts.append(pb.PutSignalsRequest(chunk=chunk))
    return parts


def hashed(parts: list[pb.PutSignalsRequest]) -> list[pb.PutSignalsRequest]:
    digest = hashlib.sha256()
    for part in parts[1:]:
        for piece in (part.chunk.item_ids.data, part.chunk.item_ids.offsets, part.chunk.values):
            digest.update(piece)
    parts[0].header.sha256 = digest.digest()
    return parts


def kept(stub: SelectionServiceStub, root: Path) -> tuple[list[str], list[str]]:
    """Every signal there is, and every file."""
    listed = stub.ListSignals(pb.ListSignalsRequest(pool="growing", page_size=1000))
    files = sorted(str(path) for path in root.rglob("*") if path.is_file())
    return [signal.name for signal in listed.signals], files


def at(place: int, value: float, width: int = 1) -> npt.NDArray[np.float32]:
    values = np.arange(ITEMS * width, dtype=np.float32)
    values[place] = value
    return values


def with_ids(**changed: str) -> list[str]:
    ids = [f"item-{n}" for n in range(ITEMS)]
    for place, item_id in changed.items():
        ids[int(place[1:])] = item_id
    return ids


def rows(*values: tuple[float, ...]) -> npt.NDArray[np.float32]:
    """Probabilities, those given for the last items."""
    table = np.full((ITEMS, 2), 0.5, np.float32)
    table[-len(values) :] = values
    return table


PLAIN = np.zeros(ITEMS)
PROBABILITIES, CLASS = pb.SIGNAL_KIND_PROBABILITIES, pb.SIGNAL_KIND_CLASS


@pytest.mark.parametrize(
    ("parts", "field", "words"),
    [
        pytest.param(messages(at(200, NAN)), "chunk.values", "'item-200' has NaN", id="NaN"),
        pytest.param(messages(at(239, -INF)), "chunk.values", "'item-239' has", id="-inf"),
        pytest.param(messages(at(401, NAN, 2)), "chunk.values", "'item-200' has", id="2 columns"),
        pytest.param(
            messages(at(7, -1), CLASS), "chunk.values", "'item-7' has a negative", id="class"
        ),
        pytest.param(
            messages(rows((0.6, 0.6)), PROBABILITIES), "chunk.values", "'item-239'", id="sum"
        ),
        pytest.param(
            messages(rows((1.5, -0.5), (1, 0)), PROBABILITIES),
            "chunk.values",
            "'item-238'",
            id="low",
        ),
        pytest.param(
            messages(rows((INF, 0)), PROBABILITIES), "chunk.values", "'item-239'", id="inf of 1"
        ),
        pytest.param(
            messages(rows((INF, -INF)), PROBABILITIES), "chunk.values", "'item-239'", id="inf - inf"
        ),
        pytest.param(
            messages(rows((NAN, 1)), PROBABILITIES), "chunk.values", "'item-239'", id="NaN of 1"
        ),
        pytest.param(
            messages(PLAIN, ids=with_ids(n239="sea")), "chunk.item_ids", "'sea' is not", id="sea"
        ),
        pytest.param(
            messages(PLAIN, ids=with_ids(n100="")), "chunk.item_ids", "'' is not", id="empty id"
        ),
        pytest.param(
            messages(PLAIN, ids=with_ids(n239="item-190")),
            "chunk.item_ids",
            "'item-190' is given twice",
            id="twice in a chunk",
        ),
        pytest.param(
            messages(PLAIN, ids=with_ids(n239="item-1", n238="item-2")),
            "chunk.item_ids",
            "'item-2' is given twice",
            id="twice in chunks",
        ),
        pytest.param(
            messages(PLAIN)[:-1],
            "header.count",
            "60 items are missing, the first is 'item-180'",
            id="the last chunk is missing",
        ),
        pytest.param(
            messages(PLAIN[1:], ids=with_ids()[1:]),
            "header.count",
            "the first is 'item-0'",
            id="one is missing",
        ),
        pytest.param(
            [*messages(PLAIN), messages(PLAIN)[1]],
            "chunk.item_ids",
            "'item-0' is given twice",
            id="a chunk too many",
        ),
        pytest.param(
            [*messages(PLAIN)[:3], messages(PLAIN)[0]], "header", "second header", id="two headers"
        ),
    ],
)
def test_refused_whole(
    stub: SelectionServiceStub,
    root: Path,
    parts: list[pb.PutSignalsRequest],
    field: str,
    words: str,
) -> None:
    before = kept(stub, root)
    refusal = refusal_of(lambda: stub.PutSignals(iter(hashed(parts))))
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_SIGNAL")
    assert refusal.fields == (field,)
    assert words in refusal.message
    assert kept(stub, root) == before


@pytest.mark.parametrize(
    ("size", "words"),
    [(-4, "60 ids need 240 bytes of values, got 236"), (1, "got 241"), (240, "got 480")],
)
def test_values_of_a_wrong_length(
    stub: SelectionServiceStub, root: Path, size: int, words: str
) -> None:
    before, parts = kept(stub, root), messages(PLAIN)
    values = parts[2].chunk.values
    parts[2].chunk.values = values[:size] if size < 0 else values + bytes(size)
    refusal = refusal_of(lambda: stub.PutSignals(iter(hashed(parts))))
    assert (refusal.reason, refusal.fields) == ("INVALID_SIGNAL", ("chunk.values",))
    assert words in refusal.message
    assert kept(stub, root) == before


def test_another_hash(stub: SelectionServiceStub, root: Path) -> None:
    before, parts = kept(stub, root), hashed(messages(PLAIN))
    parts[3].chunk.values = np.ones(CHUNK, "<f4").tobytes()
    refusal = refusal_of(lambda: stub.PutSignals(iter(parts)))
    assert (refusal.reason, refusal.fields) == ("INVALID_SIGNAL", ("header.sha256",))
    assert kept(stub, root) == before


def test_an_upload_that_breaks_off(stub: SelectionServiceStub, root: Path) -> None:
    """All but its end has come, and been checked: nothing of it stays, and it may be repeated."""
    before, parts = kept(stub, root), hashed(messages(PLAIN))
    sent, broken = threading.Event(), threading.Event()

    def broken_off() -> Iterator[pb.PutSignalsRequest]:
        yield from parts
        sent.set()
        broken.wait(20)

    call = stub.PutSignals.future(broken_off())
    assert sent.wait(20)
    assert call.cancel()
    broken.set()
    with pytest.raises(grpc.FutureCancelledError):
        call.result()
    assert kept(stub, root) == before
    assert stub.PutSignals(iter(parts)).signal.count == ITEMS
    assert len(kept(stub, root)[1]) == len(before[1]) + 1


def test_a_file_may_be_shared(stub: SelectionServiceStub, root: Path) -> None:
    """The same content under two names is one file; deleting a signal leaves it."""
    values = np.random.default_rng(1).random(ITEMS)
    before = kept(stub, root)
    one, two = (stub.PutSignals(iter(hashed(messages(values)))).signal for _ in range(2))
    assert (one.content_hash, one.uri) == (two.content_hash, two.uri)
    assert one.name != two.name
    stub.DeleteSignals(pb.DeleteSignalsRequest(request_id="d", pool="growing", name=one.name))
    names, files = kept(stub, root)
    assert set(names) == {*before[0], two.name}
    [new] = set(files) - set(before[1])
    assert two.uri == f"file://{new}"
    with open(new, "rb") as file:
        assert hashlib.sha256(file.read()).hexdigest() == two.content_hash


@pytest.mark.parametrize("kind", [pb.SIGNAL_KIND_NUMBER, CLASS, PROBABILITIES])
def test_any_order_gives_the_same_file(stub: SelectionServiceStub, kind: int) -> None:
    chance = np.random.default_rng(kind)
    values: npt.NDArray[Any] = chance.dirichlet(np.ones(3), ITEMS)
    if kind == CLASS:
        values = chance.integers(0, 9, (ITEMS, 1))
    files = []
    for order in (np.arange(ITEMS), chance.permutation(ITEMS)):
        ids = [f"item-{n}" for n in order]
        parts = hashed(messages(values[order], kind, ids))
        files.append(stub.PutSignals(iter(parts)).signal)
    assert files[0].content_hash == files[1].content_hash
    table = pq.read_table(files[0].uri.removeprefix("file://"))
    dtype = np.int32 if kind == CLASS else np.float32
    stored = np.column_stack([table[name].to_numpy() for name in table.column_names])
    np.testing.assert_array_equal(stored, values.astype(dtype))
    assert stored.dtype == dtype


@pytest.mark.parametrize("order", ["largest", "smallest"])
def test_infinity_ranks_before_all_others(client: Client, order: str) -> None:
    ids = [f"item-{n}" for n in range(600)]
    values = np.random.default_rng(2).normal(size=600).astype(np.float32)
    values[[400, 17]] = np.inf
    name = f"forgetting-{order}"
    stored = client.put_signals("things", name, ids, values)
    table = pq.read_table(stored.uri.removeprefix("file://"))
    np.testing.assert_array_equal(table[name].to_numpy(), values)
    strategy = Strategy("signal", name=name, order=order)
    session = client.create_session("things", candidates=All(), strategy=strategy)
    batch = client.next_batch(session, "ann", 600)
    ranked = [int(item_id.removeprefix("item-")) for item_id in batch.item_ids]
    expected = np.lexsort((np.arange(600), values if order == "smallest" else -values))
    assert ranked == expected.tolist()
    scores = [pick.score for pick in batch]
    assert np.isfinite(scores).all()
    assert scores == sorted(scores, reverse=True)
    with pytest.raises(InvalidInput) as caught:
        client.put_signals("things", "minus", ids, -values)
    assert caught.value.reason is Reason.INVALID_SIGNAL


@pytest.mark.parametrize("of", ["max_entropy", "margin", "least_confidence"])
def test_a_session_selects_by_the_doubt_of_uploaded_probabilities(client: Client, of: str) -> None:
    ids = [f"item-{n}" for n in range(600)]
    p = np.random.default_rng(3).dirichlet([1, 1, 1], 600).astype(np.float32)
    name = f"model-{of}"
    client.put_signals("things", name, ids, p, kind="probabilities", columns=["a", "b", "c"])
    strategy = Strategy("signal", name=name, of=of)
    session = client.create_session("things", candidates=All(), strategy=strategy)
    batch = client.next_batch(session, "ann", 50)
    wide = p.astype(np.float64)
    first, second = -np.sort(-wide, axis=1)[:, :2].T
    doubt = {
        "max_entropy": -(wide * np.log(wide)).sum(axis=1),
        "margin": second - first,
        "least_confidence": 1 - first,
    }[of]
    ranked = [int(item_id.removeprefix("item-")) for item_id in batch.item_ids]
    np.testing.assert_allclose([pick.score for pick in batch], doubt[ranked], atol=1e-6)
    assert set(ranked) == set(np.argsort(-doubt)[:50].tolist())
