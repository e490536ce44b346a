"""TLS, client certificates and tokens of a real server, while their files change."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.fixtures.access import As, TokensFile
from tests.fixtures.certificates import Authority, Certificates, Pair
from tests.fixtures.servers import Pools, ServerProcess, refusal_of
from tests.integration.process.test_start_errors import outcome

from coresift.v1 import selection_pb2 as pb

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
GET_POOL = pb.GetPoolRequest(name="growing")
CALLERS = 4
ROTATIONS = 5


def tls_options(pair: Pair, authority: Path | None = None) -> list[str | Path]:
    options: list[str | Path] = ["--tls-cert", pair.certificate, "--tls-key", pair.key]
    return options if authority is None else [*options, "--tls-client-ca", authority]


@contextmanager
def connected(
    server: ServerProcess, authority: Authority | None, own: Pair | None = None
) -> Iterator[grpc.Channel]:
    """A connection that no other shares; without an authority in plain text."""
    if authority is None:
        channel = grpc.insecure_channel(server.listen, OWN_CONNECTION)
    else:
        credentials = grpc.ssl_channel_credentials(
            authority.certificate.read_bytes(),
            None if own is None else own.key.read_bytes(),
            None if own is None else own.certificate.read_bytes(),
        )
        listen = server.listen.replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        channel = grpc.secure_channel(listen, credentials, OWN_CONNECTION)
    with channel:
        yield channel


def code(channel: grpc.Channel, token: str | None = None) -> str:
    """How a cheap call ends."""
    try:
        As(channel, token)("GetPool", GET_POOL)
    except grpc.RpcError as error:
        name: str = error.code().name
        return name
    return "OK"


@pytest.fixture(scope="module")
def options(
    pools: Pools, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> list[str | Path]:
    """What every server here is started with."""
    folder = tmp_path_factory.mktemp("artifacts")
    return ["--pool", pools.growing.directory, "--state", redis_url, "--artifacts", folder]


def test_tls(options: list[str | Path], certificates: Certificates) -> None:
    ours, foreign = certificates.authority, certificates.foreign
    with ServerProcess(*options, *tls_options(certificates.server)) as server:
        for authority, expected in ((ours, "OK"), (foreign, "UNAVAILABLE"), (None, "UNAVAILABLE")):
            with connected(server, authority) as channel:
                assert code(channel) == expected
        with connected(server, ours) as channel:  # those that failed did no harm
            assert code(channel) == "OK"


def test_an_expired_certificate(options: list[str | Path], certificates: Certificates) -> None:
    with (
        ServerProcess(*options, *tls_options(certificates.expired)) as server,
        connected(server, certificates.authority) as channel,
    ):
        assert code(channel) == "UNAVAILABLE"


def test_client_certificates(
    options: list[str | Path], certificates: Certificates, tmp_path: Path
) -> None:
    ours = certificates.authority
    file = TokensFile(tmp_path / "tokens.json")
    token = file.add("frontend", "acme")
    tls = tls_options(certificates.server, ours.certificate)
    with ServerProcess(*options, *tls) as server:
        for own in (None, certificates.foreign_client, certificates.expired_client):
            with connected(server, ours, own) as channel:
                assert code(channel) == "UNAVAILABLE"
        with connected(server, ours, certificates.client) as channel:
            assert code(channel) == "OK"
        line = server.wait_for(lambda event: event.get("event") == "call")
        assert (line["principal"], line["tenant"]) == ("client", "")
    with ServerProcess(*options, *tls, "--tokens", file.path) as server:
        with connected(server, ours, certificates.client) as channel:
            assert code(channel) == "UNAUTHENTICATED"
            assert code(channel, token) == "OK"
        with connected(server, ours) as channel:  # a token is no certificate
            assert code(channel, token) == "UNAVAILABLE"
        line = server.wait_for(lambda event: event.get("code") == "OK")
        assert (line["principal"], line["tenant"]) == ("frontend", "acme")


def test_the_clients_authority_changes(
    options: list[str | Path], certificates: Certificates, tmp_path: Path
) -> None:
    """Who connects after the change needs a certificate of the new one."""
    ours, authority = certificates.authority, tmp_path / "clients.crt"
    clients = (certificates.client, certificates.foreign_client)
    authority.write_bytes(ours.certificate.read_bytes())
    with ServerProcess(*options, *tls_options(certificates.server, authority)) as server:

        def codes() -> list[str]:
            found = []
            for own in clients:
                with connected(server, ours, own) as channel:
                    found.append(code(channel))
            return found

        assert codes() == ["OK", "UNAVAILABLE"]
        fresh = tmp_path / "fresh"
        fresh.write_bytes(certificates.foreign.certificate.read_bytes())
        fresh.replace(authority)
        assert codes() == ["UNAVAILABLE", "OK"]


def test_the_health_port(options: list[str | Path], certificates: Certificates) -> None:
    """Probes have no certificates; they are answered during the drain, too."""
    tls = tls_options(certificates.server, certificates.authority.certificate)
    server = ServerProcess(*options, *tls, "--health-listen", "127.0.0.1:0")
    with server:
        serving = server.wait_for(lambda event: event.get("event") == "serving")
        with grpc.insecure_channel(serving["health"], OWN_CONNECTION) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service="readiness")
            assert stub.Check(request).status == health_pb2.HealthCheckResponse.SERVING
            assert code(channel) == "UNIMPLEMENTED"
            watch = stub.Watch(request)
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            server.terminate()
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert stub.Check(request).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()
        assert server.wait() == 0
    assert server.other_lines == []


class Load:
    """Threads that call until the end; each call on a connection of its own, or all on one."""

    def __init__(self, call: Callable[[], str]) -> None:
        self._call, self._stop = call, threading.Event()
        self.codes: list[str] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(CALLERS)]

    def _run(self) -> None:
        while not self._stop.is_set():
            self.codes.append(self._call())

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def goes_on(self) -> None:
        """Return after a few further calls."""
        seen = len(self.codes)
        while len(self.codes) < seen + 2 * CALLERS:
            self._stop.wait(0.001)


def shown(server: ServerProcess) -> str:
    """The certificate that the server shows by now, PEM."""
    host, _, port = server.listen.rpartition(":")
    return ssl.get_server_certificate((host, int(port)))


def test_certificates_change_under_load(
    options: list[str | Path], certificates: Certificates, tmp_path: Path
) -> None:
    ours = certificates.authority
    pair = ours.issue("server", folder=tmp_path)
    with ServerProcess(*options, *tls_options(pair)) as server:

        def call() -> str:
            with connected(server, ours) as channel:
                return code(channel)

        with connected(server, ours) as kept, Load(call) as fresh, Load(lambda: code(kept)) as old:
            for _ in range(ROTATIONS):
                ours.issue("server", folder=tmp_path)
                while shown(server) != pair.certificate.read_text():
                    fresh.goes_on()
            pair.key.write_bytes(certificates.client.key.read_bytes())  # half a pair
            before = shown(server)
            fresh.goes_on()
            server.wait_for(lambda event: event.get("event") == "certificates not reloaded")
            pair.certificate.write_text("")
            fresh.goes_on()
            assert shown(server) == before
            ours.issue("server", folder=tmp_path)
            while shown(server) != pair.certificate.read_text():
                fresh.goes_on()
            old.goes_on()
        assert set(fresh.codes + old.codes) == {"OK"}
        assert (
            server.samples()['coresift_reloads_total{file="certificates",outcome="ok"}'] > ROTATIONS
        )
        assert server.samples()['coresift_reloads_total{file="certificates",outcome="failed"}'] >= 1


def test_tokens_change_under_load(options: list[str | Path], tmp_path: Path) -> None:
    file = TokensFile(tmp_path / "tokens.json")
    steady, doomed = file.add("steady"), file.add("doomed")
    with (
        ServerProcess(*options, "--tokens", file.path) as server,
        grpc.insecure_channel(server.listen, OWN_CONNECTION) as channel,
        Load(lambda: code(channel, steady)) as load,
    ):
        assert code(channel, doomed) == "OK"
        for round_ in range(3):
            fresh = file.add(f"fresh-{round_}")
            while code(channel, fresh) != "OK":
                load.goes_on()
        file.revoke("doomed")
        while code(channel, doomed) == "OK":
            load.goes_on()
        refusal = refusal_of(lambda: As(channel, doomed)("GetPool", GET_POOL))
        assert refusal.reason == "TOKEN_INVALID"
        file.path.write_text("{")
        server.wait_for(lambda event: event.get("event") == "access tokens not reloaded")
        load.goes_on()
        assert code(channel, fresh) == "OK"
        assert code(channel, doomed) == "UNAUTHENTICATED"
    assert set(load.codes) == {"OK"}


def test_a_call_outlives_its_token(options: list[str | Path], tmp_path: Path) -> None:
    """What was admitted goes on; the next call is refused."""
    file = TokensFile(tmp_path / "tokens.json")
    doomed = file.add("doomed")
    file.add("other")
    with (
        ServerProcess(*options, "--tokens", file.path) as server,
        grpc.insecure_channel(server.listen, OWN_CONNECTION) as channel,
    ):
        upload = threading.Event()

        def parts() -> Iterator[bytes]:
            yield b""
            upload.wait(60)

        put = channel.stream_unary("/coresift.v1.SelectionService/PutSignals").future(
            parts(), metadata=(("authorization", f"Bearer {doomed}"),)
        )
        file.revoke("doomed")
        while code(channel, doomed) == "OK":
            pass
        upload.set()
        assert put.exception().code().name == "INVALID_ARGUMENT"  # of the service, not of the guard
        line = server.wait_for(lambda event: event.get("method") == "PutSignals")
        assert line["principal"] == "doomed"


PUBLIC = "0.0.0.0:0"


def test_a_public_address_needs_tls(options: list[str | Path], certificates: Certificates) -> None:
    line = outcome(*options, "--listen", PUBLIC)
    assert "--tls-cert" in line
    assert "--allow-plaintext" in line
    with (
        ServerProcess(*options, "--listen", PUBLIC, *tls_options(certificates.server)) as server,
        connected(server, certificates.authority) as channel,
    ):
        assert code(channel) == "OK"
