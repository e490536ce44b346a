"""What a cache of pool versions takes of the disk, and what of it can go."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from coresift.server.errors import StartError
from coresift.server.pool.directory_lock import LOCK, DirectoryLock


@dataclass(frozen=True)
class CacheSpace:
    """A bound of all that lies in a cache: a volume may end before the disk below it does.

    Attributes:
        most_bytes: None: only the disk bounds it.
    """

    root: Path
    most_bytes: int | None = None

    def make_room(self, needed: Callable[[], int]) -> None:
        """See to it that ``needed()`` bytes more stay within the bound.

        What nobody uses goes for that, the longest unused first; ``needed`` is asked again, since
        what goes may have been a file to share. StartError where that does not suffice.
        """
        if self.most_bytes is None:
            return
        unused = iter(sorted(self.root.glob("*/*/"), key=last_used))
        while (more := needed()) + (held := self.held_bytes()) > self.most_bytes:
            if not any(map(remove, unused)):  # up to the first that goes
                raise StartError(
                    f"{more} bytes more do not fit into {self.root}: {held} are used there of "
                    f"{self.most_bytes} (--pool-cache-bytes); remove old versions from the root "
                    "and restart, or give more"
                )

    def held_bytes(self) -> int:
        """Bytes on disk of all files; those that versions share count once."""
        blocks: dict[tuple[int, int], int] = {}
        for folder, _, names in os.walk(self.root):
            for name in names:
                try:
                    facts = os.lstat(os.path.join(folder, name))
                except FileNotFoundError:  # another process has just removed it
                    continue
                blocks[facts.st_dev, facts.st_ino] = facts.st_blocks
        return 512 * sum(blocks.values())


def last_used(directory: Path) -> float:
    """When a version was held last, seconds since the epoch; 0 where nobody knows."""
    try:
        return (directory / LOCK).stat().st_mtime
    except OSError:
        return 0.0


def remove(directory: Path) -> bool:
    """Remove a directory that nobody holds; what is left of it by a crash goes the next time."""
    try:
        lock = DirectoryLock(directory)
    except OSError:
        return False
    try:
        if not lock.try_alone() or not lock.is_of(directory):
            return False
        gone = directory.with_name(f".gone-{secrets.token_hex(8)}")
        os.rename(directory, gone)
        shutil.rmtree(gone, ignore_errors=True)
    except OSError:
        return False
    finally:
        lock.release()
    return True
