"""An uploaded signal on its way: what was announced, and the check of what comes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coresift.server.arrays import Bools, Int64s, Rows
from coresift.server.errors import CoresiftError, Reason
from coresift.server.memory_promises import MemoryPromises
from coresift.server.pool.pool import Pool
from coresift.server.state.values import Request

SUM_SLACK = 1e-3
"""By how much the probabilities of an item may miss 1."""


class SignalKind(IntEnum):
    """What the numbers are; the numbers of ``SignalKind`` on the wire."""

    NUMBER = 1
    CLASS = 2
    PROBABILITIES = 3


@dataclass(frozen=True, slots=True)
class SignalHeader:
    """What an upload announces."""

    request: Request
    name: str
    pool: str
    pool_version: str
    kind: SignalKind
    columns: tuple[str, ...]
    count: int
    sha256: bytes

    @property
    def dtype(self) -> np.dtype[np.float32] | np.dtype[np.int32]:
        """Of the values on the wire and in the file."""
        return np.dtype(np.int32) if self.kind is SignalKind.CLASS else np.dtype(np.float32)

    def needed_bytes(self, items: int) -> int:
        """Memory of an upload: the columns, the file as it is written, and its bytes."""
        return 3 * items * len(self.columns) * self.dtype.itemsize


def bad_signal(field: str, message: str) -> CoresiftError:
    """INVALID_SIGNAL."""
    return CoresiftError(Reason.INVALID_SIGNAL, message, field=field)


@dataclass(frozen=True, slots=True)
class SignalChunk:
    """Some items with their values, packed as they came.

    Attributes:
        data, offsets: the item ids: UTF-8, and int32 [count + 1] from 0 to the length of data.
        values: of the header's dtype, [count, columns].
    """

    data: bytes
    offsets: Rows
    values: bytes

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def item_id(self, place: int) -> str:
        """The id at a place, for messages."""
        start, stop = self.offsets[place : place + 2]
        return self.data[start:stop].decode(errors="backslashreplace")


class UploadMemory:
    """What open uploads were promised. For the event loop only."""

    def __init__(self, promises: MemoryPromises) -> None:
        """``promises``: memory, of which others promise some too."""
        self._promises, self._promised = promises, 0
        promises.count(lambda: self._promised)

    @contextmanager
    def booked(self, header: SignalHeader, pool: Pool) -> Iterator[None]:
        """Memory for an upload until it is stored or given up.

        Raises:
            CoresiftError: OVERLOADED for an upload that may fit when others have ended, TOO_LARGE
                for one that would not fit then either.
        """
        items, columns = pool.manifest.items, len(header.columns)
        needed = header.needed_bytes(items)
        remedy = "upload fewer columns, or take a server with more memory"
        what = f"an upload of {items} items x {columns} columns"
        self._promises.check(what, needed, "header.columns", remedy)
        self._promised += needed
        try:
            yield
        finally:
            self._promised -= needed


class Upload:
    """An upload in progress: checks each chunk, and the whole at the end. Writes nothing.

    After a refusal it is of no use any more.
    """

    def __init__(self, header: SignalHeader, pool: Pool) -> None:
        items = pool.manifest.items
        if header.count != items:
            raise bad_signal(
                "header.count", f"the pool has {items} items, the header announces {header.count}"
            )
        if header.kind is SignalKind.CLASS and len(header.columns) != 1:
            raise bad_signal(
                "header.columns", f"a class signal has one column, got {len(header.columns)}"
            )
        self._header, self._pool, self._hash = header, pool, sha256()
        self._columns = np.zeros((len(header.columns), items), header.dtype)
        self._is_given = np.zeros(items, np.bool_)
        self._given = 0

    def add(self, chunk: SignalChunk) -> None:
        """Take a chunk. INVALID_SIGNAL."""
        header = self._header
        for part in (chunk.data, chunk.offsets.astype("<i4").tobytes(), chunk.values):
            self._hash.update(part)
        width = len(header.columns) * header.dtype.itemsize
        if len(chunk.values) != len(chunk) * width:
            raise bad_signal(
                "chunk.values",
                f"{len(chunk)} ids need {len(chunk) * width} bytes of values, "
                f"got {len(chunk.values)}",
            )
        rows = self._pool.ids.rows_of_packed(chunk.data, chunk.offsets)
        if (unknown := np.flatnonzero(rows < 0)).size:
            item_id = chunk.item_id(int(unknown[0]))
            raise bad_signal("chunk.item_ids", f"item {item_id!r} is not in the pool")
        before = self._is_given[rows]
        self._is_given[rows] = True
        self._given += len(rows)
        if before.any() or np.count_nonzero(self._is_given) != self._given:
            item_id = chunk.item_id(_first_repeat(rows, before))
            raise bad_signal("chunk.item_ids", f"item {item_id!r} is given twice")
        table: npt.NDArray[Any] = np.frombuffer(chunk.values, header.dtype)
        table = table.reshape(len(chunk), len(header.columns))
        self._check(chunk, table)
        self._columns[:, rows] = table.T

    def _check(
        self, chunk: SignalChunk, table: npt.NDArray[np.float32] | npt.NDArray[np.int32]
    ) -> None:
        match self._header.kind:
            case SignalKind.NUMBER:
                fine = table > -np.inf
                what = "NaN or minus infinity for a value"
            case SignalKind.CLASS:
                fine = table >= 0
                what = "a negative class number"
            case SignalKind.PROBABILITIES:
                with np.errstate(invalid="ignore"):  # infinities of both signs
                    sums = table.sum(axis=1, dtype=np.float64)
                fine = (table >= 0).all(axis=1) & (np.abs(sums - 1) <= SUM_SLACK)
                what = "probabilities that are NaN or negative, or do not sum to 1"
        if not fine.all():
            place = int(np.argmin(fine.reshape(len(table), -1).all(axis=1)))
            raise bad_signal("chunk.values", f"item {chunk.item_id(place)!r} has {what}")

    def table(self) -> pa.Table:
        """The whole signal in pool order, once everything announced has come. INVALID_SIGNAL."""
        if missing := len(self._is_given) - self._given:
            first = self._pool.ids.ids_of(np.array([self._is_given.argmin()]))[0]
            raise bad_signal("header.count", f"{missing} items are missing, the first is {first!r}")
        if self._hash.digest() != self._header.sha256:
            raise bad_signal("header.sha256", "the chunks do not have the announced SHA-256")
        return pa.table(dict(zip(self._header.columns, self._columns, strict=True)))


def _first_repeat(rows: Int64s, before: Bools) -> int:
    """The first place whose row came in an earlier chunk, else earlier in this one."""
    if before.any():
        return int(before.argmax())
    _, first = np.unique(rows, return_index=True)
    return int(np.setdiff1d(np.arange(len(rows)), first)[0])
