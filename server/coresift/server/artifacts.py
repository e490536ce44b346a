"""Immutable content-addressed files (signals, core-sets) on any file system that fsspec knows."""

from __future__ import annotations

import io
import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from coresift.server.errors import StartError


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
        """Store a table as Parquet under its content's hash; storing it again does nothing."""
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        data = buffer.getvalue()
        content_hash = sha256(data).hexdigest()
        folder = f"{self._root}/{kind}"
        path = f"{folder}/{content_hash}.parquet"
        if not self._files.exists(path):
            self._files.makedirs(folder, exist_ok=True)
            # Written aside and moved, so that nobody ever reads half a file.
            partial = f"{path}.{secrets.token_hex(8)}.partial"
            self._files.pipe_file(partial, data)
            self._files.mv(partial, path)
        return Artifact(self._files.unstrip_protocol(path), content_hash)

    def get(self, kind: str, content_hash: str) -> pa.Table:
        """Read a stored table; the bytes are checked against the hash first."""
        data: Any = self._files.cat_file(f"{self._root}/{kind}/{content_hash}.parquet")
        if sha256(data).hexdigest() != content_hash:
            raise OSError(f"artifact {kind}/{content_hash} is damaged")
        return pq.read_table(io.BytesIO(data))
