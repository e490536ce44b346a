"""Pool versions of object stores, on the local disk: ``<root>/<pool>/<version>``.

A version is downloaded into ``.<version>.partial`` and renamed when all of it has been verified.
Processes that share a cache, also of several machines on one volume, wait for the one that
downloads. A file that was written to since, or a manifest that is another one, puts the version
aside: it is brought again, and what of it is whole is used for that.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from urllib.parse import quote

from coresift.server.errors import StartError
from coresift.server.pool import layout
from coresift.server.pool.cache_space import CacheSpace, last_used, remove
from coresift.server.pool.checksums import check_sample, read_checksums
from coresift.server.pool.directory import sync_files
from coresift.server.pool.directory_lock import LOCK, DirectoryLock
from coresift.server.pool.download import Download, RemoteVersion
from coresift.server.pool.failures import Cancelled
from coresift.server.pool.manifest import Manifest, parse_manifest, read_manifest

SPARES = 1
"""Versions of a pool that nobody uses and that are kept all the same: the way back is short."""
ROUNDS = 3
"""Downloads of a version after which it must be whole."""
_LONGEST_NAME = 200


@dataclass(frozen=True)
class Held:
    """A verified version in the cache; nobody removes it until it is let go."""

    directory: Path
    lock: DirectoryLock

    def release(self) -> None:
        """Let it go: the pool must be closed."""
        self.lock.release()


class Cache:
    """A folder of downloaded pool versions. Every call blocks."""

    def __init__(self, root: Path, most_bytes: int | None = None) -> None:
        """``most_bytes`` of all that lies in it; None: only the disk bounds it."""
        self._root, self._space = root, CacheSpace(root, most_bytes)

    def hold(
        self, version: RemoteVersion, stop: Event, read: Callable[[int], None] = lambda _: None
    ) -> Held:
        """The directory of a version, verified; it is downloaded where it is not there.

        Raises:
            Incomplete, Unreachable, StartError, Cancelled: as `Download.run`.
        """
        folder = self._folder(version.manifest.name)
        directory = folder / version.manifest.version
        for _ in range(ROUNDS):
            if stop.is_set():
                raise Cancelled
            if not directory.exists():
                self._bring(folder, directory, version, stop, read)
            held = self._share(directory, version, stop)
            if held is not None:
                return held
        for aside in folder.glob(f"{directory.name}.aside-*"):
            remove(aside)
        raise StartError(
            f"{directory} does not stay as it was downloaded: something writes to it, or the disk "
            "is at fault"
        )

    def _share(self, directory: Path, version: RemoteVersion, stop: Event) -> Held | None:
        """The version as it lies there, or None after it was put aside or went away."""
        try:
            lock = DirectoryLock(directory)
        except FileNotFoundError:
            return None
        try:
            if lock.acquire(alone=False, stop=stop):
                if _is_whole(directory, version):
                    (directory / LOCK).touch()
                    return Held(directory, lock)
                if lock.is_of(directory):
                    _put_aside(directory)
        except BaseException:
            lock.release()
            raise
        lock.release()
        return None

    def _bring(
        self,
        folder: Path,
        directory: Path,
        version: RemoteVersion,
        stop: Event,
        read: Callable[[int], None],
    ) -> None:
        partial = folder / f".{directory.name}.partial"
        try:
            partial.mkdir(parents=True, exist_ok=True)
            lock = DirectoryLock(partial)
        except FileNotFoundError:  # it has just been finished
            return
        except OSError as problem:
            raise StartError(f"{partial} cannot be made: {problem.strerror}") from None
        try:
            if not lock.acquire(alone=True, stop=stop) or directory.exists():
                return
            donors = list(_versions(folder))
            Download(version, partial, donors, self._space, stop, read).run()
            sync_files(partial)
            with contextlib.suppress(FileNotFoundError):
                partial.rename(directory)
        finally:
            lock.release()

    def evict(self, pool: str, keep: set[str]) -> list[str]:
        """Remove what nobody uses: all versions but those of ``keep``, those that any process
        holds, and the `SPARES` that were used last. Returns the names of what went."""
        folder = self._folder(pool)
        if not folder.exists():
            return []
        keep = keep | {f".{version}.partial" for version in keep}
        free = [path for path in folder.iterdir() if path.is_dir() and path.name not in keep]
        free.sort(key=last_used, reverse=True)
        spares = [path for path in free if "." not in path.name][:SPARES]
        return [path.name for path in free if path not in spares and remove(path)]

    def _folder(self, pool: str) -> Path:
        name = quote(pool, safe="")
        if name.startswith("."):
            name = "%2E" + name[1:]
        if len(name) > _LONGEST_NAME:
            name = hashlib.sha256(pool.encode()).hexdigest()
        return self._root / name


def _is_whole(directory: Path, version: RemoteVersion) -> bool:
    """Whether the directory holds this very version, untouched since it was verified.

    The manifest was written last: a file that is younger has been written to. Large files are
    sampled besides, as at every start.
    """
    try:
        if (directory / layout.MANIFEST).read_bytes() != version.document:
            return False
        manifest = read_manifest(directory)
        verified = (directory / layout.MANIFEST).stat().st_mtime_ns
        if any((directory / name).stat().st_mtime_ns > verified for name in manifest.files):
            return False
        check_sample(directory, read_checksums(directory, manifest.files))
    except (StartError, OSError):
        return False
    return True


def _put_aside(directory: Path) -> None:
    """Free the name; who has the files mapped keeps them, and the next download uses what is
    whole."""
    with contextlib.suppress(FileNotFoundError):
        directory.rename(directory.with_name(f"{directory.name}.aside-{secrets.token_hex(4)}"))


def _versions(folder: Path) -> Iterator[tuple[Path, Manifest]]:
    """The versions of a pool that were whole once, with what their manifests say."""
    for path in folder.iterdir():
        if not path.name.startswith("."):
            with contextlib.suppress(StartError, OSError):
                document = (path / layout.MANIFEST).read_bytes()
                yield path, parse_manifest(document, str(path))
