"""Files that are replaced while the server runs: certificates, access tokens."""

from __future__ import annotations

from pathlib import Path

Version = tuple[tuple[int, int, int] | None, ...]


def version_of(*paths: Path) -> Version:
    """What changes with the content of files, without reading them; None for one that is missing.

    Links are followed: a mounted Kubernetes secret changes by one link that is swapped.
    """
    return tuple(map(_version, paths))


def _version(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
