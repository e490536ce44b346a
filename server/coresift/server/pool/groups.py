"""Groups: rows that share a value in a metadata column (a video, a patient, a page)."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from coresift.server.arrays import Rows
from coresift.server.errors import invalid
from coresift.server.pool.filter_syntax import listed
from coresift.server.pool.strings import to_numpy

_KEPT_COLUMNS = 4
"""Columns whose numbers stay in memory, 4 bytes a row each."""

NO_GROUP = -1


class ColumnGroups:
    """Group numbers of metadata columns; those used last are kept. Safe for threads."""

    def __init__(self) -> None:
        self._kept: dict[str, Rows] = {}
        self._lock = threading.Lock()

    def of(self, table: pa.Table, column: str, field: str) -> Rows:
        """`group_numbers` of a column. INVALID_FIELD of ``field`` for one that is not there."""
        if column not in table.column_names:
            there = listed(table.column_names)
            raise invalid(
                field, f"must be a metadata column, got {column[:80]!r}; the pool has {there}"
            )
        with self._lock:
            numbers = self._kept.pop(column, None)
            if numbers is None:
                numbers = group_numbers(table, column)
            self._kept[column] = numbers
            if len(self._kept) > _KEPT_COLUMNS:
                del self._kept[next(iter(self._kept))]
            return numbers


def group_numbers(table: pa.Table, column: str) -> Rows:
    """Numbers of a column's values in order of first appearance, int32 [N], read-only.

    `NO_GROUP` where the row has no value.
    """
    numbers = np.empty(table.num_rows, np.int32)
    start = 0
    # One dictionary grows over all chunks: a value has the same number in each.
    encoded: Any = table.column(column).dictionary_encode()
    for chunk in encoded.chunks:
        end = start + len(chunk)
        numbers[start:end] = to_numpy(pc.fill_null(chunk.indices, NO_GROUP))
        start = end
    numbers.flags.writeable = False
    return numbers
