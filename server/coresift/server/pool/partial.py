"""A neighbour table under way: it outlives the process that fills it."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from coresift.server.arrays import Rows
from coresift.server.pool.directory_lock import DirectoryLock
from coresift.server.pool.failures import BuildError

CHECKPOINT_S = 5.0
"""At most so much work is done again after a kill."""

_TABLE = "table"
_STATE = "state.json"


class PartialTable:
    """Chunks of a table, in order; how many are done is on disk too."""

    def __init__(self, folder: Path, key: str, shape: tuple[int, int], chunks: int) -> None:
        """Goes on with what lies in the folder, if that is of the same key, else begins anew."""
        self.path, self._chunks = folder / _TABLE, chunks
        self._state = folder / _STATE
        self._key = key
        size = 4 * shape[0] * shape[1]
        self.done = self._found(size)
        """Chunks."""
        if not self.done:
            # The number first: it is of the old table. And never over an old table: a pool may
            # have it, by another name.
            self._state.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
            with self.path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here
        self._table = np.memmap(self.path, np.int32, "r+", shape=shape)
        self._written_at = time.monotonic()

    def add(self, rows: Rows, neighbours: Rows) -> None:
        """The next chunk."""
        self._table[rows] = neighbours
        self.done += 1
        if time.monotonic() >= self._written_at + CHECKPOINT_S:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Make what is done last: the rows first, then their number."""
        self._table.flush()
        beside = self._state.with_suffix(".new")
        with beside.open("w") as file:
            json.dump({"key": self._key, "chunks": self.done}, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._state)
        self._written_at = time.monotonic()

    def _found(self, size: int) -> int:
        try:
            state = json.loads(self._state.read_bytes())
            whole = self.path.stat().st_size == size
            done = int(state["chunks"]) if whole and state["key"] == self._key else 0
            return done if 0 <= done <= self._chunks else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0


@contextmanager
def partial_table(
    folder: Path, key: str, shape: tuple[int, int], chunks: int
) -> Iterator[PartialTable]:
    """The table in a folder, made if need be, for this process alone.

    Args:
        folder: stays when the work ends early.
        key: of all that decides the table and the order of its chunks.
        shape: rows and columns.
        chunks: how many make the table.

    Raises:
        BuildError: another process fills it.
    """
    folder.mkdir(exist_ok=True)
    lock = DirectoryLock(folder)
    try:
        with contextlib.suppress(OSError):  # without locks: as if nobody else built it
            if not lock.try_alone():
                raise BuildError(f"{folder} is in use: another process builds the same pool")
        table = PartialTable(folder, key, shape, chunks)
        try:
            yield table
        finally:
            table.checkpoint()
    finally:
        lock.release()
