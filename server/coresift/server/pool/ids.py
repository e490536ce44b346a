"""Row to id and id to row for millions of string ids, mapped from disk.

Strings lie in Arrow's layout. Beside them lie their 64-bit hashes, sorted, with row numbers:
an id is found by binary search and confirmed by its string. Opening costs no object per item.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from coresift.server.arrays import Bytes, Hashes, Int64s, Rows
from coresift.server.errors import CoresiftError, Reason, StartError
from coresift.server.pool import layout
from coresift.server.pool.segment import map_array
from coresift.server.pool.strings import (
    PADDING,
    from_layout,
    hash_string,
    hash_strings,
    to_layout,
    to_numpy,
)

FEW_IDS, FEW_ROWS = 16, 64
"""Up to so many are looked up one by one: for a single id NumPy and Arrow take 60 us to begin, and
Arrow lets other threads have the interpreter meanwhile."""


def write_ids(directory: Path, ids: pa.LargeStringArray) -> None:
    """Write checked ids (no nulls, no duplicates) and their look-up."""
    data, offsets = to_layout(ids)
    hashes = hash_strings(data, offsets)
    order = np.argsort(hashes, kind="stable")
    data.tofile(directory / layout.ID_DATA)
    offsets.tofile(directory / layout.ID_OFFSETS)
    hashes[order].tofile(directory / layout.ID_HASHES)
    order.astype(np.int32).tofile(directory / layout.ID_ORDER)


class ItemIds:
    """The ids of a pool's rows."""

    def __init__(self, data: Bytes, offsets: Int64s, hashes: Hashes, order: Rows) -> None:
        self._bytes = data.data
        self._offsets = offsets
        self._hashes = hashes
        self._order = order
        self.strings = from_layout(data, offsets)
        """All ids as an Arrow array over the mapped files."""

    @classmethod
    def open(cls, directory: Path, items: int) -> ItemIds:
        """Map the files of ``items`` ids. StartError if they do not fit together."""
        path = directory / layout.ID_DATA
        data = map_array(path, np.uint8, (path.stat().st_size,))
        offsets = map_array(directory / layout.ID_OFFSETS, np.int64, (items + 1,))
        if offsets[0] != 0 or offsets[-1] != len(data) - PADDING:
            raise StartError(f"{path} and {layout.ID_OFFSETS} do not fit: build the pool again")
        hashes = map_array(directory / layout.ID_HASHES, np.uint64, (items,))
        order = map_array(directory / layout.ID_ORDER, np.int32, (items,))
        if order.min(initial=0) < 0 or order.max(initial=0) >= items:
            raise StartError(f"{layout.ID_ORDER} names rows that do not exist: build again")
        ids = cls(data, offsets, hashes, order)
        try:
            # Wrong offsets would read memory that is not the file's.
            ids.strings.validate(full=True)
        except pa.ArrowInvalid as problem:
            raise StartError(f"{path} holds no strings ({problem}): build again") from None
        return ids

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def rows_of(self, ids: Sequence[str]) -> Int64s:
        """Rows of item ids, int64 [n]; -1 where the pool has no such id."""
        if len(ids) <= FEW_IDS:
            return np.array([self._row_of(_utf8(item_id)) for item_id in ids], np.int64)
        return self.rows_of_strings(_encode(ids))

    def rows_of_strings(self, wanted: pa.LargeStringArray) -> Int64s:
        """As `rows_of`, for an Arrow array without nulls."""
        hashes = hash_strings(*to_layout(wanted))
        rows = np.full(len(wanted), -1, np.int64)
        places = np.empty(len(wanted), np.int64)
        ascending = np.argsort(hashes)  # near ones after each other: half the time
        places[ascending] = np.searchsorted(self._hashes, hashes[ascending])
        open_ids = np.arange(len(wanted))
        while len(open_ids):
            within = places[open_ids] < len(self)
            open_ids = open_ids[within]
            open_ids = open_ids[self._hashes[places[open_ids]] == hashes[open_ids]]
            found = self._order[places[open_ids]]
            same = self._equal(found, wanted.take(pa.array(open_ids)))
            rows[open_ids[same]] = found[same]
            open_ids = open_ids[~same]  # another id of the same hash: look at the next
            places[open_ids] += 1
        return rows

    def rows_of_packed(self, data: bytes, offsets: npt.NDArray[np.integer]) -> Int64s:
        """As `rows_of`, for the bytes data[offsets[i] : offsets[i + 1]]; offsets rise from 0."""
        packed = np.frombuffer(data, np.uint8)
        return self.rows_of_strings(from_layout(packed, offsets.astype(np.int64)))

    def ids_of(self, rows: npt.NDArray[np.integer]) -> list[str]:
        """Item ids of rows. IndexError for a row that does not exist."""
        if len(rows) <= FEW_ROWS:
            few = rows.tolist()
            if few:
                self._check(min(few), max(few))
            return [str(self._string(row), "utf-8") for row in few]
        ids: list[Any] = self._take(rows).to_pylist()
        return ids

    def column(self, rows: npt.NDArray[np.integer]) -> tuple[bytes, bytes]:
        """Item ids of rows in Arrow layout: UTF-8 data, int32 offsets (n + 1).

        TOO_LARGE above 2 GiB of ids.
        """
        data, offsets = to_layout(self._take(rows))
        if offsets[-1] > np.iinfo(np.int32).max:
            raise CoresiftError(Reason.TOO_LARGE, "a column of ids holds at most 2 GiB")
        return data[:-PADDING].tobytes(), offsets.astype(np.int32).tobytes()

    def _row_of(self, wanted: bytes) -> int:
        """As `rows_of_strings`, for one id."""
        hashed = np.uint64(hash_string(wanted))
        place = int(self._hashes.searchsorted(hashed))
        while place < len(self) and self._hashes[place] == hashed:
            row = int(self._order[place])
            if self._string(row) == wanted:
                return row
            place += 1
        return -1

    def _string(self, row: int) -> memoryview:
        return self._bytes[self._offsets[row] : self._offsets[row + 1]]

    def _check(self, least: int, most: int) -> None:
        if not 0 <= least <= most < len(self):
            raise IndexError(f"rows must be 0..{len(self) - 1}")

    def _take(self, rows: npt.NDArray[np.integer]) -> pa.LargeStringArray:
        if len(rows):
            self._check(int(rows.min()), int(rows.max()))
        return self.strings.take(pa.array(rows))

    def _equal(self, rows: Rows, wanted: pa.LargeStringArray) -> npt.NDArray[np.bool_]:
        return to_numpy(pc.equal(self._take(rows), wanted))


def _utf8(item_id: str) -> bytes:
    try:
        return item_id.encode()
    except UnicodeEncodeError:
        return b""  # as in `_encode`


def _encode(ids: Sequence[str]) -> pa.LargeStringArray:
    try:
        return pa.array(ids, pa.large_string())
    except UnicodeEncodeError:  # no pool holds a lone surrogate, nor the empty id
        return pa.array([_or_empty(i) for i in ids], pa.large_string())


def _or_empty(item_id: str) -> str:
    return "" if any("\ud800" <= character <= "\udfff" for character in item_id) else item_id
