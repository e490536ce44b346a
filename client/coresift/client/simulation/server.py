"""A service for a simulation: its pool built and the server started as a process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from coresift.client.client import Client
from coresift.client.errors import InternalError, NotFound
from coresift.client.simulation.dataset import Dataset

READY_S = 60.0
NEIGHBOURS = 100
"""Nearest items kept with each: seals of up to so many, and ens, read them from the pool."""
STOP_S = 15.0
HINT = "pip install 'coresift[server,cpu]', or name a running service with --server"


class ServerFailure(Exception):  # noqa: N818 - what a simulation ends with
    """No service for the simulation; the message says why and what to do."""


@contextmanager
def own_service(data: Dataset, pool: str) -> Iterator[str]:
    """Build the pool, serve it on a free port of this machine; gives ``host:port``."""
    with tempfile.TemporaryDirectory(prefix="coresift-") as name:
        folder = Path(name)
        build_pool(data, pool, folder)
        ready, log = folder / "ready.json", folder / "server.log"
        command = [*_coresift("serve"), "--pool", str(folder / "pool")]
        command += ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]
        command += ["--data-dir", str(folder / "state"), "--ready-file", str(ready)]
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - our own command
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
            try:
                yield _listen(process, ready, log)
            except InternalError as error:
                error.add_note(f"the server's log ends with\n{_tail(log.read_text())}")
                raise
            finally:
                _stop(process)


def build_pool(data: Dataset, pool: str, folder: Path) -> None:
    """Build the pool of a data set into ``folder/pool``, with a table of its neighbours."""
    neighbours = min(NEIGHBOURS, len(data.item_ids) - 1)
    # float32: a pool that keeps float16 would round the normalised rows once more.
    np.save(folder / "embeddings.npy", data.vectors)
    (folder / "ids.txt").write_text("".join(f"{item_id}\n" for item_id in data.item_ids))
    command = [*_coresift("pool", "build"), str(folder / "embeddings.npy")]
    command += ["--ids", str(folder / "ids.txt"), "--out", str(folder / "pool")]
    command += ["--name", pool, "--metric", "cosine", "--neighbours", str(neighbours)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise ServerFailure(_why("coresift pool build failed", done.stderr + done.stdout))


def served_pool(client: Client, data: Dataset, name: str | None) -> str:
    """The served pool with exactly the data set's items; ``name`` restricts the search."""
    pools = [client.get_pool(name)] if name else list(client.list_pools())
    for pool in pools:
        if pool.items == len(data.item_ids) and _has_items(client, pool.name, data):
            return pool.name
    names = ", ".join(f"{pool.name} ({pool.items} items)" for pool in pools) or "none"
    raise ServerFailure(
        f"no served pool has the {len(data.item_ids)} items of {data.name}: {names}. "
        "Build one from the rows outside test_index.npy (and inside --use)."
    )


def _has_items(client: Client, pool: str, data: Dataset) -> bool:
    """Whether a pool of the same size has a sample of the items."""
    for place in np.linspace(0, len(data.item_ids) - 1, 5).astype(int).tolist():
        try:
            client.search_pool(pool, item_id=data.item_ids[place], count=1)
        except NotFound:
            return False
    return True


def _coresift(*words: str) -> Sequence[str]:
    return (sys.executable, "-m", "coresift.client", *words)


def _listen(process: subprocess.Popen[bytes], ready: Path, log: Path) -> str:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerFailure(_why("coresift serve ended", log.read_text(errors="replace")))
        if ready.exists():
            return str(json.loads(ready.read_text())["listen"])  # written whole or not at all
        time.sleep(0.02)
    raise ServerFailure(
        _why(f"coresift serve was not ready in {READY_S:g} s", log.read_text(errors="replace"))
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _why(what: str, output: str) -> str:
    if "No such command" in output:
        return f"{what}: the server is not installed: {HINT}"
    return f"{what}:\n{_tail(output)}"


def _tail(output: str) -> str:
    return "\n".join(output.strip().splitlines()[-12:])
