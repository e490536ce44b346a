"""Which versions of a source are loaded, and when the others are tried again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event

from coresift.server.errors import StartError
from coresift.server.pool.download import Incomplete
from coresift.server.pool.failures import Cancelled
from coresift.server.pool.places import Unreachable
from coresift.server.pool.sources import Found, Loaded, MixedPools, PoolSource

Problem = Exception
VersionKey = tuple[str, str]
"""Name and version of a pool."""

START_ATTEMPTS = 3
START_PAUSE_S = 1.0
"""Before a place that does not answer is asked again at a start; doubled each time."""
LONGEST_PAUSE_S = 600.0
"""Between two attempts to load a version."""
INCOMPLETE_S = 300.0
"""After which files that are still missing are a failure, no upload under way."""


@dataclass(frozen=True)
class Look:
    """What one look at a source brought.

    Attributes:
        loaded: versions that are open and not yet served.
        failed: places that hold no pool version that can be loaded, and why.
        awaited: places whose files are not all there yet.
        present: the loaded versions that the source still has.
    """

    loaded: list[Loaded] = field(default_factory=list)
    failed: list[tuple[Found, Problem]] = field(default_factory=list)
    awaited: list[tuple[Found, Problem]] = field(default_factory=list)
    present: set[VersionKey] = field(default_factory=set)


@dataclass
class _Folder:
    """What became of one folder so far."""

    stamp: str
    since_s: float
    failures: int = 0
    due_s: float = 0.0
    version: VersionKey | None = None


class WatchedSource:
    """One source over time. Every call blocks: for one worker thread."""

    def __init__(
        self,
        source: PoolSource,
        is_served: Callable[[str, str], bool],
        stop: Event,
        pause_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``pause_s`` between two attempts to load what failed; doubled each time."""
        self.source = source
        self._is_served, self._stop = is_served, stop
        self._pause_s, self._clock = pause_s, clock
        self._folders: dict[str, _Folder] = {}
        self._open: list[Loaded] = []

    def close(self) -> None:
        """Close all that was opened."""
        while self._open:
            self._open.pop().close()

    def first(self) -> Look:
        """All that is there at a start: at least one version.

        A place that does not answer is asked some times. Versions of a root that cannot be loaded
        are left for later where there are others.

        Raises:
            StartError: the place does not answer, is not there, or has no pool that can be loaded.
            Cancelled: the server leaves.
        """
        if self.source.is_fixed():
            opened = self._kept(self.source.open_fixed())
            return Look([opened], present={_key(opened)})
        found = Look()
        pause_s = START_PAUSE_S
        for attempt in range(START_ATTEMPTS):
            unreachable = self._try_all(found)
            if unreachable is None:
                break
            if attempt == START_ATTEMPTS - 1:
                raise StartError(str(unreachable))
            if self._stop.wait(pause_s):
                raise Cancelled
            pause_s *= 2
        if not found.present:
            raise self._nothing(found)
        return found

    def _try_all(self, into: Look) -> Problem | None:
        """One look of a start; what may pass by itself, if anything does."""
        for folder in self._folders.values():
            folder.due_s = 0.0
        try:
            look = self.look()
        except FileNotFoundError:
            raise self._nothing(into) from None
        except Unreachable as problem:
            return problem
        into.loaded[:] = look.loaded
        into.present.update(look.present)
        into.failed[:], into.awaited[:] = look.failed, look.awaited
        passing = None
        for _, failure in look.failed:
            if isinstance(failure, MixedPools):
                raise failure
            if isinstance(failure, Unreachable):
                passing = failure
        return passing

    def _nothing(self, found: Look) -> StartError:
        for _, problem in [*found.failed, *found.awaited]:
            return StartError(str(problem) or repr(problem))
        return StartError(
            f"{self.source.place} does not exist or is no pool: neither a manifest.json nor "
            "folders with one are there; `coresift pool build` makes one, `coresift pool push` "
            "brings it there"
        )

    def look(self) -> Look:
        """Load what is new. Unreachable, or FileNotFoundError where the folder itself is gone.

        What an earlier look opened, and was not served since, comes again.
        """
        look = Look()
        there = self.source.look()
        paths = {found.place.path for found in there}
        self._folders = {path: kept for path, kept in self._folders.items() if path in paths}
        for found in there:
            folder = self._folder(found)
            if folder.version is None and self._clock() >= folder.due_s:
                self._try(found, folder, look)
            if folder.version is not None:
                look.present.add(folder.version)
        look.loaded.extend(each for each in self._open if not self._is_served(*_key(each)))
        return look

    def _folder(self, found: Found) -> _Folder:
        known = self._folders.get(found.place.path)
        if known is None or known.stamp != found.stamp:
            known = self._folders[found.place.path] = _Folder(found.stamp, self._clock())
        return known

    def _try(self, found: Found, folder: _Folder, look: Look) -> None:
        try:
            version = self.source.read(found)
            key = version.manifest.name, version.manifest.version
            if not self._is_served(*key) and key not in map(_key, self._open):
                self._kept(self.source.open(version))
            folder.version = key
        except FileNotFoundError:  # it has just been removed
            return
        except Incomplete as problem:
            late = self._clock() - folder.since_s > INCOMPLETE_S
            (look.failed if late else look.awaited).append((found, problem))
            if late:
                self._postpone(folder)
        except Cancelled:
            raise
        except Exception as problem:  # also what torch or a driver makes of it
            look.failed.append((found, problem))
            self._postpone(folder)

    def _postpone(self, folder: _Folder) -> None:
        pause_s = self._pause_s * 2 ** min(folder.failures, 20)
        folder.failures += 1
        folder.due_s = self._clock() + min(LONGEST_PAUSE_S, pause_s)

    def _kept(self, loaded: Loaded) -> Loaded:
        self._open.append(loaded)
        return loaded


def _key(loaded: Loaded) -> VersionKey:
    return loaded.pool.manifest.name, loaded.pool.manifest.version
