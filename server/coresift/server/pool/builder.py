"""Makes pool directories: a first version from embeddings, or the next from new ones.

Everything is written into a temporary directory beside the target and renamed at the end, so
that a crash leaves no half pool. The neighbour table, which may take hours, is made in a directory
of its own, where a build that was killed finds it again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from coresift.server.pool import layout
from coresift.server.pool.canonical import Metric
from coresift.server.pool.checksums import FileChecksum, checksum_file, write_checksums
from coresift.server.pool.directory import link_or_copy, new_directory
from coresift.server.pool.failures import BuildError
from coresift.server.pool.finish import finish
from coresift.server.pool.ids import write_ids
from coresift.server.pool.input_files import InputFiles, Items, read_items
from coresift.server.pool.manifest import (
    Dtype,
    IndexKind,
    Manifest,
    SegmentSpan,
    write_manifest,
)
from coresift.server.pool.metadata import joined, write_metadata
from coresift.server.pool.pool import Pool
from coresift.server.pool.progress import Counter, Progress, silent
from coresift.server.pool.strings import joined_strings
from coresift.server.pool.vectors import blocks
from coresift.server.pool.writer import write_vectors

FLAT_ITEMS = 2_000_000
"""Largest pool that ``auto`` searches exactly."""

MAX_NEIGHBOURS = 1000

_WRITE_ROWS = 16_384
_SPOOL = "spool"


@dataclass(frozen=True)
class BuildOptions:
    """A first version of a pool."""

    files: InputFiles
    out: Path
    """Must not exist."""
    name: str | None = None
    """None: the last part of ``out``."""
    metric: Metric = "cosine"
    index: Literal["auto", "flat", "ivf"] = "auto"
    neighbours: int = 0
    """Columns of the neighbour table, 0..1000; 0: none."""
    neighbours_recall: float = 1.0
    """Share of the true neighbours that the table must hold, in (0, 1]; 1: all, which takes the
    square of the items in time."""
    dtype: Dtype | None = None
    """None: the input's."""
    device: str = "cpu"
    """Where a neighbour table is computed, as in `Pool.open`: it is the same everywhere."""


@dataclass(frozen=True)
class AppendOptions:
    """The next version of a pool; metric, dtype, index kind and clusters stay the parent's."""

    parent: Path
    files: InputFiles
    out: Path
    """Must not exist."""
    device: str = "cpu"
    """Where the neighbour table is computed."""


def build_pool(options: BuildOptions, progress: Progress | None = None) -> Manifest:
    """Build a pool directory.

    Raises:
        BuildError: bad input, naming the first offenders; nothing is left behind.
        StartError: there is no such device, or it has no room.
    """
    report = progress or silent
    if not 0 <= options.neighbours <= MAX_NEIGHBOURS:
        raise BuildError(f"neighbours must be 0..{MAX_NEIGHBOURS}, not {options.neighbours}")
    if not 0 < options.neighbours_recall <= 1:
        raise BuildError(f"neighbours_recall must be in (0, 1], not {options.neighbours_recall}")
    recall = options.neighbours_recall if options.neighbours else 1.0
    name = _checked_name(options.name or options.out.name)
    partial = _partial(options.out)
    with new_directory(options.out) as directory:
        items = read_items(options.files, directory / _SPOOL, options.dtype)
        dtype: Dtype = options.dtype or (
            "float16" if items.array.dtype == np.float16 else "float32"
        )
        index: IndexKind = "ivf" if len(items.ids) > FLAT_ITEMS else "flat"
        if options.index != "auto":
            index = options.index
        if options.neighbours >= len(items.ids):
            raise BuildError(f"{len(items.ids)} items have no {options.neighbours} neighbours")
        draft = Manifest(
            format_version=1 if recall == 1 else 2,
            name=name,
            version="",
            parent=None,
            lineage=(),
            items=0,
            dimension=int(items.array.shape[1]),
            dtype=dtype,
            metric=options.metric,
            index=index,
            clusters=0,
            probes=0,
            neighbours=options.neighbours,
            cold_start=0,
            max_norm=0.0,
            metadata_columns=(),
            segments=(),
            files={},
            neighbours_recall=recall,
        )
        manifest = _complete(
            directory,
            draft,
            items,
            items.ids,
            items.metadata,
            None,
            partial,
            options.device,
            report,
        )
    shutil.rmtree(partial, ignore_errors=True)
    return manifest


def append_pool(options: AppendOptions, progress: Progress | None = None) -> Manifest:
    """Build the next version of a pool: its rows keep their numbers, new ones follow.

    Raises:
        BuildError: bad input, or ids that the parent has.
        StartError: the parent is missing or damaged, there is no such device, or it has no room.
    """
    report = progress or silent
    parent, partial = Pool.open(options.parent), _partial(options.out)
    try:
        with new_directory(options.out) as directory:
            old = parent.manifest
            items = read_items(options.files, directory / _SPOOL, old.dtype)
            if items.array.shape[1] != old.dimension:
                raise BuildError(
                    f"{options.files.embeddings} has dimension {items.array.shape[1]}, "
                    f"the pool {old.dimension}"
                )
            _require_new(items.ids, parent)
            for name in parent.segment_files():
                link_or_copy(options.parent / name, directory / name)
            draft = replace(old, parent=old.version)
            ids = joined_strings([parent.ids.strings, items.ids])
            table = joined(parent.metadata_table, old.items, items.metadata, len(items.ids))
            manifest = _complete(
                directory, draft, items, ids, table, parent, partial, options.device, report
            )
        shutil.rmtree(partial, ignore_errors=True)
        return manifest
    finally:
        parent.close()


def _complete(
    directory: Path,
    draft: Manifest,
    items: Items,
    ids: pa.LargeStringArray,
    metadata: pa.Table | None,
    parent: Pool | None,
    partial: Path,
    device: str,
    report: Progress,
) -> Manifest:
    """Write the new segment and all that follows from it, the manifest last."""
    number = len(draft.segments)
    counter = Counter(report, "vectors", len(items.ids))
    written = write_vectors(
        directory,
        number,
        blocks(items.array, items.selection, _WRITE_ROWS),
        items.ids,
        metric=draft.metric,
        dtype=draft.dtype,
        with_norms=draft.has_norms,
        done=counter.add,
    )
    (directory / _SPOOL).unlink(missing_ok=True)
    span = SegmentSpan(len(ids) - len(items.ids), written.items)
    draft = replace(
        draft,
        items=len(ids),
        max_norm=max(draft.max_norm, written.max_norm),
        metadata_columns=() if metadata is None else tuple(metadata.column_names),
        segments=(*draft.segments, span),
    )
    content = checksum_file(directory / layout.stored(number)).sha256
    draft = finish(directory, draft, parent, content, partial, device, report)
    report("ids", 0.0)
    write_ids(directory, ids)
    if metadata is not None:
        write_metadata(directory / layout.METADATA, metadata)
    checksums = _checksums(directory, parent, report)
    version = _version(draft, content, checksums)
    write_checksums(directory, checksums)
    checksums[layout.CHECKSUMS] = checksum_file(directory / layout.CHECKSUMS)
    files = {name: (entry.size, entry.sha256) for name, entry in sorted(checksums.items())}
    lineage = (*draft.lineage, version)
    manifest = replace(draft, version=version, lineage=lineage, files=files)
    write_manifest(directory, manifest)
    return manifest


def _require_new(ids: pa.LargeStringArray, parent: Pool) -> None:
    rows = parent.ids.rows_of_strings(ids)
    known = np.flatnonzero(rows >= 0)
    if len(known):
        first = int(known[0])
        raise BuildError(
            f"{len(known)} ids are in the pool already, the first is {ids[first].as_py()!r} "
            f"(row {rows[first]})"
        )


def _checksums(directory: Path, parent: Pool | None, report: Progress) -> dict[str, FileChecksum]:
    """Of all files; those linked from the parent are known."""
    known = {} if parent is None else parent.segment_checksums()
    names = sorted(path.name for path in directory.iterdir())
    size = sum((directory / name).stat().st_size for name in names if name not in known)
    counter = Counter(report, "checksums", size)
    return {name: known.get(name) or checksum_file(directory / name, counter.add) for name in names}


def _version(draft: Manifest, content: str, checksums: dict[str, FileChecksum]) -> str:
    """Hash of all that decides an answer; derived files and the name do not count."""
    facts = [draft.parent, draft.dimension, draft.dtype, draft.metric, draft.index]
    parts = [layout.ID_DATA, layout.ID_OFFSETS, layout.METADATA]
    hashes = [checksums[part].sha256 if part in checksums else None for part in parts]
    table: list[float] = [draft.neighbours]
    if draft.neighbours_recall < 1:
        table.append(draft.neighbours_recall)
    document = json.dumps([draft.format_version, *facts, *table, content, *hashes])
    return hashlib.sha256(document.encode()).hexdigest()[:32]


def _partial(out: Path) -> Path:
    """Where the neighbour table of a pool comes to be."""
    out = out.absolute()
    return out.with_name(f".{out.name}.neighbours")


def _checked_name(name: str) -> str:
    if not 1 <= len(name.encode()) <= 128 or not name.isprintable():
        raise BuildError(f"the name {name!r} must have 1..128 printable bytes: use --name")
    return name
