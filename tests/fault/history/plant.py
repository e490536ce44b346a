"""What is attacked: a Redis, servers on it, and a proxy before each, all on ports that stay."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.fixtures.pools import write_inputs
from tests.fixtures.redis_topologies import RedisServer, Sentinels
from tests.fixtures.servers import clustered
from tests.fixtures.tcp_proxy import TcpProxy

from coresift.server.pool.builder import BuildOptions, build_pool

ROOT = Path(__file__).parents[3]
ITEMS = 240
POOL = "faulty"
START_S = 60.0


class Served:
    """A server on a port that it keeps, perhaps with a defect planted or a wrong clock."""

    def __init__(self, folder: Path, options: Sequence[str | Path]) -> None:
        self._folder, self._options = folder, list(map(str, options))
        self.address = f"127.0.0.1:{_free_port()}"
        self.planted: list[str] = []
        """Arguments of `served`."""

    def start(self) -> None:
        """Start it and wait until it serves."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it."""
        ready = self._folder / "ready.json"
        ready.unlink(missing_ok=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tests.fault.history.served", *self.planted, "serve"]
        command += ["--listen", self.address, "--metrics-listen", "127.0.0.1:0"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--ready-file", str(ready), *self._options],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def wait(self) -> None:
        """Wait until it serves; one that ends before is started again, as a supervisor does."""

        def ready() -> None:
            if self._process.poll() is not None:
                self.launch()
            json.loads((self._folder / "ready.json").read_text())

        try:
            _wait_for(ready, (OSError, ValueError))
        except (OSError, ValueError) as error:
            log = (self._folder / "log").read_text("utf-8", "replace")
            raise AssertionError(f"it does not serve: {log[-2_000:]}") from error

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """Stop it in the midst of whatever it does."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)


class Plant:
    """Redis, servers, and proxies between; ``with`` starts and ends it all.

    Args:
        folder: for everything that is written.
        servers: how many.
        planted: arguments of `served` for each server in turn; shorter: none for the rest.
        with_sentinels: on a master with a replica and three sentinels, and a label counts as
            written once the replica has it; else on one Redis.
        state_proxied, calls_proxied: put a proxy before Redis, before each server.

    Attributes:
        redis, sentinels: whichever of the two there is.
        state_url: past the proxy.
        addresses: HOST:PORT of each server for the frontends.
    """

    redis: RedisServer
    sentinels: Sentinels
    state_proxy: TcpProxy

    def __init__(
        self,
        folder: Path,
        *,
        servers: int = 2,
        planted: Sequence[Sequence[str]] = (),
        with_sentinels: bool = False,
        state_proxied: bool = False,
        calls_proxied: bool = False,
    ) -> None:
        self.folder = folder
        self.pool_directory = folder / "pool" / "built"
        self._count, self._planted = servers, [*planted, *[()] * servers][:servers]
        self._with_sentinels = with_sentinels
        self._state_proxied, self._calls_proxied = state_proxied, calls_proxied
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            self._start(exits)
            self._exits = exits.pop_all()
        return self

    def _start(self, exits: ExitStack) -> None:
        files = write_inputs(self.folder / "pool", clustered(ITEMS, 0))
        build_pool(BuildOptions(files, self.pool_directory, name=POOL))
        options: list[str | Path] = ["--pool", self.pool_directory, "--device", "cpu"]
        options += ["--artifacts", self.folder / "artifacts", *self._state(exits)]
        self.servers = [Served(self.folder / f"server{n}", options) for n in range(self._count)]
        for server, planted in zip(self.servers, self._planted, strict=True):
            server.planted = list(planted)
            server.launch()
            exits.callback(server.kill)
        for server in self.servers:
            server.wait()
        self.addresses = [server.address for server in self.servers]
        self.call_proxies: list[TcpProxy] = []
        if self._calls_proxied:
            self.call_proxies = [
                exits.enter_context(TcpProxy(address)) for address in self.addresses
            ]
            self.addresses = [proxy.address for proxy in self.call_proxies]

    def _state(self, exits: ExitStack) -> list[str]:
        """Start Redis; how servers are told of it."""
        folder = self.folder / "redis"
        if self._with_sentinels:
            self.sentinels = exits.enter_context(Sentinels(folder))
            self.state_url = self.sentinels.url
            return ["--state", self.state_url, "--state-min-replicas", "1"]
        self.redis = exits.enter_context(RedisServer(folder))
        self.state_url = self.redis.url
        if not self._state_proxied:
            return ["--state", self.state_url]
        self.state_proxy = exits.enter_context(TcpProxy(self.redis.address))
        return ["--state", f"redis://{self.state_proxy.address}/0"]

    def master(self) -> RedisServer:
        """The Redis that takes writes."""
        return self.sentinels.master() if self._with_sentinels else self.redis

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exits.close()


def _wait_for(
    ready: Callable[[], Any], not_yet: type[Exception] | tuple[type[Exception], ...]
) -> None:
    ends = time.monotonic() + START_S
    while True:
        try:
            ready()
            return
        except not_yet:
            if time.monotonic() > ends:
                raise
            time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port
