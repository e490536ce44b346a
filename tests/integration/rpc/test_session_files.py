"""A session's file: what it brings back, and what is refused of one that is not right."""

from __future__ import annotations

import io
import struct
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgpack
import numpy as np
import pytest
from tests.fixtures.servers import (
    Pools,
    Replicas,
    ServerProcess,
    is_spam,
    kind_of,
    refusal_of,
)

from coresift.client import (
    UNSURE,
    AlreadyExists,
    AsyncClient,
    Client,
    CoresiftError,
    Groups,
    InvalidInput,
    NotFound,
    Outcome,
    PreconditionFailed,
    Reason,
    ReleaseReason,
    Session,
    Strategy,
)
from coresift.v1 import selection_pb2 as pb
from coresift.v1.selection_pb2_grpc import SelectionServiceStub

CLOSING = 32 + len(b"end of session\n")


def worked_on(client: Client, **config: Any) -> Session:
    """A session that has everything."""
    session = client.create_session("things", votes_per_item=2, **config)
    for _ in range(3):
        for who in ("ann", "bob"):
            batch = client.next_batch(session, who, 9)
            kept = batch.item_ids[:4]
            client.add_labels(session, {i: is_spam(i) for i in kept}, who, batch=batch)
            client.release_leases(session, who, batch.item_ids[4:5], ReleaseReason.SKIP)
            client.release_leases(session, who, batch.item_ids[5:6], ReleaseReason.CANNOT_LABEL)
    client.add_labels(session, {"item-300": UNSURE, "item-301": "negative"}, "carol")
    client.update_session(session, label_budget=400)
    client.next_batch(session, "carol", 4, purpose="review")
    client.renew_leases(session, "ann", lease_duration=7200)
    return client.get_session(session)


@pytest.fixture(scope="module")
def exported(client: Client) -> tuple[Session, bytes]:
    session, file = worked_on(client), io.BytesIO()
    assert client.export_session(session, file) == len(file.getvalue())
    return session, file.getvalue()


def imported(client: Client, data: bytes, **options: Any) -> Session:
    session_id = options.pop("session_id", f"copy-{uuid4()}")
    return client.import_session(io.BytesIO(data), session_id=session_id, **options)


def test_the_copy_is_the_session(
    client: Client, replicas: Replicas, exported: tuple[Session, bytes]
) -> None:
    session, data = exported
    copy = imported(client, data)
    assert copy == Session(**{**vars(session), "session_id": copy.session_id})
    assert list(client.list_labels(copy)) == list(client.list_labels(session))
    leases = list(client.list_leases(session))
    assert list(client.list_leases(copy)) == leases
    assert client.progress(copy) == client.progress(session)
    assert (client.head(copy).weights == client.head(session).weights).all()
    with Client(replicas.second.listen) as other:
        for who in ("ann", "bob", "dora"):
            picks = client.next_batch(session, who, 20)
            assert other.next_batch(copy, who, 20).item_ids == picks.item_ids
    # The tokens of the session are good in the copy.
    mine = list(client.list_leases(session, "ann"))[:2]
    labels = {lease.item_id: is_spam(lease.item_id) for lease in mine}
    done = client.add_labels(copy, labels, "ann", batch=mine)
    assert set(done.outcomes) == {Outcome.NEW}
    # What goes on in the one does not show in the other.
    client.erase_annotator(copy, "bob")
    assert "bob" in {record.annotator for record in client.list_labels(session)}


def test_groups_come_along(client: Client) -> None:
    session = client.create_session(
        "things", votes_per_item=2, groups=Groups("text", one_label=True)
    )
    mine = client.next_batch(session, "ann", 9).item_ids  # one of each kind
    client.add_labels(session, {mine[0]: is_spam(mine[0])}, "ann")
    file = io.BytesIO()
    client.export_session(session, file)
    copy = imported(client, file.getvalue())
    # Nobody gets another item of a group that is leased or labelled.
    for one in (session, copy):
        assert set(client.next_batch(one, "bob", 9).item_ids) == set(mine)
        client.release_leases(one, "ann", mine[1:])
        client.release_leases(one, "bob", mine)
    freed = client.next_batch(session, "eve", 9).item_ids
    assert client.next_batch(copy, "eve", 9).item_ids == freed
    assert mine[0] in freed
    assert {kind_of(item_id) for item_id in freed} == {kind_of(item_id) for item_id in mine}


def test_repeated_writes_are_answered_alike_in_the_copy(client: Client) -> None:
    session = client.create_session("things")
    batch = client.next_batch(session, "ann", 4, request_id="batch")
    labels = {item_id: is_spam(item_id) for item_id in batch.item_ids[:2]}
    result = client.add_labels(session, labels, "ann", request_id="labels")
    file = io.BytesIO()
    client.export_session(session, file)
    client.delete_session(session)
    copy = imported(client, file.getvalue())
    # The body names the session, so that only under its id the requests are the same.
    with pytest.raises(InvalidInput) as reused:
        client.add_labels(copy, labels, "ann", request_id="labels")
    assert reused.value.reason is Reason.REQUEST_ID_REUSED
    assert result.basis.revision == copy.basis.revision


def test_an_import_may_be_repeated(client: Client, exported: tuple[Session, bytes]) -> None:
    _, data = exported
    name, request_id = f"again-{uuid4()}", str(uuid4())
    first = imported(client, data, session_id=name, request_id=request_id)
    client.add_labels(first, {"item-9": "positive"}, "late")
    second = imported(client, data, session_id=name, request_id=request_id)
    assert second.basis.revision > first.basis.revision  # the session, not a new copy
    with pytest.raises(InvalidInput) as reused:
        imported(client, data, session_id=f"{name}-2", request_id=request_id)
    assert reused.value.reason is Reason.REQUEST_ID_REUSED
    with pytest.raises(AlreadyExists) as taken:
        imported(client, data, session_id=name)
    assert taken.value.reason is Reason.SESSION_EXISTS


def test_the_id_in_the_file_is_taken_until_the_session_is_gone(
    client: Client, exported: tuple[Session, bytes]
) -> None:
    with pytest.raises(AlreadyExists):
        imported(client, exported[1], session_id="")


async def test_the_asynchronous_client(
    service: ServerProcess, exported: tuple[Session, bytes], tmp_path: Path
) -> None:
    session, _ = exported
    async with AsyncClient(service.listen) as client:
        await client.export_session(session, tmp_path / "file")
        copy = await client.import_session(tmp_path / "file", session_id=f"copy-{uuid4()}")
        assert copy.basis.revision == session.basis.revision


def test_unknown_sessions(client: Client, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        client.export_session("no-such-session", tmp_path / "file")
    assert not list(tmp_path.iterdir())
    with pytest.raises(NotFound):
        client.erase_annotator("no-such-session", "ann")


def refused(client: Client, data: bytes) -> CoresiftError:
    name = f"refused-{uuid4()}"
    with pytest.raises(CoresiftError) as caught:
        imported(client, data, session_id=name)
    with pytest.raises(NotFound):
        client.get_session(name)
    return caught.value


@pytest.mark.parametrize("keep", [0, 1, 18, 40, 0.5, -1, -CLOSING, -CLOSING - 1])
def test_cut_short(client: Client, exported: tuple[Session, bytes], keep: float) -> None:
    data = exported[1]
    error = refused(client, data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    assert (error.reason, error.code.name) == (Reason.INVALID_BACKUP, "INVALID_ARGUMENT")
    assert "begin" in error.message or "cut short" in error.message


def test_damaged(client: Client, exported: tuple[Session, bytes]) -> None:
    data = exported[1]
    for at in np.random.default_rng(0).integers(20, len(data) - CLOSING, 12).tolist():
        flipped = data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]
        error = refused(client, flipped)
        assert error.reason is Reason.INVALID_BACKUP
        assert "SHA-256" in error.message
    assert refused(client, data + b"more").reason is Reason.INVALID_BACKUP
    newer = data[:17] + struct.pack("<H", 2) + data[19:]
    assert "format 2" in refused(client, newer).message


def parts(data: bytes) -> list[tuple[bytes, Any]]:
    """The frames of a file."""
    at, found = 19, []
    while at < len(data) - CLOSING:
        kind, length = struct.unpack_from("<cI", data, at)
        at += 5 + length
        found.append((kind, msgpack.unpackb(data[at - length : at], strict_map_key=False)))
    return found


def joined(frames: list[tuple[bytes, Any]]) -> bytes:
    """A file with a right hash, whatever it says."""
    data = b"coresift session " + struct.pack("<H", 1)
    for kind, value in frames:
        packed = msgpack.packb(value)
        data += struct.pack("<cI", kind, len(packed)) + packed
    return data + sha256(data).digest() + b"end of session\n"


def changed(data: bytes, kind: bytes, change: Any) -> bytes:
    """The file with one frame changed by ``change(value)``."""
    frames = parts(data)
    place = next(i for i, frame in enumerate(frames) if frame[0] == kind)
    value = change(frames[place][1])
    frames[place] = (kind, frames[place][1] if value is None else value)
    return joined(frames)


def entry_with(change: Any, kind: bytes) -> Any:
    """Changes the first log entry of a kind by ``change(fields)``."""

    def change_log(value: Any) -> None:
        for place, blob in enumerate(value[1]):
            fields = msgpack.unpackb(blob, raw=True)
            if fields[b"t"] == kind:
                change(fields)
                value[1][place] = msgpack.packb(fields, use_bin_type=False)
                return
        raise AssertionError(f"no entry {kind!r}")

    return change_log


def put(**fields: Any) -> Any:
    return lambda value: value.update({name.encode(): new for name, new in fields.items()})


def meta(**fields: bytes) -> Any:
    return lambda value: value["meta"].update(fields)


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        (b"L", lambda value: [1, value[1]], "gap"),
        (b"L", lambda value: [0, value[1][1:]], "as much as"),
        (b"L", lambda value: [0, [b"\xc1"] * len(value[1])], "cannot be read"),
        (b"L", lambda value: [0, [*value[1][1:], value[1][0]]], "start with a configuration"),
        (b"L", entry_with(put(t=b"Z"), b"G"), "newer release"),
        (b"L", entry_with(put(r=[99_999]), b"G"), "a row that the pool lacks"),
        (b"L", entry_with(put(a=b""), b"G"), "annotator of 0 bytes"),
        (b"L", entry_with(put(a=b"x" * 129), b"L"), "annotator of 129 bytes"),
        (b"L", entry_with(put(r=msgpack.packb([1, 2, 3, 4])), b"L"), "not the pool's"),
        (b"L", entry_with(put(v=msgpack.packb([b"\x07"] * 4)), b"L"), "class that the session"),
        (b"L", entry_with(put(n=b"other"), b"R"), ""),
        (b"L", entry_with(put(n=7), b"R"), "no nonce"),
        (b"L", entry_with(put(m=1 << 60), b"G"), "no time"),
        (b"S", lambda value: [[*value[0][:2], 1 << 60], *value[1:]], "deadline"),
        (b"S", lambda value: [[99_999, "ann", 1], *value[1:]], "a row that the pool lacks"),
        (b"S", lambda value: [[*value[0][:1], "nobody", 1], *value[1:]], "lacks the lease"),
        (b"E", meta(rev=b"1"), "not the one its last frame"),
        (b"E", meta(votes=b"1"), "not the one its last frame"),
        (b"E", meta(quota=b"9"), "settings"),
        (b"E", meta(config=b"\x80"), "cannot be"),
        (b"E", meta(now=b"1_0"), "its now"),
        (b"E", meta(now=b"9" * 20), "its now"),
        (b"E", meta(created="1"), "its created"),  # type: ignore[arg-type]
        (b"E", meta(nonce={"a": 1}), "its nonce"),  # type: ignore[arg-type]
        (b"E", meta(secret=b""), "key"),
        (b"E", meta(format=b"9"), "newer"),
        (b"E", lambda value: value.update(entries=1), "as much as"),
        (b"E", lambda value: value["meta"].pop("pos") and None, "cannot be read"),
        (b"E", lambda value: [], "cannot be read"),
    ],
)
def test_malformed(
    client: Client, exported: tuple[Session, bytes], kind: bytes, change: Any, words: str
) -> None:
    data = exported[1]
    assert joined(parts(data)) == data
    if not words:  # of no matter to the log as a whole
        assert imported(client, changed(data, kind, change)).basis.revision
        return
    error = refused(client, changed(data, kind, change))
    assert error.reason is Reason.INVALID_BACKUP
    assert words in error.message
    assert [violation.field for violation in error.field_violations] == ["data"]


def test_a_file_does_not_say_where_it_lives(
    client: Client, replicas: Replicas, exported: tuple[Session, bytes]
) -> None:
    """Neither another session's id nor what is of no meaning here gets into the copy."""
    other = client.create_session("things")
    own = {"uid": b"zz", "id": other.session_id.encode(), "moved": b"zz", "deleted": b"1"}
    own |= {"frozen": b"9" * 15, "freezer": b"x", "tip": b"3:zz"}
    nested: Any = {"nested": {"a": 1}}
    more = {f"more-{number}": b"" for number in range(500)}
    copy = imported(client, changed(exported[1], b"E", meta(**own, **nested, **more)))
    with Client(replicas.second.listen) as second:
        for side in (client, second):
            assert side.get_session(copy).basis.revision == exported[0].basis.revision
            assert side.get_session(other).basis.revision == 0
    assert client.add_labels(copy, {"item-9": "positive"}, "late").revision
    assert client.get_session(other).basis.revision == 0
    far_more = {f"more-{number}": b"" for number in range(5_000)}
    bad = changed(exported[1], b"E", meta(**far_more))
    assert refused(client, bad).reason is Reason.INVALID_BACKUP


def test_frames_out_of_order(client: Client, exported: tuple[Session, bytes]) -> None:
    frames = parts(exported[1])
    for wrong in (frames[:-1], frames[1:], [*frames, frames[1]], [*frames[:1], *frames]):
        assert refused(client, joined(wrong)).reason is Reason.INVALID_BACKUP
    unknown = [*frames[:-1], (b"Q", 1), frames[-1]]
    assert "unknown kind" in refused(client, joined(unknown)).message


def test_what_the_file_needs_must_be_here(
    client: Client, pools: Pools, exported: tuple[Session, bytes], tmp_path: Path
) -> None:
    _, data = exported
    client.put_signals("things", f"loss-{tmp_path.name}", pools.things.item_ids, np.arange(600.0))
    strategy = Strategy("signal", name=f"loss-{tmp_path.name}")
    signalled, file = client.create_session("things", strategy=strategy), io.BytesIO()
    client.export_session(signalled, file)
    only = ["--pool", pools.growing.directory, "--data-dir", tmp_path / "growing"]
    with ServerProcess(*only) as server, Client(server.listen) as elsewhere:
        assert refused(elsewhere, data).reason is Reason.POOL_NOT_FOUND
    only = ["--pool", pools.things.directory, "--data-dir", tmp_path / "things"]
    with ServerProcess(*only) as server, Client(server.listen) as elsewhere:
        with pytest.raises(PreconditionFailed) as missing:
            imported(elsewhere, file.getvalue())
        assert missing.value.reason is Reason.ARTIFACT_MISSING
        assert imported(elsewhere, data, session_id="").session_id == exported[0].session_id


def test_what_is_pseudonymous_stays_so(stub: SelectionServiceStub, client: Client) -> None:
    request = pb.UpdateSessionRequest(
        request_id=str(uuid4()), session_id=client.create_session("things").session_id
    )
    request.update_mask.paths.append("pseudonymous")
    assert refusal_of(lambda: stub.UpdateSession(request)).reason == "IMMUTABLE_FIELD"
    session = worked_on(client, pseudonymous=True)
    file = io.BytesIO()
    client.export_session(session, file)
    assert b"carol" not in file.getvalue()
    copy = imported(client, file.getvalue())
    assert copy.pseudonymous
    again = client.add_labels(copy, {"item-301": "negative"}, "carol")
    assert again.outcomes == (Outcome.UNCHANGED,)  # one name, one pseudonym, here and there


def test_messages_in_the_wrong_order(
    stub: SelectionServiceStub, exported: tuple[Session, bytes]
) -> None:
    header = pb.ImportSessionRequest(header=pb.ImportSessionHeader(request_id=str(uuid4())))
    data = pb.ImportSessionRequest(data=exported[1])
    for wrong in ([], [data], [header, header, data], [pb.ImportSessionRequest()]):
        answer = refusal_of(lambda wrong=wrong: stub.ImportSession(iter(wrong)))  # type: ignore[misc]
        assert (answer.reason, answer.fields) == ("INVALID_FIELD", ("header",))
    named = pb.ImportSessionHeader(request_id=str(uuid4()), session_id="no spaces")
    answer = refusal_of(lambda: stub.ImportSession(iter([pb.ImportSessionRequest(header=named)])))
    assert answer.fields == ("header.session_id",)
    answer = refusal_of(lambda: stub.ImportSession(iter([header])))
    assert answer.reason == "INVALID_BACKUP"
