"""Signals: named, immutable columns of per-item numbers that users upload for a pool."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from hashlib import sha256

import msgpack
import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa

from coresift.server.artifacts import Artifacts
from coresift.server.errors import CoresiftError, Reason
from coresift.server.pool.pool import Pool
from coresift.server.selection.plain import Signal as SignalStrategy
from coresift.server.selection.plain import signal_key
from coresift.server.selection.registry import strategy_of
from coresift.server.session.config import SessionConfig, SignalFile
from coresift.server.session.pools import Pools
from coresift.server.session.requests import Requests
from coresift.server.session.workers import Workers
from coresift.server.state.store import Request, Store


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


@dataclass(frozen=True, slots=True)
class Signal:
    """A stored signal."""

    name: str
    pool: str
    pool_version: str
    kind: int
    columns: tuple[str, ...]
    count: int
    content_hash: str
    created_ms: int
    uri: str

    def pack(self) -> bytes:
        """As the store keeps it."""
        return bytes(msgpack.packb(asdict(self)))

    @classmethod
    def unpack(cls, data: bytes) -> Signal:
        """The inverse of `pack`."""
        fields = msgpack.unpackb(data)
        return cls(**fields | {"columns": tuple(fields["columns"])})


def bad_signal(field: str, message: str) -> CoresiftError:
    """INVALID_SIGNAL."""
    return CoresiftError(Reason.INVALID_SIGNAL, message, field=field)


class Upload:
    """An upload in progress: checks each chunk, and the whole at the end. Writes nothing."""

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
        # The columns, their copy as a table, and the file in memory.
        needed = 3 * items * len(header.columns) * header.dtype.itemsize
        if needed > psutil.virtual_memory().available:
            raise CoresiftError(
                Reason.TOO_LARGE,
                f"{items} items x {len(header.columns)} columns need {needed / 1e9:.1f} GB",
                field="header.columns",
                needed_bytes=str(needed),
            )
        self._header, self._pool, self._hash = header, pool, sha256()
        self._values = np.zeros((items, len(header.columns)), header.dtype)
        self._given = np.zeros(items, np.bool_)

    def add(self, ids: Sequence[str], column: tuple[bytes, bytes], values: bytes) -> None:
        """Take a chunk: its ids, the same ids as packed data and offsets, and its values."""
        header = self._header
        for part in (*column, values):
            self._hash.update(part)
        width = len(header.columns) * header.dtype.itemsize
        if len(values) != len(ids) * width:
            raise bad_signal(
                "chunk.values",
                f"{len(ids)} ids need {len(ids) * width} bytes of values, got {len(values)}",
            )
        rows = self._pool.ids.rows_of(ids)
        if (unknown := np.flatnonzero(rows < 0)).size:
            raise bad_signal("chunk.item_ids", f"item {ids[int(unknown[0])]!r} is not in the pool")
        if self._given[rows].any() or len(np.unique(rows)) != len(rows):
            raise bad_signal(
                "chunk.item_ids", f"item {ids[self._first_repeat(rows)]!r} is given twice"
            )
        table = np.frombuffer(values, header.dtype).reshape(len(ids), len(header.columns))
        self._check(ids, table)
        self._values[rows] = table
        self._given[rows] = True

    def _first_repeat(self, rows: npt.NDArray[np.int64]) -> int:
        if (earlier := np.flatnonzero(self._given[rows])).size:
            return int(earlier[0])
        _, first = np.unique(rows, return_index=True)
        return int(np.setdiff1d(np.arange(len(rows)), first)[0])

    def _check(self, ids: Sequence[str], table: npt.NDArray[np.generic]) -> None:
        kind = self._header.kind
        values = table.astype(np.float64)
        bad = ~np.isfinite(values).all(axis=1)
        what = "a value that is not finite"
        if not bad.any() and kind is SignalKind.CLASS:
            bad, what = (values < 0).any(axis=1), "a negative class number"
        elif not bad.any() and kind is SignalKind.PROBABILITIES:
            bad = (values < 0).any(axis=1) | (np.abs(values.sum(axis=1) - 1) > 1e-3)
            what = "probabilities that are negative or do not sum to 1"
        if bad.any():
            raise bad_signal("chunk.values", f"item {ids[int(bad.argmax())]!r} has {what}")

    def table(self) -> pa.Table:
        """The whole signal in pool order, once everything announced has come."""
        missing = int((~self._given).sum())
        if missing:
            row = int((~self._given).argmax())
            first = self._pool.ids.ids_of(np.array([row]))[0]
            raise bad_signal("header.count", f"{missing} items are missing, the first is {first!r}")
        if self._hash.digest() != self._header.sha256:
            raise bad_signal("header.sha256", "the chunks do not have the announced SHA-256")
        names = self._header.columns
        return pa.table({name: self._values[:, i] for i, name in enumerate(names)})


class Signals:
    """The signal calls."""

    def __init__(self, pools: Pools, store: Store, artifacts: Artifacts, workers: Workers) -> None:
        self._pools, self._store = pools, store
        self._artifacts, self._workers = artifacts, workers
        self._requests = Requests(store)

    def pool(self, header: SignalHeader) -> Pool:
        """The pool version that an upload is for."""
        return self._pools.find(
            header.pool, header.pool_version, "header.pool", "header.pool_version"
        )

    async def stored(self, header: SignalHeader) -> Signal | None:
        """What the same request stored before. REQUEST_ID_REUSED."""
        answer = await self._requests.answer(header.request)
        return None if answer is None else Signal.unpack(answer)

    async def take(
        self, upload: Upload, ids: Sequence[str], column: tuple[bytes, bytes], values: bytes
    ) -> None:
        """Add a chunk to an upload."""
        await self._workers.run(lambda: upload.add(ids, column, values))

    async def store(self, header: SignalHeader, pool: Pool, upload: Upload) -> Signal:
        """Write the file, then the record; repeating it changes nothing. SIGNAL_EXISTS."""
        table = await self._workers.run(upload.table)
        artifact = await self._workers.run(lambda: self._artifacts.put("signals", table))
        signal = Signal(
            name=header.name,
            pool=pool.manifest.name,
            pool_version=pool.manifest.version,
            kind=int(header.kind),
            columns=header.columns,
            count=header.count,
            content_hash=artifact.content_hash,
            created_ms=time.time_ns() // 1_000_000,
            uri=artifact.uri,
        )
        there = await self._store.put_document(
            _space(signal.pool), signal.name, signal.pack(), replaces=None, ttl_ms=None
        )
        if there is None:
            return await self._kept(header, signal)
        before = Signal.unpack(there)
        same = (before.content_hash, before.pool_version, before.kind, before.columns) == (
            signal.content_hash,
            signal.pool_version,
            signal.kind,
            signal.columns,
        )
        if same:
            return await self._kept(header, before)
        raise CoresiftError(
            Reason.SIGNAL_EXISTS,
            f"signal {header.name!r} exists with other content; signals never change: "
            "delete it first or choose another name",
            field="header.name",
        )

    async def _kept(self, header: SignalHeader, signal: Signal) -> Signal:
        return Signal.unpack(await self._requests.keep(header.request, signal.pack()))

    async def page(self, pool: str, after: str, count: int) -> list[Signal]:
        """Signals of a pool by name, after the given one."""
        self._pools.find(pool)
        documents = await self._store.list_documents(_space(pool), after, count)
        return [Signal.unpack(value) for _, value in documents]

    async def delete(self, pool: str, name: str, request: Request) -> None:
        """Remove a signal's record. SIGNAL_NOT_FOUND, REQUEST_ID_REUSED.

        The file stays: another signal may have the same content.
        """
        self._pools.find(pool)
        if await self._repeated(pool, name, request):
            return
        doomed = await self._store.get_document(_space(pool), name)
        if doomed is None:
            if await self._repeated(pool, name, request):  # by a call at the same time
                return
            raise CoresiftError(
                Reason.SIGNAL_NOT_FOUND, f"pool {pool!r} has no signal {name!r}", field="name"
            )
        await self._requests.keep(request, doomed)
        await self._repeated(pool, name, request)

    async def files_of(self, config: SessionConfig) -> tuple[SignalFile, ...]:
        """The columns that the strategies of a configuration read.

        Raises:
            CoresiftError: SIGNAL_NOT_FOUND; INVALID_SIGNAL for a column that cannot be ranked by,
                or a signal of another pool version.
        """
        path = "config.strategy"
        files = []
        for i, part in enumerate(config.mix):
            strategy = strategy_of(part.strategy)
            if isinstance(strategy, SignalStrategy):
                where = path if len(config.mix) == 1 else f"{path}.shares[{i}].strategy"
                files.append(await self._file_of(config, strategy, f"{where}.params"))
        return tuple(files)

    async def _file_of(
        self, config: SessionConfig, strategy: SignalStrategy, path: str
    ) -> SignalFile:
        packed = await self._store.get_document(_space(config.pool), strategy.name)
        if packed is None:
            there = [signal.name for signal in await self.page(config.pool, "", 20)]
            raise CoresiftError(
                Reason.SIGNAL_NOT_FOUND,
                f"{path}.name: pool {config.pool!r} has no signal {strategy.name!r}; "
                f"it has {', '.join(there) or 'none'}",
                field=f"{path}.name",
            )
        signal = Signal.unpack(packed)
        if signal.pool_version != config.pool_version:
            raise bad_signal(
                f"{path}.name",
                f"signal {strategy.name!r} was uploaded for version {signal.pool_version} of the "
                f"pool, the session works on {config.pool_version}",
            )
        if signal.kind == SignalKind.CLASS:
            raise bad_signal(f"{path}.name", f"signal {strategy.name!r} holds classes, no numbers")
        column = strategy.column or signal.columns[0]
        if column not in signal.columns or (not strategy.column and len(signal.columns) > 1):
            raise bad_signal(
                f"{path}.column",
                f"must be one of {', '.join(signal.columns[:20])}; got {strategy.column!r}",
            )
        key = signal_key(strategy.name, strategy.column)
        return SignalFile(key, signal.content_hash, column)

    async def _repeated(self, pool: str, name: str, request: Request) -> bool:
        """Delete what the request was accepted for, if it was; false for a new request.

        Acceptance comes first: a crash in between leaves a deletion that a retry completes. It
        names the very signal, so that a late retry spares one that was stored since.
        """
        doomed = await self._requests.answer(request)
        if doomed is None:
            return False
        if await self._store.get_document(_space(pool), name) == doomed:
            await self._store.delete_document(_space(pool), name)
        return True


def _space(pool: str) -> str:
    return f"signals/{pool}"
