"""Core-set jobs: a job is a resource that streams attach to, on any replica.

Two documents describe a job. ``jobs/<id>`` says what it is and, at the end, where its result
lies; it is kept for 24 h. ``owners/<id>`` is the owner's heartbeat with its progress; when it
lapses, the next attacher becomes the owner and starts the job again from the seed.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from threading import Event
from typing import Any, TypeVar

import msgpack
import numpy as np
import pyarrow as pa

from coresift.server.artifacts import Artifacts
from coresift.server.coreset.methods import METHODS
from coresift.server.coreset.selection import Request as Selecting
from coresift.server.coreset.selection import Selection
from coresift.server.errors import CoresiftError, Reason
from coresift.server.metrics import Metrics
from coresift.server.pool.failures import Cancelled
from coresift.server.session.coreset_plans import JobSpec, Ordered, Planner, Work
from coresift.server.session.coreset_records import (
    Summary,
    job_cancelled,
    pack_job,
    same_job,
    unpack_job,
)
from coresift.server.session.requests import Requests
from coresift.server.session.workers import Workers
from coresift.server.state.store import ANSWER_MS, Request, Store

T = TypeVar("T")

HEARTBEAT_S = 1.0
OWNER_TTL_MS = 8_000
ATTENDED_MS = 3_000
PATIENCE_S = 60.0
POLL_S = 0.5
"""How often a stream says something, and looks at a job of another replica."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a job is: the phase and its share, 0..1."""

    phase: str
    share: float


@dataclass(frozen=True, slots=True)
class Result:
    """A finished job: its summary and the table (item_id, rank, score, weight)."""

    summary: Summary
    table: pa.Table


@dataclass(slots=True)
class _Job:
    """A job that runs on this replica."""

    spec: JobSpec
    stop: Event = field(default_factory=Event)
    progress: Progress = field(default_factory=lambda: Progress("prepare", 0.0))
    attached: int = 0
    detached_at: float = 0.0
    cancelled: bool = False
    lost: bool = False
    task: asyncio.Task[None] | None = None


class CoresetJobs:
    """The core-set calls. Numerics run on workers of their own, so that labeling never waits."""

    def __init__(
        self,
        planner: Planner,
        store: Store,
        artifacts: Artifacts,
        workers: Workers,
        metrics: Metrics,
    ) -> None:
        self._planner, self._store = planner, store
        self._artifacts, self._workers, self._metrics = artifacts, workers, metrics
        self._owner = secrets.token_hex(8)
        self._requests = Requests(store)
        self._jobs: dict[str, _Job] = {}
        self._is_draining = False

    async def plan(self, ordered: Ordered) -> JobSpec:
        """The job that was asked for: checked and resolved now, or as it was the first time.

        Raises:
            CoresiftError: what `Planner.first` raises, REQUEST_ID_REUSED, JOB_CANCELLED.
        """
        job_id = ordered.request.request_id
        document = await self._store.get_document("jobs", job_id)
        if document is None:
            spec = await self._planner.first(ordered)
            document = await self._store.put_document(
                "jobs", job_id, pack_job(spec, "running", None), replaces=None, ttl_ms=ANSWER_MS
            )
            if not document:
                return spec
        # It is there, perhaps since a moment ago.
        return same_job(ordered.request, document)

    async def attach(self, spec: JobSpec, ordered: Ordered) -> AsyncGenerator[Progress | Result]:
        """Start the job or join it: progress at least every half second, then the result."""
        while True:
            result = await self._finished(spec)
            if result is not None:
                yield result
                return
            if self._is_draining:
                raise CoresiftError(
                    Reason.DRAINING,
                    "this replica is shutting down; attach to the job on another",
                    retry_after_s=1.0,
                )
            job = self._jobs.get(spec.job_id) or await self._own(spec, ordered)
            if job is None:
                await self._attend(spec.job_id)
                yield await self._remote_progress(spec.job_id)
                await asyncio.sleep(POLL_S)
                continue
            async for progress in self._follow(job):
                yield progress

    async def _attend(self, job_id: str) -> None:
        """Tell the owner, on another replica, that somebody waits for the job."""
        before = await self._store.get_document("attached", job_id)
        await self._store.put_document(
            "attached", job_id, b"1", replaces=before, ttl_ms=ATTENDED_MS
        )

    async def _follow(self, job: _Job) -> AsyncIterator[Progress]:
        """Progress of a job of this replica until it ends; raises what it raised."""
        assert job.task is not None  # noqa: S101 - set before the job is listed
        job.attached += 1
        try:
            while not job.task.done():
                yield job.progress
                await asyncio.wait([job.task], timeout=POLL_S)
            job.task.result()
        finally:
            job.attached -= 1
            job.detached_at = time.monotonic()

    async def _finished(self, spec: JobSpec) -> Result | None:
        """The result, None while there is none. JOB_CANCELLED."""
        document = await self._store.get_document("jobs", spec.job_id)
        if document is None:  # abandoned at the very moment we came: it starts again
            running = pack_job(spec, "running", None)
            await self._store.put_document(
                "jobs", spec.job_id, running, replaces=None, ttl_ms=ANSWER_MS
            )
            return None
        _, status = unpack_job(document)
        if status == "cancelled":
            raise job_cancelled(spec.job_id)
        if status == "running":
            return None
        summary = Summary(**msgpack.unpackb(document)["summary"])
        table = await asyncio.to_thread(self._artifacts.get, "coresets", summary.content_hash)
        return Result(summary, table)

    async def _is_over(self, job_id: str) -> bool:
        document = await self._store.get_document("jobs", job_id)
        return document is None or unpack_job(document)[1] != "running"

    async def _remote_progress(self, job_id: str) -> Progress:
        owner = await self._store.get_document("owners", job_id)
        if not owner:
            return Progress("queued", 0.0)
        _, phase, share = msgpack.unpackb(owner)
        return Progress(phase, share)

    async def _own(self, spec: JobSpec, ordered: Ordered) -> _Job | None:
        """Become the owner and start the job; None if another replica owns it, or it is over."""
        job = _Job(spec)
        heartbeat = self._heartbeat(job)
        there = await self._store.put_document(
            "owners", spec.job_id, heartbeat, replaces=None, ttl_ms=OWNER_TTL_MS
        )
        if there is not None:
            return self._jobs.get(spec.job_id)
        if self._is_draining:
            await self._store.delete_document("owners", spec.job_id)
            return None
        # From the claim on the heart must beat: whatever takes time happens in the task.
        job.task = self._workers.spawn(self._run(job, heartbeat, ordered))
        job.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._jobs[spec.job_id] = job
        return job

    def _heartbeat(self, job: _Job) -> bytes:
        return bytes(msgpack.packb([self._owner, job.progress.phase, job.progress.share]))

    async def _run(self, job: _Job, heartbeat: bytes, ordered: Ordered) -> None:
        spec, end = job.spec, "failed"
        watch = asyncio.create_task(self._keep(job, heartbeat))
        try:
            if await self._patiently(spec, lambda: self._is_over(spec.job_id)):
                end = ""  # its last owner ended it just before
                return
            work = await self._patiently(spec, lambda: self._planner.work(spec, ordered))
            job.progress = Progress("queued", 0.0)
            table, selection, seconds = await self._workers.run(lambda: _select(job, work))
            job.progress = Progress("store", 0.0)
            began = time.perf_counter()
            # Not on our workers: it would wait for the selections of other jobs.
            artifact = await asyncio.to_thread(self._artifacts.put, "coresets", table)
            seconds["store"] = time.perf_counter() - began
            summary = Summary(
                len(selection.rows),
                selection.covering_radius,
                seconds,
                artifact.uri,
                artifact.content_hash,
            )
            await self._end(spec, "finished", summary)
            end = "finished"
        except Cancelled:
            end = "cancelled" if job.cancelled else "abandoned"
            if job.cancelled:
                await self._end(spec, "cancelled", None)
                raise job_cancelled(spec.job_id) from None
            # Kept for whoever attached at the last moment, here or on another replica.
            elsewhere = await self._store.get_document("attached", spec.job_id) is not None
            if not (self._is_draining or job.lost or job.attached or elsewhere):
                await self._store.delete_document("jobs", spec.job_id)
        finally:
            watch.cancel()
            if self._jobs.get(spec.job_id) is job:
                del self._jobs[spec.job_id]
            if end:
                self._metrics.coreset_jobs.labels(spec.method, end).inc()
            if not job.lost:
                await self._disown(spec.job_id)

    async def _disown(self, job_id: str) -> None:
        try:
            await self._store.delete_document("owners", job_id)
        except CoresiftError:
            return  # it lapses by itself

    async def _patiently(self, spec: JobSpec, call: Callable[[], Awaitable[T]]) -> T:
        """What ``call`` answers; while the store is away it is called again for a while."""
        deadline = time.monotonic() + max(spec.grace_s, PATIENCE_S)
        while True:
            try:
                return await call()
            except CoresiftError as error:
                if error.retry_after_s is None or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(HEARTBEAT_S)

    async def _keep(self, job: _Job, heartbeat: bytes) -> None:
        """Renew ownership; stop the job when it is lost, lonely, or cancelled elsewhere."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                heartbeat = await self._renewed(job, heartbeat)
                document = await self._store.get_document("jobs", job.spec.job_id)
                if await self._store.get_document("attached", job.spec.job_id) is not None:
                    job.detached_at = time.monotonic()
            except CoresiftError:
                continue  # the store is away: the work goes on, ownership lapses at worst
            if document is not None and unpack_job(document)[1] == "cancelled":
                job.cancelled = True
            lonely = time.monotonic() - job.detached_at > job.spec.grace_s
            if job.lost or job.cancelled or (not job.attached and job.detached_at and lonely):
                job.stop.set()

    async def _renewed(self, job: _Job, heartbeat: bytes) -> bytes:
        """The heartbeat that stands now; the job is lost if it is another replica's."""
        fresh, before = self._heartbeat(job), heartbeat
        for _ in range(2):
            there = await self._store.put_document(
                "owners", job.spec.job_id, fresh, replaces=before or None, ttl_ms=OWNER_TTL_MS
            )
            if there is None:
                return fresh
            if there and msgpack.unpackb(there)[0] != self._owner:
                job.lost = True
                return heartbeat
            before = there  # it lapsed, or a write of ours came through unanswered
        return before

    async def cancel(self, job_id: str, request: Request) -> bool:
        """Stop a job wherever it runs; False if it had ended.

        Raises:
            CoresiftError: JOB_NOT_FOUND, REQUEST_ID_REUSED.
        """
        answer = await self._requests.answer(request)
        if answer is None:
            cancelled = await self._cancel(job_id)
            answer = await self._requests.keep(request, b"1" if cancelled else b"0")
        return answer == b"1"

    async def _cancel(self, job_id: str) -> bool:
        document = await self._store.get_document("jobs", job_id)
        if document is None:
            raise CoresiftError(Reason.JOB_NOT_FOUND, f"no core-set job {job_id!r}", field="job_id")
        spec, status = unpack_job(document)
        if status != "running":
            return status == "cancelled"
        ended = await self._store.put_document(
            "jobs", job_id, pack_job(spec, "cancelled", None), replaces=document, ttl_ms=ANSWER_MS
        )
        if ended is not None:
            return False  # it ended at this very moment
        if (job := self._jobs.get(job_id)) is not None:
            job.cancelled = True
            job.stop.set()
        return True

    async def _end(self, spec: JobSpec, status: str, summary: Summary | None) -> None:
        """Write how the job ended."""

        async def write() -> None:
            running = await self._store.get_document("jobs", spec.job_id)
            if running is not None and unpack_job(running)[1] == "running":
                await self._store.put_document(
                    "jobs",
                    spec.job_id,
                    pack_job(spec, status, summary),
                    replaces=running,
                    ttl_ms=ANSWER_MS,
                )

        await self._patiently(spec, write)

    async def stop(self) -> None:
        """Stop every job of this replica: the next attacher starts it again elsewhere."""
        self._is_draining = True
        for job in list(self._jobs.values()):
            job.stop.set()


def _select(job: _Job, work: Work) -> tuple[pa.Table, Selection, dict[str, float]]:
    spec, pool = job.spec, work.pool

    def report(share: float) -> None:
        job.progress = Progress("select", share)

    report(0.0)
    began = time.perf_counter()
    request = Selecting(spec.budget, spec.seed, work.head, work.start, report, job.stop.is_set)
    selection = METHODS[spec.method].select(pool, request)
    seconds = {"select": time.perf_counter() - began}
    data, offsets = pool.ids.column(selection.rows)
    ids = pa.StringArray.from_buffers(
        len(selection.rows), pa.py_buffer(offsets), pa.py_buffer(data)
    )
    columns: dict[str, Any] = {
        "item_id": ids,
        "rank": np.arange(len(selection.rows), dtype=np.uint32),
        "score": selection.scores,
    }
    if selection.weights is not None:
        columns["weight"] = selection.weights
    return pa.table(columns), selection, seconds
