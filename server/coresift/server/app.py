"""The server as a whole: start, serve, drain, stop. Only this module builds things."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from threading import Event

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from coresift.server.artifacts import Artifacts
from coresift.server.config import ServeConfig, address, resolve_device
from coresift.server.errors import StartError
from coresift.server.event_loop import watch_loop
from coresift.server.memory import return_large_blocks, spare_what_is_imported
from coresift.server.metrics import Metrics
from coresift.server.metrics.gpu import watch_gpu
from coresift.server.pool.cache import Cache
from coresift.server.pool.parallel import limit_blas, stay_behind
from coresift.server.pool.sources import PoolSource
from coresift.server.rpc.admission import Admission
from coresift.server.rpc.guard import Guard
from coresift.server.rpc.health import NOT_SERVING, SERVING, Health
from coresift.server.rpc.interceptor import CallInterceptor
from coresift.server.rpc.service import SERVICE, SelectionService
from coresift.server.rpc.services import Services
from coresift.server.session.backups import Backups
from coresift.server.session.batches import Batches
from coresift.server.session.consensus import ConsensusLists
from coresift.server.session.coreset_inputs import Inputs
from coresift.server.session.coreset_jobs import CoresetJobs
from coresift.server.session.coreset_plans import Planner
from coresift.server.session.coreset_room import Room
from coresift.server.session.coreset_runner import Runner
from coresift.server.session.erasure import Erasure
from coresift.server.session.labeling import Labeling
from coresift.server.session.lifecycle import Lifecycle
from coresift.server.session.materials import Loader
from coresift.server.session.model import Modelling
from coresift.server.session.pool_loading import PoolLoading
from coresift.server.session.pools import Pools
from coresift.server.session.progress import ProgressReports
from coresift.server.session.requests import Requests
from coresift.server.session.sessions import LiveSessions
from coresift.server.session.signals import Signals
from coresift.server.session.usage import watch_usage
from coresift.server.session.vector_scores import VectorScoring
from coresift.server.session.view_files import ViewFiles
from coresift.server.session.workers import Workers
from coresift.server.state.embedded import EmbeddedRedis
from coresift.server.state.redis_store import RedisStore
from coresift.server.state.store import Store
from coresift.v1.selection_pb2_grpc import add_SelectionServiceServicer_to_server

log = structlog.get_logger()

LEAVE_S = 0.5
"""Between "not serving" and the end of new calls: balancers look away meanwhile."""
JOBS_AT_ONCE = 2
"""Core-set jobs that select at the same time, each on one core; the others wait."""
STOP_S = 0.5
"""At the end of a drain, in which the calls that are left are told that they end."""
CONNECTION_GRACE_S = 300.0
"""For the calls of a connection that has reached its age."""
PURGE_S = 600.0
STATE_S = 1.0
OPTIONS = (
    # Clients may ping an idle connection every 20 s; the default allows it every 5 minutes.
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 60_000),
    # A client that does not answer a ping is gone: its calls end.
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.max_concurrent_streams", 1024),
    # No compression: a small message would unfold to any size that is allowed.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # A second server on a port must fail, not share it.
    ("grpc.so_reuseport", 0),
)
HEALTH_OPTIONS = (
    # Probes send a name; whoever watches for long connects anew.
    ("grpc.max_receive_message_length", 4096),
    ("grpc.max_connection_age_ms", 600_000),
    ("grpc.max_connection_age_grace_ms", 5_000),
)


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
        workers.is_pressed = admission.is_pressed
        services = await _services(config, pools, store, metrics, workers, stack)
        health = Health()
        metrics.ready.set_function(lambda: health.is_serving("readiness"))
        metrics.redis_up.set_function(store.available)
        metrics_listen = _serve_metrics(config, metrics, stack)  # to the end of the drain
        health_listen = await _serve_health(config, health, stack)
        server, listen = await _listen(config, services, metrics, health, guard, admission)
        stack.push_async_callback(_drain, server, health, services, admission, config.drain_s)
        for work in (
            _watch_state(store, health),
            _purge(store, services.sessions.files),
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
    loader = Loader(pools, artifacts)
    signals = Signals(pools, store, artifacts, workers)
    files = ViewFiles(artifacts, store, metrics)
    sessions = LiveSessions(pools, loader, store, workers, metrics, files)
    inputs = Inputs(pools, sessions, store, artifacts, job_workers)
    runner = Runner(inputs, store, artifacts, job_workers, metrics, Room(JOBS_AT_ONCE))
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


async def _listen(
    config: ServeConfig,
    services: Services,
    metrics: Metrics,
    health: Health,
    guard: Guard,
    admission: Admission,
) -> tuple[grpc.aio.Server, str]:
    calls = CallInterceptor(metrics, SERVICE, admission, config.default_deadline_s)
    server = grpc.aio.server(
        interceptors=[*guard.interceptors(metrics), calls], options=_options(config)
    )
    add_SelectionServiceServicer_to_server(SelectionService(services), server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    if config.reflection:
        names = (SERVICE, "grpc.health.v1.Health", reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
    host, port = address("--listen", config.listen)
    await _check_free(config.listen, host, port)
    guard.check_exposure(host, allows_plaintext=config.allow_plaintext)
    try:
        port = guard.add_port(server, config.listen)
    except RuntimeError as error:
        raise StartError(f"cannot listen on {config.listen}: is the port taken?") from error
    await server.start()
    return server, f"{host}:{port}"


def _options(config: ServeConfig) -> list[tuple[str, int]]:
    options = [*OPTIONS, ("grpc.max_receive_message_length", config.max_message_bytes)]
    if config.max_connection_age_s:
        options += [
            ("grpc.max_connection_age_ms", max(1, int(1e3 * config.max_connection_age_s))),
            ("grpc.max_connection_age_grace_ms", int(1e3 * CONNECTION_GRACE_S)),
        ]
    return options


async def _serve_health(config: ServeConfig, health: Health, stack: AsyncExitStack) -> str | None:
    """A plain port for probes, which bear neither certificate nor token; it outlives the drain."""
    if config.health_listen is None:
        return None
    host, port = address("--health-listen", config.health_listen)
    await _check_free(config.health_listen, host, port)
    server = grpc.aio.server(options=[*OPTIONS, *HEALTH_OPTIONS])
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port(config.health_listen)
    await server.start()
    stack.push_async_callback(server.stop, LEAVE_S)
    return f"{host}:{port}"


async def _check_free(listen: str, host: str, port: int) -> None:
    """Refuse an address that cannot be had; gRPC would only say so in its own log."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, _, _, _, place = found[0]
        socket.create_server(place, family=family).close()
    except OSError as error:
        raise StartError(f"cannot listen on {listen}: {error.strerror}") from error


def _serve_metrics(config: ServeConfig, metrics: Metrics, stack: AsyncExitStack) -> str:
    host, port = address("--metrics-listen", config.metrics_listen)
    try:
        server, thread = start_http_server(port, host, registry=metrics.registry)
    except OSError as error:
        raise StartError(
            f"cannot listen on {config.metrics_listen} for metrics: {error.strerror}"
        ) from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    stack.callback(stop)
    return f"{host}:{server.server_port}"


async def _drain(
    server: grpc.aio.Server,
    health: Health,
    services: Services,
    admission: Admission,
    drain_s: float,
) -> None:
    """Say "not serving", give balancers a moment, refuse new calls, wait for those under way.

    What is left at the end of the time is ended in a way that clients retry elsewhere.
    """
    health.leave()
    await asyncio.sleep(LEAVE_S)
    await services.coresets.stop()
    stopping = asyncio.ensure_future(server.stop(drain_s))
    await asyncio.wait({stopping}, timeout=max(0.0, drain_s - STOP_S))
    if not stopping.done():
        await admission.stop()
    await stopping


async def _watch_state(store: Store, health: Health) -> None:
    """Publish under the health name ``state`` whether the store answers."""
    while True:
        health.set("state", SERVING if store.available() else NOT_SERVING)
        await asyncio.sleep(STATE_S)


async def _purge(store: Store, files: ViewFiles) -> None:
    """Remove sessions that were deleted a day ago."""
    while True:
        try:
            await store.purge()
            await files.sweep()
        except Exception as error:
            log.warning("purge postponed", error=str(error))
        await asyncio.sleep(PURGE_S)


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)
