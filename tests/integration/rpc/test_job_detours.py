"""Core-set jobs on detours: lost owners, late attachers, draining, a store that goes away.

Sites are servers without the wire. The one thread of a site's jobs can be kept busy, so that a
job is under way for exactly as long as a test wants.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from uuid import uuid4

import msgpack
import pyarrow as pa
import pytest
import pytest_asyncio
from tests.fixtures.replicas import Replica, only
from tests.fixtures.servers import Pools, ServerProcess, serve_options
from tests.fixtures.sessions import a_request

from coresift.client import Client, CoresetProgress, Unavailable
from coresift.server.artifacts import Artifacts
from coresift.server.errors import CoresiftError, Reason
from coresift.server.pool.pool import Pool
from coresift.server.session import coreset_jobs
from coresift.server.session.coreset_jobs import CoresetJobs, Progress, Result
from coresift.server.session.coreset_plans import JobSpec, Ordered, Planner, Work
from coresift.server.session.labels import pack_class
from coresift.server.session.workers import Workers
from coresift.server.state.keys import SpaceKeys
from coresift.server.state.redis_store import RedisStore

NO, YES = pack_class(0), pack_class(1)


class Site:
    """A replica with its core-set jobs, and its own way to Redis that can be closed."""

    def __init__(self, replica: Replica, folder: Path, link: Path, target: str) -> None:
        self.replica, self._link, self._target = replica, link, target
        self.workers, self._gate = Workers(1), threading.Event()
        planner = Planner(replica.pools, replica.sessions, replica.store, replica.workers)
        self.jobs = CoresetJobs(
            planner, replica.store, Artifacts(str(folder)), self.workers, replica.metrics
        )

    @classmethod
    async def start(cls, url: str, pools: list[Pool], folder: Path, name: str) -> Site:
        link, target = folder / name, url.removeprefix("unix://")
        link.symlink_to(target)
        replica = await Replica.start(f"unix://{link}", pools)
        return cls(replica, folder / "artifacts", link, target)

    @property
    def store(self) -> RedisStore:
        return self.replica.store

    def hold(self) -> None:
        """Keep the jobs' thread busy: jobs are owned, but do not get on."""
        self.workers.spawn(self.workers.run(self._gate.wait))

    def let_go(self) -> None:
        self._gate.set()

    async def cut(self) -> None:
        """Leave this site, and no other, without Redis."""
        self._link.unlink()
        await self.store._link.client.connection_pool.disconnect()
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

    async def attach(self, ordered: Ordered, spec: JobSpec | None = None) -> Stream:
        """A stream that has said where the job is."""
        stream = Stream(self, ordered, spec or await self.jobs.plan(ordered))
        await stream.step()
        return stream


class Stream:
    """An attachment to a job."""

    def __init__(self, site: Site, ordered: Ordered, spec: JobSpec) -> None:
        self.spec, self._steps = spec, site.jobs.attach(spec, ordered)
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
    return [Pool.open(served.directory) for served in (pools.growing, pools.grown)]


@pytest_asyncio.fixture
async def sites(
    redis_url: str, opened: list[Pool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Site, Site]]:
    monkeypatch.setattr(coreset_jobs, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(coreset_jobs, "POLL_S", 0.02)
    one, two = [await Site.start(redis_url, opened, tmp_path, name) for name in ("one", "two")]
    yield one, two
    await one.stop()
    await two.stop()


Sites = tuple[Site, Site]


def an_order(session: str = "", *, grace_s: float = 60.0, method: str = "") -> Ordered:
    method = method or ("max_entropy" if session else "k_center")
    pool = "" if session else "growing"
    request = a_request(request_id=f"job-{uuid4()}")
    return Ordered(request, pool, session, method, 150, 3, (), grace_s)


async def a_session(site: Site, pool: Pool) -> str:
    session = await site.replica.create(pool, pool_version=pool.manifest.version)
    labels = {row: (NO, YES)[row % 3 == 2] for row in range(30)}
    await site.replica.label(session, labels)
    return session


async def reason_of(stream: object) -> Reason:
    with pytest.raises(CoresiftError) as caught:
        await stream  # type: ignore[misc]
    return caught.value.reason


async def prepared(stream: Stream) -> None:
    """The job waits for a thread, and for nothing else."""
    async with asyncio.timeout(20):
        while not (isinstance(stream.last, Progress) and stream.last.phase == "queued"):
            await stream.step()


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
    one.hold()
    ordered = an_order(session)
    first = await one.attach(ordered)
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
    await prepared(first)
    await one.cut()
    await lapse(two, ordered.request.request_id)
    second = await two.attach(ordered)
    assert second.spec == first.spec
    assert (await second.result()).equals(undisturbed)
    # The first owner comes back, and sees that it is none any more.
    await one.mend()
    one.let_go()
    assert (await first.result()).equals(undisturbed)
    assert one.ends("max_entropy", "finished") + two.ends("max_entropy", "finished") <= 3


async def test_who_attaches_elsewhere_keeps_the_job_alive(sites: Sites) -> None:
    one, two = sites
    one.hold()
    ordered = an_order(grace_s=0.2)
    first = await one.attach(ordered)
    elsewhere = await two.attach(ordered)
    await first.detach()
    waited = asyncio.get_running_loop().time() + 3 * ordered.grace_s
    while asyncio.get_running_loop().time() < waited:
        await elsewhere.step()
    one.let_go()
    assert (await elsewhere.result()).num_rows == ordered.budget
    assert one.ends("k_center", "finished") == 1
    assert one.ends("k_center", "abandoned") == two.ends("k_center", "finished") == 0


@pytest.mark.parametrize("what", ["its reply was lost", "it lapsed"])
async def test_a_heartbeat_that_went_astray_does_not_restart_the_job(
    sites: Sites, what: str
) -> None:
    one, _ = sites
    one.hold()
    ordered = an_order()
    job_id = ordered.request.request_id
    stream = await one.attach(ordered)
    standing = await one.store.get_document("owners", job_id)
    async with asyncio.timeout(10):
        while standing is None or msgpack.unpackb(standing)[1] != "queued":
            await stream.step()
            standing = await one.store.get_document("owners", job_id)
    if what == "it lapsed":
        await lapse(one, job_id)
    else:  # it stands there, and its owner does not know
        astray = bytes(msgpack.packb([msgpack.unpackb(standing)[0], "select", 0.25]))
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
    one.hold()
    ordered = an_order()
    first = await one.attach(ordered)
    await prepared(first)
    await one.cut()
    one.let_go()
    for _ in range(10):
        await first.step()
    assert isinstance(first.last, Progress)
    assert first.last.phase == "store"
    await one.mend()
    table = await first.result()
    assert (await (await two.attach(ordered)).result()).equals(table)
    assert one.ends("k_center", "finished") == 1


async def test_a_draining_site_leaves_its_jobs_to_others(sites: Sites) -> None:
    one, two = sites
    one.hold()
    ordered, left = an_order(), an_order()
    stream, leaving = await one.attach(ordered), await one.attach(left)
    await leaving.detach()
    await one.jobs.stop()
    assert await reason_of(one.attach(ordered)) is Reason.DRAINING
    assert await reason_of(one.attach(an_order())) is Reason.DRAINING
    one.let_go()
    assert await reason_of(stream.result()) is Reason.DRAINING
    await until(lambda: not one.jobs._jobs)
    for order, spec in ((ordered, stream.spec), (left, leaving.spec)):
        elsewhere = await two.attach(order, spec)
        assert (await elsewhere.result()).num_rows == order.budget
    assert two.ends("k_center", "finished") == 2


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_attached_again_while_the_job_is_being_stopped(sites: Sites, where: str) -> None:
    one, two = sites
    one.hold()
    ordered = an_order(grace_s=0.1)
    stream = await one.attach(ordered)
    job = one.jobs._jobs[ordered.request.request_id]
    await stream.detach()
    await until(job.stop.is_set)
    again = await (one if where == "here" else two).attach(ordered)
    one.let_go()
    assert (await again.result()).num_rows == ordered.budget
    assert one.ends("k_center", "abandoned") == 1
    assert (one if where == "here" else two).ends("k_center", "finished") == 1


async def test_a_result_outlives_its_session(sites: Sites, opened: list[Pool]) -> None:
    one, two = sites
    session = await a_session(one, opened[0])
    ordered = an_order(session)
    table = await (await one.attach(ordered)).result()
    await one.replica.lifecycle.delete(session, a_request())
    for site in (one, two):
        assert (await (await site.attach(ordered)).result()).equals(table)


async def test_documents_that_end_are_in_no_index(sites: Sites) -> None:
    """Nothing would ever take them out of it."""
    one, two = sites
    one.hold()
    ordered = an_order()
    await one.attach(ordered)
    await two.attach(ordered)
    job_id, request = ordered.request.request_id, a_request()
    assert await two.jobs.cancel(job_id, request)
    assert await one.jobs.cancel(job_id, request)
    client = two.store._link.client
    names = {"jobs": job_id, "attached": job_id, "requests": request.request_id}
    for space, name in names.items():
        at = SpaceKeys(space)
        assert await client.pttl(at.document(name)) > 0
        assert await client.zscore(at.index, name) is None
    assert await client.zscore(SpaceKeys("owners").index, job_id) is None


async def test_a_killed_servers_job_is_done_by_the_next(
    client: Client, pools: Pools, redis_url: str, tmp_path: Path
) -> None:
    order = partial(Client.score_coreset, method="k_center", budget=3_000, pool="large", seed=5)
    job_id, begun = f"job-{uuid4()}", threading.Event()
    killed = ServerProcess(*serve_options(pools, tmp_path, "--state", redis_url)).start()
    with Client(killed.listen, max_attempts=1) as doomed:

        def hear(progress: CoresetProgress) -> None:
            if progress.share > 0:
                begun.set()

        watch = partial(order, doomed, request_id=job_id, on_progress=hear)
        watching = asyncio.create_task(asyncio.to_thread(watch))
        assert await asyncio.to_thread(begun.wait, 20)
        killed.kill()
        assert isinstance((await asyncio.gather(watching, return_exceptions=True))[0], Unavailable)
    store = await RedisStore.connect(redis_url)
    assert await store.delete_document("owners", job_id)  # as if 8 seconds had passed
    await store.close()
    again = await asyncio.to_thread(partial(order, client, request_id=job_id))
    undisturbed = await asyncio.to_thread(partial(order, client))
    assert again.item_ids == undisturbed.item_ids
    assert again.scores.tobytes() == undisturbed.scores.tobytes()
    assert again.plan.job_id == job_id


async def test_a_heart_beats_while_the_job_is_prepared(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preparing may take longer than a heartbeat lives: nobody else takes the job meanwhile."""
    monkeypatch.setattr(coreset_jobs, "OWNER_TTL_MS", 300)
    one, two = sites
    ready, prepare = asyncio.Event(), one.jobs._planner.work

    async def slowly(spec: JobSpec, ordered: Ordered) -> Work:
        await ready.wait()
        return await prepare(spec, ordered)

    monkeypatch.setattr(one.jobs._planner, "work", slowly)
    ordered = an_order()
    first = await one.attach(ordered)
    elsewhere = await two.attach(ordered)
    waited = asyncio.get_running_loop().time() + 1.0
    while asyncio.get_running_loop().time() < waited:
        await elsewhere.step()
        assert not two.jobs._jobs
    ready.set()
    assert (await first.result()).equals(await elsewhere.result())
    assert (one.ends("k_center", "finished"), two.ends("k_center", "finished")) == (1, 0)
