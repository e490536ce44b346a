"""The embedded store's directory: who may use it, and what wrote it."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from coresift.server.errors import StartError
from coresift.server.state.redis_binary import OLDEST, Version

LOCK = "lock"
FORMAT = "format.json"
LAYOUT = 1
DYING_S = 10.0
"""How long the redis-server of a dead parent may take to end."""
BUSY_S = 1.0
"""How long a living holder is waited for: it may have been killed just now."""
SOCKET_PREFIX = "coresift-"


class DataDirectory:
    """A directory that one server at a time uses.

    The lock is a ``flock`` on an open file that redis-server inherits: it is held for as long as
    either process lives, whatever ends them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.lock_descriptor = -1

    async def lock(self) -> None:
        """Take the directory. `StartError` if another server has it, or it cannot be written."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StartError(
                f"The data directory {self.path} cannot be written: {error.strerror}"
            ) from error
        try:
            await self._take(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self.lock_descriptor = descriptor
        _remove_socket_folder(_holder(descriptor).get("socket_folder"))

    async def _take(self, descriptor: int) -> None:
        began = time.monotonic()
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                pid = _holder(descriptor).get("pid")
            is_dead = pid is not None and not _is_alive(pid)
            if time.monotonic() - began > (DYING_S if is_dead else BUSY_S):
                raise StartError(
                    f"The data directory {self.path} is in use by another server "
                    f"(pid {pid or 'unknown'}): stop that one, or choose another directory. "
                    "Several servers share state through --state redis://HOST:PORT"
                )
            await asyncio.sleep(0.02)

    def note_holder(self, socket_folder: Path) -> None:
        """Write down who holds the lock, and what to clear away after a crash."""
        note = json.dumps({"pid": os.getpid(), "socket_folder": str(socket_folder)}).encode()
        os.truncate(self.lock_descriptor, 0)
        os.pwrite(self.lock_descriptor, note, 0)

    def unlock(self) -> None:
        """Give the directory back (redis-server must have ended)."""
        if self.lock_descriptor >= 0:
            os.truncate(self.lock_descriptor, 0)
            os.close(self.lock_descriptor)
            self.lock_descriptor = -1

    def written_by(self) -> Version:
        """The Redis version that wrote the data; the oldest where there is none yet."""
        file = self.path / FORMAT
        if not file.exists():
            if any(self.path.glob("appendonly*")):
                raise StartError(
                    f"{self.path} holds Redis data but no {FORMAT}: which version wrote it is "
                    "unknown, and an older one would read it as empty. Choose another directory"
                )
            return OLDEST
        try:
            note = json.loads(file.read_text("utf-8"))
            layout = int(note["layout"])
            major, minor, patch = map(int, note["redis_version"].split("."))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StartError(f"{file} is damaged: {error!r}") from error
        if layout > LAYOUT:
            raise StartError(f"{self.path} was written by a newer release (layout {layout})")
        return major, minor, patch

    def note_version(self, version: Version) -> None:
        """Write down, before Redis writes anything, which version does."""
        note = {"layout": LAYOUT, "redis_version": ".".join(map(str, version))}
        new = self.path / f"{FORMAT}.new"
        with new.open("w", encoding="utf-8") as file:
            json.dump(note, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path / FORMAT)
        folder = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _holder(descriptor: int) -> dict[str, Any]:
    try:
        note = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # killed, but its parent has not asked yet how it ended
        state = Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return True
    return state not in "ZX"


def _remove_socket_folder(folder: str | None) -> None:
    if folder and Path(folder).name.startswith(SOCKET_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)
