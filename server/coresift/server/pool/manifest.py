"""The manifest: what a pool directory holds, checked before any other file is parsed."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from coresift.server.errors import StartError
from coresift.server.pool import layout
from coresift.server.pool.canonical import Metric

FORMAT_VERSION = 2
"""The newest that is read. Pools whose neighbour table is not exact have it; all others are
written as 1, which older releases read too."""

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
"""None leaves its directory, or is hidden."""
_VERSION = re.compile(r"[0-9a-f]{32}")

Dtype = Literal["float16", "float32"]
IndexKind = Literal["flat", "ivf"]


@dataclass(frozen=True)
class SegmentSpan:
    """The rows [first, first + items) that one build or append wrote."""

    first: int
    items: int


@dataclass(frozen=True)
class Manifest:
    """What a pool directory holds.

    ``version`` is the hexadecimal hash (32 characters) of everything that decides an answer:
    vectors, ids, metadata, metric, dtype, index, neighbours and parent, but not the name.
    """

    format_version: int
    name: str
    version: str
    parent: str | None
    lineage: tuple[str, ...]
    """Versions from the first to this one."""
    items: int
    dimension: int
    dtype: Dtype
    metric: Metric
    index: IndexKind
    clusters: int
    probes: int
    """Lists that an ivf search looks at; 0 for flat."""
    neighbours: int
    """Columns of the neighbour table; 0: no table."""
    cold_start: int
    """Rows in the cold-start list."""
    max_norm: float
    metadata_columns: tuple[str, ...]
    segments: tuple[SegmentSpan, ...]
    files: dict[str, tuple[int, str]]
    """Name to bytes and SHA-256."""
    neighbours_recall: float = 1.0
    """Share of a row's true neighbours that the table holds at least, on average; 1: exact."""

    @property
    def has_norms(self) -> bool:
        """Whether norms of the stored rows are kept: needed on read, or for l2 products."""
        return self.metric == "l2" or (self.metric == "cosine" and self.dtype == "float16")

    def expected_bytes(self) -> dict[str, int]:
        """The sizes that follow from the counts, of all files whose size does."""
        n = self.items
        width = 2 if self.dtype == "float16" else 4
        sizes = {
            layout.CENTROIDS: 4 * self.clusters * self.dimension,
            layout.CLUSTERS: 4 * n,
            layout.DISTANCES: 4 * n,
            layout.COLD_START: 4 * self.cold_start,
            layout.ID_OFFSETS: 8 * (n + 1),
            layout.ID_HASHES: 8 * n,
            layout.ID_ORDER: 4 * n,
        }
        if self.neighbours:
            sizes[layout.NEIGHBOURS] = 4 * n * self.neighbours
        for number, span in enumerate(self.segments):
            sizes[layout.stored(number)] = width * span.items * self.dimension
            if self.has_norms:
                sizes[layout.norms(number)] = 4 * span.items
            if self.index == "ivf":
                sizes[layout.slot_rows(number)] = 4 * span.items
                sizes[layout.row_slots(number)] = 4 * span.items
                sizes[layout.lists(number)] = 8 * (self.clusters + 1)
        return sizes


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest with its own checksum."""
    fields = asdict(manifest)
    if manifest.format_version == 1:
        del fields["neighbours_recall"]
    document = {**fields, "checksum": _checksum(fields)}
    (directory / layout.MANIFEST).write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def read_manifest(directory: Path) -> Manifest:
    """Read and check the manifest and the sizes of the files that it names.

    Raises:
        StartError: missing, damaged, written by a newer release, or a file is missing or has
            another size.
    """
    path = directory / layout.MANIFEST
    manifest = parse_manifest(_read(path), str(path))
    for name, (size, _) in manifest.files.items():
        _require_size(directory / name, size)
    return manifest


def parse_manifest(data: bytes, path: str) -> Manifest:
    """The manifest in the bytes of its file; ``path`` is what errors call it. StartError."""
    fields = _object(data, path)
    _require_known_format(path, fields.get("format_version"))
    checksum = fields.pop("checksum", None)
    if checksum != _checksum(fields):
        raise StartError(f"{path} is damaged (checksum): restore it or build the pool again")
    try:
        manifest = _from_fields(fields)
        _require_consistent(manifest)
    except (KeyError, TypeError, ValueError) as problem:
        raise StartError(f"{path} is not a valid manifest ({problem}): build again") from None
    return manifest


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise StartError(
            f"{path} does not exist: {path.parent} is no pool; make one with `coresift pool build`"
        ) from None
    except OSError as problem:
        raise StartError(f"{path} cannot be read: {problem.strerror}") from None


def _object(data: bytes, path: str) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        raise StartError(f"{path} is damaged (no JSON): restore it or build again") from None
    if not isinstance(fields, dict):
        raise StartError(f"{path} is damaged (no JSON object): restore it or build again")
    return fields


def _require_known_format(path: str, version: object) -> None:
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise StartError(
            f"{path} has format {version}, this release reads up to {FORMAT_VERSION}: "
            "update Coresift"
        )


def _require_consistent(manifest: Manifest) -> None:
    _require_known_words(manifest)
    _require_whole_segments(manifest)
    for name, (size, _) in manifest.files.items():
        if not _FILE_NAME.fullmatch(name) or name == layout.MANIFEST:
            raise ValueError("a file outside the directory")
        if size < 0:
            raise ValueError(f"{name} of {size} bytes")
    expected = manifest.expected_bytes()
    needed = {*expected, layout.ID_DATA, layout.CHECKSUMS}
    if manifest.metadata_columns:
        needed.add(layout.METADATA)
    for name in sorted(needed):
        size = manifest.files[name][0]
        if size != expected.get(name, size):
            raise ValueError(f"{name} of {size} bytes, {expected[name]} follow from the counts")


def _require_known_words(manifest: Manifest) -> None:
    if manifest.format_version < 1:
        raise ValueError(f"format {manifest.format_version}")
    if manifest.dtype not in get_args(Dtype) or manifest.metric not in get_args(Metric):
        raise ValueError(f"dtype {manifest.dtype}, metric {manifest.metric}")
    if manifest.index not in get_args(IndexKind):
        raise ValueError(f"index {manifest.index}")
    if not 0 < manifest.neighbours_recall <= 1:
        raise ValueError(f"neighbours_recall {manifest.neighbours_recall}")
    if manifest.items < 1 or manifest.dimension < 1 or manifest.clusters < 1:
        raise ValueError("a count below 1")
    if not (math.isfinite(manifest.max_norm) and manifest.max_norm > 0):
        raise ValueError(f"max_norm {manifest.max_norm}")
    if not str.isprintable(manifest.name) or not 1 <= len(manifest.name.encode()) <= 128:
        raise ValueError("a name that is none")
    if not _VERSION.fullmatch(manifest.version):
        raise ValueError("a version that is no hash")
    if not manifest.lineage or manifest.lineage[-1] != manifest.version:
        raise ValueError("lineage does not end with the version")


def _require_whole_segments(manifest: Manifest) -> None:
    end = 0
    for span in manifest.segments:
        if span.first != end or span.items < 1:
            raise ValueError("segments with gaps")
        end += span.items
    if end != manifest.items:
        raise ValueError(f"segments hold {end} items, not {manifest.items}")


def _require_size(path: Path, size: int) -> None:
    try:
        found = path.stat().st_size
    except OSError:
        raise StartError(f"{path} is missing: restore it or build the pool again") from None
    if found != size:
        raise StartError(
            f"{path} has {found} bytes, the manifest says {size}: restore it or build again"
        )


def _from_fields(fields: dict[str, Any]) -> Manifest:
    spans = tuple(SegmentSpan(int(s["first"]), int(s["items"])) for s in fields["segments"])
    files = {
        str(name): (int(size), str(digest)) for name, (size, digest) in fields["files"].items()
    }
    rest = {name: value for name, value in fields.items() if name not in {"segments", "files"}}
    rest["lineage"] = tuple(rest["lineage"])
    rest["metadata_columns"] = tuple(rest["metadata_columns"])
    return Manifest(segments=spans, files=files, **rest)


def _checksum(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
