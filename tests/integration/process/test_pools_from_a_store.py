"""Real servers on a real object store: pools are loaded, verified, followed, and waited for."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.fixtures.object_store import ObjectStore, point_at
from tests.fixtures.servers import (
    Pools,
    ServedPool,
    ServerProcess,
    is_spam,
    refusal_of,
)
from tests.fixtures.tcp_proxy import TcpProxy

from coresift.client import All, Client
from coresift.server.pool import layout
from coresift.server.pool.manifest import read_manifest
from coresift.server.pool.pool import verify_pool
from coresift.v1 import selection_pb2 as pb
from coresift.v1 import selection_pb2_grpc

FOLLOW = ("--pool-refresh-s", "1.2")
NEVER_BY_ITSELF = ("--pool-refresh-s", "3600")


def version_of(pool: ServedPool) -> str:
    return read_manifest(pool.directory).version


@pytest.fixture
def root(s3: ObjectStore, pools: Pools) -> str:
    """URI of a root with the first version of the growing pool."""
    folder = uuid.uuid4().hex
    s3.upload(pools.growing.directory, f"{folder}/{version_of(pools.growing)}")
    return f"s3://{s3.bucket}/{folder}"


def add_grown(s3: ObjectStore, pools: Pools, root: str) -> str:
    """Put the second version into a root; returns it."""
    version = version_of(pools.grown)
    s3.upload(pools.grown.directory, f"{root.rpartition('/')[2]}/{version}")
    return version


def serve(root: str, folder: Path, *more: str | Path) -> ServerProcess:
    state = () if "--state" in more else ("--data-dir", folder)
    return ServerProcess("--pool", root, "--pool-cache", folder / "cache", *state, *more)


def coresift(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "coresift.client", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def is_loaded(version: str) -> Callable[[dict[str, Any]], bool]:
    return lambda event: (
        (event.get("event"), event.get("version"))
        == (
            "pool version loaded",
            version,
        )
    )


def sample(server: ServerProcess, outcome: str) -> float:
    name = f'coresift_pool_refreshes_total{{outcome="{outcome}",pool="growing"}}'
    return server.samples().get(name, 0.0)


class Load:
    """Labels a session on and on, from a thread; ``calls`` are those that went well."""

    def __init__(self, listen: str, session: str) -> None:
        self._listen, self._session = listen, session
        self._stop = threading.Event()
        self.calls = 0
        self.failures: list[Exception] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with Client(self._listen, max_attempts=1) as client:
            while not self._stop.is_set():
                try:
                    batch = client.next_batch(self._session, "ann", 2)
                    if batch.item_ids:  # a slow machine labels the whole pool meanwhile
                        labels = {i: is_spam(i) for i in batch.item_ids}
                        client.add_labels(self._session, labels, "ann", batch=batch)
                    client.get_session(self._session)
                except Exception as failure:
                    self.failures.append(failure)
                self.calls += 1

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def test_a_new_version_is_served_without_a_restart(
    s3: ObjectStore, pools: Pools, root: str, tmp_path: Path
) -> None:
    """Under load: no call fails, the session of the old version goes on, new ones take the new."""
    with serve(root, tmp_path, *FOLLOW) as server, Client(server.listen) as client:
        old = client.create_session("growing", candidates=All())
        assert old.pool_version == version_of(pools.growing)
        with Load(server.listen, old.session_id) as load:
            new = add_grown(s3, pools, root)
            server.wait_for(is_loaded(new))
            before = load.calls
            while load.calls < before + 5:
                assert load._thread.is_alive()
        assert load.failures == []
        assert client.get_session(old.session_id).pool_version == old.pool_version
        session = client.create_session("growing")
        assert session.pool_version == new
        assert client.progress(session.session_id).pool_items == 240
        moved = client.update_session(old.session_id, pool_version=new)
        assert moved.pool_version == new
        assert sample(server, "loaded") == 1
        assert sample(server, "failed") == 0
        cached = tmp_path / "cache" / "growing"
        shared = [cached / version / layout.stored(0) for version in (old.pool_version, new)]
        assert shared[0].samefile(shared[1])


@pytest.mark.long
def test_removed_versions_are_served_to_their_sessions(
    s3: ObjectStore, pools: Pools, root: str, tmp_path: Path
) -> None:
    folder, new = root.rpartition("/")[2], add_grown(s3, pools, root)
    with serve(root, tmp_path, *FOLLOW) as server, Client(server.listen) as client:
        session = client.create_session("growing").session_id
        assert client.get_session(session).pool_version == new
        s3.remove(pools.grown.directory, f"{folder}/{new}")
        deadline = time.monotonic() + 30
        while client.create_session("growing").pool_version == new:
            assert time.monotonic() < deadline
        assert client.next_batch(session, "ann", 3).item_ids


def test_a_replica_that_lags_behind_says_so_and_catches_up(
    s3: ObjectStore, pools: Pools, root: str, redis_url: str, tmp_path: Path
) -> None:
    """What the session names and the replica lacks: UNAVAILABLE, and when to come back; a client
    that does finds it there, because being asked for it made the replica look."""
    shared = ("--state", redis_url, "--artifacts", tmp_path / "artifacts")
    with serve(root, tmp_path / "b", *shared, *NEVER_BY_ITSELF) as late:
        new = add_grown(s3, pools, root)
        with (
            serve(root, tmp_path / "a", *shared) as ahead,
            Client(ahead.listen) as a,
            Client(late.listen) as b,
            grpc.insecure_channel(late.listen) as channel,
        ):
            session = a.create_session("growing", pool_version=new).session_id
            stub = selection_pb2_grpc.SelectionServiceStub(channel)
            request = pb.NextBatchRequest(
                session_id=session, annotator="ann", size=1, request_id="one"
            )
            refused = refusal_of(lambda: stub.NextBatch(request))
            assert refused.code == "UNAVAILABLE"
            assert refused.reason == "POOL_VERSION_NOT_LOADED"
            assert refused.retry_after_s == 2.0
            assert refused.metadata == {"pool": "growing", "pool_version": new}
            assert b.next_batch(session, "ann", 3).item_ids
            assert is_loaded(new)(late.wait_for(is_loaded(new)))
            assert b.create_session("growing").pool_version == new


@pytest.mark.long
def test_a_version_that_may_come_is_no_unknown_one(
    s3: ObjectStore, pools: Pools, root: str, tmp_path: Path
) -> None:
    with (
        serve(root, tmp_path, *NEVER_BY_ITSELF) as server,
        grpc.insecure_channel(server.listen) as channel,
    ):
        stub = selection_pb2_grpc.SelectionServiceStub(channel)
        asked = pb.GetPoolRequest(name="growing", version="0" * 32)
        assert refusal_of(lambda: stub.GetPool(asked)).reason == "POOL_VERSION_NOT_LOADED"
        asked = pb.GetPoolRequest(name="growing", version="latest")
        assert refusal_of(lambda: stub.GetPool(asked)).reason == "POOL_NOT_FOUND"


def test_two_servers_on_one_empty_cache(
    s3: ObjectStore, pools: Pools, root: str, redis_url: str, tmp_path: Path
) -> None:
    options = ("--state", redis_url, "--artifacts", tmp_path / "artifacts")
    with ExitStack() as stack:
        servers = [serve(root, tmp_path, *options) for _ in range(2)]
        for server in servers:
            server.launch()
            stack.callback(server.wait)
            stack.callback(server.terminate)
        for server in servers:
            server.wait_for(is_loaded(version_of(pools.growing)))
            server.wait_for(lambda event: event.get("event") == "serving")
    version = version_of(pools.growing)
    assert s3.reads(f"{root.rpartition('/')[2]}/{version}/{layout.stored(0)}") == 1
    verify_pool(tmp_path / "cache" / "growing" / version)


@pytest.mark.long
def test_a_download_that_was_killed_goes_on(
    object_store: ObjectStore, pools: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, version = uuid.uuid4().hex, version_of(pools.large)
    object_store.upload(pools.large.directory, f"{folder}/{version}")
    uri = f"s3://{object_store.bucket}/{folder}/{version}"
    cache = tmp_path / "cache" / "large"
    with TcpProxy(object_store.address) as proxy:
        point_at(monkeypatch, proxy.address)
        proxy.delay(20)  # each piece of 64 KiB
        server = serve(uri, tmp_path).launch()
        try:
            partial = cache / f".{version}.partial"
            while not (partial / layout.CLUSTERS).exists():
                assert server.process.poll() is None
        finally:
            server.kill()
        assert not (cache / version).exists()
        assert not (partial / layout.stored(0)).exists()
        assert object_store.reads(f"{folder}/{version}/{layout.CLUSTERS}") == 1
        proxy.forward()
        with serve(uri, tmp_path) as again, Client(again.listen) as client:
            assert client.get_pool("large").items == 30_000
            flip_at = cache / version / layout.stored(0)
    assert object_store.reads(f"{folder}/{version}/{layout.CLUSTERS}") == 1
    assert not partial.exists()
    verify_pool(cache / version)
    _damage(flip_at)
    point_at(monkeypatch, object_store.address)
    with serve(uri, tmp_path):
        verify_pool(cache / version)


def _damage(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(1_000)
        file.write(b"\xff\xff")


@pytest.mark.long
def test_a_start_that_is_told_to_stop(
    object_store: ObjectStore, pools: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, version = uuid.uuid4().hex, version_of(pools.large)
    object_store.upload(pools.large.directory, f"{folder}/{version}")
    with TcpProxy(object_store.address) as proxy:
        point_at(monkeypatch, proxy.address)
        proxy.delay(20)
        server = serve(f"s3://{object_store.bucket}/{folder}", tmp_path).launch()
        while not list((tmp_path / "cache").glob("large/.*.partial/*.part")):
            assert server.process.poll() is None
        server.terminate()
        assert server.wait() == 1
        assert server.other_lines == ["coresift serve: told to stop before the pools were loaded"]


@pytest.mark.long
def test_an_outage_of_the_store_changes_nothing(
    object_store: ObjectStore, pools: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = uuid.uuid4().hex
    object_store.upload(pools.growing.directory, f"{folder}/{version_of(pools.growing)}")
    root = f"s3://{object_store.bucket}/{folder}"
    with TcpProxy(object_store.address) as proxy:
        point_at(monkeypatch, proxy.address)
        with serve(root, tmp_path, *FOLLOW) as server, Client(server.listen) as client:
            session = client.create_session("growing").session_id
            proxy.refuse()
            server.wait_for(lambda event: event.get("event") == "no look at a pool")
            assert client.next_batch(session, "ann", 3).item_ids
            proxy.forward()
            server.wait_for(is_loaded(add_grown(object_store, pools, root)))
            assert sample(server, "failed") >= 1


DRAIN_S = 1.0
STOP_S = DRAIN_S + 3.0
"""In which a process must end, whatever its object store does."""


def seconds_to_end(server: ServerProcess) -> float:
    began = time.monotonic()
    server.terminate()
    server.wait()
    return time.monotonic() - began


@pytest.mark.long
def test_a_store_that_hangs_does_not_keep_the_server(
    object_store: ObjectStore, pools: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = uuid.uuid4().hex
    object_store.upload(pools.growing.directory, f"{folder}/{version_of(pools.growing)}")
    root = f"s3://{object_store.bucket}/{folder}"
    with TcpProxy(object_store.address) as proxy:
        point_at(monkeypatch, proxy.address)
        with serve(root, tmp_path, *FOLLOW, "--drain-s", str(DRAIN_S)) as server:
            proxy.stall()
            proxy.cut()
            before = proxy.accepted
            while proxy.accepted == before:  # a look has begun, and hangs
                assert server.process.poll() is None
            assert seconds_to_end(server) < STOP_S
        assert server.process.returncode == 0


@pytest.mark.long
def test_a_download_that_hangs_does_not_keep_the_server(
    object_store: ObjectStore, pools: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, version = uuid.uuid4().hex, version_of(pools.large)
    object_store.upload(pools.large.directory, f"{folder}/{version}")
    with TcpProxy(object_store.address) as proxy:
        point_at(monkeypatch, proxy.address)
        proxy.delay(20)
        server = serve(f"s3://{object_store.bucket}/{folder}", tmp_path).launch()
        while not list((tmp_path / "cache").glob("large/.*.partial/*.part")):
            assert server.process.poll() is None
        proxy.stall()
        assert seconds_to_end(server) < STOP_S
        assert server.process.returncode == 1
        assert server.other_lines == ["coresift serve: told to stop before the pools were loaded"]


@pytest.mark.long
def test_a_cache_that_is_full_leaves_the_new_version_out(
    s3: ObjectStore, pools: Pools, root: str, tmp_path: Path
) -> None:
    files = list(pools.growing.directory.iterdir())
    pages = sum(-(-file.stat().st_size // 4096) for file in files)
    bound = ("--pool-cache-bytes", str(4096 * (pages + 4)))
    with serve(root, tmp_path, *FOLLOW, *bound) as server, Client(server.listen) as client:
        add_grown(s3, pools, root)
        event = server.wait_for(lambda event: event.get("event") == "pool version not loaded")
        assert "--pool-cache-bytes" in event["error"]
        assert client.create_session("growing").pool_version == version_of(pools.growing)
        while sample(server, "failed") < 1:
            assert server.process.poll() is None


def said(*options: str | Path) -> str:
    """The last words of a server that must not start."""
    server = ServerProcess(*options).launch()
    assert server.wait() == 1, (server.events, server.other_lines)
    [line] = server.other_lines
    return line


@pytest.mark.long
def test_places_that_cannot_be_served(
    s3: ObjectStore, pools: Pools, root: str, tmp_path: Path
) -> None:
    here = ("--data-dir", tmp_path)
    assert "does not exist or is no pool" in said("--pool", "s3://no-such-bucket/photos", *here)
    assert "does not exist or is no pool" in said("--pool", f"{root}-not", *here)
    s3.put(f"{root.rpartition('/')[2]}-text/readme", b"hello")
    assert "does not exist or is no pool" in said("--pool", f"{root}-text", *here)
    assert "sea://bucket needs a driver" in said("--pool", "sea://bucket", *here)


@pytest.mark.long
def test_an_unreachable_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_at(monkeypatch, "127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # the driver's own, before ours
    line = said("--pool", "s3://bucket/photos", "--data-dir", tmp_path)
    assert "s3://bucket/photos cannot be reached" in line


@pytest.mark.long
def test_push_and_pull(s3: ObjectStore, pools: Pools, tmp_path: Path) -> None:
    """A root is filled by `push`; `pull` brings it to a volume that a server follows."""
    root, volume = f"s3://{s3.bucket}/{uuid.uuid4().hex}", tmp_path / "volume"
    for _ in range(2):  # again: nothing to do
        pushed = coresift("pool", "push", pools.growing.directory, root)
        assert pushed.returncode == 0, pushed.stderr
    pulled = coresift("pool", "pull", root, volume)
    assert pulled.returncode == 0, pulled.stderr
    assert version_of(pools.growing) in pulled.stdout
    local = volume / "growing"
    with ServerProcess("--pool", local, "--data-dir", tmp_path, *FOLLOW) as server:
        assert coresift("pool", "push", pools.grown.directory, root).returncode == 0
        assert coresift("pool", "pull", root, volume).returncode == 0
        server.wait_for(is_loaded(version_of(pools.grown)))
    verify_pool(local / version_of(pools.grown))
    for words, message in (
        (("push", tmp_path, root), "is no pool"),
        (("push", pools.grown.directory, f"{root}/{version_of(pools.grown)}"), "is a pool version"),
        (("push", pools.grown.directory, "s3://no-such-bucket/x"), "is not there"),
        (("pull", root, volume, "--version", "0" * 32), "holds no pool version"),
        (("pull", "s3://no-such-bucket/x", volume), "holds no pool"),
    ):
        failed = coresift("pool", *words)
        assert failed.returncode == 1
        assert message in failed.stderr
        assert len(failed.stderr.splitlines()) == 1
