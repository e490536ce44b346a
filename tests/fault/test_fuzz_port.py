"""Raw bytes at the port: the server answers others meanwhile, and afterwards.

Replay: ``FUZZ_SEED=N pytest tests/fault/test_fuzz_port.py``.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.fixtures.servers import Pools, ServerProcess

from coresift.client import Client

SEED = int(os.environ.get("FUZZ_SEED", "1"))
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes.fromhex("000000040000000000")
CONNECTIONS = 300
ANSWER_S = 2.0


@pytest.fixture(scope="module")
def server(pools: Pools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    data: Path = tmp_path_factory.mktemp("data")
    with ServerProcess("--pool", pools.things.directory, "--data-dir", data) as started:
        yield started


def frame(rng: random.Random) -> bytes:
    """An HTTP/2 frame of any kind, flags and stream; sometimes its length lies."""
    payload = rng.randbytes(rng.choice((0, 1, 4, 5, 8, 64, 1000)))
    length = len(payload) if rng.random() < 0.8 else rng.getrandbits(rng.choice((8, 24)))
    head = length.to_bytes(3) + bytes((rng.randrange(12), rng.getrandbits(8)))
    return head + rng.choice((0, 1, 3, 2**31 - 1)).to_bytes(4) + payload


def garbage(rng: random.Random) -> bytes:
    match rng.randrange(5):
        case 0:
            return rng.randbytes(rng.choice((1, 9, 100, 20_000)))
        case 1:
            return b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * rng.choice((0, 5_000)) + b"\r\n"
        case 2:
            return PREFACE + rng.randbytes(100)
        case 3:
            return PREFACE[: rng.randrange(len(PREFACE))]
        case _:
            frames = [frame(rng) for _ in range(rng.choice((1, 5, 200)))]
            return PREFACE + SETTINGS + b"".join(frames)


def send(address: tuple[str, int], data: bytes) -> None:
    with socket.create_connection(address, timeout=ANSWER_S) as connection:
        with contextlib.suppress(OSError):  # the server may have had enough
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            while connection.recv(65_536):
                pass


def test_raw_bytes(server: ServerProcess, pools: Pools) -> None:
    host, port = server.listen.rsplit(":", 1)
    process, rng = psutil.Process(server.process.pid), random.Random(SEED)
    with Client(server.listen, max_attempts=1, timeout_s=ANSWER_S) as client:
        session = client.create_session("things").session_id
        for number in range(CONNECTIONS):
            send((host, int(port)), garbage(rng))
            if number % 20 == 0:
                assert client.get_session(session).session_id == session
        assert client.next_batch(session, "ann", 2).picks
    assert process.is_running()
    assert [event for event in server.events if event.get("level") == "error"] == []


def test_connections_that_say_nothing(server: ServerProcess) -> None:
    """They hold nobody up, and take no more than their descriptors."""
    host, port = server.listen.rsplit(":", 1)
    with contextlib.ExitStack() as stack:
        for number in range(100):
            connection = stack.enter_context(socket.create_connection((host, int(port))))
            connection.sendall(PREFACE[: number % len(PREFACE)])
        with Client(server.listen, max_attempts=1, timeout_s=ANSWER_S) as client:
            assert list(client.list_pools())
