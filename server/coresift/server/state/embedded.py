"""A private redis-server: real Redis with no set-up, every acknowledged write on disk."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from coresift.server.errors import StartError
from coresift.server.state.data_directory import SOCKET_PREFIX, DataDirectory
from coresift.server.state.redis_binary import RedisBinary, find_binary, inspect_binary, is_as_new

log = structlog.get_logger()

LOG = "redis.log"
READY_S = 300.0
"""Loading a log of 10M labels takes tens of seconds."""
STOP_S = 10.0
LOOK_S = 0.1
"""How often it is seen to that redis-server runs; less often while it cannot be started."""
LONGEST_LOOK_S = 5.0
LONGEST_SOCKET_PATH = 100


class EmbeddedRedis:
    """A redis-server of our own on a unix socket; ``async with`` starts and stops it.

    It ends with this process, however that ends, and is the only one on its directory. Start it
    from a thread that lives as long as it should: Linux ties it to that thread. If it ends alone
    it is started again, for as long as the event loop runs that started it.

    Args:
        directory: keeps the data; made if absent.
        binary: the redis-server to run; None: see `find_binary`.
    """

    def __init__(self, directory: Path, *, binary: Path | None = None) -> None:
        self._data = DataDirectory(directory)
        self._chosen = binary
        self._socket_folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """For `RedisStore.connect`."""
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int:
        """Of redis-server."""
        if self._process is None:
            raise RuntimeError("not started")
        return self._process.pid

    async def start(self) -> None:
        """Start, and wait until it answers.

        Raises:
            StartError: the directory is in use or cannot be written, the data were written by a
                newer Redis, there is no redis-server, or it ended.
        """
        await self._data.lock()
        try:
            binary = self._choose()
            self._data.note_version(max(binary.version, self._data.written_by()))
            self._socket_folder = _socket_folder()
            self._data.note_holder(self._socket_folder)
            self._spawn(binary)
            await self._until_ready()
        except BaseException:
            await self.stop()
            raise
        self._keeper = asyncio.create_task(self._keep_running(binary))

    async def stop(self) -> None:
        """End redis-server in order, then give the directory back."""
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None
        if self._process is not None:
            if self._process.poll() is None:
                await self._shut_down(self._process)
            self._process = None
        if self._socket_folder is not None:
            shutil.rmtree(self._socket_folder, ignore_errors=True)
            self._socket_folder = None
        self._data.unlock()

    async def __aenter__(self) -> EmbeddedRedis:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def _socket(self) -> Path:
        if self._socket_folder is None:
            raise RuntimeError("not started")
        return self._socket_folder / "redis.sock"

    def _choose(self) -> RedisBinary:
        written_by = self._data.written_by()
        if self._chosen is None:
            return find_binary(written_by)
        binary = inspect_binary(self._chosen)
        if binary is None:
            raise StartError(f"{self._chosen} is no redis-server that runs here")
        if not is_as_new(binary.version, written_by):
            raise StartError(
                f"The data in {self._data.path} were written by Redis "
                f"{'.'.join(map(str, written_by))}; {binary.path} is {binary.version_text} and "
                "would read them as empty. Use that version or a newer one"
            )
        return binary

    def _spawn(self, binary: RedisBinary) -> None:
        wrapper = Path(__file__).with_name("exec_redis.py")
        command = [
            # -S: nothing of the environment is imported; it costs 10 ms.
            *(sys.executable, "-I", "-S", str(wrapper), str(os.getpid()), str(binary.path)),
            *("--port", "0"),
            *("--unixsocket", str(self._socket), "--unixsocketperm", "600"),
            *("--dir", str(self._data.path), "--logfile", str(self._data.path / LOG)),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
            *("--maxmemory-policy", "noeviction", "--daemonize", "no"),
        ]
        with (self._data.path / LOG).open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - no shell, our own arguments
                command,
                cwd=self._data.path,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[self._data.lock_descriptor],
                # Ctrl-C is for the server, which drains and still needs Redis.
                start_new_session=True,
            )

    async def _keep_running(self, binary: RedisBinary) -> None:
        """Start it again when it ends by itself: our lock on the directory outlives it."""
        pause = LOOK_S
        while True:
            await asyncio.sleep(pause)
            ended = self._process.poll() if self._process else None
            if ended is None:
                pause = LOOK_S
                continue
            log.error("redis-server ended and is started again", status=ended, pid=self.pid)
            with suppress(OSError):  # no disk, no processes: perhaps the next time
                self._spawn(binary)
            pause = min(2 * pause, LONGEST_LOOK_S)

    async def _until_ready(self) -> None:
        process = self._process
        assert process is not None  # noqa: S101 - for the type checker
        give_up = time.monotonic() + READY_S
        while not await self._answers():
            if process.poll() is not None:
                raise StartError(f"redis-server ended at once; its log says:\n{self._last_words()}")
            if time.monotonic() > give_up:
                raise StartError(
                    f"redis-server was not ready in {READY_S:g} s:\n{self._last_words()}"
                )
            await asyncio.sleep(0.002)

    async def _answers(self) -> bool:
        try:
            await self._command("PING")
        except (RedisError, OSError):
            return False
        return True

    async def _shut_down(self, process: subprocess.Popen[bytes]) -> None:
        try:
            await self._command("SHUTDOWN", "NOSAVE")
        except (RedisError, OSError):
            # Redis closes the connection as it ends; where it did not listen, ask otherwise.
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)

    async def _command(self, *words: str) -> None:
        client: Any = Redis(
            unix_socket_path=str(self._socket),
            protocol=2,
            socket_timeout=5.0,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            await client.execute_command(*words)
        finally:
            await client.aclose()

    def _last_words(self) -> str:
        try:
            lines = (self._data.path / LOG).read_text("utf-8", "replace").splitlines()
        except OSError:
            return "(nothing)"
        return "\n".join(lines[-10:])


def _socket_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix=SOCKET_PREFIX))
    if len(os.fsencode(folder)) <= LONGEST_SOCKET_PATH - len("/redis.sock"):
        return folder
    folder.rmdir()
    # A socket's path has at most about 100 bytes. mkdtemp makes the folder private.
    return Path(tempfile.mkdtemp(prefix=SOCKET_PREFIX, dir="/tmp"))
