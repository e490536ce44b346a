"""The proxy that injects faults does each of them, and stops when told."""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator

import pytest
from tests.fixtures.certificates import Certificates
from tests.fixtures.tcp_proxy import TcpProxy


class Echo(socketserver.ThreadingTCPServer):
    """Sends back what it gets; ``heard`` is all of it."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        self.heard = b""
        super().__init__(("127.0.0.1", 0), _Echoing)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Echoing(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Echo)
        while piece := self.request.recv(4096):
            self.server.heard += piece
            self.request.sendall(piece)


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[TcpProxy]:
    with TcpProxy(echo.address) as running:
        yield running


def connect(proxy: TcpProxy, timeout_s: float = 5.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout_s)


def asked(connection: socket.socket, question: bytes) -> bytes:
    connection.sendall(question)
    return connection.recv(4096)


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_it_forwards_much(proxy: TcpProxy) -> None:
    sent = b"0123456789" * 100_000
    with connect(proxy) as connection:
        writer = threading.Thread(target=connection.sendall, args=(sent,))
        writer.start()
        got = b""
        while len(got) < len(sent):
            got += connection.recv(1 << 20)
        writer.join()
    assert got == sent
    assert proxy.accepted == 1


def test_it_delays(proxy: TcpProxy) -> None:
    with connect(proxy) as connection:
        proxy.delay(50)
        began = time.perf_counter()
        assert asked(connection, b"slow") == b"slow"
        assert time.perf_counter() - began >= 0.1  # there and back
        proxy.forward()
        assert asked(connection, b"quick") == b"quick"


def test_it_stalls_and_goes_on(proxy: TcpProxy, echo: Echo) -> None:
    with connect(proxy, 0.1) as old, connect(proxy, 0.1) as other:
        assert asked(old, b"a") == b"a"
        proxy.stall()
        with connect(proxy, 0.1) as new:
            for connection in (old, new, other):
                with pytest.raises(TimeoutError):
                    asked(connection, b"b")
            assert echo.heard == b"a"
            proxy.forward()
            for connection in (old, new, other):
                connection.settimeout(5)
                assert connection.recv(1) == b"b"


def test_it_cuts_and_takes_new_connections(proxy: TcpProxy) -> None:
    with connect(proxy) as old:
        assert asked(old, b"a") == b"a"
        proxy.cut()
        assert is_closed(old)
    with connect(proxy) as new:
        assert asked(new, b"b") == b"b"


def test_it_refuses_until_it_forwards_again(proxy: TcpProxy) -> None:
    for _ in range(3):
        with connect(proxy) as old:
            assert asked(old, b"a") == b"a"
            proxy.refuse()
            assert is_closed(old)
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        proxy.forward()
    with connect(proxy) as new:
        assert asked(new, b"b") == b"b"


def test_it_forgets_what_it_held_back_when_it_refuses(proxy: TcpProxy, echo: Echo) -> None:
    with connect(proxy) as connection:
        assert asked(connection, b"a") == b"a"
        proxy.stall()
        connection.sendall(b"b")
        proxy.refuse()
        proxy.forward()
    with connect(proxy) as connection:
        assert asked(connection, b"c") == b"c"
    assert echo.heard == b"ac"


def test_it_loses_replies_of_requests_that_arrived(proxy: TcpProxy, echo: Echo) -> None:
    proxy.lose_replies(2)
    for question in (b"a", b"b"):
        with connect(proxy) as connection:
            connection.sendall(question)
            assert is_closed(connection)
    with connect(proxy) as connection:
        assert asked(connection, b"c") == b"c"
    assert echo.heard == b"abc"


def test_it_speaks_tls_to_clients(echo: Echo, certificates: Certificates) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server.certificate, certificates.server.key)
    trusting = ssl.create_default_context(cafile=certificates.authority.certificate)
    with (
        TcpProxy(echo.address, tls=context) as proxy,
        trusting.wrap_socket(connect(proxy), server_hostname="localhost") as connection,
    ):
        connection.sendall(b"secret")
        assert connection.recv(6) == b"secret"
