"""A server in a process of its own, as users run it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from urllib.request import urlopen

import psutil


class Server:
    """``coresift serve`` on free ports with a data directory of its own.

    Attributes:
        listen: HOST:PORT of gRPC.
        ready_s: from the start of the process until it serves.
    """

    def __init__(self, *pools: Path) -> None:
        self._pools = pools
        self._folder = tempfile.TemporaryDirectory()

    def __enter__(self) -> Server:
        root = Path(self._folder.name)
        ready = root / "ready.json"
        command = [sys.executable, "-m", "coresift.client", "serve", "--data-dir", str(root)]
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
        addresses = json.loads(ready.read_text())
        self.listen, self._metrics = str(addresses["listen"]), str(addresses["metrics"])
        return self

    def metrics(self) -> dict[str, float]:
        """All samples of /metrics: name with labels to value."""
        with urlopen(f"http://{self._metrics}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def resident_bytes(self) -> int:
        """Resident memory of the server process."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
        self._folder.cleanup()
