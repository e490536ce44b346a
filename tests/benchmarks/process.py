"""A server in a process of its own, as users run it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import TracebackType
from urllib.request import urlopen

import psutil
import redis

from coresift.server.state.embedded import EmbeddedRedis

SETTLE_S = 120.0
IDLE_PERCENT = 10.0
SLOW_US = 500
"""Shorter commands of Redis are not looked at."""


def own_bytes(pid: int) -> int:
    """Anonymous resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return 1024 * int(line.split()[1])


class Peak:
    """The largest anonymous memory of a process while the block runs, looked at every 10 ms."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.bytes = 0

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            try:
                self.bytes = max(self.bytes, own_bytes(self._pid))
            except (OSError, ValueError):  # it has ended
                return

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


class State:
    """A Redis of its own, as a server without --state starts it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._embedded = EmbeddedRedis(Path(self._folder.name))

    def __enter__(self) -> State:
        asyncio.run(self._embedded.start())
        self.url = self._embedded.url
        self._client = redis.Redis.from_url(self.url)
        self._client.config_set("slowlog-log-slower-than", SLOW_US)
        self._client.config_set("slowlog-max-len", 1_000_000)
        return self

    def forget_scripts(self) -> None:
        """Begin anew with `longest_script_s`."""
        self._client.slowlog_reset()

    def longest_script_s(self) -> float:
        """The longest one since then, 0 if none took `SLOW_US`."""
        scripts = (e for e in self._client.slowlog_get(-1) if e["command"].startswith(b"EVAL"))
        return max((entry["duration"] for entry in scripts), default=0) / 1e6

    def __exit__(self, *_: object) -> None:
        self._client.close()
        asyncio.run(self._embedded.stop())
        self._folder.cleanup()


class Server:
    """``coresift serve`` on free ports with a data directory of its own.

    Attributes:
        listen: HOST:PORT of gRPC.
        pid: of the process.
        ready_s: from the start of the process until it serves.
    """

    def __init__(self, *pools: Path, module: str = "coresift.client", state: str = "") -> None:
        """``module``: run with the arguments of ``coresift``. ``state``: URL, else its own."""
        self._pools, self._module, self._state = pools, module, state
        self._folder = tempfile.TemporaryDirectory()

    def __enter__(self) -> Server:
        root = Path(self._folder.name)
        ready = root / "ready.json"
        command = [sys.executable, "-m", self._module, "serve"]
        if self._state:
            command += ["--state", self._state, "--artifacts", str(root / "artifacts")]
        else:
            command += ["--data-dir", str(root)]
        for pool in self._pools:
            command += ["--pool", str(pool)]
        command += ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]
        began = time.perf_counter()
        with (root / "log").open("w") as log:
            self._process = subprocess.Popen(
                [*command, "--ready-file", str(ready)], stderr=log, stdout=log
            )
        while not ready.exists():
            if self._process.poll() is not None:
                raise RuntimeError((root / "log").read_text())
            time.sleep(0.01)
        self.ready_s = time.perf_counter() - began
        self.pid = self._process.pid
        addresses = json.loads(ready.read_text())
        self.listen, self._metrics = str(addresses["listen"]), str(addresses["metrics"])
        return self

    def metrics(self) -> dict[str, float]:
        """All samples of /metrics: name with labels to value."""
        with urlopen(f"http://{self._metrics}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def grown(self, before: dict[str, float]) -> defaultdict[str, float]:
        """By how much each sample of /metrics grew; 0 for those that are not there."""
        found: defaultdict[str, float] = defaultdict(float)
        for name, value in self.metrics().items():
            found[name] = value - before.get(name, 0.0)
        return found

    def resident_bytes(self) -> int:
        """Resident memory of the server process."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def own_bytes(self) -> int:
        """Resident memory that is not the pool's: what is mapped from files is left out."""
        return own_bytes(self._process.pid)

    def settle(self) -> None:
        """Wait until the server does nothing: what it looks up behind an answer is done."""
        process = psutil.Process(self._process.pid)
        deadline = time.perf_counter() + SETTLE_S
        while time.perf_counter() < deadline:
            if process.cpu_percent(0.25) < IDLE_PERCENT:
                return
        raise RuntimeError(f"the server is not idle after {SETTLE_S:g} s")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
        self._folder.cleanup()
