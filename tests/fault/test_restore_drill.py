"""Restore drill: export under load, wipe, import, replay: identical picks, timed.

The large form: ``python -m pytest -m fault tests/fault/test_restore_drill.py -s``.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.pools import write_inputs
from tests.fixtures.private_redis import private_redis
from tests.fixtures.servers import Pools, ServerProcess, clustered, is_spam

from coresift.client import All, Client, Seals
from coresift.server.artifacts import Artifacts
from coresift.server.pool.builder import BuildOptions, build_pool
from coresift.server.pool.pool import Pool
from coresift.server.session.replay import read_log, replay
from coresift.server.session.setup.materials import Loader
from coresift.server.session.setup.pools import Pools as LoadedPools
from coresift.server.state.entries import Entry
from coresift.server.state.redis_store import RedisStore

ANNOTATORS = 4
SLOWEST_S = 1.0
"""Of the small calls beside an export."""


@contextmanager
def fresh(folder: Path, pool: Path) -> Iterator[tuple[Client, str]]:
    """A server on an empty Redis, and the Redis' URL."""
    with private_redis(folder / "state") as url:
        options = ["--pool", pool, "--state", url, "--artifacts", folder / "artifacts"]
        with ServerProcess(*options) as server, Client(server.listen) as client:
            yield client, url


async def log_of(url: str, session_id: str) -> list[Entry]:
    """A session's whole log."""
    store = await RedisStore.connect(url)
    try:
        return await read_log(store, session_id)
    finally:
        await store.close()


class Load:
    """Annotators at work until they are told to stop."""

    def __init__(self, client: Client, session_id: str) -> None:
        self._client, self._session_id = client, session_id
        self._stop = threading.Event()
        self._batches = threading.Semaphore(0)
        self._threads = ThreadPoolExecutor(ANNOTATORS)
        self._work = [self._threads.submit(self._annotate, n) for n in range(ANNOTATORS)]

    def _annotate(self, number: int) -> None:
        who = f"annotator-{number}"
        while not self._stop.is_set():
            batch = self._client.next_batch(self._session_id, who, 4)
            if not batch.item_ids:
                return
            kept = batch.item_ids[:-1]
            labels = {item_id: is_spam(item_id) for item_id in kept}
            self._client.add_labels(self._session_id, labels, who, batch=batch)
            self._client.release_leases(self._session_id, who, batch.item_ids[-1:])
            self._batches.release()

    def wait_for(self, batches: int) -> None:
        """Until so many more batches are labelled."""
        for _ in range(batches):
            assert self._batches.acquire(timeout=60)

    def stop(self) -> None:
        self._stop.set()
        self._threads.shutdown()
        for work in self._work:
            work.result()


def test_export_under_load_wipe_import_replay(pools: Pools, tmp_path: Path) -> None:
    directory, file = pools.things.directory, tmp_path / "session.coresift"
    with fresh(tmp_path / "before", directory) as (client, url):
        session = client.create_session(
            "things", votes_per_item=2, candidates=Seals(10), seed=5, session_id="drill"
        )
        load = Load(client, session.session_id)
        try:
            load.wait_for(12)
            began = time.perf_counter()
            size = client.export_session("drill", file)
            export_s = time.perf_counter() - began
            load.wait_for(4)
        finally:
            load.stop()
        whole = asyncio.run(log_of(url, "drill"))
        acknowledged = list(client.list_labels("drill"))

    with fresh(tmp_path / "after", directory) as (client, url):  # nothing of before is left
        assert not list(client.list_sessions())
        began = time.perf_counter()
        restored = client.import_session(file)
        import_s = time.perf_counter() - began
        log = asyncio.run(log_of(url, "drill"))
        assert log == whole[: len(log)]  # a beginning of the log, entry for entry
        assert 0 < len(log) < len(whole)
        revision = restored.basis.revision
        assert list(client.list_labels("drill")) == [
            record for record in acknowledged if record.revision <= revision
        ]
        # What was granted after the export was granted by the same log: it must come out alike.
        loaded = LoadedPools([pool := Pool.open(directory)])
        try:
            began = time.perf_counter()
            loader = Loader(loaded, Artifacts(str(tmp_path / "artifacts")))
            before, after = replay(loader, whole), replay(loader, log)
            replay_s = time.perf_counter() - began
        finally:
            pool.close()
        assert before.differences == after.differences == ()
        assert 0 < after.batches < before.batches
        twin = client.import_session(file, session_id="twin")
        for who in ("annotator-0", "someone-new"):
            picks = client.next_batch(restored, who, 20)
            assert client.next_batch(twin, who, 20).item_ids == picks.item_ids
            assert len(picks) > 0
    print(
        f"\n{len(log)} entries, {after.picks} picks, {size:,} bytes: exported under load in "
        f"{export_s:.2f} s, imported in {import_s:.2f} s, replayed in {replay_s:.2f} s"
    )


@pytest.mark.fault
@pytest.mark.timeout(600)
def test_a_hundred_thousand_labels(tmp_path: Path) -> None:
    """A large session, exported while it is used: the calls meanwhile stay quick."""
    items, people, votes = 25_000, 4, 100_000
    X = clustered(items, 7)
    build_pool(BuildOptions(write_inputs(tmp_path, X), tmp_path / "pool", name="many"))
    file = tmp_path / "session.coresift"
    with fresh(tmp_path / "before", tmp_path / "pool") as (client, _):
        session = client.create_session("many", votes_per_item=people, candidates=All())
        ids = [f"item-{n}" for n in range(items)]
        for number in range(people):
            labels = {item_id: is_spam(item_id) for item_id in ids}
            client.import_labels(session, labels, f"annotator-{number}")
        waits: list[float] = []
        done = threading.Event()

        def renew() -> None:
            while not done.is_set():
                began = time.perf_counter()
                client.list_leases(session, "someone")
                client.get_session(session)
                waits.append(time.perf_counter() - began)

        with ThreadPoolExecutor(1) as thread:
            reader = thread.submit(renew)
            try:
                began = time.perf_counter()
                size = client.export_session(session, file)
                export_s = time.perf_counter() - began
            finally:
                done.set()
            reader.result()
        records = list(client.list_labels(session))
        began = time.perf_counter()
        erased = client.with_timeout(300).erase_annotator(session, "annotator-3")
        erase_s = time.perf_counter() - began
    assert len(waits) > 5  # they were answered meanwhile, not afterwards
    assert len(records) == votes
    assert erased.entries == items / 1000
    with fresh(tmp_path / "after", tmp_path / "pool") as (client, _):
        began = time.perf_counter()
        restored = client.import_session(file)
        import_s = time.perf_counter() - began
        assert list(client.list_labels(restored)) == records
        assert client.progress(restored).votes == votes
    slowest = float(np.max(waits))
    print(
        f"\n{votes:,} labels, {size:,} bytes: exported in {export_s:.2f} s (the slowest of "
        f"{len(waits)} calls meanwhile {1e3 * slowest:.0f} ms), imported in {import_s:.2f} s, an "
        f"annotator erased in {erase_s:.2f} s"
    )
    assert slowest < SLOWEST_S
