"""The health service: what clients and probes rely on, and watchers that mean harm."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.fixtures.servers import Pools, ServerProcess

from coresift.client import Client, NotFound
from coresift.server.rpc.health import NOT_SERVING, SERVING, UNKNOWN, Health

NAME = "coresift.v1.SelectionService"
SETTINGS, HEADERS, DATA, PING = 4, 1, 0, 6


def asked(name: str) -> Any:
    return health_pb2.HealthCheckRequest(service=name)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def header(name: bytes, value: bytes) -> bytes:
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


@contextmanager
def deaf_watcher(listen: str) -> Iterator[None]:
    """A connection whose Watch is open, and which takes no byte of any answer."""
    host, port = listen.rsplit(":", 1)
    message = asked(NAME).SerializeToString()
    headers = [
        (b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"x"),
        (b":path", b"/grpc.health.v1.Health/Watch"), (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]  # fmt: skip
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0))  # an initial window of 0
            + frame(SETTINGS, 1, 0, b"")
            + frame(HEADERS, 4, 1, b"".join(header(*pair) for pair in headers))
            + frame(DATA, 1, 1, b"\x00" + struct.pack(">I", len(message)) + message)
            + frame(PING, 0, 0, bytes(8))
        )
        with connection.makefile("rb") as stream:  # the answered ping: all before it has arrived
            while True:
                size, kind, flags = struct.unpack(">IBB4x", b"\x00" + stream.read(9))
                stream.read(size)
                if (kind, flags) == (PING, 1):
                    break
        yield


@pytest.mark.parametrize("port", ["listen", "health"])
def test_who_never_reads_holds_up_nobody(pools: Pools, tmp_path: Path, port: str) -> None:
    """No other watcher, no new client, and not the drain."""
    options = ("--pool", pools.things.directory, "--data-dir", tmp_path, "--drain-s", "2")
    with ServerProcess(*options, "--health-listen", "127.0.0.1:0") as server:
        serving = server.wait_for(lambda event: event.get("event") == "serving")
        with deaf_watcher(serving[port]):
            with grpc.insecure_channel(serving["health"]) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                watch = health.Watch(asked(NAME), timeout=20)
                assert next(watch).status == SERVING
                with Client(server.listen, timeout_s=20) as client, pytest.raises(NotFound):
                    client.get_session("none")
                began = time.monotonic()
                server.terminate()
                assert next(watch).status == NOT_SERVING
            assert server.wait() == 0
            assert time.monotonic() - began < 10


class Served:
    """A health service on a port of its own, and a client of it."""

    def __init__(self, health: Health, channel: grpc.aio.Channel) -> None:
        self.health, self.stub = health, health_pb2_grpc.HealthStub(channel)

    def watch(self, name: str) -> Any:
        return self.stub.Watch(asked(name), timeout=20)


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Served]:
    health, server = Health(watchers_of_a_peer=3), grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Served(health, channel)
    finally:
        await server.stop(0.2)


async def code_of(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return str(caught.value.code().name)


async def test_statuses_are_asked_for_and_watched(served: Served) -> None:
    health, stub = served.health, served.stub
    assert await code_of(stub.Check(asked("a"))) == "NOT_FOUND"
    watch = served.watch("a")
    assert (await watch.read()).status == UNKNOWN  # and goes on
    health.set("a", SERVING)
    health.set("b", SERVING)
    assert (await watch.read()).status == SERVING
    assert (await stub.Check(asked("a"))).status == SERVING
    health.set("a", SERVING)  # nothing new, and nothing is told
    health.set("b", NOT_SERVING)
    health.set("a", NOT_SERVING)
    assert (await watch.read()).status == NOT_SERVING
    listed = await stub.List(health_pb2.HealthListRequest())
    statuses = {name: answer.status for name, answer in listed.statuses.items()}
    assert statuses == {"a": NOT_SERVING, "b": NOT_SERVING}
    health.set("a", SERVING)
    assert (await watch.read()).status == SERVING
    health.leave()
    health.set("a", SERVING)
    assert (await watch.read()).status == NOT_SERVING
    assert (await stub.Check(asked("b"))).status == NOT_SERVING
    watch.cancel()


async def test_watchers_are_bounded_and_those_who_left_do_not_count(served: Served) -> None:
    watches = [served.watch(f"name {n}") for n in range(3)]
    for watch in watches:
        assert (await watch.read()).status == UNKNOWN
    # Clients that are told UNIMPLEMENTED call without watching.
    assert await code_of(served.watch("a").read()) == "UNIMPLEMENTED"
    assert await code_of(served.watch("a" * 257).read()) == "INVALID_ARGUMENT"
    for watch in watches:
        watch.cancel()
    while served.health._peers or served.health._changes:  # noqa: ASYNC110 - until all are gone
        await asyncio.sleep(0)
    watch = served.watch("a")
    assert (await watch.read()).status == UNKNOWN
    watch.cancel()
