"""Parquet files, whole or not at all. pyarrow is an extra, imported when it is needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coresift.client.convert import StringColumn

if TYPE_CHECKING:
    import pyarrow as pa


def import_pyarrow() -> Any:
    """The module. ModuleNotFoundError says how to install it."""
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        message = "Parquet files need pyarrow: pip install 'coresift[simulate]'"
        raise ModuleNotFoundError(message, name="pyarrow") from error
    return pyarrow


def string_array(column: StringColumn) -> Any:
    """A pyarrow.LargeStringArray of the same strings, without decoding them."""
    pyarrow = import_pyarrow()
    buffers = map(pyarrow.py_buffer, (column.offsets.tobytes(), column.data))
    return pyarrow.LargeStringArray.from_buffers(len(column), *buffers)


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table under its name once it is complete. OSError."""
    import pyarrow.parquet as pq

    partial = path.with_name(path.name + ".partial")
    try:
        pq.write_table(table, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
