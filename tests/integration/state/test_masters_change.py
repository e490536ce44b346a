"""Whoever is master no more is not written to, and one sentinel alone does not say who is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError as RedisConnectionError
from tests.fixtures.redis_topologies import RedisServer

from coresift.server.errors import CoresiftError, StartError
from coresift.server.state import masters
from coresift.server.state.address import Address, parse_state_url
from coresift.server.state.link import _translated
from coresift.server.state.masters import OneMaster
from coresift.server.state.redis_store import RedisStore
from coresift.server.state.server import MAX_CONNECTIONS, Server


class Watched:
    """A watched master whose place the test says."""

    def __init__(self, at: RedisServer) -> None:
        self.at: Address | Exception = Address("127.0.0.1", at.port)
        self.looks = 0
        self.master = OneMaster(self._find, self._make, is_watched=True)

    async def _find(self) -> Address:
        self.looks += 1
        if isinstance(self.at, Exception):
            raise self.at
        return self.at

    @staticmethod
    def _make(address: Address) -> Server:
        return Server(address, parse_state_url(f"redis://{address}"), volatile=True)

    async def until(self, *, available: bool) -> None:
        async with asyncio.timeout(10):
            while self.master.available() != available:  # noqa: ASYNC110 - nothing to wait for
                await asyncio.sleep(0.005)


@pytest.fixture
def watch_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masters, "WATCH_S", 0.01)


@pytest.mark.usefixtures("watch_often")
async def test_a_replaced_master_is_not_written_to_while_its_successor_is_away(
    tmp_path: Path,
) -> None:
    with RedisServer(tmp_path / "old") as old, RedisServer(tmp_path / "new") as new:
        watched = Watched(old)
        await watched.master.check()
        new.kill()
        watched.at = Address("127.0.0.1", new.port)
        await watched.until(available=False)
        with pytest.raises(CoresiftError):
            await watched.master.exchange("key", [("SET", "key", "lost")])
        assert old.ask("GET", "key") is None
        new.start()
        await watched.until(available=True)
        await watched.master.exchange("key", [("SET", "key", "kept")])
        assert new.ask("GET", "key") in ("kept", b"kept")
        await watched.master.close()


@pytest.mark.usefixtures("watch_often")
async def test_a_watch_goes_on_whatever_befalls_it(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "old") as old, RedisServer(tmp_path / "new") as new:
        watched = Watched(old)
        await watched.master.check()
        watched.at, before = ValueError("a reply that nobody expects"), watched.looks
        async with asyncio.timeout(10):
            while watched.looks == before:  # noqa: ASYNC110 - nothing to wait for
                await asyncio.sleep(0.005)
        watched.at = Address("127.0.0.1", new.port)
        async with asyncio.timeout(10):
            while watched.master.servers()[0][0].address != watched.at:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        await watched.master.close()


async def test_whoever_waited_for_a_connection_does_not_write_to_a_left_master(
    tmp_path: Path,
) -> None:
    with RedisServer(tmp_path) as redis:
        server = Watched._make(Address("127.0.0.1", redis.port))
        first = [asyncio.create_task(server.exchange([("PING",)])) for _ in range(MAX_CONNECTIONS)]
        late = asyncio.create_task(server.exchange([("SET", "key", "late")]))
        await asyncio.sleep(0)
        await server.leave()
        with pytest.raises(RedisConnectionError, match="no longer the master"):
            await late
        await asyncio.gather(*first, return_exceptions=True)
        assert redis.ask("GET", "key") is None


async def test_one_sentinel_of_three_does_not_say_who_is_master(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "server") as server:
        watched = [f"sentinel monitor coresift 127.0.0.1 {server.port} 2"]
        with RedisServer(tmp_path / "sentinel", sentinel=watched) as sentinel:
            alone = f"redis+sentinel://{sentinel.address}/coresift"
            await (await RedisStore.connect(alone)).close()
            url = f"redis+sentinel://{sentinel.address},127.0.0.1:1,127.0.0.1:2/coresift"
            with pytest.raises(StartError, match="only 1 of 3 sentinels"):
                await RedisStore.connect(url)


def test_a_cluster_that_is_down_may_be_back_soon() -> None:
    error = _translated(BaseParser.parse_error("CLUSTERDOWN The cluster is down"))
    assert isinstance(error, CoresiftError)
    assert error.retry_after_s
