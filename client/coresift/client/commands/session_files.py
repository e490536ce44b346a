"""`coresift export --all`: every session as a file of its own, in a folder or a bucket."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote

from coresift.client.calls.session import Session
from coresift.client.client import Client
from coresift.client.commands.shared import wrong
from coresift.client.errors import CoresiftError, NotFound, Unavailable

SUFFIX = ".coresift"
OBJECT_STORES = frozenset(["s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss"])
"""Schemes of places where an object is there as a whole or not at all, and has no other name."""
SILENCES = 3
"""After so many sessions in a row for which no server answered the rest is not tried."""
_FILE = re.compile(r"(.+)-(\d{8}T\d{6}Z)-r(\d+)-c(\d+)\.coresift")


class Folder(Protocol):
    """Where the files go."""

    def names(self) -> list[str]:
        """Of the files that are there."""

    def write(self, name: str, export: Callable[[Path], int]) -> int:
        """Have ``export`` write a file, which gets its name once it is whole; its size."""

    def file(self, name: str) -> AbstractContextManager[Path]:
        """A file of this machine with what is there under the name, as long as it is open."""

    def remove(self, name: str) -> None:
        """Remove a file."""


@dataclass
class Exports:
    """What became of the sessions, by id, and the files that made place."""

    exported: dict[str, str] = field(default_factory=dict)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    size: int = 0
    """Bytes written."""


def folder_at(out: str) -> Folder:
    """A directory, made if it is not there, or an fsspec URI. Raises Failure, OSError."""
    scheme, found, rest = out.partition("://")
    if not found:
        return LocalFolder(Path(out))
    return LocalFolder(Path(rest)) if scheme == "file" else RemoteFolder(out)


def file_name(session: Session) -> str:
    """What tells the file of a session from those of its other states.

    A session that was deleted and made anew starts again at revision 0: it has another time.
    """
    made = session.create_time.strftime("%Y%m%dT%H%M%SZ")
    basis = session.basis
    state = f"{made}-r{basis.revision}-c{basis.config_version}"
    return f"{quote(session.session_id, safe='')}-{state}{SUFFIX}"


def export_sessions(
    client: Client, folder: Folder, *, again: bool = False, keep: int | None = None
) -> Exports:
    """Export every session that the caller sees and whose file is not there yet.

    Args:
        again: also those whose file is there.
        keep: files of a session that stay, the newest ones; None: all.
    """
    done, silences = Exports(), 0
    sessions = list(client.list_sessions(page_size=1000))
    there = set(folder.names())
    for session in sessions:
        name, session_id = file_name(session), session.session_id
        if name in there and not again:
            done.unchanged.append(session_id)
            continue
        if silences == SILENCES:
            done.failed[session_id] = "not tried: no server answers"
            continue
        try:
            done.size += folder.write(name, lambda path, s=session: client.export_session(s, path))  # type: ignore[misc]
        except NotFound:  # it was deleted meanwhile
            continue
        except (CoresiftError, OSError) as error:
            is_silence = isinstance(error, Unavailable) and error.reason is None
            silences = silences + 1 if is_silence else 0
            done.failed[session_id] = str(error)
            continue
        silences = 0
        there.add(name)
        done.exported[session_id] = name
        if keep is not None:
            _thin_out(folder, session_id, there, keep, done)
    return done


def _thin_out(
    folder: Folder, session_id: str, there: Iterable[str], keep: int, done: Exports
) -> None:
    """Remove the older files of a session that was just exported."""
    for name in older_files(session_id, there)[keep:]:
        try:
            folder.remove(name)
        except OSError as error:
            done.failed[session_id] = f"{name} stays: {error}"
        else:
            done.removed.append(name)


def older_files(session_id: str, names: Iterable[str]) -> list[str]:
    """The files of a session, the newest first."""
    own = []
    for name in names:
        match = _FILE.fullmatch(name)
        if match and unquote(match[1]) == session_id:
            own.append((match[2], int(match[3]), int(match[4]), name))
    return [name for *_, name in sorted(own, reverse=True)]


def newest_files(names: Iterable[str]) -> dict[str, str]:
    """The newest file of each session, by the session's id."""
    there = list(names)
    matches = (_FILE.fullmatch(name) for name in there)
    sessions = sorted({unquote(match[1]) for match in matches if match})
    return {session_id: older_files(session_id, there)[0] for session_id in sessions}


class LocalFolder:
    """A directory of this machine."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._path = path

    def names(self) -> list[str]:
        """Of the files that are there."""
        return os.listdir(self._path)

    def write(self, name: str, export: Callable[[Path], int]) -> int:
        """Let it write here: it renames the file itself once it is whole."""
        return export(self._path / name)

    def file(self, name: str) -> AbstractContextManager[Path]:
        """Where it is."""
        return nullcontext(self._path / name)

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self._path / name).unlink()


@contextmanager
def _driven() -> Iterator[None]:
    """Turn what a place's driver raises into OSError: botocore's errors, for one, are none."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


class RemoteFolder:
    """A place that fsspec reaches. Its methods raise OSError, whatever its driver raises.

    Raises Failure: fsspec, or what it needs there, is missing. OSError: it cannot be reached.
    """

    def __init__(self, uri: str) -> None:
        try:
            import fsspec

            self._files: Any
            self._files, self._root = fsspec.core.url_to_fs(uri)
        except ImportError as error:
            raise wrong(f"{uri} needs more: pip install 'coresift[remote]' ({error})") from error
        except ValueError as error:
            raise wrong(f"{uri}: {error}") from error
        with _driven():
            self._files.makedirs(self._root, exist_ok=True)
        self._is_object_store = uri.partition("://")[0] in OBJECT_STORES

    def names(self) -> list[str]:
        """Of the files that are there, asked anew."""
        with _driven():
            self._files.invalidate_cache()
            paths = self._files.ls(self._root, detail=False)
        return [str(path).rpartition("/")[2] for path in paths]

    def write(self, name: str, export: Callable[[Path], int]) -> int:
        """Export to this machine first: an export that breaks off begins again."""
        target = f"{self._root}/{name}"
        with tempfile.TemporaryDirectory(prefix="coresift-") as own:
            path = Path(own) / "session"
            size = export(path)
            with _driven():
                self._put(path, target)
        return size

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """A copy, which is gone afterwards."""
        with tempfile.TemporaryDirectory(prefix="coresift-") as own:
            path = Path(own) / "session"
            with _driven():
                self._files.get_file(f"{self._root}/{name}", str(path))
            yield path

    def _put(self, path: Path, target: str) -> None:
        if self._is_object_store:
            self._files.put_file(str(path), target)
            return
        partial = f"{target}.{secrets.token_hex(4)}.partial"
        try:
            self._files.put_file(str(path), partial)
            self._files.mv(partial, target)
        except BaseException:
            with suppress(Exception):  # what failed first is what matters
                self._files.rm_file(partial)
            raise

    def remove(self, name: str) -> None:
        """Remove a file."""
        with _driven():
            self._files.rm_file(f"{self._root}/{name}")
