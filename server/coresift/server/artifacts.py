"""Immutable content-addressed files (signals, core-sets) on any file system that fsspec knows.

Files stay until they are removed by hand: several records may name one content, and training jobs
read the files by URI long after the records have ended. A file's time of writing is its own; to
tidy up, remove old files of ``coresets``, which no session ever reads, and of ``signals`` those
whose hash no signal has (`ListSignals`) and no session reads. Only those of ``views``, a cache
that one session alone names, are removed when they are superseded.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from coresift.server.errors import CoresiftError, Reason, StartError

_CONTENT_HASH = re.compile(r"[0-9a-f]{64}")


def is_content_hash(text: object) -> bool:
    """Whether something can be the name of a file's content; anything else may name any path."""
    return isinstance(text, str) and _CONTENT_HASH.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Artifact:
    """A stored file: its URI and the SHA-256 of its bytes, hexadecimal."""

    uri: str
    content_hash: str


class Artifacts:
    """A root folder, local or in an object store, that all replicas share."""

    def __init__(self, root: str) -> None:
        try:
            self._files, self._root = fsspec.core.url_to_fs(root)
            self._files.makedirs(self._root, exist_ok=True)
        except (OSError, ValueError, ImportError) as error:
            raise StartError(f"cannot use the artifact root {root}: {error}") from error

    def put(self, kind: str, table: pa.Table) -> Artifact:
        """Store a table as Parquet under its content's hash; storing it again does nothing.

        One build writes the same bytes for the same table.
        """
        data = _parquet(table)
        content_hash = sha256(data).hexdigest()
        path = self._path(kind, content_hash)
        if not self._files.exists(path):
            self._files.makedirs(f"{self._root}/{kind}", exist_ok=True)
            # Written aside and moved, so that nobody ever reads half a file.
            partial = f"{path}.{secrets.token_hex(8)}.partial"
            try:
                self._files.pipe_file(partial, data)
                self._files.mv(partial, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    self._files.rm_file(partial)
                raise
        return Artifact(self._files.unstrip_protocol(path), content_hash)

    def get(self, kind: str, content_hash: str) -> pa.Table:
        """Read a stored table; the bytes are checked against the hash first.

        Raises:
            CoresiftError: ARTIFACT_MISSING for a file that is gone, damaged or out of reach.
        """
        try:
            data: Any = self._files.cat_file(self._path(kind, content_hash))
        except OSError as error:  # its text names paths of this machine
            raise _missing(kind, content_hash, error.strerror or "it is not there") from error
        if sha256(data).hexdigest() != content_hash:
            raise _missing(kind, content_hash, "its bytes do not have the hash that it is named by")
        return pq.read_table(pa.BufferReader(data))

    def remove(self, kind: str, content_hash: str) -> None:
        """Remove a stored table; nothing where it is gone."""
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._path(kind, content_hash))

    def _path(self, kind: str, content_hash: str) -> str:
        if not is_content_hash(content_hash):
            raise FileNotFoundError("no file has such a name")
        return f"{self._root}/{kind}/{content_hash}.parquet"


def _missing(kind: str, content_hash: str, why: str) -> CoresiftError:
    return CoresiftError(
        Reason.ARTIFACT_MISSING,
        f"the file {kind}/{content_hash[:64]}.parquet cannot be read from the artifact root: {why}",
        content_hash=content_hash[:64],
    )


def _parquet(table: pa.Table) -> bytes:
    """A table as a Parquet file, plain: columns of ids and numbers are read whole.

    For a million ids with a rank and a score zstd and dictionaries halve the file and take ten
    times as long to read (measured).
    """
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="none", use_dictionary=False, write_statistics=False)
    return sink.getvalue().to_pybytes()
