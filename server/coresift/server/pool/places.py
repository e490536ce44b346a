"""Folders with pools, local or in an object store: whatever fsspec reaches.

An object store has no directories that appear at once: a folder is a pool version as soon as it
has a manifest, which is therefore written last.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec

from coresift.server.errors import StartError
from coresift.server.pool import layout

T = TypeVar("T")

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""Extras of this package that bring the driver of a scheme."""
STAMPED = (
    *("ETag", "etag", "LastModified", "Last-Modified"),
    *("updated", "created", "mtime", "ino", "size"),
)
"""Facts of a file that change with its content, as the drivers call them."""
MANIFEST_BYTES = 16 * 2**20
"""No manifest is larger."""


class Unreachable(Exception):  # noqa: N818 - a state of the place, that may pass
    """A place does not answer as it should: down, forbidden, or cut off in the middle."""


@dataclass(frozen=True)
class Place:
    """A folder. Every call blocks, may be made from any thread, and raises `Unreachable`, or
    FileNotFoundError for what is not there."""

    files: Any
    path: str

    @classmethod
    def at(cls, uri: str) -> Place:
        """The folder of a URI or a local path. StartError for a scheme that nothing speaks."""
        if "://" not in uri:  # a path may hold what else would be a chain of drivers
            return cls(fsspec.filesystem("file"), os.path.abspath(uri))
        try:
            # Listings that are kept would hide what is new.
            files, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
        except (ImportError, ValueError) as problem:
            scheme = urlsplit(uri).scheme
            extra = EXTRAS.get(scheme)
            hint = f": install coresift[{extra}]" if extra else f" ({problem})"
            raise StartError(f"{shown(uri)} needs a driver that is not here{hint}") from None
        except Exception as problem:  # whatever a driver makes of its own settings
            raise StartError(f"{shown(uri)} cannot be used: {_text(problem)}") from None
        return cls(files, path.rstrip("/") or "/")

    @property
    def local(self) -> Path | None:
        """The directory, where it is one of this machine."""
        protocols = self.files.protocol
        is_local = "file" in ((protocols,) if isinstance(protocols, str) else protocols)
        return Path(self.path) if is_local else None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    def __str__(self) -> str:
        return self.path if self.local else shown(self.files.unstrip_protocol(self.path))

    def below(self, name: str) -> Place:
        """A folder in this one."""
        return Place(self.files, f"{self.path}/{name}")

    def stamp(self, name: str) -> str | None:
        """What changes with a file's content, without reading it; None where it is not there."""
        try:
            facts = self._ask(lambda: self.files.info(f"{self.path}/{name}"))
        except FileNotFoundError:
            return None
        return repr([facts.get(key) for key in STAMPED])

    def folders(self) -> list[Place]:
        """The folders in this one, by name; hidden ones are not seen."""
        entries = self._ask(lambda: self.files.ls(self.path, detail=True))
        paths = sorted(str(e["name"]).rstrip("/") for e in entries if e["type"] != "file")
        found = [Place(self.files, path) for path in paths if path != self.path]
        return [place for place in found if not place.name.startswith(".")]

    def sizes(self) -> dict[str, int | None]:
        """Bytes of the files in this folder; None where the store does not say."""
        entries = self._ask(lambda: self.files.ls(self.path, detail=True))
        return {
            str(entry["name"]).rpartition("/")[2]: entry.get("size")
            for entry in entries
            if entry["type"] == "file"
        }

    def manifest(self) -> bytes:
        """The bytes of the manifest, to be checked."""
        path = f"{self.path}/{layout.MANIFEST}"
        size = self._ask(lambda: self.files.info(path))["size"]
        if size is None:  # a web server that streams it
            document = self._ask(lambda: self._beginning(path, MANIFEST_BYTES + 1))
            if len(document) <= MANIFEST_BYTES:
                return document
        elif size <= MANIFEST_BYTES:
            return bytes(self._ask(lambda: self.files.cat_file(path)))
        has = f"more than {MANIFEST_BYTES}" if size is None else size
        raise StartError(f"{self}/{layout.MANIFEST} has {has} bytes: it is no manifest")

    def _beginning(self, path: str, most: int) -> bytes:
        found = bytearray()
        with self.files.open(path, "rb") as file:
            while len(found) < most and (piece := file.read(most - len(found))):
                found += piece
        return bytes(found)

    def read(self, name: str, start: int, end: int) -> bytes:
        """The bytes [start, end) of a file, which must have them."""
        path = f"{self.path}/{name}"
        return bytes(self._ask(lambda: self.files.cat_file(path, start=start, end=end)))

    def write(self, name: str, source: Path) -> None:
        """Copy a local file here, in parts where it is large."""
        if self.local is not None:
            self.local.mkdir(parents=True, exist_ok=True)
        self._ask(lambda: self.files.put_file(str(source), f"{self.path}/{name}"))

    def _ask(self, call: Callable[[], T]) -> T:
        try:
            self.files.invalidate_cache()
            return call()
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(f"{self} is not there") from None
        except Exception as problem:  # each driver has its own: botocore, aiohttp, google
            raise Unreachable(f"{self} cannot be reached: {_text(problem)}") from problem


def shown(uri: str) -> str:
    """A URI without what may be secret in it: user, password, query."""
    parts = urlsplit(uri)
    if not parts.scheme:
        return uri
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _text(problem: BaseException) -> str:
    return " ".join(str(problem).split())[:300] or type(problem).__name__
