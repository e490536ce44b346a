"""Metadata of items: text columns aligned to rows, mapped from disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from coresift.server.pool.failures import BuildError
from coresift.server.pool.strings import to_numpy
from coresift.server.pool.tables import read_table, require_ids, strings

_BATCH_ROWS = 65_536


def read_metadata(path: Path, ids: pa.LargeStringArray, id_column: str) -> pa.Table:
    """The other columns of ``path`` as text, in the order of ``ids``.

    BuildError: an id is unknown, missing or repeated, or a column cannot be text.
    """
    table = read_table(path)
    if id_column not in table.column_names:
        raise BuildError(
            f"{path} has no column {id_column!r} to find the items by; "
            f"it has: {', '.join(table.column_names)}"
        )
    keys = strings(table.column(id_column), f"{path} column {id_column!r}")
    require_ids(keys, str(path))
    unknown = np.flatnonzero(to_numpy(pc.index_in(keys, value_set=ids).is_null()))
    if len(unknown):
        first = keys[int(unknown[0])].as_py()
        raise BuildError(f"{path}: {len(unknown)} ids are not in the pool, the first is {first!r}")
    place = pc.index_in(ids, value_set=keys)
    if place.null_count:
        row = int(np.flatnonzero(to_numpy(place.is_null()))[0])
        raise BuildError(
            f"{path} lacks {place.null_count} items, the first is {ids[row].as_py()!r} (row {row})"
        )
    names = [name for name in table.column_names if name != id_column]
    if not names:
        raise BuildError(f"{path} has no column beside {id_column!r}")
    columns = [strings(table.column(name), f"{path} column {name!r}") for name in names]
    return pa.table([column.take(place) for column in columns], names=names)


def joined(
    old: pa.Table | None, old_items: int, new: pa.Table | None, items: int
) -> pa.Table | None:
    """Metadata of old items followed by new ones; what one side lacks has no value there."""
    if old is None and new is None:
        return None
    sides = [(old, old_items), (new, items)]
    names = list(dict.fromkeys(name for side, _ in sides if side for name in side.column_names))
    return pa.concat_tables([_with_columns(side, count, names) for side, count in sides])


def _with_columns(table: pa.Table | None, items: int, names: list[str]) -> pa.Table:
    there = [] if table is None else table.column_names
    return pa.table(
        [
            table.column(name)
            if table is not None and name in there
            else pa.nulls(items, pa.large_string())
            for name in names
        ],
        names=names,
    )


def write_metadata(path: Path, table: pa.Table) -> None:
    """Write an Arrow IPC file."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=_BATCH_ROWS)


def map_metadata(path: Path) -> pa.Table:
    """The table over the mapped file: nothing is read yet."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def metadata_of(table: pa.Table, rows: npt.NDArray[np.integer]) -> list[dict[str, str]]:
    """One mapping a row, column to text; columns without a value are left out."""
    taken = table.take(pa.array(rows)).to_pylist()
    return [{name: text for name, text in row.items() if text is not None} for row in taken]
