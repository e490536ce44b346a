"""Core-set jobs that run on this replica: their turn, their work, their heartbeat, their end.

A run is stopped when its job is cancelled, here or through another replica; when nobody has been
attached for the grace period; when another replica has become the owner; when this one drains.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from coresift.server.artifacts import Artifacts
from coresift.server.coreset.problem import Problem
from coresift.server.errors import CoresiftError
from coresift.server.metrics import Metrics
from coresift.server.pool.failures import Cancelled
from coresift.server.session.coreset_inputs import Inputs
from coresift.server.session.coreset_ledger import Ledger
from coresift.server.session.coreset_orders import JobSpec, Ordered, recipe_of
from coresift.server.session.coreset_records import Heartbeat, Summary
from coresift.server.session.coreset_results import find
from coresift.server.session.coreset_run import Run, happens
from coresift.server.session.workers import Workers
from coresift.server.state.store import Store

T = TypeVar("T")

HEARTBEAT_S = 1.0
WATCH_S = 0.05
"""How often a run that has its turn looks whether it was cancelled through another replica."""
QUEUED_WATCHES = 5
"""Times as seldom while it waits for its turn: there may be many."""
PATIENCE_S = 60.0
"""At least so long a run waits for a store that is away."""


class Runner:
    """Runs jobs, ``at_once`` at a time, in the order in which they came."""

    def __init__(
        self,
        inputs: Inputs,
        store: Store,
        artifacts: Artifacts,
        workers: Workers,
        metrics: Metrics,
        at_once: int,
    ) -> None:
        """``workers`` has a thread for each of the ``at_once``."""
        self._inputs, self._ledger = inputs, Ledger(store)
        self._artifacts, self._workers, self._metrics = artifacts, workers, metrics
        self._turns = asyncio.Semaphore(at_once)
        self._owner = secrets.token_hex(8)
        self.runs: dict[str, Run] = {}
        """By job."""
        self.is_draining = False

    async def claim(self, spec: JobSpec, ordered: Ordered) -> Run | None:
        """Become a job's owner and start it; None if another replica owns it.

        Raises:
            CoresiftError: POOL_VERSION_NOT_LOADED.
        """
        self._inputs.pool(spec)
        run = Run(spec, ordered)
        heartbeat = self._heartbeat(run)
        if not await self._ledger.claim(spec.job_id, heartbeat):
            return self.runs.get(spec.job_id)
        if self.is_draining:
            await self._ledger.disown(spec.job_id)
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
        except Cancelled:
            end = "cancelled" if run.is_cancelled else "abandoned"
            await self._leave(run)
        finally:
            done.set()
            await watch  # it must not beat any more
            if self.runs.get(run.spec.job_id) is run:
                del self.runs[run.spec.job_id]
            if end:
                self._metrics.coreset_jobs.labels(run.spec.method, end).inc()
            if not run.is_lost:
                await self._ledger.disown(run.spec.job_id)

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
        return await self._inputs.problem(run.spec, run.ordered, run.report, run.stop.is_set)

    def _selected(self, run: Run, problem: Problem) -> Summary:
        found = find(recipe_of(run.ordered), problem, run.ordered.pacing_buckets)
        run.report("store", 0.0, found.selection.objective)
        artifact = self._artifacts.put("coresets", found.table)
        return found.summary(run.seconds(), artifact)

    async def _leave(self, run: Run) -> None:
        """Forget a job that was abandoned, unless somebody wants it after all."""
        if run.is_cancelled or run.is_lost or self.is_draining or run.attached:
            return
        # Kept for whoever attached at the last moment on another replica.
        if not await self._ledger.is_attended(run.spec.job_id):
            await self._ledger.forget(run.spec.job_id)

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
            if record is not None and record.status == "cancelled":
                run.cancel()
            is_lonely = time.monotonic() - run.attached_at > run.spec.grace_s
            if run.is_lost or (is_lonely and not run.attached):
                run.give_up()
