"""The embedded redis-server and the traps it closes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from redis.asyncio import Redis
from tests.fixtures.sessions import a_request, a_session, labels

from coresift.server.errors import CoresiftError, Reason, StartError
from coresift.server.state.embedded import EmbeddedRedis
from coresift.server.state.redis_binary import RedisBinary
from coresift.server.state.redis_store import RedisStore
from coresift.server.state.values import Outcome

PARENT = """
import asyncio, json, sys
from pathlib import Path
from coresift.server.state.embedded import EmbeddedRedis
from coresift.server.state.redis_store import RedisStore
from tests.fixtures.sessions import a_request, a_session, labels

async def main():
    server = EmbeddedRedis(Path(sys.argv[1]), binary=Path(sys.argv[2]))
    await server.start()
    store = await RedisStore.connect(server.url)
    session = await a_session(store)
    print(json.dumps({"redis": server.pid, "url": server.url, "session": session.session_id}))
    sys.stdout.flush()
    number = 0
    while True:
        written = await store.add_labels(session.uid, a_request(), "ann", labels([number]))
        number += 1
        print(number, flush=True)

asyncio.run(main())
"""


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - another process sets it
            await asyncio.sleep(0.005)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def is_gone(pid: int) -> bool:
    """Ended, whether or not somebody asked how."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def is_removed(url: str) -> bool:
    return not Path(url.removeprefix("unix://")).parent.exists()


def sizes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in folder.iterdir()}


def a_parent(directory: Path, binary: RedisBinary) -> subprocess.Popen[str]:
    tests = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, str(directory), str(binary.path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": tests},
    )


async def test_data_outlive_a_restart(tmp_path: Path, redis_binary: RedisBinary) -> None:
    async with EmbeddedRedis(tmp_path / "new" / "state", binary=redis_binary.path) as server:
        store = await RedisStore.connect(server.url)
        session = await a_session(store)
        await store.add_labels(session.uid, a_request(), "ann", labels([1]))
        before = await store.log(session.uid, 0, 10)
        socket = Path(server.url.removeprefix("unix://"))
        assert (mode(socket), mode(socket.parent)) == (0o600, 0o700)
        await store.close()
    assert is_removed(f"unix://{socket}")
    async with EmbeddedRedis(tmp_path / "new" / "state", binary=redis_binary.path) as server:
        store = await RedisStore.connect(server.url)
        assert await store.log(session.uid, 0, 10) == before
        await store.close()


async def test_what_is_answered_is_on_the_disk(tmp_path: Path, redis_binary: RedisBinary) -> None:
    """A kill leaves what the system has not written yet; a power cut does not."""
    async with EmbeddedRedis(tmp_path, binary=redis_binary.path) as server:
        async with Redis.from_url(server.url) as client:
            settings = await client.config_get()
        wanted = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
        assert {name: settings[name] for name in wanted} == wanted
        assert settings["no-appendfsync-on-rewrite"] == "no"


async def test_second_server_on_a_directory_is_refused(
    tmp_path: Path, redis_binary: RedisBinary
) -> None:
    async with EmbeddedRedis(tmp_path, binary=redis_binary.path) as first:
        with pytest.raises(StartError, match=rf"in use by another server \(pid {os.getpid()}\)"):
            await EmbeddedRedis(tmp_path, binary=redis_binary.path).start()
        store = await RedisStore.connect(first.url)  # the first is none the worse
        await store.close()


async def test_kill_9_leaves_no_orphan_and_loses_nothing(
    tmp_path: Path, redis_binary: RedisBinary
) -> None:
    with a_parent(tmp_path, redis_binary) as parent:
        assert parent.stdout is not None
        try:
            said = json.loads(parent.stdout.readline())
            with pytest.raises(StartError, match=f"pid {parent.pid}"):
                await EmbeddedRedis(tmp_path, binary=redis_binary.path).start()
            for _ in range(50):
                acknowledged = int(parent.stdout.readline())
        finally:
            parent.kill()
        # At once: redis-server may still be ending, and nobody has waited for the dead parent.
        async with EmbeddedRedis(tmp_path, binary=redis_binary.path) as server:
            rest = parent.stdout.read().split("\n")
            acknowledged = max([acknowledged, *map(int, filter(None, rest[:-1]))])
            assert is_gone(said["redis"])
            assert is_removed(said["url"])
            store = await RedisStore.connect(server.url)
            session = await store.read(said["session"])
            found = len((await store.log(session.uid, 1, 10_000)).entries)
            assert found in (acknowledged, acknowledged + 1)
            again = await store.add_labels(
                session.uid, a_request(request_id="of the second server"), "ann", labels([0])
            )
            assert again.outcomes == (Outcome.UNCHANGED,)
            await store.close()
    assert parent.returncode == -signal.SIGKILL


async def test_directory_written_by_a_newer_redis_is_refused(
    tmp_path: Path, redis_binary: RedisBinary
) -> None:
    async with EmbeddedRedis(tmp_path, binary=redis_binary.path):
        pass
    (tmp_path / "format.json").write_text('{"layout": 1, "redis_version": "99.1.0"}')
    before = sizes(tmp_path)
    with pytest.raises(StartError, match=r"written by Redis 99\.1\.0.*newer one"):
        await EmbeddedRedis(tmp_path, binary=redis_binary.path).start()
    with pytest.raises(StartError, match=r"99\.1 or newer is needed, because that version wrote"):
        await EmbeddedRedis(tmp_path).start()
    assert before == sizes(tmp_path)


@pytest.mark.parametrize(
    ("note", "message"),
    [
        ("{", "is damaged"),
        ('{"layout": 1}', "is damaged"),
        ('{"layout": 2, "redis_version": "6.2.0"}', "written by a newer release"),
        (None, r"holds Redis data but no format\.json"),
    ],
)
async def test_unknown_formats_are_refused(
    tmp_path: Path, redis_binary: RedisBinary, note: str | None, message: str
) -> None:
    (tmp_path / "appendonly.aof").touch()
    if note is not None:
        (tmp_path / "format.json").write_text(note)
    with pytest.raises(StartError, match=message):
        await EmbeddedRedis(tmp_path, binary=redis_binary.path).start()


async def test_clear_errors_where_it_cannot_start(
    tmp_path: Path, redis_binary: RedisBinary
) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(StartError, match="cannot be written"):
        await EmbeddedRedis(file / "below", binary=redis_binary.path).start()
    with pytest.raises(StartError, match="is no redis-server that runs here"):
        await EmbeddedRedis(tmp_path / "a", binary=file).start()
    broken = tmp_path / "b"
    async with EmbeddedRedis(broken, binary=redis_binary.path):
        pass
    data = next(path for path in broken.rglob("*.aof") if path.is_file())
    data.write_bytes(b"this is no append-only file\r\n" * 10)
    with pytest.raises(StartError, match=r"(?s)ended at once; its log says:.*ppend only file"):
        await EmbeddedRedis(broken, binary=redis_binary.path).start()
    data.write_bytes(b"")
    async with EmbeddedRedis(broken, binary=redis_binary.path):  # the lock was given back
        pass


async def test_stopping_twice_or_after_redis_died_is_fine(
    tmp_path: Path, redis_binary: RedisBinary
) -> None:
    server = EmbeddedRedis(tmp_path, binary=redis_binary.path)
    await server.start()
    redis = psutil.Process(server.pid)
    redis.kill()
    await until(lambda: redis.status() == psutil.STATUS_ZOMBIE)
    await server.stop()
    await server.stop()
    async with EmbeddedRedis(tmp_path, binary=redis_binary.path):
        pass


async def test_killed_alone_it_is_started_again_with_all_that_was_acknowledged(
    tmp_path: Path, redis_binary: RedisBinary
) -> None:
    async with EmbeddedRedis(tmp_path, binary=redis_binary.path) as server:
        store = await RedisStore.connect(server.url)
        session = await a_session(store)
        for round_ in range(3):
            await store.add_labels(session.uid, a_request(), "ann", labels([round_]))
            killed = server.pid
            os.kill(killed, signal.SIGKILL)
            began = time.perf_counter()
            with pytest.raises(CoresiftError) as caught:
                await store.read(session.session_id)
            assert caught.value.reason is Reason.STATE_UNAVAILABLE
            assert time.perf_counter() - began < 0.5
            async with asyncio.timeout(5):
                while not store.available():  # noqa: ASYNC110 - nothing to wait for
                    await asyncio.sleep(0.005)
            assert server.pid != killed
            assert (await store.read(session.session_id)).revision == round_ + 2
            with pytest.raises(StartError, match="in use"):
                await EmbeddedRedis(tmp_path, binary=redis_binary.path).start()
        await store.close()
