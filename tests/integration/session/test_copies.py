"""Copies of sessions, as imports, exports and erasures make them, when something comes between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import pytest_asyncio
from tests.fixtures.pools import make_pool
from tests.fixtures.replicas import Replica
from tests.fixtures.rewinds import copy_of, restore
from tests.fixtures.sessions import a_request, is_removed

from coresift.server.errors import CoresiftError, Reason
from coresift.server.pool.pool import Pool
from coresift.server.session.copies.backup_upload import Upload
from coresift.server.session.copies.backups import Backups
from coresift.server.session.copies.erasure import Erasure
from coresift.server.session.setup.requests import Requests
from coresift.server.session.view.labels import pack_class
from coresift.server.state.entries import LabelsEntry
from coresift.server.state.staging import PIECE, staged_rows
from coresift.server.state.transfer import START, LogPiece, Place, Rows
from coresift.server.state.values import LabelWrite, Request, SessionRecord

NO, YES = pack_class(0), pack_class(1)
ITEMS = 100


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    X = np.random.default_rng(4).standard_normal((ITEMS, 8)).astype(np.float32)
    return make_pool(tmp_path_factory.mktemp("pool"), X)


@dataclass(frozen=True)
class Side:
    """A replica, and what copies sessions on it."""

    replica: Replica
    backups: Backups
    erasure: Erasure

    @classmethod
    async def start(cls, url: str, pool: Pool) -> Side:
        one = await Replica.start(url, [pool])
        return cls(
            one,
            Backups(one.pools, one.loader, one.store, one.workers),
            Erasure(one.sessions, one.loader, one.store, Requests(one.store), one.workers),
        )

    async def session(self, pool: Pool) -> SessionRecord:
        """One with two labels of ann."""
        session_id = await self.replica.create(pool, votes_per_item=3)
        await self.replica.label(session_id, {0: YES, 1: NO}, "ann")
        return await self.replica.store.read(session_id)

    async def exported(self, session: SessionRecord) -> bytes:
        return b"".join([piece async for piece in self.backups.export(session.session_id)])

    async def imported(self, session_id: str, data: bytes, request: Request) -> SessionRecord:
        upload = Upload()
        try:
            upload.write(data)
            upload.check()
            return await self.backups.import_(session_id, upload, upload.request(request))
        finally:
            upload.close()

    async def labels(self, session_id: str) -> list[tuple[str, tuple[int, ...]]]:
        """Who labelled which rows, in order."""
        record = await self.replica.store.read(session_id)
        entries = (await self.replica.store.log(record.uid, 0, 100)).entries
        return [(own.annotator, own.rows) for own in entries if isinstance(own, LabelsEntry)]

    async def is_listed(self, session_id: str) -> bool:
        found = await self.replica.store.list_sessions(session_id[:-1], 100)
        return session_id in {record.session_id for record in found}


@pytest_asyncio.fixture
async def pair(redis_url: str, pool: Pool) -> AsyncIterator[tuple[Side, Side]]:
    one, two = await Side.start(redis_url, pool), await Side.start(redis_url, pool)
    yield one, two
    await one.replica.stop()
    await two.replica.stop()


Pair = tuple[Side, Side]


def writes(*rows: int) -> list[LabelWrite]:
    return [LabelWrite(row, f"item-{row}", YES, False) for row in rows]


async def test_an_import_that_broke_off_after_its_name_is_finished_by_the_next(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = pair
    data, name, request = await one.exported(await one.session(pool)), f"c-{uuid4()}", a_request()

    async def full(uid: str, session_id: str) -> None:
        raise CoresiftError(Reason.STATE_FULL, "no memory")

    with monkeypatch.context() as broken:
        broken.setattr(one.replica.store, "_list", full)
        with pytest.raises(CoresiftError) as caught:
            await one.imported(name, data, request)
        assert caught.value.reason is Reason.STATE_FULL
    assert (await one.imported(name, data, request)).votes == 2
    assert await one.labels(name) == [("ann", (0, 1))]
    assert await one.is_listed(name)


async def test_an_import_under_way_twice_makes_one_session(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    data, name, request = await one.exported(await one.session(pool)), f"c-{uuid4()}", a_request()
    staged: list[str] = []
    first: list[SessionRecord] = []
    proper = one.replica.store.name_staged

    async def overtaken(session_id: str, uid: str, *rest: Any) -> SessionRecord:
        staged.append(uid)
        first.append(await two.imported(name, data, request))
        return await proper(session_id, uid, *rest)

    monkeypatch.setattr(one.replica.store, "name_staged", overtaken)
    second = await one.imported(name, data, request)
    assert [second] == first
    assert second.uid not in staged
    assert await is_removed(one.replica.store, staged[0])
    assert await one.labels(name) == [("ann", (0, 1))]


def rewound_in(
    reading: int,
    side: Side,
    session: SessionRecord,
    lost: dict[bytes, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> list[str]:
    """Within the n-th reading of the log a failover cuts it to a copy, and people go on.

    Returns the uids that readings were begun of.
    """
    store, begun, cut = side.replica.store, list[str](), list[bool]()
    proper = store.copy_log

    async def copy_log(uid: str, after: Place = START, freezer: str = "") -> LogPiece:
        if after == START:
            begun.append(uid)
        elif len(begun) == reading and not cut:
            cut.append(True)
            await restore(side.replica, uid, lost)
            await store.add_labels(uid, a_request(), "carol", writes(3, 4))
            await store.add_labels(uid, a_request(), "dan", writes(5))
        piece = await proper(uid, after, freezer)
        # As if the log had been longer than a piece.
        return replace(piece, standing=None) if after == START else piece

    monkeypatch.setattr(store, "copy_log", copy_log)
    return begun


async def test_an_export_never_joins_two_logs(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = pair
    session = await one.session(pool)
    lost = await copy_of(one.replica, session.uid)
    await one.replica.label(session.session_id, {2: YES}, "bob")
    rewound_in(1, one, session, lost, monkeypatch)
    with pytest.raises(CoresiftError) as caught:
        await one.exported(session)
    assert caught.value.reason is Reason.STATE_UNAVAILABLE
    assert "failover" in caught.value.message


async def test_an_erasure_never_joins_two_logs(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = pair
    session = await one.session(pool)
    lost = await copy_of(one.replica, session.uid)
    await one.replica.label(session.session_id, {2: YES}, "bob")
    begun = rewound_in(2, one, session, lost, monkeypatch)  # before it reads whether there is any
    erased = await one.erasure.erase(session.session_id, "ann", a_request())
    assert begun.count(session.uid) == 4  # it has begun anew
    kept = [(erased.replacement, (0, 1)), ("carol", (3, 4)), ("dan", (5,))]
    assert await one.labels(session.session_id) == kept
    assert (await one.replica.store.read(session.session_id)).votes == 5


async def test_an_export_of_a_session_that_is_erased_meanwhile_may_be_repeated(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    session = await one.session(pool)
    proper = one.replica.store.copy_log

    async def copy_log(uid: str, after: Place = START, freezer: str = "") -> LogPiece:
        monkeypatch.undo()
        await two.erasure.erase(session.session_id, "ann", a_request())
        return await proper(uid, after, freezer)

    monkeypatch.setattr(one.replica.store, "copy_log", copy_log)
    with pytest.raises(CoresiftError) as caught:
        await one.exported(session)
    assert caught.value.reason is Reason.STATE_UNAVAILABLE
    assert await one.exported(session)


async def test_repeated_writes_are_answered_alike_after_an_erasure(pair: Pair, pool: Pool) -> None:
    one, _ = pair
    session, store = await one.session(pool), one.replica.store
    labelled, configured = a_request("labels"), a_request("settings")
    first = await store.add_labels(session.uid, labelled, "ann", writes(6, 7))
    settings = replace(session.settings, quota=3)
    before = await store.configure(session.uid, configured, settings, 1)
    erased = await one.erasure.erase(session.session_id, "ann", a_request())
    uid = (await store.read(session.session_id)).uid
    assert uid != session.uid
    again = await store.add_labels(uid, labelled, "ann", writes(6, 7))
    assert again == replace(first, replayed=True)
    assert {name for name, _ in await one.labels(session.session_id)} == {erased.replacement}
    # It leads to where the session is now.
    assert await store.configure(uid, configured, settings, 1) == replace(before, uid=uid)


async def test_an_erasure_that_fails_leaves_the_session_to_its_people(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = pair
    session, store = await one.session(pool), one.replica.store
    proper = store.copy_log

    async def reply_lost(uid: str, after: Place = START, freezer: str = "") -> LogPiece:
        piece = await proper(uid, after, freezer)
        if freezer:
            raise CoresiftError(Reason.STATE_FULL, "no memory")
        return piece

    monkeypatch.setattr(store, "copy_log", reply_lost)
    with pytest.raises(CoresiftError) as caught:
        await one.erasure.erase(session.session_id, "ann", a_request())
    assert caught.value.reason is Reason.STATE_FULL
    await store.add_labels(session.uid, a_request(), "bob", writes(8))
    assert (await store.read(session.session_id)).uid == session.uid


async def test_long_pieces_of_a_log_are_written_by_several_scripts(pair: Pair) -> None:
    one, _ = pair
    store, calls = one.replica.store, one.replica.calls
    uid = await store.stage("staged")
    before = calls["transfer"]
    await store.stage_log(uid, 0, [b"x" * 700_000] * 5)
    assert calls["transfer"] - before == 5
    await store.stage_log(uid, 5, [b"x" * 1_000] * 500)
    assert calls["transfer"] - before == 6
    await store.discard(uid, "staged")


def test_rows_are_packed_as_they_are_written() -> None:
    """A million votes in one go would stop the event loop for a second."""
    packed: list[int] = []

    class Votes(dict[int, dict[str, bytes]]):
        def items(self) -> Any:
            for row, own in super().items():
                packed.append(row)
                yield row, own

    rows = Rows(votes=Votes({row: {"ann": YES} for row in range(3 * PIECE)}))
    pieces = staged_rows(rows)
    for turn in (1, 2, 3):
        assert len(next(pieces)[1]["v"]) == 2 * PIECE
        assert len(packed) == turn * PIECE
    assert list(pieces) == []
