"""Between wire types and Python's: times, vectors, string columns."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain, pairwise
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from coresift.v1 import selection_pb2 as pb

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Seconds = float | timedelta


def new_request_id() -> str:
    """An id that makes a write repeatable."""
    return uuid.uuid4().hex


def duration(value: Seconds | None) -> Duration | None:
    """Seconds or a timedelta as a protobuf Duration."""
    if value is None:
        return None
    out = Duration()
    out.FromTimedelta(value if isinstance(value, timedelta) else timedelta(seconds=value))
    return out


def moment(value: Timestamp) -> datetime:
    """A protobuf Timestamp as an aware datetime in UTC."""
    return value.ToDatetime(tzinfo=UTC)


def matrix(values: npt.ArrayLike) -> Float32:
    """Vectors as float32 [n, d] in C order; one vector counts as one row."""
    rows = np.ascontiguousarray(values, dtype="<f4")
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"vectors must be a non-empty [n, d] array, got shape {rows.shape}")
    return rows


def vectors(rows: Float32) -> pb.Vectors:
    """A [n, d] array as the message `Vectors`."""
    return pb.Vectors(dimension=rows.shape[1], data=rows.tobytes())


def array(data: bytes, dtype: str, *shape: int) -> npt.NDArray[Any]:
    """Packed little-endian numbers as an array of ``shape``."""
    return np.frombuffer(data, dtype=np.dtype(dtype).newbyteorder("<")).reshape(shape)


_BLOCK = 65_536
"""Strings that are decoded at a time."""


class StringColumn(Sequence[str]):
    """Strings in Arrow's layout: one buffer and offsets, decoded when asked for.

    Args:
        data: uint8, all strings one after the other, UTF-8.
        offsets: int64 [count + 1]; string i is ``data[offsets[i]:offsets[i + 1]]``.
    """

    def __init__(self, data: bytes, offsets: npt.NDArray[np.int64]) -> None:
        self.data = data
        self.offsets = offsets

    @classmethod
    def of(cls, strings: Iterable[str]) -> StringColumn:
        """Pack strings. TypeError for one string, which is no list of them."""
        if isinstance(strings, str):
            raise TypeError(f"expected several strings, got one: {strings!r}")
        if isinstance(strings, StringColumn):
            return strings
        pieces: list[Any] = list(strings)
        text = "".join(pieces)
        if not text.isascii():  # else bytes and characters are the same in number
            pieces = [string.encode() for string in pieces]
        offsets = np.zeros(len(pieces) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, pieces), np.int64, len(pieces)), out=offsets[1:])
        return cls(text.encode(), offsets)

    @classmethod
    def joined(cls, columns: Iterable[pb.StringColumn]) -> StringColumn:
        """One column of several of the wire's, in order."""
        datas: list[bytes] = []
        offsets = [np.zeros(1, np.int64)]
        end = 0
        for column in columns:
            ends = array(column.offsets, "i4", -1).astype(np.int64)[1:]
            datas.append(column.data)
            offsets.append(ends + end)
            end += len(column.data)
        return cls(b"".join(datas), np.concatenate(offsets))

    def part(self, start: int, stop: int) -> pb.StringColumn:
        """Strings [start, stop) as a wire message."""
        offsets = self.offsets[start : stop + 1]
        return pb.StringColumn(
            data=self.data[offsets[0] : offsets[-1]],
            offsets=(offsets - offsets[0]).astype("<i4").tobytes(),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return self._decoded(start, max(start, stop))
            return [self[i] for i in range(start, stop, step)]
        place = range(len(self))[index]
        return self.data[self.offsets[place] : self.offsets[place + 1]].decode()

    def __iter__(self) -> Iterator[str]:
        starts = range(0, len(self), _BLOCK)
        blocks = (self._decoded(start, min(start + _BLOCK, len(self))) for start in starts)
        return chain.from_iterable(blocks)

    def _decoded(self, start: int, stop: int) -> list[str]:
        """Strings [start, stop)."""
        ends = self.offsets[start : stop + 1]
        data = self.data[ends[0] : ends[-1]]
        places = pairwise((ends - ends[0]).tolist())
        if data.isascii():  # then one decoding serves all
            text = data.decode("ascii")
            return [text[a:b] for a, b in places]
        return [data[a:b].decode() for a, b in places]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StringColumn):
            return NotImplemented
        return self.data == other.data and np.array_equal(self.offsets, other.offsets)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"StringColumn({len(self)} strings)"
