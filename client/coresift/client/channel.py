"""How channels to the service are set up, and the channels that a client holds."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar, cast

from coresift.v1 import selection_pb2_grpc

DEFAULT_TARGET = "127.0.0.1:50051"
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
KEEPALIVE_MS = 30_000
"""The server permits pings every 20 s; ours keep clear of that."""
KEEPALIVE_TIMEOUT_MS = 10_000
"""After a ping without an answer the peer is dead: its streams and calls end, UNAVAILABLE."""

SERVICE = "coresift.v1.SelectionService"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"

SERVICE_CONFIG: dict[str, Any] = {
    "loadBalancingConfig": [{"round_robin": {}}],
    # A draining replica says so through its health service before it stops.
    "healthCheckConfig": {"serviceName": SERVICE},
}


def channel_options(
    authority: str = "", *, direct: bool = False, watched: bool = True
) -> list[tuple[str, Any]]:
    """Options of every channel: replicas in turn, health checks, keepalive, message sizes.

    ``authority``: host and port that the server's certificate and proxies know it by, where the
    channel is made to an address; empty: those of the channel's target.
    ``direct``: past the HTTP proxy that the environment may name.
    ``watched``: leave a replica that says that it does not serve.
    """
    config = SERVICE_CONFIG if watched else {}
    options = [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        # gRPC heeds only this one: it never starts the timer of the keepalive's own timeout.
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        # After an outage the next attempt should find the server soon: calls fail until it does.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # Ours is the only retry policy: it knows deadlines and RetryInfo.
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0 if direct else 1),
    ]
    return [*options, ("grpc.default_authority", authority)] if authority else options


class AnyChannel(Protocol):
    """A channel, blocking or of asyncio."""

    def unary_unary(self, method: str) -> Any: ...


C = TypeVar("C", bound=AnyChannel)


class Line(Generic[C]):
    """A channel and what is called on it."""

    def __init__(self, channel: C) -> None:
        self.channel = channel
        self.stub: Any = selection_pb2_grpc.SelectionServiceStub(cast("Any", channel))
        self.check = channel.unary_unary(HEALTH_CHECK)
        """Bytes to bytes."""
        self.calls: set[object] = set()
        """Those under way."""

    def lasting(self) -> Callable[..., None]:
        """Count a call in that goes on; called with whatever, the answer counts it out."""
        call = object()
        self.calls.add(call)
        return lambda *_: self.calls.discard(call)


class Lines(Generic[C]):
    """The channels of a client, one for each replica's address, made when they are needed."""

    def __init__(self, connect: Callable[[str], C]) -> None:
        self._connect = connect
        self._lines: dict[str, Line[C]] = {}
        self._closed = False
        self._lock = threading.Lock()

    @contextmanager
    def to(self, address: str) -> Iterator[Line[C]]:
        """The line to an address, kept while a call is made on it.

        Raises ValueError: the client is closed.
        """
        with self._lock:
            if self._closed:
                raise ValueError("the client is closed")
            line = self._lines.get(address)
            if line is None:
                line = self._lines[address] = Line(self._connect(address))
            ended = line.lasting()
        try:
            yield line
        finally:
            ended()

    def unused(self, known: Collection[str]) -> list[C]:
        """Take out the channels to addresses that are known no more and carry no call."""
        with self._lock:
            gone = [a for a, line in self._lines.items() if a not in known and not line.calls]
            return [self._lines.pop(address).channel for address in gone]

    def close(self) -> list[C]:
        """Take out every channel, for good."""
        with self._lock:
            self._closed = True
            channels = [line.channel for line in self._lines.values()]
            self._lines.clear()
            return channels
