"""Core-set jobs: a job is a resource that streams attach to, on any replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from coresift.server.artifacts import Artifacts
from coresift.server.caller import CALLER, bare
from coresift.server.errors import CoresiftError, Reason
from coresift.server.session.coresets.coreset_ledger import Ledger
from coresift.server.session.coresets.coreset_plans import Planner
from coresift.server.session.coresets.coreset_records import Progress
from coresift.server.session.coresets.coreset_requests import Asked, JobSpec
from coresift.server.session.coresets.coreset_results import Result
from coresift.server.session.coresets.coreset_run import POLL_S, Run
from coresift.server.session.coresets.coreset_runner import Runner
from coresift.server.session.setup.requests import Requests
from coresift.server.state.store import Store
from coresift.server.state.values import Request


class CoresetJobs:
    """The core-set calls."""

    def __init__(
        self, planner: Planner, runner: Runner, store: Store, artifacts: Artifacts
    ) -> None:
        self._planner, self._runner, self._artifacts = planner, runner, artifacts
        self._ledger, self._requests = Ledger(store), Requests(store)

    async def plan(self, asked: Asked) -> JobSpec:
        """The job that was asked for: checked, resolved and started now, or as it was the first
        time, and then it is refused for no lack of room.

        Raises:
            CoresiftError: what `Planner.plan` and `Room.check` raise, REQUEST_ID_REUSED,
                JOB_CANCELLED, and what the job failed of.
        """
        record = await self._ledger.find(asked.request.request_id)
        if record is not None:
            spec = record.check(asked.request).spec
            _check_visible(spec)
            return spec
        spec = await self._planner.plan(asked)
        # It has its place from here on: of two that do not fit together the later one is refused.
        with self._runner.admitted(spec):
            spec = (await self._ledger.begin(spec)).check(asked.request).spec
            if not self._runner.is_draining:
                await self._runner.claim(spec, asked)
        return spec

    async def attach(self, spec: JobSpec, asked: Asked) -> AsyncGenerator[Progress | Result]:
        """Start the job or join it: progress at least every half second, then the result.

        Raises:
            CoresiftError: JOB_CANCELLED, DRAINING, POOL_VERSION_NOT_LOADED, ARTIFACT_MISSING, and
                what its inputs and its method raise: the same to all, also long after, unless
                trying again may help.
        """
        while True:
            result = await self._finished(spec)
            if result is not None:
                yield result
                return
            if self._runner.is_draining:
                raise CoresiftError(
                    Reason.DRAINING,
                    "this replica is shutting down; attach to the job on another",
                    retry_after_s=1.0,
                )
            run = self._runner.runs.get(spec.job_id) or await self._take_over(spec, asked)
            if run is None:
                await self._ledger.attend(spec.job_id)
                heartbeat = await self._ledger.heartbeat(spec.job_id)
                yield Progress("queued", 0.0) if heartbeat is None else heartbeat.progress
                await asyncio.sleep(POLL_S)
                continue
            async for progress in run.follow():
                yield progress

    async def _take_over(self, spec: JobSpec, asked: Asked) -> Run | None:
        """Start a job that nobody owns; None while somebody does. TOO_LARGE, OVERLOADED."""
        if await self._ledger.heartbeat(spec.job_id) is not None:
            return None
        with self._runner.admitted(spec):
            return await self._runner.claim(spec, asked)

    async def _finished(self, spec: JobSpec) -> Result | None:
        """The result, None while there is none. JOB_CANCELLED, or why it failed."""
        record = await self._ledger.find(spec.job_id)
        if record is None:  # abandoned at the very moment we came: it starts again
            record = await self._ledger.begin(spec)
        summary = record.alive().summary
        if summary is None:
            return None
        table = await asyncio.to_thread(self._artifacts.get, "coresets", summary.content_hash)
        return Result(summary, table)

    async def cancel(self, job_id: str, request: Request) -> bool:
        """Stop a job wherever it runs; False if it had ended, well or badly. A job that was
        cancelled before stays cancelled: true.

        Raises:
            CoresiftError: JOB_NOT_FOUND, REQUEST_ID_REUSED.
        """
        answer = await self._requests.answer(request)
        if answer is None:
            cancelled = await self._cancel(job_id)
            answer = await self._requests.keep(request, b"1" if cancelled else b"0")
        return answer == b"1"

    async def _cancel(self, job_id: str) -> bool:
        record = await self._ledger.find(job_id)
        if record is not None:
            _check_visible(record.spec)
        status = await self._ledger.end(job_id, "cancelled")
        if status is None:
            raise _not_found(job_id)
        if status == "cancelled" and (run := self._runner.runs.get(job_id)) is not None:
            run.cancel()
        return status == "cancelled"

    async def stop(self) -> None:
        """Stop every job of this replica: the next attacher starts it again elsewhere."""
        self._runner.stop()


def _check_visible(spec: JobSpec) -> None:
    """Refuse a job on a pool that is hidden from the caller. JOB_NOT_FOUND."""
    if not CALLER.get().sees(spec.pool):
        raise _not_found(spec.job_id)


def _not_found(job_id: str) -> CoresiftError:
    return CoresiftError(Reason.JOB_NOT_FOUND, f"no core-set job {bare(job_id)!r}", field="job_id")
