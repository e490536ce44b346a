"""A directory that appears whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coresift.server.pool.failures import BuildError


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where that cannot be."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """A temporary sibling that becomes ``out`` if the block ends well, else disappears."""
    out = out.absolute()
    if out.exists() or out.is_symlink():
        raise BuildError(f"{out} exists already: name another --out or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    except OSError as problem:
        raise BuildError(f"{out} cannot be made: {problem.strerror}") from None
    try:
        yield temporary
        temporary.chmod(0o755)
        sync_files(temporary)
        temporary.rename(out)
    except OSError as problem:
        if problem.errno == errno.ENOSPC:
            raise BuildError(f"no space left beside {out}") from None
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync_files(directory: Path) -> None:
    """Make the files last a power failure before the rename shows them."""
    for path in [*directory.iterdir(), directory]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
