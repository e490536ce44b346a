"""Parquet files whose columns become a signal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coresift.client.commands.shared import Failure, wrong
from coresift.client.convert import StringColumn
from coresift.client.dynamics_files import is_recording
from coresift.client.dynamics_scores import COLUMNS
from coresift.client.parquet import import_pyarrow


@dataclass(frozen=True)
class Columns:
    """What a file says of items: values [items, columns] in the order of ``item_ids``."""

    item_ids: StringColumn
    values: npt.NDArray[Any]
    names: tuple[str, ...]


def read_columns(file: Path, id_column: str, names: Sequence[str]) -> Columns:
    """Columns of numbers; without ``names`` the scores of a recording, or all but the ids.

    Failure: no pyarrow, another kind of file, columns that are missing or hold something else.
    """
    try:
        pyarrow = import_pyarrow()
    except ModuleNotFoundError as error:
        raise Failure(str(error)) from error
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
        names = tuple(names) or _columns_of(schema, id_column)
        missing = [name for name in (id_column, *names) if name not in schema.names]
        if missing:
            there = ", ".join(schema.names)
            raise wrong(f"{file} has no column {missing[0]!r}; its columns are {there}")
        table = pq.read_table(file, columns=list(dict.fromkeys((id_column, *names))))
    except (OSError, pyarrow.ArrowException) as error:
        raise wrong(f"cannot read {file} as Parquet: {error}") from error
    if not names:
        raise wrong(f"{file} has no column besides {id_column!r}")
    ids: Any = _whole(file, table, id_column).to_pylist()
    if not all(isinstance(item_id, str) for item_id in ids):
        raise wrong(
            f"column {id_column!r} of {file} holds {table[id_column].type}, not item ids as text; "
            "name another with --id-column"
        )
    values = np.column_stack([_numbers(file, table, name) for name in names])
    return Columns(StringColumn.of(ids), values, tuple(names))


def _columns_of(schema: Any, id_column: str) -> tuple[str, ...]:
    if is_recording(schema):
        return COLUMNS
    return tuple(name for name in schema.names if name != id_column)


def _numbers(file: Path, table: Any, name: str) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = _whole(file, table, name).to_numpy()
    if values.dtype.kind not in "fiub":
        raise wrong(
            f"column {name!r} of {file} holds {table[name].type}, not numbers; "
            "name the columns to upload with --columns"
        )
    unknown = int(np.isnan(values).sum())
    if unknown:
        never = ": items that were never recorded" if is_recording(table.schema) else ""
        raise wrong(f"column {name!r} of {file} is NaN for {unknown} of {len(values)} items{never}")
    return values


def _whole(file: Path, table: Any, name: str) -> Any:
    """A column without gaps."""
    column = table[name]
    if column.null_count:
        raise wrong(f"column {name!r} of {file} lacks {column.null_count} of {len(column)} values")
    return column
