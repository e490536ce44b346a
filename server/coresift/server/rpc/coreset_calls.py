"""Handlers of core-set jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import numpy as np
import pyarrow as pa

from coresift.server.errors import invalid
from coresift.server.rpc import checks, encode
from coresift.server.rpc.services import Services
from coresift.server.session.coreset_jobs import Progress, Result
from coresift.server.session.coreset_plans import JobSpec, Ordered
from coresift.v1 import selection_pb2 as pb

CHUNK_ITEMS = 16_384
"""Of a message: with ids of 30 bytes about 1 MB."""
MAX_START_ITEMS = 100_000
DEFAULT_GRACE_MS, MAX_GRACE_MS = 60_000, 3_600_000


class CoresetCalls:
    """ScoreCoreset and CancelCoreset."""

    services: Services

    async def ScoreCoreset(
        self, request: pb.ScoreCoresetRequest, context: object
    ) -> AsyncIterator[pb.ScoreCoresetResponse]:
        ordered = self._ordered(request)
        jobs = self.services.coresets
        spec = await jobs.plan(ordered)
        yield pb.ScoreCoresetResponse(plan=_plan(spec))
        async with aclosing(jobs.attach(spec, ordered)) as steps:
            async for step in steps:
                if isinstance(step, Progress):
                    progress = pb.CoresetProgress(phase=step.phase, share=step.share)
                    yield pb.ScoreCoresetResponse(progress=progress)
                    continue
                for start in range(0, step.table.num_rows, CHUNK_ITEMS):
                    part = step.table.slice(start, CHUNK_ITEMS).combine_chunks()
                    yield pb.ScoreCoresetResponse(chunk=_chunk(part))
                yield pb.ScoreCoresetResponse(summary=_summary(step))

    def _ordered(self, request: pb.ScoreCoresetRequest) -> Ordered:
        identity = checks.request_of(request, request.request_id)
        grace_ms = DEFAULT_GRACE_MS
        if request.HasField("grace_period"):
            grace_ms = checks.milliseconds(request.grace_period)
            if not 1_000 <= grace_ms <= MAX_GRACE_MS:
                got = grace_ms / 1000
                raise invalid("grace_period", f"must be 1 s to 1 h, got {got:g} s")
        source = request.WhichOneof("source")
        if source is None:
            raise invalid("source", "is required: pool or session_id")
        if source == "session_id":
            checks.name("session_id", request.session_id)
        checks.count("start_item_ids", len(request.start_item_ids), MAX_START_ITEMS, least=0)
        return Ordered(
            request=identity,
            pool=request.pool,
            session_id=request.session_id,
            method=request.method,
            budget=request.budget,
            seed=request.seed,
            start_item_ids=tuple(request.start_item_ids),
            grace_s=grace_ms / 1000,
        )

    async def CancelCoreset(
        self, request: pb.CancelCoresetRequest, context: object
    ) -> pb.CancelCoresetResponse:
        identity = checks.request_of(request, request.request_id)
        checks.name("job_id", request.job_id)
        cancelled = await self.services.coresets.cancel(request.job_id, identity)
        return pb.CancelCoresetResponse(cancelled=cancelled)


def _plan(spec: JobSpec) -> pb.CoresetPlan:
    return pb.CoresetPlan(
        job_id=spec.job_id,
        basis=pb.Basis(
            pool=spec.pool,
            pool_version=spec.pool_version,
            config_version=spec.config_version,
            revision=spec.revision,
            head_version=spec.head_version,
            seed=spec.seed,
        ),
        method=spec.method,
        pool_items=spec.items,
        budget=spec.budget,
        expected_time=encode.duration(1e3 * spec.expected_s),
        expected_bytes=spec.expected_bytes,
    )


def _chunk(part: pa.Table) -> pb.CoresetChunk:
    encoded = [item_id or b"" for item_id in part["item_id"].cast(pa.binary()).to_pylist()]
    offsets = np.cumsum([0, *map(len, encoded)])
    weights = part["weight"].to_numpy().tobytes() if "weight" in part.column_names else b""
    return pb.CoresetChunk(
        item_ids=pb.StringColumn(data=b"".join(encoded), offsets=offsets.astype("<i4").tobytes()),
        ranks=part["rank"].to_numpy().astype("<u4").tobytes(),
        scores=part["score"].to_numpy().astype("<f8").tobytes(),
        weights=weights,
    )


def _summary(result: Result) -> pb.CoresetSummary:
    summary = result.summary
    return pb.CoresetSummary(
        count=summary.count,
        covering_radius=summary.covering_radius,
        durations={name: encode.duration(1e3 * s) for name, s in summary.seconds.items()},
        uri=summary.uri,
        content_hash=summary.content_hash,
    )
