"""Brings the files of a pool version into a directory; nothing is believed before it is hashed.

Files are read in the blocks of the pool's own list of checksums, several at a time, so that no
file is ever in memory whole. A file that is under way has another name and keeps the blocks that
arrived well: a download that was cut off goes on there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event

from coresift.server.errors import StartError
from coresift.server.pool import checksums, layout
from coresift.server.pool.cache_space import CacheSpace
from coresift.server.pool.checksums import FileChecksum, parse_checksums, sha256
from coresift.server.pool.daemon_threads import DaemonThreads
from coresift.server.pool.directory import link_or_copy
from coresift.server.pool.failures import Cancelled
from coresift.server.pool.manifest import Manifest, parse_manifest
from coresift.server.pool.places import Place, Unreachable

AT_ONCE = 8
"""Blocks of 16 MiB that are read at the same time."""
ATTEMPTS = 4
FIRST_PAUSE_S = 0.5
"""Before a block is asked for again; doubled each time."""
UNDER_WAY = ".part"
PAGE_BYTES = 4096
"""What a file takes of the disk is a multiple of it, on most file systems."""
SPARE_BYTES = 64 * 2**20
"""Of the disk that a download leaves free."""


class Incomplete(Exception):  # noqa: N818 - a state of the place, that passes
    """The place has a manifest, but not yet all files of it."""


@dataclass(frozen=True)
class RemoteVersion:
    """A pool version in a place, as its manifest says.

    Attributes:
        document: the bytes of the manifest.
    """

    place: Place
    document: bytes
    manifest: Manifest

    @classmethod
    def at(cls, place: Place) -> RemoteVersion:
        """Reads and checks the manifest. StartError, FileNotFoundError, `Unreachable`."""
        document = place.manifest()
        return cls(place, document, parse_manifest(document, f"{place}/{layout.MANIFEST}"))

    def require_all_files(self) -> None:
        """Raises `Incomplete` where files are missing or not of their size, as far as one sees."""
        try:
            there = self.place.sizes()
        except (FileNotFoundError, Unreachable):  # plain web servers do not list
            return
        if not there:
            return
        for name, (size, _) in self.manifest.files.items():
            if name not in there:
                raise Incomplete(f"{self.place} has no {name} yet")
            if there[name] not in (None, size):
                raise Incomplete(
                    f"{self.place}/{name} has {there[name]} bytes of {size} that its manifest says"
                )


@dataclass(frozen=True)
class Download:
    """One version on its way into a directory that nobody else writes to.

    Attributes:
        donors: directories of other versions on this machine that may have files in common.
        space: of the cache that the directory lies in.
        stop: set when nobody wants it any more.
        read: told of bytes that are done.
    """

    version: RemoteVersion
    directory: Path
    donors: Sequence[tuple[Path, Manifest]]
    space: CacheSpace
    stop: Event
    read: Callable[[int], None]

    def run(self) -> None:
        """Leave the directory with every file of the version, the manifest last.

        Raises:
            Incomplete: a file is not there yet.
            Unreachable: the place went away, for longer than a few attempts.
            StartError: what is there is not what the manifest says; or no space is left.
            Cancelled: ``stop`` was set.
        """
        self.version.require_all_files()
        self._require_space()
        entries = self._block_hashes()
        with DaemonThreads(AT_ONCE, "download") as threads:
            for name, entry in sorted(entries.items()):
                if not self._have(name, entry):
                    self._fetch(name, entry, threads)
                self.read(entry.size)
        (self.directory / layout.MANIFEST).write_bytes(self.version.document)

    def _require_space(self) -> None:
        self.space.make_room(self._bytes_needed)
        needed = self._bytes_needed()
        free = shutil.disk_usage(self.directory).free
        if needed + SPARE_BYTES > free:
            raise StartError(
                f"{self.version.place} needs {needed} bytes more in {self.directory.parent}, "
                f"and {free} are free there"
            )

    def _bytes_needed(self) -> int:
        here = sum(self._bytes_here(name) for name in self.version.manifest.files)
        offered = {name: size for name, size, _ in self._offers() if not self._bytes_here(name)}
        lent = sum(map(_on_disk, offered.values()))
        whole = sum(_on_disk(size) for size, _ in self.version.manifest.files.values())
        return whole - here - lent

    def _bytes_here(self, name: str) -> int:
        for path in (self.directory / name, self.directory / (name + UNDER_WAY)):
            if path.exists():
                return path.stat().st_blocks * 512  # a file under way has holes
        return 0

    def _block_hashes(self) -> dict[str, FileChecksum]:
        files, name = self.version.manifest.files, layout.CHECKSUMS
        size, digest = files[name]
        path = self.directory / name
        data = path.read_bytes() if path.exists() else b""
        if sha256(data) != digest:
            data = self._read(name, 0, size, digest)
            path.write_bytes(data)
        return parse_checksums(data, f"{self.version.place}/{name}", files)

    def _have(self, name: str, entry: FileChecksum) -> bool:
        """Whether a file is here whole, perhaps because another version lends it."""
        path = self.directory / name
        if not path.exists():
            for offered, _, lender in self._offers():
                if offered == name:
                    link_or_copy(lender, path)
                    break
        if not path.exists():
            return False
        if path.stat().st_size == entry.size and not list(_bad_blocks(path, entry, self.stop)):
            return True
        path.unlink()
        return False

    def _offers(self) -> Iterator[tuple[str, int, Path]]:
        """Files of other versions that should be the same as ours: name, bytes, path."""
        for directory, manifest in self.donors:
            for name, facts in self.version.manifest.files.items():
                if manifest.files.get(name) == facts and (directory / name).exists():
                    yield name, facts[0], directory / name

    def _fetch(self, name: str, entry: FileChecksum, threads: Executor) -> None:
        path = self.directory / (name + UNDER_WAY)
        path.touch()
        os.truncate(path, entry.size)
        wanted = list(_bad_blocks(path, entry, self.stop, sparse=True))
        with path.open("r+b") as file:
            fetch = partial(self._fetch_block, name, entry, file.fileno())
            reads = [threads.submit(fetch, number) for number in wanted]
            try:
                for read in reads:
                    read.result()
            finally:
                for read in reads:
                    read.cancel()
                wait(reads)  # what runs still writes to the descriptor
        path.rename(self.directory / name)

    def _fetch_block(self, name: str, entry: FileChecksum, target: int, number: int) -> None:
        start = number * checksums.BLOCK_BYTES
        end = min(entry.size, start + checksums.BLOCK_BYTES)
        data = self._read(name, start, end, entry.blocks[number])
        if os.pwrite(target, data, start) != len(data):
            raise StartError(f"{self.directory} has no space left for {name}")

    def _read(self, name: str, start: int, end: int, digest: str) -> bytes:
        """Bytes that have the hash; asked for again where they do not come, or come wrong."""
        place, pause_s = self.version.place, FIRST_PAUSE_S
        for attempt in range(ATTEMPTS):
            if self.stop.is_set():
                raise Cancelled
            try:
                data = place.read(name, start, end)
            except FileNotFoundError:
                raise Incomplete(f"{place} has no {name} yet") from None
            except Unreachable:
                if attempt == ATTEMPTS - 1:
                    raise
            else:
                if sha256(data) == digest:
                    return data
            if attempt == ATTEMPTS - 1:
                break
            self.stop.wait(pause_s)
            pause_s *= 2
        raise StartError(
            f"{place}/{name} is not what its manifest says (checksum of the bytes from {start} to "
            f"{end}): push the version again"
        )


def _on_disk(size: int) -> int:
    return -(-size // PAGE_BYTES) * PAGE_BYTES


def _bad_blocks(
    path: Path, entry: FileChecksum, stop: Event, *, sparse: bool = False
) -> Iterator[int]:
    """Numbers of the blocks that are not as they should be; ``sparse``: holes are bad unread."""
    with path.open("rb") as file:
        for number, digest in enumerate(entry.blocks):
            if stop.is_set():
                raise Cancelled
            start = number * checksums.BLOCK_BYTES
            end = min(entry.size, start + checksums.BLOCK_BYTES)
            if sparse and not _has_data(file.fileno(), start, end):
                yield number
                continue
            file.seek(start)
            if sha256(file.read(end - start)) != digest:
                yield number


def _has_data(file: int, start: int, end: int) -> bool:
    try:
        return os.lseek(file, start, os.SEEK_DATA) < end
    except OSError:  # nothing but holes from there on
        return False
