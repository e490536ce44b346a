"""The store behind sentinels, on a cluster, with users of few rights, and with replicas."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot
from tests.fixtures.certificates import Authority, Certificates, Pair, make_certificates
from tests.fixtures.redis_topologies import (
    AclRedis,
    Cluster,
    RedisServer,
    Replicated,
    Sentinels,
    TlsRedis,
)
from tests.fixtures.sessions import a_claim, a_request, a_session, grant, labels

from coresift.server.errors import CoresiftError, Reason, StartError
from coresift.server.state.keys import SessionKeys
from coresift.server.state.redis_store import RedisStore
from coresift.server.state.trial import ACL_RULE, SENTINEL_ACL_RULE
from coresift.server.state.values import Labelled, SessionRecord


async def work(store: RedisStore) -> SessionRecord:
    """Use most of what the store offers."""
    session = await a_session(store)
    assert (await grant(store, session, [1, 2])).rows == (1, 2)
    written = await store.add_labels(session.uid, a_request(), "ann", labels([1]))
    assert (await store.read(session.session_id)).revision == written.revision
    await store.put_document("space", session.session_id, b"v", replaces=None, ttl_ms=None)
    names = [name for name, _ in await store.list_documents("space", "", 1_000)]
    assert session.session_id in names
    gone = await a_session(store)
    await store.delete(gone.session_id, a_request())
    listed = [each.session_id for each in await store.list_sessions("", 1_000)]
    assert session.session_id in listed
    assert gone.session_id not in listed
    await store.purge()
    return session


async def refused(call: Any) -> CoresiftError:
    with pytest.raises(CoresiftError) as caught:
        await call
    return caught.value


async def label(store: RedisStore, session: SessionRecord) -> Labelled:
    return await store.add_labels(session.uid, a_request(), "ann", labels([1]))


async def until_back(store: RedisStore) -> None:
    async with asyncio.timeout(20):
        while not store.available():  # noqa: ASYNC110 - nothing to wait for
            await asyncio.sleep(0.005)


# Sentinel


@pytest.mark.long
async def test_the_new_master_is_found_and_the_old_one_left(tmp_path: Path) -> None:
    with Sentinels(tmp_path) as sentinels:
        store = await RedisStore.connect(sentinels.url, min_replicas=1)
        session = await work(store)
        old = sentinels.master()
        old.kill()
        assert (await refused(label(store, session))).reason is Reason.STATE_UNAVAILABLE
        for _ in range(5):
            began = time.perf_counter()
            error = await refused(store.read(session.session_id))
            assert time.perf_counter() - began < 0.05
            assert error.retry_after_s is not None
        new = await asyncio.to_thread(sentinels.until_failed_over, old)
        await until_back(store)
        before = await store.read(session.session_id)
        # Alone, it has no replica to wait for.
        assert (await refused(label(store, session))).reason is Reason.STATE_NOT_REPLICATED
        old.start(replica_of=new)
        await asyncio.to_thread(sentinels.until_in_sync)
        assert (await label(store, session)).revision > before.revision
        # Handed over while both run: connections to the old master must not be used.
        sentinels.sentinels[0].ask("SENTINEL", "FAILOVER", Sentinels.NAME)
        await asyncio.to_thread(sentinels.until_failed_over, new)
        async with asyncio.timeout(20):
            while True:
                try:
                    await label(store, session)
                    break
                except CoresiftError as error:
                    expected = (Reason.STATE_UNAVAILABLE, Reason.STATE_NOT_REPLICATED)
                    assert error.reason in expected  # noqa: PT017 - until it goes
                    await asyncio.sleep(0.02)
        await store.close()


async def test_a_wrong_name_of_the_master_is_told(tmp_path: Path) -> None:
    with RedisServer(tmp_path, sentinel=[]) as sentinel:
        with pytest.raises(StartError, match="knows no master 'labels'"):
            await RedisStore.connect(f"redis+sentinel://{sentinel.address}/labels")
        sentinel.ask("ACL", "SETUSER", "asker", "on", ">word", *SENTINEL_ACL_RULE.split())
        login = "sentinel_username=asker&sentinel_password=word"
        with pytest.raises(StartError, match="knows no master 'labels'"):
            await RedisStore.connect(f"redis+sentinel://{sentinel.address}/labels?{login}")
        with pytest.raises(StartError, match=r"use redis\+sentinel://"):
            await RedisStore.connect(f"redis://{sentinel.address}")


# Cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as started:
        for node in started.nodes:
            node.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
        yield started


def slot_of(session: SessionRecord) -> int:
    return int(key_slot(SessionKeys(session.uid).meta.encode()))


def master_of(cluster: Cluster, session: SessionRecord) -> RedisServer:
    return next(node for node in cluster.masters if slot_of(session) in cluster.slots_of(node))


async def test_a_cluster_does_what_one_server_does(cluster: Cluster) -> None:
    store = await RedisStore.connect(f"redis+cluster://{cluster.nodes[1].address}")
    sessions = [await work(store) for _ in range(8)]
    assert len({master_of(cluster, session).port for session in sessions}) > 1
    await store.close()
    for url, says in (
        (f"redis://{cluster.nodes[0].address}", r"use redis\+cluster://"),
        ("redis+cluster://127.0.0.1:1", "does not answer"),
    ):
        with pytest.raises(StartError, match=says):
            await RedisStore.connect(url)


async def test_a_single_server_is_refused_as_a_cluster(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server, pytest.raises(StartError, match="cluster support"):
        await RedisStore.connect(f"redis+cluster://{server.address}")


async def test_a_slot_that_moves_is_followed(cluster: Cluster) -> None:
    store = await RedisStore.connect(cluster.url)
    session = await work(store)
    source = master_of(cluster, session)
    target = next(node for node in cluster.masters if node is not source)
    assert cluster.move_slot(slot_of(session), source, target) > 0
    assert (await label(store, session)).revision > 0
    # Half moved: some keys here, some there. Nobody can run a script on them.
    target, source = source, target
    target.ask("CLUSTER", "SETSLOT", slot_of(session), "IMPORTING", cluster.node_id(source))
    source.ask("CLUSTER", "SETSLOT", slot_of(session), "MIGRATING", cluster.node_id(target))
    error = await refused(label(store, session))
    assert error.reason is Reason.STATE_UNAVAILABLE
    assert error.retry_after_s is not None
    assert store.available()
    waiting = asyncio.create_task(label(store, session))
    await asyncio.to_thread(cluster.move_slot, slot_of(session), source, target)
    assert (await waiting).revision > 0
    await store.close()


async def test_a_lost_master_stops_its_own_sessions_only(cluster: Cluster) -> None:
    store = await RedisStore.connect(cluster.url)
    sessions = [await a_session(store) for _ in range(8)]
    victim = master_of(cluster, sessions[0])
    lost = [s for s in sessions if master_of(cluster, s) is victim]
    others = [s for s in sessions if s not in lost]
    assert others
    victim.kill()
    try:
        assert (await refused(label(store, lost[0]))).reason is Reason.STATE_UNAVAILABLE
        assert not store.available()
        for session in lost:
            began = time.perf_counter()
            error = await refused(store.claim(session.uid, a_claim([1])))
            assert time.perf_counter() - began < 0.05
            assert error.reason is Reason.STATE_UNAVAILABLE
        for session in others:
            await label(store, session)
    finally:
        victim.start()
    await until_back(store)
    for session in lost:
        await label(store, session)
    await store.close()


# Users


async def test_the_least_rights_suffice_and_a_lacking_one_is_named(tmp_path: Path) -> None:
    with AclRedis(tmp_path) as server:
        admin: Any = server.server.client(password=AclRedis.ADMINISTRATOR)
        admin.execute_command("ACL", "SETUSER", "least", "on", ">word", *ACL_RULE.split())
        store = await RedisStore.connect(server.url_of("least", "word"), min_replicas=0)
        await work(store)
        await store.close()
        for command, name in (("hset", "hset"), ("evalsha", "evalsha"), ("info", "info")):
            admin.execute_command("ACL", "SETUSER", "least", f"-{command}")
            with pytest.raises(StartError, match=f"user may not do what is needed.*{name}"):
                await RedisStore.connect(server.url_of("least", "word"))
            admin.execute_command("ACL", "SETUSER", "least", f"+{command}")
        admin.execute_command("ACL", "SETUSER", "least", "resetkeys", "~other:*")
        with pytest.raises(StartError, match="user may not do what is needed"):
            await RedisStore.connect(server.url_of("least", "word"))
        admin.close()


async def test_a_wrong_password_is_told_and_not_repeated(tmp_path: Path) -> None:
    with AclRedis(tmp_path) as server:
        for user, password in ((AclRedis.USER, "s3cret"), ("nobody-s3cret", "s3cret")):
            with pytest.raises(StartError, match="refuses the password") as caught:
                await RedisStore.connect(server.url_of(user, password))
            assert "s3cret" not in "".join(traceback.format_exception(caught.value))
        with pytest.raises(StartError, match="refuses the password"):
            await RedisStore.connect(server.server.url)


# TLS


async def test_a_server_that_speaks_tls_does_what_one_without_does(
    certificates: Certificates, tmp_path: Path
) -> None:
    ours, client = certificates.authority, certificates.client
    with TlsRedis(tmp_path / "one-sided", certificates.server) as server:
        store = await RedisStore.connect(server.url_of(ours.certificate))
        await work(store)
        await store.close()
        with pytest.raises(StartError, match="does not answer"):
            await RedisStore.connect(f"redis://{server.proxy.address}")
    with TlsRedis(tmp_path / "mutual", certificates.server, clients_of=ours) as server:
        store = await RedisStore.connect(server.url_of(ours.certificate, client))
        await work(store)
        await store.close()


@pytest.mark.parametrize(
    ("shown", "trusted", "says"),
    [
        ("server", "foreign", "certificate verify failed"),
        ("foreign_server", "authority", "certificate verify failed"),
        ("expired", "authority", "certificate has expired"),
    ],
)
async def test_a_server_without_a_good_certificate_is_refused_at_start(
    certificates: Certificates, tmp_path: Path, shown: str, trusted: str, says: str
) -> None:
    authority: Authority = getattr(certificates, trusted)
    with (
        TlsRedis(tmp_path, getattr(certificates, shown)) as server,
        pytest.raises(StartError, match=f"The state store does not answer: .*{says}"),
    ):
        await RedisStore.connect(server.url_of(authority.certificate))


@contextmanager
def refusing(certificates: Certificates) -> Iterator[str]:
    """HOST:PORT of one who says, as Redis does, why it refuses a client's certificate.

    (The proxy of `TlsRedis` only ends such connections.)
    """
    context = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH, cafile=certificates.authority.certificate
    )
    context.load_cert_chain(certificates.server.certificate, certificates.server.key)
    context.verify_mode = ssl.CERT_REQUIRED

    def refuse() -> None:
        accepted, _ = listening.accept()
        tls = context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
        with pytest.raises(ssl.SSLError):
            tls.do_handshake()
        with socket.socket(fileno=tls.detach()) as plain:
            plain.settimeout(20)
            while plain.recv(1_000):  # closed before, its words would be lost
                pass

    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as thread:
        listening.settimeout(20)
        refused = thread.submit(refuse)
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        refused.result()


@pytest.mark.parametrize(
    ("own", "says"),
    [
        (None, "certificate required"),
        ("foreign_client", "unknown ca"),
        ("expired_client", "certificate expired"),
    ],
)
async def test_a_client_without_a_good_certificate_is_told_at_start(
    certificates: Certificates, tmp_path: Path, own: str | None, says: str
) -> None:
    pair: Pair | None = getattr(certificates, own) if own else None
    authority = certificates.authority
    with TlsRedis(tmp_path, certificates.server, clients_of=authority) as server:
        url = server.url_of(authority.certificate, pair)
        with pytest.raises(StartError, match="The state store does not answer: "):
            await RedisStore.connect(url)
        with (
            refusing(certificates) as address,
            pytest.raises(StartError, match=f"The state store does not answer: .*{says}"),
        ):
            await RedisStore.connect(url.replace(server.proxy.address, address))


async def test_replaced_certificates_are_used_by_new_connections(tmp_path: Path) -> None:
    old, mine = make_certificates(tmp_path / "old"), tmp_path / "mine"
    client = old.authority.issue("client", folder=mine)
    trusted = old.authority.certificate
    with TlsRedis(tmp_path / "redis", old.server) as server:
        store = await RedisStore.connect(server.url_of(trusted, client))
        session = await work(store)
        # Another authority from now on, of the server and of its clients.
        server.present(old.foreign_server)
        server.demand(old.foreign)
        await label(store, session)  # on a connection that was there before
        await store._link.disconnect()
        assert (await refused(label(store, session))).reason is Reason.STATE_UNAVAILABLE
        trusted.write_bytes(old.foreign.certificate.read_bytes())
        await store._link.disconnect()
        assert (await refused(label(store, session))).reason is Reason.STATE_UNAVAILABLE
        old.foreign.issue("client", folder=mine)
        await until_back(store)
        before = await store.read(session.session_id)
        assert (await label(store, session)).revision > before.revision
        await store.close()


# Replicas


async def test_what_a_stalled_replica_lacks_is_not_acknowledged(tmp_path: Path) -> None:
    shortfalls = 0

    def count() -> None:
        nonlocal shortfalls
        shortfalls += 1

    with Replicated(tmp_path) as pair:
        stores = [
            await RedisStore.connect(pair.url, min_replicas=1, count_shortfall=count)
            for _ in range(2)
        ]
        store = stores[0]
        session = await work(store)
        (replica,) = pair.replicas
        assert shortfalls == 0
        replica.stall()
        try:
            request = a_request()
            error = await refused(store.add_labels(session.uid, request, "ann", labels([2])))
            assert error.reason is Reason.STATE_NOT_REPLICATED
            assert error.metadata == {"acknowledged": "0", "wanted": "1"}
            assert error.retry_after_s is not None
            # The repetition writes nothing, and runs on connections that never wrote.
            for other in stores:
                await other._link.disconnect()
                error = await refused(other.add_labels(session.uid, request, "ann", labels([2])))
                assert error.reason is Reason.STATE_NOT_REPLICATED
            await store._link.client.script_flush()
            error = await refused(store.add_labels(session.uid, request, "ann", labels([2])))
            assert error.reason is Reason.STATE_NOT_REPLICATED
            assert shortfalls == 4
            assert (await grant(store, session, [5])).rows == (5,)  # leases do not wait
            create = a_request()
            error = await refused(store.create("new", session.settings, create))
            assert error.reason is Reason.STATE_NOT_REPLICATED
            assert store.available()
        finally:
            replica.resume()
        again = await store.add_labels(session.uid, request, "ann", labels([2]))
        assert again.replayed
        assert (await store.create("new", session.settings, create)).session_id == "new"
        for each in stores:
            await each.close()
