"""Locks on directories that several processes, perhaps on several machines, share."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from threading import Event

from coresift.server.pool.failures import Cancelled

LOCK = ".lock"
POLL_S = 0.2


class DirectoryLock:
    """A lock on a directory; it moves with the directory when that is renamed, and ends with the
    process. Shared by those who read, held alone by who fills or removes."""

    def __init__(self, directory: Path) -> None:
        """FileNotFoundError where there is no such directory."""
        self._path = directory / LOCK
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)

    def acquire(self, *, alone: bool, stop: Event) -> bool:
        """Wait for the lock; False if another directory has this name meanwhile, or none.

        Cancelled when ``stop`` is set first.
        """
        with contextlib.suppress(OSError):  # without locks: what others write is the same
            while not self._take(alone=alone) and self.is_of(self._path.parent):
                if stop.wait(POLL_S):
                    raise Cancelled
        return self.is_of(self._path.parent)

    def try_alone(self) -> bool:
        """Whether nobody else had it: it is ours alone then. OSError where there are no locks."""
        return self._take(alone=True)

    def is_of(self, directory: Path) -> bool:
        """Whether it is the lock of what now has this name."""
        try:
            return os.path.samestat(os.stat(directory / LOCK), os.fstat(self._file))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let others have it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _take(self, *, alone: bool) -> bool:
        how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        try:
            fcntl.flock(self._file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
