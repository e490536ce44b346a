"""Handlers of uploaded signals."""

from __future__ import annotations

from collections.abc import AsyncIterator

from coresift.server.errors import invalid
from coresift.server.rpc import checks, encode
from coresift.server.rpc.services import Services
from coresift.server.session.signals.signal_uploads import (
    SignalChunk,
    SignalHeader,
    SignalKind,
    bad_signal,
)
from coresift.v1 import selection_pb2 as pb


class SignalCalls:
    """PutSignals, ListSignals and DeleteSignals."""

    services: Services

    async def PutSignals(
        self, request_iterator: AsyncIterator[pb.PutSignalsRequest], context: object
    ) -> pb.PutSignalsResponse:
        parts, signals = aiter(request_iterator), self.services.signals
        first = await anext(parts, None)
        if first is None:
            raise bad_signal("header", "nothing was uploaded")
        if first.WhichOneof("part") != "header":
            raise bad_signal("header", "the first message must be the header")
        header = _header(first.header)
        if (before := await signals.stored(header)) is not None:
            return pb.PutSignalsResponse(signal=encode.signal(before))
        pool = signals.pool(header)
        with signals.upload(header, pool) as upload:
            async for part in parts:
                if part.WhichOneof("part") == "header":
                    raise bad_signal("header", "a second header came")
                column = part.chunk.item_ids
                offsets = checks.packed_strings("chunk.item_ids", column)
                chunk = SignalChunk(column.data, offsets, part.chunk.values)
                await signals.take(upload, chunk)
            signal = await signals.store(header, pool, upload)
        return pb.PutSignalsResponse(signal=encode.signal(signal))

    async def ListSignals(
        self, request: pb.ListSignalsRequest, context: object
    ) -> pb.ListSignalsResponse:
        size = checks.page_size(request.page_size)
        after = checks.page_after("signals", request.page_token)
        signals = await self.services.signals.page(request.pool, after, size + 1)
        return pb.ListSignalsResponse(
            signals=[encode.signal(signal) for signal in signals[:size]],
            next_page_token=(
                checks.page_token("signals", signals[size - 1].name) if len(signals) > size else ""
            ),
        )

    async def DeleteSignals(
        self, request: pb.DeleteSignalsRequest, context: object
    ) -> pb.DeleteSignalsResponse:
        identity = checks.request_of(request, request.request_id)
        checks.signal_name("name", request.name)
        await self.services.signals.delete(request.pool, request.name, identity)
        return pb.DeleteSignalsResponse()


def _header(given: pb.SignalHeader) -> SignalHeader:
    identity = checks.request_of(given, given.request_id, field="header.request_id")
    columns = tuple(given.columns)
    if not 1 <= len(columns) <= 1_000:
        raise invalid("header.columns", f"must hold 1..1000 names, got {len(columns)}")
    if len(set(columns)) != len(columns) or not all(columns):
        raise invalid("header.columns", "must be distinct and not empty")
    if len(given.sha256) != 32:
        raise invalid("header.sha256", f"must have 32 bytes, got {len(given.sha256)}")
    return SignalHeader(
        request=identity,
        name=checks.signal_name("header.name", given.name),
        pool=given.pool,
        pool_version=given.pool_version,
        kind=SignalKind(checks.known("header.kind", given.kind, pb.SignalKind)),
        columns=columns,
        count=given.count,
        sha256=given.sha256,
    )
