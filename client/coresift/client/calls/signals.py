"""Signals: named columns of per-item numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from coresift.client.convert import StringColumn, moment, new_request_id
from coresift.client.enums import SignalKind, member, number
from coresift.client.flow import Flow, Iteration, Rpc, call, pages, upload
from coresift.v1 import selection_pb2 as pb

PUT = Rpc("PutSignals", pb.PutSignalsRequest, pb.PutSignalsResponse)
LIST = Rpc("ListSignals", pb.ListSignalsRequest, pb.ListSignalsResponse)
DELETE = Rpc("DeleteSignals", pb.DeleteSignalsRequest, pb.DeleteSignalsResponse)

CHUNK_BYTES = 768 * 1024


@dataclass(frozen=True)
class Signal:
    """A stored signal."""

    name: str
    pool: str
    pool_version: str
    kind: SignalKind
    columns: tuple[str, ...]
    count: int
    content_hash: str
    """Lower-case hexadecimal SHA-256 of the stored file."""
    create_time: datetime
    uri: str
    """Where the Parquet file lies."""


class Upload(Iterable[pb.PutSignalsRequest]):
    """The messages of an upload: a header, then chunks of up to 768 KiB; made anew each time
    it is iterated, so that an upload can be repeated."""

    def __init__(
        self, header: pb.SignalHeader, item_ids: StringColumn, values: npt.NDArray[np.generic]
    ) -> None:
        self._header = header
        self._item_ids = item_ids
        self._values = values
        digest = hashlib.sha256()
        for chunk in self._chunks():
            digest.update(chunk.item_ids.data)
            digest.update(chunk.item_ids.offsets)
            digest.update(chunk.values)
        header.sha256 = digest.digest()

    def __iter__(self) -> Iterator[pb.PutSignalsRequest]:
        yield pb.PutSignalsRequest(header=self._header)
        for chunk in self._chunks():
            yield pb.PutSignalsRequest(chunk=chunk)

    def _chunks(self) -> Iterator[pb.SignalChunk]:
        row_bytes = self._values.itemsize * self._values.shape[1] + 4
        ends = self._item_ids.offsets + row_bytes * np.arange(len(self._item_ids) + 1)
        start = 0
        while start < len(self._item_ids):
            fits = int(np.searchsorted(ends, ends[start] + CHUNK_BYTES, side="right")) - 1
            stop = max(fits, start + 1)
            yield pb.SignalChunk(
                item_ids=self._item_ids.part(start, stop),
                values=self._values[start:stop].tobytes(),
            )
            start = stop


def put_signals(
    pool: str,
    name: str,
    item_ids: Iterable[str],
    values: npt.ArrayLike,
    *,
    kind: SignalKind | str = SignalKind.NUMBER,
    columns: Sequence[str] | None = None,
    pool_version: str = "",
    request_id: str | None = None,
) -> Flow[Signal]:
    """Upload numbers for every item of a pool.

    Args:
        name: 1..64 of ``[A-Za-z0-9._-]``; a signal never changes once it is there.
        item_ids: every item of the pool once, in any order.
        values: [items] or [items, columns], in the order of ``item_ids``: float32 numbers,
            int32 class numbers, or float32 probabilities, by ``kind``.
        kind: "number", "class" or "probabilities".
        columns: their names; None: ``name`` for one column, else "0", "1", ...

    Raises:
        InvalidInput: INVALID_SIGNAL. AlreadyExists: SIGNAL_EXISTS. NotFound: POOL_NOT_FOUND.
        ValueError: a shape that does not fit, classes that are not whole numbers, numbers beyond
            float32.
    """
    kind_number = number(pb.SignalKind, SignalKind, kind)
    numbers: npt.NDArray[Any]
    if kind == SignalKind.CLASS:
        numbers = _class_numbers(values)
    else:
        numbers = _float_numbers(values)
    numbers = numbers[:, None] if numbers.ndim == 1 else numbers
    ids = StringColumn.of(item_ids)
    if numbers.ndim != 2 or len(numbers) != len(ids):
        raise ValueError(
            f"values must be [items] or [items, columns] for {len(ids)} items, "
            f"got shape {np.shape(values)}"
        )
    if columns is None:
        width = numbers.shape[1]
        columns = [name] if width == 1 else [str(column) for column in range(width)]
    header = pb.SignalHeader(
        request_id=request_id or new_request_id(),
        pool=pool,
        pool_version=pool_version,
        name=name,
        kind=kind_number,
        columns=columns,
        count=len(ids),
    )
    return _signal((yield from upload(PUT, Upload(header, ids, numbers))).signal)


def _float_numbers(values: npt.ArrayLike) -> npt.NDArray[np.float32]:
    given = np.asarray(values)
    with np.errstate(over="ignore"):
        numbers = np.ascontiguousarray(given, dtype="<f4")
    lost = np.isinf(numbers) & np.isfinite(given.astype(np.float64, copy=False))
    if lost.any():
        raise ValueError(f"{given[lost].flat[0]!r} is too large for a float32")
    return numbers


def _class_numbers(values: npt.ArrayLike) -> npt.NDArray[np.int32]:
    """Class numbers as int32: a plain conversion would cut 0.5 to 0 and wrap what is too large."""
    given = np.asarray(values)
    if given.dtype.kind not in "fiub":
        raise ValueError(f"classes must be whole numbers, got dtype {given.dtype}")
    wrong = ~((given >= 0) & (given <= np.iinfo(np.int32).max) & (given == np.floor(given)))
    if wrong.any():
        raise ValueError(f"classes must be whole numbers from 0, got {given[wrong].flat[0]}")
    return np.ascontiguousarray(given, dtype="<i4")


def list_signals(pool: str, page_size: int = 0) -> Iteration[Signal]:
    """The signals of a pool, by name. NotFound: POOL_NOT_FOUND."""

    def page(token: str) -> Flow[tuple[list[Signal], str]]:
        request = pb.ListSignalsRequest(pool=pool, page_size=page_size, page_token=token)
        reply = yield from call(LIST, request)
        return [_signal(signal) for signal in reply.signals], reply.next_page_token

    yield from pages(page)


def delete_signals(pool: str, name: str, *, request_id: str | None = None) -> Flow[None]:
    """Remove a signal. NotFound: SIGNAL_NOT_FOUND."""
    request_id = request_id or new_request_id()
    yield from call(DELETE, pb.DeleteSignalsRequest(request_id=request_id, pool=pool, name=name))


def _signal(signal: pb.Signal) -> Signal:
    return Signal(
        name=signal.name,
        pool=signal.pool,
        pool_version=signal.pool_version,
        kind=member(pb.SignalKind, SignalKind, signal.kind),
        columns=tuple(signal.columns),
        count=signal.count,
        content_hash=signal.content_hash,
        create_time=moment(signal.create_time),
        uri=signal.uri,
    )
