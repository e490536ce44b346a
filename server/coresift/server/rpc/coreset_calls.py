"""Handlers of core-set jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coresift.server.caller import bare
from coresift.server.coreset.class_budgets import ClassBudgets
from coresift.server.errors import CoresiftError, Reason, invalid
from coresift.server.rpc import checks, decode, encode
from coresift.server.rpc.services import Services
from coresift.server.session.coresets.coreset_records import Progress
from coresift.server.session.coresets.coreset_requests import Asked, JobSpec, Targets
from coresift.server.session.coresets.coreset_results import Result
from coresift.v1 import selection_pb2 as pb

CHUNK_BYTES = 768 * 1024
"""Of a message."""
OFFSET_BYTES = 4
COLUMNS = {
    "rank": ("ranks", "<u4"),
    "score": ("scores", "<f8"),
    "weight": ("weights", "<f8"),
    "bucket": ("buckets", "<u4"),
}
"""Of a result: the field of a chunk that each goes to, and the type of its numbers."""
MAX_START_ITEMS = 100_000
MAX_TARGETS = 10_000
MAX_BUCKETS = 10_000
DEFAULT_GRACE_MS, MAX_GRACE_MS = 60_000, 3_600_000


class CoresetCalls:
    """ScoreCoreset and CancelCoreset."""

    services: Services

    async def ScoreCoreset(
        self, request: pb.ScoreCoresetRequest, context: object
    ) -> AsyncIterator[pb.ScoreCoresetResponse]:
        # Tens of megabytes are to be hashed where there are many start items or vectors.
        asked = await asyncio.to_thread(_asked, request)
        jobs = self.services.coresets
        spec = await jobs.plan(asked)
        yield pb.ScoreCoresetResponse(plan=_plan(spec))
        async with aclosing(jobs.attach(spec, asked)) as steps:
            async for step in steps:
                if isinstance(step, Progress):
                    progress = pb.CoresetProgress(
                        phase=step.phase, share=step.share, objective=step.objective
                    )
                    yield pb.ScoreCoresetResponse(progress=progress)
                    continue
                for batch in step.table.to_batches():
                    for chunk in result_chunks(batch):
                        yield pb.ScoreCoresetResponse(chunk=chunk)
                yield pb.ScoreCoresetResponse(summary=_summary(step))

    async def CancelCoreset(
        self, request: pb.CancelCoresetRequest, context: object
    ) -> pb.CancelCoresetResponse:
        identity = checks.request_of(request, request.request_id)
        job_id = checks.own_name("job_id", request.job_id)
        cancelled = await self.services.coresets.cancel(job_id, identity)
        return pb.CancelCoresetResponse(cancelled=cancelled)


def _asked(request: pb.ScoreCoresetRequest) -> Asked:
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
    session_id = ""
    if source == "session_id":
        session_id = checks.own_name("session_id", request.session_id)
    checks.count("start_item_ids", len(request.start_item_ids), MAX_START_ITEMS, least=0)
    if (buckets := request.pacing_buckets) and not 2 <= buckets <= MAX_BUCKETS:
        raise invalid("pacing_buckets", f"must be 0 or 2..{MAX_BUCKETS}, got {buckets}")
    return Asked(
        request=identity,
        pool=request.pool,
        session_id=session_id,
        method=request.method,
        params=decode.params(request.params, "params"),
        sampler=request.sampler,
        sampler_params=decode.params(request.sampler_params, "sampler_params"),
        budget=request.budget if request.HasField("budget") else None,
        seed=request.seed,
        class_signal=request.class_signal,
        predicted_classes=request.predicted_classes,
        class_budgets=_class_budgets(request),
        start_item_ids=tuple(request.start_item_ids),
        start_from_labels=request.start_from_labels,
        query=_targets("query", request.query),
        avoid=_targets("avoid", request.avoid),
        pacing_buckets=buckets,
        grace_s=grace_ms / 1000,
    )


def _class_budgets(request: pb.ScoreCoresetRequest) -> ClassBudgets | None:
    if not request.HasField("class_budgets"):
        return None
    given = request.class_budgets
    match given.WhichOneof("rule"):
        case "balanced":
            return ClassBudgets("balanced")
        case "proportional":
            return ClassBudgets("proportional")
        case "counts":
            return ClassBudgets("counts", tuple(sorted(given.counts.counts.items())))
    raise invalid("class_budgets.rule", "is required: balanced, proportional or counts")


def _targets(field: str, given: pb.Targets) -> Targets:
    vectors, count = None, len(given.item_ids)
    if given.HasField("vectors"):
        width = 4 * given.vectors.dimension
        if not width or not given.vectors.data or len(given.vectors.data) % width:
            raise CoresiftError(
                Reason.INVALID_VECTOR,
                f"{field}.vectors.data must hold rows of {width} bytes, "
                f"got {len(given.vectors.data)} bytes",
                field=f"{field}.vectors.data",
            )
        vectors = np.frombuffer(given.vectors.data, "<f4").reshape(-1, given.vectors.dimension)
        count += len(vectors)
    checks.count(field, count, MAX_TARGETS, least=0)
    return Targets(tuple(given.item_ids), vectors)


def _plan(spec: JobSpec) -> pb.CoresetPlan:
    return pb.CoresetPlan(
        job_id=bare(spec.job_id),
        basis=pb.Basis(
            pool=spec.pool,
            pool_version=spec.pool_version,
            config_version=spec.config_version,
            revision=spec.revision,
            head_version=spec.head_version,
            seed=spec.seed,
        ),
        method=spec.method,
        params=encode.struct(spec.params),
        sampler=spec.sampler,
        sampler_params=encode.struct(spec.sampler_params),
        notes=spec.notes,
        pool_items=spec.items,
        budget=spec.budget,
        expected_time=encode.duration(1e3 * spec.expected_s),
        expected_bytes=spec.expected_bytes,
    )


def result_chunks(batch: pa.RecordBatch) -> Iterator[pb.CoresetChunk]:
    """A result's columns, cut where a message is full."""
    ids = batch.column("item_id")
    buffers: list[Any] = ids.buffers()
    ends = np.frombuffer(buffers[1], np.int64)[ids.offset : ids.offset + len(ids) + 1]
    data = memoryview(buffers[2] or b"")
    columns: dict[str, npt.NDArray[Any]] = {
        field: batch.column(name).to_numpy().astype(dtype, copy=False)
        for name, (field, dtype) in COLUMNS.items()
        if name in batch.schema.names
    }
    row_bytes = OFFSET_BYTES + sum(column.itemsize for column in columns.values())
    filled = ends - ends[0] + row_bytes * np.arange(len(ends))
    start = 0
    while start < len(ids):
        full = int(np.searchsorted(filled, filled[start] + CHUNK_BYTES, side="right")) - 1
        stop = max(full, start + 1)
        offsets = (ends[start : stop + 1] - ends[start]).astype("<i4")
        column = pb.StringColumn(
            data=bytes(data[ends[start] : ends[stop]]), offsets=offsets.tobytes()
        )
        numbers = {field: values[start:stop].tobytes() for field, values in columns.items()}
        yield pb.CoresetChunk(item_ids=column, **numbers)
        start = stop


def _summary(result: Result) -> pb.CoresetSummary:
    summary = result.summary
    return pb.CoresetSummary(
        count=summary.count,
        covering_radius=summary.covering_radius,
        durations={name: encode.duration(1e3 * s) for name, s in summary.seconds.items()},
        uri=summary.uri,
        content_hash=summary.content_hash,
        objective=summary.objective,
        mean_max_similarity=summary.mean_max_similarity,
        measured_items=summary.measured_items,
        class_counts=summary.class_counts,
        details=summary.details,
    )
