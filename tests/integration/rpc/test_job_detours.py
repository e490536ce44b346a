"""Core-set jobs on detours: lost owners, late attachers, draining, a store that goes away.

Sites are servers without the wire. The one turn of a site's jobs can be held, and so can the way
to the artifacts, so that a job is under way for exactly as long as a test wants.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Any
from uuid import uuid4

import msgpack
import numpy as np
import pyarrow as pa
import pytest
import pytest_asyncio
from tests.fixtures.replicas import Replica, only
from tests.fixtures.servers import Pools
from tests.fixtures.sessions import a_request

from coresift.client import StringColumn
from coresift.server.artifacts import Artifact, Artifacts
from coresift.server.coreset.class_budgets import ClassBudgets
from coresift.server.coreset.problem import Problem
from coresift.server.errors import CoresiftError, Reason
from coresift.server.pool.pool import Pool
from coresift.server.session.coresets import (
    coreset_jobs,
    coreset_ledger,
    coreset_run,
    coreset_runner,
)
from coresift.server.session.coresets.coreset_inputs import Inputs
from coresift.server.session.coresets.coreset_jobs import CoresetJobs
from coresift.server.session.coresets.coreset_ledger import Ledger
from coresift.server.session.coresets.coreset_plans import Planner
from coresift.server.session.coresets.coreset_records import FORMAT, Heartbeat, Progress
from coresift.server.session.coresets.coreset_requests import Asked, JobSpec, Targets
from coresift.server.session.coresets.coreset_results import Result
from coresift.server.session.coresets.coreset_room import QUEUED, Room
from coresift.server.session.coresets.coreset_runner import Runner
from coresift.server.session.signals.signal_uploads import (
    SignalChunk,
    SignalHeader,
    SignalKind,
    Upload,
)
from coresift.server.session.view.labels import pack_class
from coresift.server.session.work.workers import Workers
from coresift.server.state.keys import SpaceKeys
from coresift.server.state.redis_store import RedisStore

NO, YES = pack_class(0), pack_class(1)


class HeldArtifacts(Artifacts):
    """Files that are read and written when the test says so; ``reached`` once it is tried."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.may_get, self.may_put = Event(), Event()
        self.may_get.set()
        self.may_put.set()
        self.reached = False

    def get(self, kind: str, content_hash: str) -> pa.Table:
        self._wait(self.may_get)
        return super().get(kind, content_hash)

    def put(self, kind: str, table: pa.Table) -> Artifact:
        self._wait(self.may_put)
        return super().put(kind, table)

    def _wait(self, may: Event) -> None:
        self.reached = self.reached or not may.is_set()
        assert may.wait(20)


class Site:
    """A replica with its core-set jobs, and its own way to Redis that can be closed."""

    def __init__(self, replica: Replica, folder: Path, link: Path, target: str) -> None:
        self.replica, self._link, self._target = replica, link, target
        self.workers, self._holds = Workers(1), False
        pools, sessions, store = replica.pools, replica.sessions, replica.store
        artifacts = self.artifacts = HeldArtifacts(str(folder))
        self.free_bytes = 10**12
        replica.promises.available = lambda: self.free_bytes
        room = Room(1, replica.promises)
        self.inputs = Inputs(pools, sessions, store, artifacts, self.workers)
        self.runner = Runner(self.inputs, store, artifacts, self.workers, replica.metrics, room)
        # A plan reads files of its own, whatever the jobs' are held for.
        planner = Planner(pools, sessions, replica.signals, Artifacts(str(folder)), replica.workers)
        self.jobs = CoresetJobs(planner, self.runner, store, artifacts)

    @classmethod
    async def start(cls, url: str, pools: list[Pool], folder: Path, name: str) -> Site:
        link, target = folder / name, url.removeprefix("unix://")
        link.symlink_to(target)
        artifacts = folder / "artifacts"
        replica = await Replica.start(f"unix://{link}", pools, artifacts=str(artifacts))
        return cls(replica, artifacts, link, target)

    @property
    def store(self) -> RedisStore:
        return self.replica.store

    async def hold(self) -> None:
        """Jobs are owned, but do not get their turn."""
        await self.runner._turns.acquire()
        self._holds = True

    def let_go(self) -> None:
        if self._holds:
            self._holds = False
            self.runner._turns.release()

    async def cut(self) -> None:
        """Leave this site, and no other, without Redis."""
        self._link.unlink()
        await self.store._link.disconnect()
        with pytest.raises(CoresiftError):
            await self.store.get_document("jobs", "any")

    async def mend(self) -> None:
        if not self._link.exists():
            self._link.symlink_to(self._target)
        await until(self.store.available)

    async def stop(self) -> None:
        self.let_go()
        await self.mend()
        await self.jobs.stop()
        await self.workers.drain(5)
        await self.replica.stop()

    def ends(self, method: str, end: str) -> float:
        name = "coresift_coreset_jobs_total"
        labels = {"method": method, "end": end}
        return self.replica.metrics.registry.get_sample_value(name, labels) or 0

    async def attach(self, asked: Asked, spec: JobSpec | None = None) -> Stream:
        """A stream that has said where the job is."""
        stream = Stream(self, asked, spec or await self.jobs.plan(asked))
        await stream.step()
        return stream


class Stream:
    """An attachment to a job."""

    def __init__(self, site: Site, asked: Asked, spec: JobSpec) -> None:
        self.spec, self._steps = spec, site.jobs.attach(spec, asked)
        self.last: Progress | Result | None = None

    async def step(self) -> None:
        self.last = await anext(self._steps)

    async def result(self) -> pa.Table:
        async with asyncio.timeout(20):
            while not isinstance(self.last, Result):
                await self.step()
        await self.detach()
        return self.last.table

    async def detach(self) -> None:
        await self._steps.aclose()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - nothing to wait for
            await asyncio.sleep(0.002)


@pytest.fixture(scope="module")
def opened(pools: Pools) -> list[Pool]:
    return [Pool.open(served.directory) for served in (pools.growing, pools.grown, pools.large)]


@pytest_asyncio.fixture
async def sites(
    redis_url: str, opened: list[Pool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Site, Site]]:
    for module, name in (
        (coreset_runner, "HEARTBEAT_S"),
        (coreset_runner, "WATCH_S"),
        (coreset_run, "POLL_S"),
        (coreset_jobs, "POLL_S"),
    ):
        monkeypatch.setattr(module, name, 0.02)
    one, two = [await Site.start(redis_url, opened, tmp_path, name) for name in ("one", "two")]
    yield one, two
    await one.stop()
    await two.stop()


Sites = tuple[Site, Site]


def an_order(session: str = "", *, grace_s: float = 60.0) -> Asked:
    """Of a pool; or of a session, from its labels on, by the classes that its head predicts."""
    return Asked(
        request=a_request(request_id=f"job-{uuid4()}"),
        pool="" if session else "growing",
        session_id=session,
        method="k_center",
        params=(),
        sampler="",
        sampler_params=(),
        budget=50 if session else 150,
        seed=3,
        class_signal="",
        predicted_classes=bool(session),
        class_budgets=ClassBudgets("balanced") if session else None,
        start_item_ids=(),
        start_from_labels=bool(session),
        query=Targets(),
        avoid=Targets(),
        pacing_buckets=0,
        grace_s=grace_s,
    )


async def a_session(site: Site, pool: Pool) -> str:
    session = await site.replica.create(pool, pool_version=pool.manifest.version)
    labels = {row: (NO, YES)[row % 3 == 2] for row in range(30)}
    await site.replica.label(session, labels)
    return session


async def reason_of(stream: object) -> Reason:
    with pytest.raises(CoresiftError) as caught:
        await stream  # type: ignore[misc]
    return caught.value.reason


async def test_an_owner_that_lost_a_job_leaves_its_successor_alone(sites: Sites) -> None:
    one, _ = sites
    ledger = Ledger(one.store)
    job_id = f"job-{uuid4()}"
    progress = Progress("select", 0.5)
    assert await ledger.claim(job_id, Heartbeat("successor", progress))
    await ledger.disown(job_id, "predecessor")
    assert await ledger.heartbeat(job_id) == Heartbeat("successor", progress)
    await ledger.disown(job_id, "successor")
    assert await ledger.heartbeat(job_id) is None


async def queued(site: Site) -> None:
    """A job of the site waits for its turn, and for nothing else."""
    await until(lambda: bool(site.runner._turns._waiters))


async def lapse(site: Site, job_id: str) -> None:
    """What the end of its time to live does to a heartbeat."""
    assert await site.store.delete_document("owners", job_id)


@pytest.mark.parametrize("meanwhile", ["nothing", "labels", "settings", "a pool version"])
async def test_the_next_attacher_takes_over_what_was_planned(
    sites: Sites, opened: list[Pool], meanwhile: str
) -> None:
    one, two = sites
    session = await a_session(one, opened[0])
    undisturbed = await (await two.attach(an_order(session))).result()
    assert set(undisturbed["item_id"].to_pylist()) <= {f"item-{row}" for row in range(200)}
    await one.hold()
    asked = an_order(session)
    first = await one.attach(asked)
    if meanwhile == "labels":
        await two.replica.label(session, {row: (YES, NO)[row % 3 == 2] for row in range(60, 90)})
    elif meanwhile == "settings":
        changes = {"mix": only("random"), "votes_per_item": 2}
        await two.replica.lifecycle.update(session, changes, None, a_request())
    elif meanwhile == "a pool version":
        version = opened[1].manifest.version
        changes = {"pool_version": version}
        await two.replica.lifecycle.update(session, changes, None, a_request())
        await two.replica.label(session, dict.fromkeys(range(220, 240), YES))
    await queued(one)
    await one.cut()
    await lapse(two, asked.request.request_id)
    second = await two.attach(asked)
    assert second.spec == first.spec
    assert (await second.result()).equals(undisturbed)
    # The first owner comes back, and sees that it is none any more.
    await one.mend()
    one.let_go()
    assert (await first.result()).equals(undisturbed)
    assert one.ends("k_center", "finished") + two.ends("k_center", "finished") <= 3


async def test_who_attaches_elsewhere_keeps_the_job_alive(sites: Sites) -> None:
    one, two = sites
    await one.hold()
    asked = an_order(grace_s=0.2)
    first = await one.attach(asked)
    elsewhere = await two.attach(asked)
    await first.detach()
    waited = asyncio.get_running_loop().time() + 3 * asked.grace_s
    while asyncio.get_running_loop().time() < waited:
        await elsewhere.step()
    one.let_go()
    assert (await elsewhere.result()).num_rows == asked.budget
    assert one.ends("k_center", "finished") == 1
    assert one.ends("k_center", "abandoned") == two.ends("k_center", "finished") == 0


@pytest.mark.parametrize("what", ["its reply was lost", "it lapsed"])
async def test_a_heartbeat_that_went_astray_does_not_restart_the_job(
    sites: Sites, what: str
) -> None:
    one, _ = sites
    await one.hold()
    asked = an_order()
    job_id = asked.request.request_id
    stream = await one.attach(asked)
    standing = await one.store.get_document("owners", job_id)
    async with asyncio.timeout(10):
        while standing is None or Heartbeat.unpack(standing).progress.phase != "queued":
            await stream.step()
            standing = await one.store.get_document("owners", job_id)
    if what == "it lapsed":
        await lapse(one, job_id)
    else:  # it stands there, and its owner does not know
        astray = Heartbeat(Heartbeat.unpack(standing).owner, Progress("select", 0.25)).pack()
        told = await one.store.put_document(
            "owners", job_id, astray, replaces=standing, ttl_ms=8_000
        )
        assert told is None
    async with asyncio.timeout(10):
        while await one.store.get_document("owners", job_id) != standing:
            await stream.step()
    for _ in range(5):
        await stream.step()
    assert await one.store.get_document("owners", job_id) == standing
    one.let_go()
    await stream.result()
    assert one.ends("k_center", "finished") == 1
    assert one.ends("k_center", "abandoned") == 0


async def test_a_store_that_is_away_at_the_end_loses_no_result(sites: Sites) -> None:
    one, two = sites
    await one.hold()
    asked = an_order()
    first = await one.attach(asked)
    await queued(one)
    await one.cut()
    one.let_go()
    for _ in range(10):
        await first.step()
    assert isinstance(first.last, Progress)
    assert first.last.phase == "store"
    await one.mend()
    table = await first.result()
    assert (await (await two.attach(asked)).result()).equals(table)
    assert one.ends("k_center", "finished") == 1


async def test_a_draining_site_leaves_its_jobs_to_others(sites: Sites) -> None:
    one, two = sites
    await one.hold()
    asked, left = an_order(), an_order()
    stream, leaving = await one.attach(asked), await one.attach(left)
    await leaving.detach()
    await one.jobs.stop()
    assert await reason_of(one.attach(asked)) is Reason.DRAINING
    assert await reason_of(one.attach(an_order())) is Reason.DRAINING
    one.let_go()
    assert await reason_of(stream.result()) is Reason.DRAINING
    await until(lambda: not one.runner.runs)
    for order, spec in ((asked, stream.spec), (left, leaving.spec)):
        elsewhere = await two.attach(order, spec)
        assert (await elsewhere.result()).num_rows == order.budget
    assert two.ends("k_center", "finished") == 2


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_attached_again_while_the_job_is_being_stopped(sites: Sites, where: str) -> None:
    one, two = sites
    await one.hold()
    asked = an_order(grace_s=0.1)
    stream = await one.attach(asked)
    job = one.runner.runs[asked.request.request_id]
    await stream.detach()
    await until(job.stop.is_set)
    again = await (one if where == "here" else two).attach(asked)
    one.let_go()
    assert (await again.result()).num_rows == asked.budget
    assert one.ends("k_center", "abandoned") == 1
    assert (one if where == "here" else two).ends("k_center", "finished") == 1


async def test_a_result_outlives_its_session(sites: Sites, opened: list[Pool]) -> None:
    one, two = sites
    session = await a_session(one, opened[0])
    asked = an_order(session)
    table = await (await one.attach(asked)).result()
    await one.replica.lifecycle.delete(session, a_request())
    for site in (one, two):
        assert (await (await site.attach(asked)).result()).equals(table)


async def test_documents_that_end_are_in_no_index(sites: Sites) -> None:
    """Nothing would ever take them out of it."""
    one, two = sites
    await one.hold()
    asked = an_order()
    await one.attach(asked)
    await two.attach(asked)
    job_id, request = asked.request.request_id, a_request()
    assert await two.jobs.cancel(job_id, request)
    assert await one.jobs.cancel(job_id, request)
    client = two.store._link.client
    names = {"jobs": job_id, "attached": job_id, "requests": request.request_id}
    for space, name in names.items():
        at = SpaceKeys(space)
        assert await client.pttl(at.document(name)) > 0
        assert await client.zscore(at.index, name) is None
    assert await client.zscore(SpaceKeys("owners").index, job_id) is None


async def test_a_cancelled_job_frees_all_that_it_held(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = sites
    prepare, held = one.inputs.problem, []

    async def watched(*what: Any) -> Problem:
        problem = await prepare(*what)
        held.append(weakref.ref(problem.items.rows))
        return problem

    monkeypatch.setattr(one.inputs, "problem", watched)
    asked = replace(an_order(), pool="large", budget=29_000)
    stream = await one.attach(asked)
    async with asyncio.timeout(20):
        while stream.last.phase != "select":  # type: ignore[union-attr]
            await stream.step()
    assert held[0]() is not None
    assert await two.jobs.cancel(asked.request.request_id, a_request())
    assert await reason_of(stream.result()) is Reason.JOB_CANCELLED
    await until(lambda: not one.runner.runs)
    gc.collect()
    assert held[0]() is None
    assert await one.store.get_document("owners", asked.request.request_id) is None
    assert not one.runner._turns.locked()
    assert one.ends("k_center", "cancelled") == 1


async def test_cancelled_while_it_waits_for_its_turn(sites: Sites) -> None:
    """The streams end at once, also while no turn comes free."""
    one, two = sites
    await one.hold()
    asked = an_order()
    stream = await one.attach(asked)
    elsewhere = await two.attach(asked)
    await queued(one)
    assert await two.jobs.cancel(asked.request.request_id, a_request())
    for attached in (stream, elsewhere):
        assert await reason_of(attached.result()) is Reason.JOB_CANCELLED
    await until(lambda: not one.runner.runs)
    assert one.ends("k_center", "cancelled") == 1
    one.let_go()
    after = await one.attach(an_order())
    assert (await after.result()).num_rows == 150


async def test_what_does_not_fit_is_refused_before_there_is_a_job(sites: Sites) -> None:
    one, _ = sites
    asked = an_order()
    needed = (await one.jobs.plan(asked)).expected_bytes
    await until(lambda: not one.runner.runs)
    one.free_bytes = needed - 1
    refused = an_order()
    with pytest.raises(CoresiftError, match="k_center needs") as caught:
        await one.jobs.plan(refused)
    assert (caught.value.reason, caught.value.field) == (Reason.TOO_LARGE, "method")
    assert caught.value.retry_after_s is None
    assert caught.value.metadata["needed_bytes"] == str(needed)
    assert await one.store.get_document("jobs", refused.request.request_id) is None
    assert (await one.jobs.plan(asked)).expected_bytes == needed


async def test_jobs_that_fit_only_one_by_one_are_not_admitted_together(sites: Sites) -> None:
    one, two = sites
    needed = (await two.jobs.plan(an_order())).expected_bytes
    one.free_bytes = 3 * needed - 1
    await one.hold()
    first, second, third = an_order(), an_order(), an_order()
    stream = await one.attach(first)
    await one.attach(second)
    with pytest.raises(CoresiftError, match="k_center needs") as caught:
        await one.jobs.plan(third)
    assert (caught.value.reason, caught.value.field) == (Reason.OVERLOADED, None)
    assert caught.value.retry_after_s is not None
    assert await one.store.get_document("jobs", third.request.request_id) is None
    again = await one.attach(first)
    assert again.spec == stream.spec
    assert await one.jobs.cancel(second.request.request_id, a_request())
    await until(lambda: len(one.runner.runs) == 1)
    after = await one.attach(third)
    one.let_go()
    for attached in (stream, again, after):
        assert (await attached.result()).num_rows == 150


async def test_jobs_and_uploads_that_fit_only_one_by_one_are_not_admitted_together(
    sites: Sites, opened: list[Pool]
) -> None:
    """Each counts what the other was promised, though it has filled none of it."""
    one, two = sites
    pool, signals = opened[1], one.replica.signals
    needed, items = (await two.jobs.plan(an_order())).expected_bytes, pool.manifest.items
    header = SignalHeader(a_request(), "s", "growing", "", SignalKind.NUMBER, ("a",), items, b"")
    one.free_bytes = needed + header.needed_bytes(items) - 1
    with signals.upload(header, pool):
        with pytest.raises(CoresiftError, match="jobs and uploads here may take") as caught:
            await one.jobs.plan(an_order())
        assert (caught.value.reason, caught.value.field) == (Reason.OVERLOADED, None)
    await one.hold()
    stream = await one.attach(an_order())
    with (
        pytest.raises(CoresiftError, match="jobs and uploads here may take") as caught,
        signals.upload(header, pool),
    ):
        pass
    assert (caught.value.reason, caught.value.field) == (Reason.OVERLOADED, None)
    assert caught.value.retry_after_s is not None
    one.let_go()
    assert (await stream.result()).num_rows == 150
    await until(lambda: not one.runner.runs)
    with signals.upload(header, pool):
        pass


async def test_what_may_fit_when_an_upload_has_ended_is_not_called_too_large(
    sites: Sites, opened: list[Pool]
) -> None:
    one, two = sites
    pool = opened[1]
    needed, items = (await two.jobs.plan(an_order())).expected_bytes, pool.manifest.items
    header = SignalHeader(a_request(), "s", "growing", "", SignalKind.NUMBER, ("a",), items, b"")
    with one.replica.signals.upload(header, pool):
        one.free_bytes = needed - header.needed_bytes(items)  # it has filled all of its memory
        with pytest.raises(CoresiftError) as caught:
            await one.jobs.plan(an_order())
        assert caught.value.reason is Reason.OVERLOADED
    with pytest.raises(CoresiftError) as caught:
        await one.jobs.plan(an_order())
    assert caught.value.reason is Reason.TOO_LARGE


async def test_a_line_of_jobs_has_an_end(sites: Sites) -> None:
    """Also where all come at once; whoever attaches to one that is there is never refused."""
    one, two = sites
    await one.hold()
    orders = [replace(an_order(), method="random") for _ in range(QUEUED + 5)]
    plans = await asyncio.gather(
        *(one.jobs.plan(asked) for asked in orders), return_exceptions=True
    )
    refused = [plan for plan in plans if isinstance(plan, CoresiftError)]
    assert {error.reason for error in refused} == {Reason.OVERLOADED}
    assert all(error.retry_after_s for error in refused)
    assert len(refused) == len(orders) - QUEUED - 1
    admitted = [
        asked for asked, plan in zip(orders, plans, strict=True) if isinstance(plan, JobSpec)
    ]
    assert {run.spec.job_id for run in one.runner.runs.values()} == {
        asked.request.request_id for asked in admitted
    }
    streams = [await site.attach(admitted[0]) for site in (one, two)]
    elsewhere = await two.attach(orders[0] if isinstance(plans[0], CoresiftError) else an_order())
    one.let_go()
    for stream in (*streams, elsewhere):
        assert (await stream.result()).num_rows == 150
    await until(lambda: not one.runner.runs)
    assert (await (await one.attach(an_order())).result()).num_rows == 150


async def error_of(stream: object) -> CoresiftError:
    with pytest.raises(CoresiftError) as caught:
        await stream  # type: ignore[misc]
    return caught.value


def told(error: CoresiftError) -> tuple[Any, ...]:
    return error.reason, error.message, error.field, error.metadata


async def test_a_job_that_fails_has_failed_for_all(sites: Sites, opened: list[Pool]) -> None:
    """It does not start again, wherever and however often somebody attaches to it."""
    one, two = sites
    session = await a_session(one, opened[0])
    # How many items the head says are of a class is not known before it has said so.
    impossible = ClassBudgets("counts", ((0, 1), (1, 169)))
    asked = replace(an_order(session), budget=170, class_budgets=impossible)
    await one.hold()
    stream, elsewhere = await one.attach(asked), await two.attach(asked)
    one.let_go()
    first = await error_of(stream.result())
    assert (first.reason, first.field) == (Reason.INVALID_FIELD, "class_budgets.counts[1]")
    assert "169" in first.message
    for attached in (elsewhere.result(), one.jobs.plan(asked), two.jobs.plan(asked)):
        assert told(await error_of(attached)) == told(first)
    for site in sites:  # that knew the plan before
        assert told(await error_of(Stream(site, asked, stream.spec).step())) == told(first)
    other = replace(asked, request=replace(asked.request, digest=b"another body"))
    assert await reason_of(two.jobs.plan(other)) is Reason.REQUEST_ID_REUSED
    job_id = asked.request.request_id
    for site in sites:
        assert not await site.jobs.cancel(job_id, a_request())
    await until(lambda: not one.runner.runs)
    assert (one.ends("k_center", "failed"), two.ends("k_center", "failed")) == (1, 0)
    assert await one.store.get_document("owners", job_id) is None
    anew = replace(asked, request=a_request(request_id=f"job-{uuid4()}"))
    assert told(await error_of((await two.attach(anew)).result())) == told(first)
    assert two.ends("k_center", "failed") == 1


async def test_a_defect_is_told_in_the_same_words(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = sites

    async def wrong(*what: Any) -> Problem:
        raise ZeroDivisionError

    monkeypatch.setattr(one.inputs, "problem", wrong)
    asked = an_order()
    await one.hold()
    stream = await one.attach(asked)
    one.let_go()
    first = await error_of(stream.result())
    assert first.reason is Reason.INTERNAL
    assert first.metadata["incident"] in first.message
    assert told(await error_of(two.jobs.plan(asked))) == told(first)


@pytest.mark.parametrize("what", ["a file system that is away", "a store that is away"])
async def test_what_may_pass_is_no_failure_of_the_job(
    sites: Sites, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    one, _ = sites
    away = CoresiftError(Reason.STATE_UNAVAILABLE, "away", retry_after_s=1.0)
    prepare = one.inputs.problem

    async def failing(*what: Any) -> Problem:
        raise away if away_is_the_store else OSError("away")

    away_is_the_store = what == "a store that is away"
    monkeypatch.setattr(one.inputs, "problem", failing)
    monkeypatch.setattr(coreset_runner, "PATIENCE_S", 0.0)
    asked = an_order(grace_s=0.1)
    await one.hold()
    stream = await one.attach(asked)
    one.let_go()
    first = await reason_of(stream.result())
    assert first is (Reason.STATE_UNAVAILABLE if away_is_the_store else Reason.OVERLOADED)
    await until(lambda: not one.runner.runs)
    monkeypatch.setattr(one.inputs, "problem", prepare)
    assert (await (await one.attach(asked)).result()).num_rows == 150
    assert (one.ends("k_center", "failed"), one.ends("k_center", "finished")) == (1, 1)


async def test_a_session_lends_its_labels_without_a_head(sites: Sites, opened: list[Pool]) -> None:
    """Where nothing needs one none is fitted, and none need be possible."""
    one, _ = sites
    session = await one.replica.create(opened[0], pool_version=opened[0].manifest.version)
    await one.replica.label(session, dict.fromkeys(range(30), YES))
    asked = replace(an_order(session), predicted_classes=False, class_budgets=None)
    stream = await one.attach(asked)
    assert stream.spec.revision > 0
    assert stream.spec.head_version == ""
    chosen = set((await stream.result())["item_id"].to_pylist())
    assert not chosen & {f"item-{row}" for row in range(30)}
    assert one.replica.fits() == 0
    proxied = replace(an_order(session), start_from_labels=False)
    assert await reason_of(one.jobs.plan(proxied)) is Reason.HEAD_NOT_FITTED


async def a_class_signal(site: Site, pool: Pool) -> str:
    """Every third item is of class 7, the others are of class 0."""
    items = pool.manifest.items
    ids = StringColumn.of([f"item-{row}" for row in range(items)]).part(0, items)
    values = np.where(np.arange(items) % 3 == 2, 7, 0).astype("<i4").tobytes()
    header = SignalHeader(
        request=a_request(),
        name=f"classes-{uuid4()}",
        pool=pool.manifest.name,
        pool_version=pool.manifest.version,
        kind=SignalKind.CLASS,
        columns=("kind",),
        count=items,
        sha256=sha256(ids.data + ids.offsets + values).digest(),
    )
    upload = Upload(header, pool)
    upload.add(SignalChunk(ids.data, np.frombuffer(ids.offsets, "<i4"), values))
    return (await site.replica.signals.store(header, pool, upload)).name


@pytest.mark.parametrize("phase", ["prepare", "store"])
async def test_cancelled_while_a_file_is_read_or_written(
    sites: Sites, opened: list[Pool], phase: str
) -> None:
    """The streams wait for no file, and what comes of it is no result."""
    one, two = sites
    asked = replace(an_order(), class_signal=await a_class_signal(one, opened[1]))
    (one.artifacts.may_get if phase == "prepare" else one.artifacts.may_put).clear()
    stream = await one.attach(asked)
    elsewhere = await two.attach(asked)
    await until(lambda: one.artifacts.reached)
    assert await two.jobs.cancel(asked.request.request_id, a_request())
    async with asyncio.timeout(1):
        for attached in (stream, elsewhere):
            assert await reason_of(attached.result()) is Reason.JOB_CANCELLED
    one.artifacts.may_get.set()
    one.artifacts.may_put.set()
    await until(lambda: not one.runner.runs)
    for site in sites:
        assert await reason_of(site.jobs.plan(asked)) is Reason.JOB_CANCELLED
    assert (one.ends("k_center", "cancelled"), one.ends("k_center", "finished")) == (1, 0)
    after = await one.attach(an_order())
    assert (await after.result()).num_rows == 150


async def test_a_job_of_a_newer_release_is_refused(sites: Sites) -> None:
    one, _ = sites
    asked = an_order()
    newer = bytes(msgpack.packb({"format": FORMAT + 1}))
    job_id = asked.request.request_id
    await one.store.put_document("jobs", job_id, newer, replaces=None, ttl_ms=60_000)
    assert await reason_of(one.jobs.plan(asked)) is Reason.FORMAT_TOO_NEW
    assert await reason_of(one.jobs.cancel(job_id, a_request())) is Reason.FORMAT_TOO_NEW
    assert await one.store.get_document("jobs", job_id) == newer


async def test_a_heart_beats_while_the_job_is_prepared(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preparing may take longer than a heartbeat lives: nobody else takes the job meanwhile."""
    monkeypatch.setattr(coreset_ledger, "OWNER_TTL_MS", 300)
    one, two = sites
    ready, prepare = asyncio.Event(), one.inputs.problem

    async def slowly(*what: Any) -> Problem:
        await ready.wait()
        return await prepare(*what)

    monkeypatch.setattr(one.inputs, "problem", slowly)
    asked = an_order()
    first = await one.attach(asked)
    elsewhere = await two.attach(asked)
    waited = asyncio.get_running_loop().time() + 1.0
    while asyncio.get_running_loop().time() < waited:
        await elsewhere.step()
        assert not two.runner.runs
    ready.set()
    assert (await first.result()).equals(await elsewhere.result())
    assert (one.ends("k_center", "finished"), two.ends("k_center", "finished")) == (1, 0)
