"""What one ``--pool`` names: a pool version, or a root folder of which every child is one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from coresift.server.errors import StartError
from coresift.server.pool import layout
from coresift.server.pool.cache import Cache, Held
from coresift.server.pool.device import require_room
from coresift.server.pool.download import RemoteVersion
from coresift.server.pool.manifest import Manifest
from coresift.server.pool.places import Place
from coresift.server.pool.pool import Pool


class MixedPools(StartError):  # noqa: N818 - a state of the place
    """A root holds versions of more than one pool."""


@dataclass(frozen=True)
class Found:
    """A folder with a manifest.

    Attributes:
        stamp: changes with the manifest.
    """

    place: Place
    stamp: str


@dataclass(frozen=True)
class Loaded:
    """An open pool version, and its place in the cache where it has one."""

    pool: Pool
    held: Held | None
    seconds: float

    def close(self) -> None:
        """Close the pool; then its files may go."""
        self.pool.close()
        if self.held is not None:
            self.held.release()


class PoolSource:
    """One ``--pool``. Every call blocks: for worker threads.

    Attributes:
        place: the folder that it names.
        name: of the pool; None until a version of it is known. A source has one pool.
    """

    def __init__(self, uri: str | Path, cache: Cache, device: str, stop: Event) -> None:
        self.place = Place.at(str(uri))
        self.name: str | None = None
        self._cache, self._device, self._stop = cache, device, stop

    @property
    def is_cached(self) -> bool:
        """Whether its versions are downloaded."""
        return self.place.local is None

    def is_fixed(self) -> bool:
        """Whether it is one directory of this machine, which never changes."""
        local = self.place.local
        return local is not None and (local / layout.MANIFEST).exists()

    def look(self) -> list[Found]:
        """What is there now, by path: cheap, without reading a file.

        Raises:
            Unreachable, or FileNotFoundError where there is no such folder.
        """
        stamp = self.place.stamp(layout.MANIFEST)
        if stamp is not None:
            return [Found(self.place, stamp)]
        stamps = ((child, child.stamp(layout.MANIFEST)) for child in self.place.folders())
        return [Found(child, stamp) for child, stamp in stamps if stamp is not None]

    def read(self, found: Found) -> RemoteVersion:
        """The manifest of what was found. StartError, FileNotFoundError, `Unreachable`."""
        version = RemoteVersion.at(found.place)
        name = version.manifest.name
        if self.name not in (None, name):
            raise MixedPools(
                f"{found.place} holds pool {name!r}, and {self.place} is one of {self.name!r}: "
                "give each pool a root of its own"
            )
        self.name = name
        return version

    def open(self, version: RemoteVersion) -> Loaded:
        """Open a version, downloaded first where it is not of this machine.

        Raises:
            Incomplete, Unreachable, StartError, Cancelled.
        """
        began = time.perf_counter()
        require_room(_vector_bytes(version.manifest), self._device)
        if (local := version.place.local) is not None:
            version.require_all_files()
            held, directory = None, local
        else:
            held = self._cache.hold(version, self._stop)
            directory = held.directory
        try:
            pool = Pool.open(directory, device=self._device)
        except BaseException:
            if held is not None:
                held.release()
            raise
        return Loaded(pool, held, time.perf_counter() - began)

    def open_fixed(self) -> Loaded:
        """Open the one directory. StartError."""
        began = time.perf_counter()
        pool = Pool.open(self.place.path, device=self._device)
        self.name = pool.manifest.name
        return Loaded(pool, None, time.perf_counter() - began)


def _vector_bytes(manifest: Manifest) -> int:
    return sum(
        manifest.files[name][0]
        for number in range(len(manifest.segments))
        for name in (layout.stored(number), layout.norms(number))
        if name in manifest.files
    )
