"""Files of ids and metadata as Arrow tables."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.json
import pyarrow.parquet as pq

from coresift.server.pool.failures import BuildError
from coresift.server.pool.strings import (
    from_layout,
    hash_strings,
    joined_strings,
    to_layout,
    to_numpy,
)

MAX_ID_BYTES = 256

_JSON_BLOCK = 64 * 2**20
_SHOWN = 3
"""Offenders named in a message."""


def is_parquet(path: Path) -> bool:
    return path.suffix.lower() in {".parquet", ".pq"}


def is_arrow(path: Path) -> bool:
    return path.suffix.lower() in {".arrow", ".feather", ".ipc"}


def is_json_lines(path: Path) -> bool:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    return bool(suffixes) and suffixes[-1] in {".jsonl", ".ndjson", ".json"}


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A Parquet, Arrow/Feather or JSON-lines (also .gz) file, or those columns of it."""
    try:
        table = _read(path, columns)
    except FileNotFoundError:
        raise BuildError(f"{path} does not exist") from None
    except (pa.ArrowException, OSError, zlib.error, EOFError) as problem:
        raise BuildError(f"{path} cannot be read: {problem}") from None
    for column in columns or []:
        if column not in table.column_names:
            there = ", ".join(table.column_names)
            raise BuildError(f"{path} has no column {column!r}; it has: {there}")
    return table


def _read(path: Path, columns: list[str] | None) -> pa.Table:
    if is_parquet(path):
        there = pq.read_schema(path).names
        return pq.read_table(path, columns=[c for c in columns or there if c in there])
    if is_arrow(path):
        with pa.memory_map(str(path)) as source:
            try:
                table = pa.ipc.open_file(source).read_all()
            except pa.ArrowInvalid:
                source.seek(0)
                table = pa.ipc.open_stream(source).read_all()
    elif is_json_lines(path):
        options = pyarrow.json.ReadOptions(block_size=_JSON_BLOCK)
        table = pyarrow.json.read_json(path, read_options=options)
    else:
        raise BuildError(
            f"{path} is of no known kind: name it .parquet, .arrow, .feather, .jsonl or .jsonl.gz"
        )
    return table.select([c for c in columns if c in table.column_names]) if columns else table


def read_ids(path: Path, column: str) -> pa.LargeStringArray:
    """Item ids: a text file with one a line (also .gz), or ``column`` of a table."""
    if is_parquet(path) or is_arrow(path) or is_json_lines(path):
        return strings(read_table(path, [column]).column(column), f"{path} column {column!r}")
    return _read_lines(path)


def _read_lines(path: Path) -> pa.LargeStringArray:
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError:
        raise BuildError(f"{path} does not exist") from None
    except (OSError, zlib.error, EOFError) as problem:
        raise BuildError(f"{path} cannot be read: {problem}") from None
    content = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    if content and not content.endswith(b"\n"):
        content += b"\n"
    ends = np.flatnonzero(np.frombuffer(content, np.uint8) == ord("\n"))
    offsets = np.concatenate([[0], ends - np.arange(len(ends))]).astype(np.int64)
    data = content.replace(b"\n", b"")
    lines = from_layout(np.frombuffer(data, np.uint8), offsets)
    try:
        lines.validate(full=True)
    except pa.ArrowInvalid as problem:
        raise BuildError(f"{path} is not UTF-8: {problem}") from None
    return lines


def strings(column: pa.ChunkedArray[Any], what: str) -> pa.LargeStringArray:
    """A column as one large_string array; numbers, dates and booleans as text."""
    try:
        text: Any = column.cast(pa.large_string())
    except pa.ArrowException:
        raise BuildError(f"{what} is of type {column.type}; only text can be kept") from None
    return joined_strings([pa.array([], pa.large_string()), *text.chunks])


def require_ids(ids: pa.LargeStringArray, what: str) -> None:
    """Refuse empty, over-long, missing and repeated ids, naming the first."""
    if ids.null_count:
        row = np.flatnonzero(to_numpy(ids.is_null()))[0]
        raise BuildError(f"{what}: no id at row {row}")
    sizes = np.diff(to_layout(ids)[1])
    empty = np.flatnonzero(sizes == 0)
    if len(empty):
        raise BuildError(f"{what}: the id at row {empty[0]} is empty")
    too_long = np.flatnonzero(sizes > MAX_ID_BYTES)
    if len(too_long):
        row = int(too_long[0])
        raise BuildError(
            f"{what}: the id at row {row} has {sizes[row]} bytes, at most {MAX_ID_BYTES} "
            f"are allowed: {ids[row].as_py()[:40]!r}..."
        )
    require_distinct(ids, what)


def require_distinct(ids: pa.LargeStringArray, what: str) -> None:
    """Refuse repeated ids, naming the first ones and their rows."""
    hashes = hash_strings(*to_layout(ids))
    order = np.argsort(hashes, kind="stable")
    twin = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
    suspects = np.unique(order[np.concatenate([twin, twin + 1])])
    if not len(suspects):
        return
    codes = to_numpy(ids.take(pa.array(suspects)).dictionary_encode().indices)
    repeated = np.bincount(codes)[codes] > 1
    if repeated.any():
        first = codes[repeated][0]
        rows = suspects[codes == first]
        shown = ", ".join(str(row) for row in rows[:_SHOWN])
        count = len(np.unique(codes[repeated]))
        raise BuildError(
            f"{what}: the id {ids[int(rows[0])].as_py()!r} stands at rows {shown}; "
            f"ids must be distinct ({count} are not)"
        )
