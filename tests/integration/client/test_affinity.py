"""Sessions and their replicas, names that stand for several, tokens and TLS: over real sockets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.fixtures.certificates import Authority
from tests.fixtures.servers import Replicas
from tests.unit.client.test_client_transport import Scripted

from coresift.client import AsyncClient, Client, NotFound, TokenFile, Unavailable, affinity
from coresift.client.affinity import ranking
from coresift.client.channel import Lines, channel_options
from coresift.v1 import selection_pb2_grpc


async def test_a_session_has_one_replica(replicas: Replicas) -> None:
    """Every client picks the same one."""
    places = (replicas.first.listen, replicas.second.listen)
    target = ",".join(places)
    with Client(target) as client, Client(f"ipv4:{places[1]},{places[0]}") as second:
        ids = [client.create_session("things").session_id for _ in range(10)]
        for session in ids:
            for each in (client, second):
                each.next_batch(session, "ann", 1)
                list(each.list_labels(session))
        async with AsyncClient(target) as third:
            for session in ids:
                await third.get_session(session)
    servers = {server.listen: server for server in (replicas.first, replicas.second)}
    wanted = {session: ranking(places, session)[0] for session in ids}
    for session, place in wanted.items():
        servers[place].wait_for(last_call_of(session))
    methods = ("NextBatch", "ListLabels", "GetSession")
    for place, server in servers.items():
        seen = {e.get("session_id") for e in server.events if e.get("method") in methods}
        assert seen & set(ids) == {session for session in ids if wanted[session] == place}


async def test_whether_a_replica_serves(replicas: Replicas) -> None:
    """Any of them that does, or the one that is named; one that does not answer says nothing."""
    dead, alive = "127.0.0.1:1", replicas.first.listen
    target = f"{dead},{alive}"
    with Client(target, max_attempts=1) as client:
        assert client.check_health()
        assert client.with_address(alive).check_health("liveness")
        with pytest.raises(NotFound):
            client.with_address(alive).check_health("readyness")
        with pytest.raises(Unavailable):
            client.with_address(dead).check_health()
        with pytest.raises(Unavailable):
            client.with_address(dead).get_pool("things")
        assert client.get_pool("things").name == "things"
    async with AsyncClient(target, max_attempts=1) as other:
        assert await other.check_health()
        assert (await other.with_address(alive).get_pool("things")).name == "things"
        with pytest.raises(Unavailable):
            await other.with_address(dead).check_health()


def last_call_of(session: str) -> Callable[[dict[str, Any]], bool]:
    def is_it(event: dict[str, Any]) -> bool:
        return event.get("method") == "GetSession" and event.get("session_id") == session

    return is_it


def eventually(is_so: Callable[[], bool], step: Callable[[], object]) -> None:
    """Do a step until something is so."""
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end
        step()


class Fleet:
    """Scripted servers on several loopback addresses and one port, by address."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.services = {f"127.0.0.{n}": Scripted() for n in (1, 2)}
        self._credentials = credentials
        self._stack = ExitStack()
        self.port = 0

    def __enter__(self) -> Fleet:
        for host, servicer in self.services.items():
            server = grpc.server(futures.ThreadPoolExecutor(4))
            selection_pb2_grpc.add_SelectionServiceServicer_to_server(servicer, server)
            place = f"{host}:{self.port}"
            if self._credentials is None:
                self.port = server.add_insecure_port(place)
            else:
                self.port = server.add_secure_port(place, self._credentials)
            server.start()
            self._stack.callback(lambda s=server: s.stop(None).wait())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(f"{host}:{self.port}" for host in self.services)

    def all_called(self) -> bool:
        return all(servicer.requests for servicer in self.services.values())


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority", "authority")


@pytest.fixture
def secure(authority: Authority) -> Iterator[Fleet]:
    """Servers whose certificate is good for the name only, and who want ours."""
    own = authority.issue("server", hosts=("localhost",))
    with Fleet(
        grpc.ssl_server_credentials(
            [(own.key.read_bytes(), own.certificate.read_bytes())],
            authority.certificate.read_bytes(),
            require_client_auth=True,
        )
    ) as fleet:
        yield fleet


def test_replicas_of_a_name_over_mutual_tls(
    secure: Fleet, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is called by its address and known by the name; the token follows its file."""
    monkeypatch.setattr(affinity, "look_up", lambda _name: secure.addresses)
    mine = authority.issue("client", hosts=())
    token = tmp_path / "token"
    token.write_text("one\n")
    with Client(
        f"dns:///localhost:{secure.port}",
        ca=authority.certificate,
        certificate=(mine.certificate, mine.key.read_bytes()),
        token=TokenFile(token),
        timeout_s=20,
    ) as client:
        numbers = iter(range(10_000))
        eventually(secure.all_called, lambda: client.next_batch(f"s-{next(numbers)}", "ann", 1))
        (tmp_path / "new").write_text("two\n")
        (tmp_path / "new").replace(token)
        client.next_batch("last", "ann", 1)
    shown = [m["authorization"] for s in secure.services.values() for m in s.metadata]
    assert set(shown) == {"Bearer one", "Bearer two"}
    assert shown.count("Bearer two") == 1


def test_a_name_whose_addresses_are_all_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the network carries only the other family: gRPC finds the way."""
    with Fleet() as fleet:
        dead = tuple(f"127.0.0.{n}:{fleet.port}" for n in (3, 4))
        monkeypatch.setattr(affinity, "look_up", lambda _name: dead)
        with Client(f"localhost:{fleet.port}", max_attempts=1) as client:
            routes = client._settings.routes
            eventually(lambda: routes.addresses == dead, lambda: client.next_batch("s", "ann", 1))
            client.next_batch("s", "ann", 1)
            line = client._lines._lines[client.target]
            client.next_batch("s", "ann", 1)
            assert client._lines._lines[client.target] is line  # as long as it is needed


def test_whom_we_do_not_trust(secure: Fleet, authority: Authority, tmp_path: Path) -> None:
    foreign = Authority(tmp_path / "foreign", "foreign")
    mine, theirs = authority.issue("client"), foreign.issue("client")
    name = f"localhost:{secure.port}"
    for target, ca, pair in (
        (name, foreign.certificate, mine),  # a server of another authority
        (name, authority.certificate, theirs),  # a client of another authority
        (name, authority.certificate, None),
        (secure.addresses[0], authority.certificate, mine),  # no certificate for the address
    ):
        certificate = None if pair is None else (pair.certificate, pair.key)
        with (
            Client(target, ca=ca, certificate=certificate, max_attempts=1) as client,
            pytest.raises(Unavailable),
        ):
            client.get_session("s")
    assert not any(servicer.requests for servicer in secure.services.values())


def test_channels_to_addresses_that_are_gone() -> None:
    """They are closed once they carry no call; a closed client makes none."""
    with Fleet() as fleet:
        lines = Lines(lambda address: grpc.insecure_channel(address, channel_options()))
        first, second = fleet.addresses
        for address in (first, second):
            with lines.to(address) as line:
                assert line.check  # in use
        with lines.to(first) as line:
            ended = line.lasting()
            assert lines.unused({first, second}) == []
            assert lines.unused({second}) == []
        assert lines.unused({second}) == []
        ended("whatever a callback gets")
        [gone] = lines.unused({second})
        gone.close()
        with lines.to(second) as again:
            assert again.channel is not gone
        others = {"127.0.0.3:1", "127.0.0.4:1"}  # as many as there are channels, or more
        [replaced] = lines.unused(others)
        replaced.close()
        for channel in lines.close():
            channel.close()
        with pytest.raises(ValueError, match="closed"), lines.to(second):
            pass
