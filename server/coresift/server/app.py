"""The server as a whole: its parts are built here, start in order, and stop in reverse."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from threading import Event

import structlog

from coresift.server.artifacts import Artifacts
from coresift.server.config import ServeConfig, resolve_device
from coresift.server.errors import StartError
from coresift.server.event_loop import watch_loop
from coresift.server.listening import serve_calls, serve_health, serve_metrics
from coresift.server.memory import return_large_blocks, spare_what_is_imported
from coresift.server.memory_promises import MemoryPromises
from coresift.server.metrics import Metrics
from coresift.server.metrics.gpu import watch_gpu
from coresift.server.pool.cache import Cache
from coresift.server.pool.parallel import limit_blas, stay_behind
from coresift.server.pool.sources import PoolSource
from coresift.server.rpc.admission import Admission
from coresift.server.rpc.guard import Guard
from coresift.server.rpc.health import SERVING, Health
from coresift.server.rpc.service import SERVICE
from coresift.server.rpc.services import Services
from coresift.server.session.batches import Batches
from coresift.server.session.copies.backups import Backups
from coresift.server.session.copies.erasure import Erasure
from coresift.server.session.coresets.coreset_inputs import Inputs
from coresift.server.session.coresets.coreset_jobs import CoresetJobs
from coresift.server.session.coresets.coreset_plans import Planner
from coresift.server.session.coresets.coreset_room import Room
from coresift.server.session.coresets.coreset_runner import Runner
from coresift.server.session.labeling import Labeling
from coresift.server.session.lifecycle import Lifecycle
from coresift.server.session.live.sessions import LiveSessions
from coresift.server.session.model import Modelling
from coresift.server.session.pool_loading import PoolLoading
from coresift.server.session.progress.consensus import ConsensusLists
from coresift.server.session.progress.progress import ProgressReports
from coresift.server.session.setup.materials import Loader
from coresift.server.session.setup.pools import Pools
from coresift.server.session.setup.requests import Requests
from coresift.server.session.signals.signals import Signals
from coresift.server.session.usage import watch_usage
from coresift.server.session.vector_scores import VectorScoring
from coresift.server.session.view.view_files import ViewFiles
from coresift.server.session.work.workers import Workers
from coresift.server.state.embedded import EmbeddedRedis
from coresift.server.state.redis_store import RedisStore
from coresift.server.upkeep import drain, purge, watch_state

log = structlog.get_logger()

JOBS_AT_ONCE = 2
"""Core-set jobs that select at the same time, each on one core; the others wait."""


async def run(config: ServeConfig) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Raises StartError."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serving(config, stop):
        spare_what_is_imported()
        await stop.wait()
        log.info("draining")


@asynccontextmanager
async def serving(
    config: ServeConfig, leave: asyncio.Event | None = None
) -> AsyncIterator[tuple[str, str]]:
    """A running server; yields the addresses of gRPC and of /metrics. Leaving it drains.

    ``leave``, set while pools are still being loaded, ends the start. Raises StartError.
    """
    began = time.perf_counter()
    limit_blas()
    return_large_blocks()
    metrics = Metrics()
    metrics.build_info.labels(version("coresift")).set(1)
    guard = Guard.of(config, metrics)
    async with AsyncExitStack() as stack:
        pools = Pools()
        loading = _pool_loading(config, pools, metrics)
        stack.push_async_callback(loading.close)
        await loading.start(leave or asyncio.Event())
        store = await _store(config, metrics, stack)
        workers = Workers(config.worker_threads, refused=metrics.refused_by("workers"))
        admission = Admission(metrics, workers.gate)
        workers.is_pressed, workers.calls = admission.is_pressed, lambda: admission.begun
        services = await _services(config, pools, store, metrics, workers, stack)
        health = Health()
        metrics.ready.set_function(lambda: health.is_serving("readiness"))
        metrics.redis_up.set_function(store.available)
        metrics_listen = serve_metrics(config, metrics, stack)  # to the end of the drain
        health_listen = await serve_health(config, health, stack)
        server, listen = await serve_calls(config, services, metrics, health, guard, admission)
        stack.push_async_callback(drain, server, health, services, admission, config.drain_s)
        for work in (
            watch_state(store, health),
            purge(store, services.sessions.files),
            guard.watch(),
            loading.watch(),
            watch_loop(metrics),
            watch_usage(store, metrics, guard.tenants),
        ):
            task = asyncio.create_task(work)
            stack.callback(task.cancel)
        for name in ("", SERVICE, "readiness", "liveness"):
            health.set(name, SERVING)
        ready = {"listen": listen, "metrics": metrics_listen, "pid": os.getpid()}
        if health_listen:
            ready["health"] = health_listen
        log.info("serving", seconds=round(time.perf_counter() - began, 3), **ready)
        if config.ready_file is not None:
            _write_whole(config.ready_file, json.dumps(ready))
        yield listen, metrics_listen


def _pool_loading(config: ServeConfig, pools: Pools, metrics: Metrics) -> PoolLoading:
    if not config.pools:
        raise StartError("no pool to serve: give --pool DIR (make one with `coresift pool build`)")
    device = resolve_device(config.device)
    watch_gpu(metrics, device)
    cache, stop = Cache(config.pool_cache_root(), config.pool_cache_bytes), Event()
    sources = [PoolSource(pool, cache, device, stop) for pool in config.pools]
    return PoolLoading(sources, cache, pools, metrics, stop, config.pool_refresh_s)


async def _store(config: ServeConfig, metrics: Metrics, stack: AsyncExitStack) -> RedisStore:
    url = config.state_url
    if url is None:
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            log.warning(
                "embedded state under Kubernetes: labels live in this pod only, and replicas do "
                "not share sessions; give --state redis://..."
            )
        redis = await stack.enter_async_context(EmbeddedRedis(config.data_dir / "state"))
        url = redis.url
    store = await RedisStore.connect(
        url,
        volatile=config.state_volatile,
        min_replicas=config.state_min_replicas,
        observe=metrics.observe_redis,
        count_shortfall=metrics.redis_wait_shortfalls.inc,
    )
    stack.push_async_callback(store.close)
    return store


async def _services(
    config: ServeConfig,
    pools: Pools,
    store: RedisStore,
    metrics: Metrics,
    workers: Workers,
    stack: AsyncExitStack,
) -> Services:
    artifacts = Artifacts(config.artifact_root())
    job_workers = Workers(JOBS_AT_ONCE, stay_behind)
    stack.push_async_callback(workers.drain, 1.0)
    stack.push_async_callback(job_workers.drain, 1.0)
    loader, promises = Loader(pools, artifacts), MemoryPromises()
    signals = Signals(pools, store, artifacts, workers, promises)
    files = ViewFiles(artifacts, store, metrics)
    sessions = LiveSessions(pools, loader, store, workers, metrics, files)
    inputs = Inputs(pools, sessions, store, artifacts, job_workers)
    room = Room(JOBS_AT_ONCE, promises)
    runner = Runner(inputs, store, artifacts, job_workers, metrics, room)
    planner = Planner(pools, sessions, signals, artifacts, workers)
    return Services(
        pools=pools,
        sessions=sessions,
        lifecycle=Lifecycle(pools, sessions, signals, loader, store, workers),
        backups=Backups(pools, loader, store, workers),
        erasure=Erasure(sessions, loader, store, Requests(store), workers),
        progress=ProgressReports(store, workers),
        consensus=ConsensusLists(workers),
        batches=Batches(store, workers, metrics),
        labeling=Labeling(store),
        modelling=Modelling(workers),
        vectors=VectorScoring(workers),
        signals=signals,
        coresets=CoresetJobs(planner, runner, store, artifacts),
    )


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)
