"""SHA-256 of files, whole and by blocks, so that a start can check a sample."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from coresift.server.errors import StartError
from coresift.server.pool import layout

BLOCK_BYTES = 16 * 2**20

_SAMPLED_BLOCKS = 2
"""Of each file at a start: the last one and one by chance."""


@dataclass(frozen=True)
class FileChecksum:
    """Size and hashes of one file."""

    size: int
    sha256: str
    blocks: tuple[str, ...]
    """SHA-256 of each `BLOCK_BYTES`."""


def checksum_file(path: Path, read: Callable[[int], None] | None = None) -> FileChecksum:
    """Hash a file; ``read`` is told of the bytes as they are done."""
    whole = hashlib.sha256()
    blocks = []
    size = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            whole.update(block)
            blocks.append(sha256(block))
            size += len(block)
            if read is not None:
                read(len(block))
    return FileChecksum(size, whole.hexdigest(), tuple(blocks))


def write_checksums(directory: Path, checksums: dict[str, FileChecksum]) -> None:
    """Write the block hashes of all files."""
    blocks = {name: list(checksum.blocks) for name, checksum in sorted(checksums.items())}
    (directory / layout.CHECKSUMS).write_text(json.dumps(blocks, indent=0) + "\n", "utf-8")


def read_checksums(directory: Path, files: dict[str, tuple[int, str]]) -> dict[str, FileChecksum]:
    """The checksums of all files in the manifest but the list itself. StartError if damaged."""
    path = directory / layout.CHECKSUMS
    return parse_checksums(path.read_bytes(), str(path), files)


def parse_checksums(
    data: bytes, path: str, files: dict[str, tuple[int, str]]
) -> dict[str, FileChecksum]:
    """`read_checksums` of the bytes of the list; ``path`` is what errors call it."""
    if sha256(data) != files[layout.CHECKSUMS][1]:
        raise _damaged(path)
    try:
        blocks = json.loads(data)
        found = {
            name: FileChecksum(size, digest, tuple(map(str, blocks[name])))
            for name, (size, digest) in files.items()
            if name != layout.CHECKSUMS
        }
    except (ValueError, RecursionError, KeyError, TypeError):
        raise _damaged(path) from None
    if any(len(entry.blocks) != -(-entry.size // BLOCK_BYTES) for entry in found.values()):
        raise _damaged(path)
    return found


def check_sample(directory: Path, checksums: dict[str, FileChecksum]) -> None:
    """Check small files whole and two blocks of each large one. StartError names the file."""
    for name, checksum in checksums.items():
        numbers = _sample(len(checksum.blocks))
        for number, found in _block_hashes(directory / name, numbers):
            _require_equal(directory / name, found, checksum.blocks[number])


def check_all(
    directory: Path,
    checksums: dict[str, FileChecksum],
    read: Callable[[int], None] | None = None,
) -> None:
    """Check every byte. StartError names the first damaged file."""
    for name, checksum in checksums.items():
        _require_equal(
            directory / name, checksum_file(directory / name, read).sha256, checksum.sha256
        )


def sha256(data: bytes) -> str:
    """The hash of a block, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _sample(count: int) -> Sequence[int]:
    if count <= _SAMPLED_BLOCKS:
        return range(count)
    return [random.randrange(count - 1), count - 1]  # noqa: S311 - which block is no secret


def _block_hashes(path: Path, numbers: Sequence[int]) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for number in numbers:
            file.seek(number * BLOCK_BYTES)
            yield number, sha256(file.read(BLOCK_BYTES))


def _require_equal(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise _damaged(str(path))


def _damaged(path: str) -> StartError:
    return StartError(f"{path} is damaged (checksum): restore it or build the pool again")
