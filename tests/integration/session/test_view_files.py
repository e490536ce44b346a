"""Views kept as files: used where the log still begins with them, and a cache in every case."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from tests.fixtures.between import Between
from tests.fixtures.pools import make_pool
from tests.fixtures.replicas import Replica, now, rows_of
from tests.fixtures.rewinds import contents, copy_of, restore
from tests.fixtures.sessions import a_request

from coresift.server.errors import CoresiftError, Reason
from coresift.server.pool.pool import Pool
from coresift.server.session.copies.erasure import Erasure
from coresift.server.session.live.live import LiveSession
from coresift.server.session.replay import read_log, replay
from coresift.server.session.setup.requests import Requests
from coresift.server.session.view import catching_up, view_files
from coresift.server.session.view.labels import pack_class
from coresift.server.session.work.workers import Workers
from coresift.server.state import scripts
from coresift.server.state.breaker import unavailable
from coresift.server.state.keys import DELETED, SessionKeys
from coresift.server.state.values import ANSWER_MS, Release, ViewFile

NO, YES = pack_class(0), pack_class(1)
ITEMS = 300


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs that are long, and growth that is worth a file, within a test."""
    monkeypatch.setattr(catching_up, "FAR_ENTRIES", 20)
    monkeypatch.setattr(catching_up, "LOG_PAGE", 7)
    monkeypatch.setattr(view_files, "LEAST_GROWTH", 30)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    X = np.random.default_rng(4).standard_normal((ITEMS, 8)).astype(np.float32)
    return make_pool(tmp_path_factory.mktemp("pool"), X)


class Replicas:
    """Replicas with one artifact root."""

    def __init__(self, url: str, pool: Pool, root: Path) -> None:
        self._url, self._pool, self._root = url, pool, root
        self._started: list[Replica] = []

    async def start(self) -> Replica:
        replica = await Replica.start(self._url, [self._pool], artifacts=str(self._root))
        self._started.append(replica)
        return replica

    async def cold(self, session: str) -> tuple[Replica, LiveSession]:
        """A replica that has just read a session for the first time."""
        replica = await self.start()
        live = await replica.live(session)
        await live.sync(now())
        return replica, live

    def files(self) -> list[Path]:
        return sorted((self._root / "views").glob("*"))

    async def stop(self) -> None:
        for replica in self._started:
            await replica.stop()


@pytest_asyncio.fixture
async def replicas(redis_url: str, pool: Pool, tmp_path: Path) -> AsyncIterator[Replicas]:
    several = Replicas(redis_url, pool, tmp_path)
    yield several
    await several.stop()


def count(replica: Replica, event: str) -> float:
    name = "coresift_view_files_total"
    return replica.metrics.registry.get_sample_value(name, {"event": event}) or 0


async def work(replica: Replica, session: str, turns: range) -> None:
    """Three entries a turn."""
    live = await replica.live(session)
    for turn in turns:
        rows = rows_of(await replica.next_batch(session, f"ann-{turn % 3}", 3))
        await replica.label(session, {rows[0]: (YES, NO)[turn % 2]}, f"ann-{turn % 3}")
        reason = Release(1 + turn % 3)
        await replica.labeling.release(live, a_request(), f"ann-{turn % 3}", rows[1:], reason)


async def kept(replicas: Replicas, pool: Pool, turns: int = 12) -> tuple[Replica, str]:
    """A replica with a session whose view is kept once."""
    replica = await replicas.start()
    session = await replica.create(pool)
    await replica.label(session, {0: YES, 1: NO})
    await work(replica, session, range(turns))
    live = await replica.live(session)
    await live.sync(now())
    await replica.files.save(live.uid, lambda: live.view)
    assert len(replicas.files()) == 1
    return replica, session


async def test_a_cold_replica_goes_on_from_the_file(replicas: Replicas, pool: Pool) -> None:
    first, session = await kept(replicas, pool)
    await work(first, session, range(12, 20))
    second, live = await replicas.cold(session)
    assert count(second, "loaded") == 1
    warm = await first.live(session)
    await warm.sync(now())
    assert contents(live.view) == contents(warm.view)
    one = rows_of(await first.next_batch(session, "x", 5))
    await second.next_batch(session, "y", 5)
    assert len(one) == 5
    report = replay(second.loader, await read_log(second.store, session))
    assert report.batches >= 22
    assert not report.differences


async def whole(replicas: Replicas, replica: Replica, session: str) -> None:
    """A cold replica does without the file, and says so unless there is none for it."""
    live = await replica.live(session)
    await live.sync(now())
    cold, of_log = await replicas.cold(session)
    assert contents(of_log.view) == contents(live.view)
    assert count(cold, "loaded") == 0
    assert (await cold.next_batch(session, "cold", 3)).picks


async def noted(replica: Replica, session: str) -> tuple[Any, str]:
    live = await replica.live(session)
    return replica.store._link.client, SessionKeys(live.uid).view


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "changed", "of another", "not noted"])
async def test_whatever_is_wrong_with_a_file_it_is_not_used(
    replicas: Replicas, pool: Pool, how: str
) -> None:
    replica, session = await kept(replicas, pool)
    client, key = await noted(replica, session)
    (file,) = replicas.files()
    data = bytearray(file.read_bytes())
    match how:
        case "missing":
            file.unlink()
        case "empty":
            file.write_bytes(b"")
        case "cut":
            file.write_bytes(data[: len(data) // 2])
        case "changed":
            data[len(data) // 2] ^= 1
            file.write_bytes(data)
        case "of another":
            _, other = await kept_beside(replicas, replica, pool)
            await client.hset(key, "file", other)
        case "not noted":
            await client.hset(key, "size", "many")
    await whole(replicas, replica, session)


async def kept_beside(replicas: Replicas, replica: Replica, pool: Pool) -> tuple[str, bytes]:
    """Another session and its file."""
    session = await replica.create(pool)
    await replica.label(session, {0: YES, 1: NO})
    await work(replica, session, range(12))
    live = await replica.live(session)
    await live.sync(now())
    await replica.files.save(live.uid, lambda: live.view)
    client, key = await noted(replica, session)
    return session, await client.hget(key, "file")


async def test_a_file_of_a_newer_format_is_left_to_newer_servers(
    replicas: Replicas, pool: Pool
) -> None:
    replica, session = await kept(replicas, pool)
    client, key = await noted(replica, session)
    await client.hset(key, "format", view_files.FORMAT + 1)
    before = await client.hgetall(key)
    await whole(replicas, replica, session)
    assert await client.hgetall(key) == before


async def test_a_file_of_a_lost_log_is_not_used_and_replaced(
    replicas: Replicas, pool: Pool
) -> None:
    replica = await replicas.start()
    session = await replica.create(pool)
    await replica.label(session, {0: YES, 1: NO})
    live = await replica.live(session)
    copy = await copy_of(replica, live.uid)
    await work(replica, session, range(12))
    await live.sync(now())
    await replica.files.save(live.uid, lambda: live.view)
    client, key = await noted(replica, session)
    lost = {b"view": await client.dump(key)}
    await restore(replica, live.uid, copy)
    await client.restore(key, 0, lost[b"view"])
    (of_lost,) = replicas.files()
    second = await replicas.start()
    await work(second, session, range(12, 14))
    assert await second.store.get_view_file(live.uid) is None
    await work(second, session, range(14, 30))
    other = await second.live(session)
    await other.sync(now())
    await second.workers.drain(5)
    await second.files.save(other.uid, lambda: other.view)
    cold, found = await replicas.cold(session)
    assert count(cold, "loaded") == 1
    assert contents(found.view) == contents(other.view)
    assert of_lost not in replicas.files()
    assert len(replicas.files()) == 1


async def test_the_note_only_moves_forward_and_its_old_file_goes(
    replicas: Replicas, pool: Pool
) -> None:
    replica, session = await kept(replicas, pool)
    live = await replica.live(session)
    store = replica.store
    noted_file = await store.get_view_file(live.uid)
    assert noted_file is not None
    await replica.files.save(live.uid, lambda: live.view)  # nothing has grown
    assert await store.get_view_file(live.uid) == noted_file
    same = replace(noted_file, content_hash="other")
    assert await store.put_view_file(live.uid, same) == "other"
    foreign = replace(same, tip=b"no tip")
    assert await store.put_view_file(live.uid, foreign) == "other"
    assert await store.put_view_file(live.uid, noted_file) is None
    assert await store.get_view_file(live.uid) == noted_file
    (old,) = replicas.files()
    await work(replica, session, range(12, 30))
    await live.sync(now())
    await replica.workers.drain(5)
    await replica.files.save(live.uid, lambda: live.view)
    assert len(replicas.files()) == 1
    assert replicas.files() != [old]


async def grown(
    replicas: Replicas, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> tuple[Replica, LiveSession]:
    """A session whose view is kept, and worth another file."""
    replica, session = await kept(replicas, pool)
    await work(replica, session, range(12, 14))
    live = await replica.live(session)
    await live.sync(now())
    monkeypatch.setattr(view_files, "LEAST_GROWTH", 1)
    monkeypatch.setattr(view_files, "GROWTH_SHARE", 1_000)
    return replica, live


@pytest.mark.parametrize("is_noted", [True, False])
async def test_a_file_stays_where_the_reply_to_its_note_was_lost(
    replicas: Replicas, pool: Pool, monkeypatch: pytest.MonkeyPatch, is_noted: bool
) -> None:
    replica, live = await grown(replicas, pool, monkeypatch)
    between = Between(replica.store, monkeypatch)

    async def blip() -> None:
        raise unavailable("a blip")

    (between.after if is_noted else between.before)(scripts.VIEW_PUT, blip)
    await replica.files.save(live.uid, lambda: live.view)
    assert between.is_over
    (file,) = replicas.files()
    note = await replica.store.get_view_file(live.uid)
    assert note is not None
    assert (note.content_hash, note.offset) == (file.stem, live.view.offset)
    cold, found = await replicas.cold(live.session_id)
    assert count(cold, "loaded") == 1
    assert contents(found.view) == contents(live.view)


async def test_a_file_that_cannot_be_noted_is_removed(
    replicas: Replicas, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view_files, "TRIES", 3)
    replica, live = await grown(replicas, pool, monkeypatch)
    old, tried = replicas.files(), list[str]()

    async def away(uid: str, file: ViewFile) -> str | None:
        tried.append(file.content_hash)
        assert len(replicas.files()) == 2
        raise CoresiftError(Reason.STATE_UNAVAILABLE, "away", retry_after_s=0.01)

    monkeypatch.setattr(replica.store, "put_view_file", away)
    await replica.files.save(live.uid, lambda: live.view)
    assert len(tried) == 3
    assert replicas.files() == old
    assert count(replica, "failed") == 1


async def test_growing_views_are_kept_by_themselves(replicas: Replicas, pool: Pool) -> None:
    replica = await replicas.start()
    session = await replica.create(pool)
    await replica.label(session, {0: YES, 1: NO})
    await work(replica, session, range(40))
    await replica.workers.drain(5)
    assert 1 <= count(replica, "written") <= 7
    assert len(replicas.files()) == 1


async def test_the_file_goes_with_its_session(replicas: Replicas, pool: Pool) -> None:
    replica, session = await kept(replicas, pool)
    other, _ = await kept_beside(replicas, replica, pool)
    live = await replica.live(session)
    await replica.lifecycle.delete(session, a_request())
    await replica.store.purge()
    await replica.files.sweep()
    assert len(replicas.files()) == 2
    client = replica.store._link.client
    await client.hincrby(SessionKeys(live.uid).of_script()[0], "deleted", -ANSWER_MS)
    await client.zadd(DELETED, {f"{live.uid} {session}": 0})
    await replica.store.purge()
    await replica.files.sweep()
    (left,) = replicas.files()
    _, key = await noted(replica, other)
    assert left.stem == (await client.hget(key, "file")).decode()


async def test_an_erased_name_leaves_no_file(
    replicas: Replicas, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the one that was kept, and not one that is being written meanwhile."""
    replica, session = await kept(replicas, pool)
    live = await replica.live(session)
    await work(replica, session, range(12, 24))
    await live.sync(now())
    await replica.workers.drain(5)
    replica.workers = Workers(2)
    erasure = Erasure(
        replica.sessions, replica.loader, replica.store, Requests(replica.store), replica.workers
    )
    note = replica.store.put_view_file

    async def erased_meanwhile(uid: str, file: ViewFile) -> str | None:
        monkeypatch.undo()
        assert len(replicas.files()) == 2
        erased = await erasure.erase(session, "ann-1", a_request())
        assert erased.entries
        assert len(replicas.files()) == 1
        return await note(uid, file)

    view = live.view
    monkeypatch.setattr(view_files, "LEAST_GROWTH", 1)
    monkeypatch.setattr(view_files, "GROWTH_SHARE", 1_000)
    monkeypatch.setattr(replica.store, "put_view_file", erased_meanwhile)
    await replica.files.save(live.uid, lambda: view)
    assert replicas.files() == []
    assert count(replica, "failed") == 1
