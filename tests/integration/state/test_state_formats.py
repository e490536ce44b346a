"""Servers of neighbouring releases on one session: what they write for each other, or refuse."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import msgpack
import numpy as np
import pytest
from tests.fixtures.sessions import a_claim, a_request, a_session, a_view, all_leases, grant, labels

from coresift.server.errors import CoresiftError, Reason
from coresift.server.state.entries import GrantEntry, LabelsEntry
from coresift.server.state.keys import SessionKeys
from coresift.server.state.redis_store import RedisStore
from coresift.server.state.values import (
    Granted,
    LogRead,
    Release,
    Rewound,
    SessionRecord,
    Settings,
    ViewFile,
    ViewKey,
)


async def everything(store: RedisStore, uid: str) -> dict[bytes, Any]:
    client: Any = store._link.client
    names = [name async for name in client.scan_iter(f"coresift:{{{uid}}}:*")]
    return {name: await client.dump(name) for name in names}


async def test_every_operation_refuses_a_newer_format(store: RedisStore) -> None:
    session = await a_session(store)
    uid, view = session.uid, await a_view(store, session)
    await grant(store, session, [1, 2])
    meta = SessionKeys(uid).of_script()[0]
    await store._link.client.hset(meta, "format", 2)
    before = await everything(store, uid)
    one = np.array([1], np.int32)
    calls: dict[str, Awaitable[object]] = {
        "read": store.read(session.session_id),
        "configure": store.configure(uid, a_request(), Settings(2, None, b""), 1),
        "delete": store.delete(session.session_id, a_request()),
        "claim": store.claim(uid, a_claim([3], view=view)),
        "add_labels": store.add_labels(uid, a_request(), "ann", labels([1])),
        "renew": store.renew(uid, a_request(), "ann", [1], 1_000),
        "release": store.release(uid, a_request(), "ann", [1], Release.SKIP),
        "leases": all_leases(store, uid),
        "log": store.log(uid, 0, 10),
        "catch_up": store.catch_up(uid, view, 10),
        "publish_head": store.publish_head(uid, "key", b"head"),
        "put_view_file": store.put_view_file(uid, ViewFile(1, 1, view.tip, 1, "file")),
        "get_view_file": store.get_view_file(uid),
        "put_neighbours": store.put_neighbours(uid, "v", one, one.reshape(1, 1)),
        "get_neighbours": store.get_neighbours(uid, "v", 1, one),
    }
    for name, call in calls.items():
        with pytest.raises(CoresiftError) as caught:
            await call
        assert caught.value.reason is Reason.FORMAT_TOO_NEW, name
    assert await everything(store, uid) == before


async def as_before(store: RedisStore, session: SessionRecord, **entry: Any) -> None:
    """Append as the release before nonces of all entries and ``tip`` did."""
    client: Any = store._link.client
    meta, log = SessionKeys(session.uid).of_script()[:2]
    offset = int(await client.hget(meta, "pos")) + 1
    blob = msgpack.packb({"m": 5, **entry}, use_bin_type=False)
    await client.xadd(log, {"e": blob}, id=f"{offset}-0")
    fields: dict[str, Any] = {"pos": offset}
    if entry["t"] == "L":
        fields |= {"rev": offset, "nonce": entry["n"]}
    await client.hset(meta, mapping=fields)


async def labelled_before(store: RedisStore, session: SessionRecord, row: int) -> None:
    packed = [msgpack.packb([value], use_bin_type=False) for value in (row, f"item {row}", "yes")]
    r, i, v = packed
    await as_before(
        store, session, t="L", q=f"q{row}", a="old", n=b"old %4d" % row, r=r, i=i, v=v, u=b"\x01"
    )


async def granted_before(store: RedisStore, session: SessionRecord, row: int) -> None:
    view = {"p": 0, "v": 0, "c": 1}
    await as_before(
        store, session, t="G", q=f"q{row}", a="old", r=[row], z=1, e=9, x=b"context", **view
    )


async def key_at_end(store: RedisStore, session: SessionRecord) -> ViewKey:
    entries = (await store.log(session.uid, 0, 100)).entries
    labelled = [entry for entry in entries if isinstance(entry, LabelsEntry)]
    revision, nonce = (labelled[-1].offset, labelled[-1].nonce) if labelled else (0, b"")
    return ViewKey(entries[-1].offset, revision, nonce, 1, entries[-1].nonce)


async def test_the_release_before_and_this_one_take_turns(store: RedisStore) -> None:
    session = await a_session(store, quota=3)
    keys = []
    for row in range(4):
        await granted_before(store, session, 50 + row)
        view = await a_view(store, session)
        assert view.tip == b""  # the newest entry has none, whatever meta says
        claimed = await store.claim(session.uid, a_claim([row], view=view))
        assert isinstance(claimed, Granted)
        assert [entry.offset for entry in claimed.entries] == [view.offset + 1]
        await labelled_before(store, session, 100 + row)
        keys.append(await key_at_end(store, session))
        assert keys[-1] == await a_view(store, session)
        await store.add_labels(session.uid, a_request(), "new", labels([row]))
        keys.append(await key_at_end(store, session))
        assert keys[-1] == await a_view(store, session)
    read = await store.log(session.uid, 0, 100)
    assert [entry.offset for entry in read.entries] == list(range(1, 18))
    grants = [entry.nonce != b"" for entry in read.entries if isinstance(entry, GrantEntry)]
    assert grants == [False, True] * 4
    for key in keys:  # views of either are begun with by the log
        caught_up = await store.catch_up(session.uid, key, 100)
        assert isinstance(caught_up, LogRead)
        assert caught_up.entries == read.entries[key.offset :]


async def test_views_of_the_release_before_notice_lost_labels(store: RedisStore) -> None:
    session = await a_session(store)
    await labelled_before(store, session, 1)
    await granted_before(store, session, 2)
    key = await key_at_end(store, session)
    assert isinstance(await store.catch_up(session.uid, key, 10), LogRead)
    client: Any = store._link.client
    meta, log = SessionKeys(session.uid).of_script()[:2]
    await client.xtrim(log, maxlen=0)
    await client.delete(log)
    await client.hset(meta, mapping={"pos": 0, "rev": 0, "nonce": b""})
    for row in (7, 8, 9):
        await labelled_before(store, session, row)
    assert await store.catch_up(session.uid, key, 10) == Rewound()
    assert await store.claim(session.uid, a_claim([5], view=key)) == Rewound()
