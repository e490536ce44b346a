"""Core-set jobs that run on this replica: their turn, their work, their heartbeat, their end.

A run is stopped when its job is cancelled, here or through another replica; when nobody has been
attached for the grace period; when another replica has become the owner; when this one drains.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import structlog

from coresift.server.artifacts import Artifacts
from coresift.server.coreset.problem import Problem
from coresift.server.errors import CoresiftError, Reason
from coresift.server.memory_promises import RETRY_S
from coresift.server.metrics import Metrics
from coresift.server.pool.rows import check
from coresift.server.session.coresets.coreset_inputs import Inputs
from coresift.server.session.coresets.coreset_ledger import Ledger
from coresift.server.session.coresets.coreset_records import Failure, Heartbeat, Summary
from coresift.server.session.coresets.coreset_requests import Asked, JobSpec, recipe_of
from coresift.server.session.coresets.coreset_results import carry_out
from coresift.server.session.coresets.coreset_room import Room
from coresift.server.session.coresets.coreset_run import Run, happens
from coresift.server.session.work.workers import Workers
from coresift.server.state.store import Store

log = structlog.get_logger()

T = TypeVar("T")

HEARTBEAT_S = 1.0
WATCH_S = 0.05
"""How often a run that has its turn looks whether it was cancelled through another replica."""
QUEUED_WATCHES = 5
"""Times as seldom while it waits for its turn: there may be many."""
PASSING = {Reason.ARTIFACT_MISSING, Reason.FORMAT_TOO_NEW}
"""What may be over on another replica or another day: no job is written down as failed of it."""
PATIENCE_S = 60.0
"""At least so long a run waits for a store that is away."""


class Runner:
    """Runs jobs, as many at a time as there are turns, in the order in which they came."""

    def __init__(
        self,
        inputs: Inputs,
        store: Store,
        artifacts: Artifacts,
        workers: Workers,
        metrics: Metrics,
        room: Room,
    ) -> None:
        """``workers`` has a thread for each turn."""
        self._inputs, self._ledger = inputs, Ledger(store)
        self._artifacts, self._workers, self._metrics = artifacts, workers, metrics
        self._room, self._turns = room, asyncio.Semaphore(room.turns)
        self._coming: list[JobSpec] = []
        self._owner = secrets.token_hex(8)
        self.runs: dict[str, Run] = {}
        """By job."""
        metrics.count_jobs(self._phases)
        room.promises.count(lambda: sum(spec.expected_bytes for spec in self._here().values()))
        self.is_draining = False

    def _phases(self) -> list[str]:
        """What each run is doing; asked from another thread."""
        return [run.progress.phase for run in list(self.runs.values())]

    @contextmanager
    def admitted(self, spec: JobSpec) -> Iterator[None]:
        """A place for a job that comes here until it is among the runs. TOO_LARGE, OVERLOADED."""
        here = self._here()
        if spec.job_id not in here:
            self._room.check(spec, here.values())
        self._coming.append(spec)
        try:
            yield
        finally:
            self._coming.remove(spec)

    def _here(self) -> dict[str, JobSpec]:
        """The jobs that run, wait or come here: two calls with one request_id make one job."""
        specs = [*(run.spec for run in self.runs.values()), *self._coming]
        return {spec.job_id: spec for spec in specs}

    async def claim(self, spec: JobSpec, asked: Asked) -> Run | None:
        """Become a job's owner and start it; None if another replica owns it.

        Raises:
            CoresiftError: POOL_VERSION_NOT_LOADED.
        """
        self._inputs.pool(spec)
        run = Run(spec, asked)
        heartbeat = self._heartbeat(run)
        if not await self._ledger.claim(spec.job_id, heartbeat):
            return self.runs.get(spec.job_id)
        if self.is_draining:
            await self._ledger.disown(spec.job_id, self._owner)
            return None
        # From the claim on the heart must beat: whatever takes time happens in the task.
        run.begin(self._workers.spawn(self._run(run, heartbeat)))
        self.runs[spec.job_id] = run
        return run

    def stop(self) -> None:
        """Stop every run: the next attacher starts its job again elsewhere."""
        self.is_draining = True
        for run in list(self.runs.values()):
            run.give_up()

    async def _run(self, run: Run, heartbeat: Heartbeat) -> None:
        end = "failed"
        done = asyncio.Event()
        watch = asyncio.create_task(self._watch(run, heartbeat, done))
        try:
            end = await self._work(run)
        except Exception as error:
            # Whatever goes wrong once it is stopped comes of that.
            end = await (self._leave(run) if run.stop.is_set() else self._fail(run, error))
        finally:
            try:
                done.set()
                await watch  # it must not beat any more
                if end:
                    self._metrics.coreset_jobs.labels(run.spec.method, end).inc()
                if not run.is_lost:
                    await self._ledger.disown(run.spec.job_id, self._owner)
            finally:  # whatever happens, it holds no place and no memory from here on
                if self.runs.get(run.spec.job_id) is run:
                    del self.runs[run.spec.job_id]

    async def _work(self, run: Run) -> str:
        """From the queue to the stored result; returns how the job ended, "" if it had before."""
        job_id = run.spec.job_id
        record = await self._patiently(run, lambda: self._ledger.find(job_id))
        if record is None or record.status != "running":
            return ""  # its last owner ended it just before the claim
        summary = await self._in_turn(run)
        status = await self._patiently(run, lambda: self._ledger.end(job_id, "finished", summary))
        return status or "abandoned"

    async def _in_turn(self, run: Run) -> Summary:
        """Wait for a turn; prepare, select and store."""
        await run.unless_stopped(self._turns.acquire())
        run.has_turn = True
        try:
            run.report("prepare", 0.0, None)
            problem = await run.unless_stopped(self._patiently(run, lambda: self._problem(run)))
            return await self._workers.run(lambda: self._selected(run, problem))
        finally:
            self._turns.release()

    async def _problem(self, run: Run) -> Problem:
        return await self._inputs.problem(run.spec, run.asked, run.report, run.stop.is_set)

    def _selected(self, run: Run, problem: Problem) -> Summary:
        found = carry_out(recipe_of(run.asked), problem, run.asked.pacing_buckets)
        check(run.stop.is_set)
        run.report("store", 0.0, found.selection.objective)
        artifact = self._artifacts.put("coresets", found.table)
        return found.summary(run.seconds(), artifact)

    async def _leave(self, run: Run) -> str:
        """What becomes of a stopped run; an abandoned job is forgotten, unless somebody wants it
        after all."""
        if run.is_cancelled:
            return "cancelled"
        is_wanted = run.is_lost or self.is_draining or run.attached
        # Kept for whoever attached at the last moment on another replica.
        if not (is_wanted or await self._ledger.is_attended(run.spec.job_id)):
            await self._ledger.forget(run.spec.job_id)
        return "abandoned"

    async def _fail(self, run: Run, error: Exception) -> str:
        """Write down why a job failed, so that all who attach are told the same; returns how it
        ended. Raises what may be over when somebody attaches again: then it stays as it is."""
        told = error if isinstance(error, CoresiftError) else _defect(run, error)
        if isinstance(error, OSError | MemoryError):
            raise CoresiftError(
                Reason.OVERLOADED, f"the job cannot go on here now: {error}", retry_after_s=RETRY_S
            ) from error
        if told.retry_after_s is not None or told.reason in PASSING:
            raise told from error
        failure = Failure.of(told)
        status = await self._patiently(
            run, lambda: self._ledger.end(run.spec.job_id, "failed", failure=failure)
        )
        return status or "failed"

    async def _patiently(self, run: Run, call: Callable[[], Awaitable[T]]) -> T:
        """What ``call`` answers; while the store is away it is called again for a while."""
        deadline = time.monotonic() + max(run.spec.grace_s, PATIENCE_S)
        while True:
            try:
                return await call()
            except CoresiftError as error:
                if error.retry_after_s is None or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(HEARTBEAT_S)

    def _heartbeat(self, run: Run) -> Heartbeat:
        return Heartbeat(self._owner, run.progress)

    async def _watch(self, run: Run, heartbeat: Heartbeat, done: asyncio.Event) -> None:
        """Keep ownership; stop the run when it is lost, lonely, or cancelled elsewhere."""
        job_id, watches, renewed_at = run.spec.job_id, 0, time.monotonic()
        while not await happens(done, WATCH_S):
            watches += 1
            if not run.has_turn and watches % QUEUED_WATCHES:
                continue
            try:
                record = await self._ledger.find(job_id)
                if time.monotonic() - renewed_at >= HEARTBEAT_S:
                    fresh = self._heartbeat(run)
                    renewed = await self._ledger.renew(job_id, heartbeat, fresh)
                    run.is_lost, renewed_at = renewed is None, time.monotonic()
                    heartbeat = renewed or heartbeat
                    if await self._ledger.is_attended(job_id):
                        run.attached_at = time.monotonic()
            except CoresiftError:
                continue  # the store is away: the work goes on, ownership lapses at worst
            except Exception as error:  # a watch that ends would leave the run without a heart
                log.error("core-set job not watched", job_id=job_id, error=repr(error))
                continue
            if record is not None and record.status == "cancelled":
                run.cancel()
            is_lonely = time.monotonic() - run.attached_at > run.spec.grace_s
            if run.is_lost or (is_lonely and not run.attached):
                run.give_up()


def _defect(run: Run, error: Exception) -> CoresiftError:
    """What is told of a defect; the log says more of it."""
    incident = secrets.token_hex(6)
    log.error("incident", incident=incident, job_id=run.spec.job_id, exc_info=error)
    return CoresiftError(
        Reason.INTERNAL, f"a defect of the server, incident {incident}", incident=incident
    )
