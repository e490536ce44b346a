"""The ports of a server: gRPC, health and metrics; each is checked before it is taken."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from coresift.server.config import ServeConfig, address
from coresift.server.errors import StartError
from coresift.server.metrics import Metrics
from coresift.server.rpc.admission import Admission
from coresift.server.rpc.guard import Guard
from coresift.server.rpc.health import Health
from coresift.server.rpc.interceptor import CallInterceptor
from coresift.server.rpc.service import SERVICE, SelectionService
from coresift.server.rpc.services import Services
from coresift.server.upkeep import LEAVE_S
from coresift.v1.selection_pb2_grpc import add_SelectionServiceServicer_to_server

CONNECTION_GRACE_S = 300.0
"""For the calls of a connection that has reached its age."""
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


async def serve_calls(
    config: ServeConfig,
    services: Services,
    metrics: Metrics,
    health: Health,
    guard: Guard,
    admission: Admission,
) -> tuple[grpc.aio.Server, str]:
    """The gRPC server, listening, and its HOST:PORT. Raises StartError."""
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


async def serve_health(config: ServeConfig, health: Health, stack: AsyncExitStack) -> str | None:
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


def serve_metrics(config: ServeConfig, metrics: Metrics, stack: AsyncExitStack) -> str:
    """/metrics on a thread of its own, until the stack ends; its HOST:PORT. Raises StartError."""
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
