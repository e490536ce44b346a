"""Signals: named, immutable columns of per-item numbers that users upload for a pool."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import msgpack

from coresift.server.artifacts import Artifacts
from coresift.server.caller import CALLER
from coresift.server.errors import CoresiftError, Reason
from coresift.server.memory_promises import MemoryPromises
from coresift.server.pool.pool import Pool
from coresift.server.selection.plain import Signal as SignalStrategy
from coresift.server.selection.plain import signal_key
from coresift.server.selection.registry import strategy_of
from coresift.server.session.setup.config import SessionConfig, SignalFile
from coresift.server.session.setup.pools import Pools
from coresift.server.session.setup.requests import Requests
from coresift.server.session.signals.signal_uploads import (
    SignalChunk,
    SignalHeader,
    SignalKind,
    Upload,
    UploadMemory,
    bad_signal,
)
from coresift.server.session.work.workers import Workers
from coresift.server.state.store import Store
from coresift.server.state.values import Request


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


class Signals:
    """The signal calls."""

    def __init__(
        self,
        pools: Pools,
        store: Store,
        artifacts: Artifacts,
        workers: Workers,
        promises: MemoryPromises,
    ) -> None:
        self._pools, self._store = pools, store
        self._artifacts, self._workers = artifacts, workers
        self._requests, self._memory = Requests(store), UploadMemory(promises)

    def pool(self, header: SignalHeader) -> Pool:
        """The pool version that an upload is for."""
        return self._pools.find(
            header.pool, header.pool_version, "header.pool", "header.pool_version"
        )

    async def stored(self, header: SignalHeader) -> Signal | None:
        """What the same request stored before. REQUEST_ID_REUSED."""
        answer = await self._requests.answer(header.request)
        return None if answer is None else Signal.unpack(answer)

    @contextmanager
    def upload(self, header: SignalHeader, pool: Pool) -> Iterator[Upload]:
        """An upload with memory of its own. INVALID_SIGNAL, TOO_LARGE, OVERLOADED."""
        with self._memory.booked(header, pool):
            yield Upload(header, pool)

    async def take(self, upload: Upload, chunk: SignalChunk) -> None:
        """Add a chunk to an upload. INVALID_SIGNAL."""
        await self._workers.run(lambda: upload.add(chunk))

    async def store(self, header: SignalHeader, pool: Pool, upload: Upload) -> Signal:
        """Write the file, then the record; repeating it changes nothing. SIGNAL_EXISTS."""
        artifact = await self._workers.run(lambda: self._artifacts.put("signals", upload.table()))
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
        place = f"{path}.name"
        signal = await self.of_version(config.pool, config.pool_version, strategy.name, place)
        if signal.kind == SignalKind.CLASS:
            raise bad_signal(f"{path}.name", f"signal {strategy.name!r} holds classes, no numbers")
        key = signal_key(strategy)
        if strategy.of != "column":
            if signal.kind != SignalKind.PROBABILITIES:
                raise bad_signal(
                    f"{path}.of",
                    f"{strategy.of!r} needs class probabilities, signal {strategy.name!r} "
                    "holds numbers",
                )
            if strategy.column:
                raise bad_signal(f"{path}.column", f"has no meaning with of={strategy.of!r}")
            return SignalFile(key, signal.content_hash, "", strategy.of)
        column = strategy.column or signal.columns[0]
        if column not in signal.columns or (not strategy.column and len(signal.columns) > 1):
            raise bad_signal(
                f"{path}.column",
                f"must be one of {', '.join(signal.columns[:20])}; got {strategy.column!r}",
            )
        return SignalFile(key, signal.content_hash, column)

    async def of_version(self, pool: str, pool_version: str, name: str, field: str) -> Signal:
        """A signal of a pool version. SIGNAL_NOT_FOUND, INVALID_SIGNAL for another version's."""
        packed = await self._store.get_document(_space(pool), name)
        if packed is None:
            there = [signal.name for signal in await self.page(pool, "", 20)]
            raise CoresiftError(
                Reason.SIGNAL_NOT_FOUND,
                f"{field}: pool {pool!r} has no signal {name!r}; "
                f"it has {', '.join(there) or 'none'}",
                field=field,
            )
        signal = Signal.unpack(packed)
        if signal.pool_version != pool_version:
            raise bad_signal(
                field,
                f"signal {name!r} was uploaded for version {signal.pool_version} of the pool, "
                f"not for {pool_version}",
            )
        return signal

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
    return CALLER.get().kept_as(f"signals/{pool}")
