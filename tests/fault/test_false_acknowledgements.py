"""Ways to believe that a replica has a label that it does not have.

Each trap is first sprung on its naive form: a few lines of redis-py that acknowledge a write, which
is then gone after the failover. The store, on the same servers, refuses with STATE_NOT_REPLICATED,
or keeps the label.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from redis import RedisCluster
from redis.exceptions import NoScriptError
from tests.fixtures.insisting import Insisting, labelled_rows
from tests.fixtures.redis_topologies import Cluster, RedisServer, Replicated
from tests.fixtures.sessions import a_request, a_session, labels

from coresift.server.errors import CoresiftError, Reason
from coresift.server.state.keys import SessionKeys
from coresift.server.state.redis_store import RedisStore
from coresift.server.state.values import Outcome

WAIT_MS = 100
SOON_MS = 5_000


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Replicated]:
    with Replicated(tmp_path) as running:
        yield running


@pytest_asyncio.fixture
async def store(pair: Replicated) -> AsyncIterator[RedisStore]:
    connected = await RedisStore.connect(pair.url, min_replicas=1)
    yield connected
    await connected.close()


def after_failover(pair: Replicated) -> RedisServer:
    """The replica as master, without what its link held back."""
    pair.master.kill()
    pair.links[0].refuse()
    pair.replicas[0].ask("REPLICAOF", "NO", "ONE")
    return pair.replicas[0]


async def refused(call: object) -> CoresiftError:
    with pytest.raises(CoresiftError) as caught:
        await call  # type: ignore[misc]
    return caught.value


# --- one master, one replica whose link is stalled ------------------------------------------------


def trusting_the_master(master: RedisServer) -> bool:
    with master.client() as client:
        return bool(client.set("label", "yes"))


def trusting_min_replicas_to_write(master: RedisServer) -> bool:
    master.ask("CONFIG", "SET", "min-replicas-to-write", 1)
    with master.client() as client:
        return bool(client.set("label", "yes"))  # a replica counts until it is silent for 10 s


def waiting_on_another_connection(master: RedisServer) -> bool:
    with master.client(single_connection_client=True) as other, master.client() as client:
        other.ping()
        client.set("label", "yes")
        return int(other.execute_command("WAIT", 1, WAIT_MS)) >= 1


@pytest.mark.parametrize(
    "naive", [trusting_the_master, trusting_min_replicas_to_write, waiting_on_another_connection]
)
def test_naive_forms_acknowledge_what_a_failover_loses(
    pair: Replicated, naive: Callable[[RedisServer], bool]
) -> None:
    pair.links[0].stall()
    assert naive(pair.master)
    assert after_failover(pair).ask("GET", "label") is None


def test_waiting_on_the_same_connection_tells_the_truth(pair: Replicated) -> None:
    with pair.master.client(single_connection_client=True) as client:
        pair.links[0].stall()
        client.set("label", "yes")
        assert client.execute_command("WAIT", 1, WAIT_MS) == 0
        pair.links[0].forward()
        assert client.execute_command("WAIT", 1, SOON_MS) == 1
    assert after_failover(pair).ask("GET", "label") == b"yes"


async def test_a_stalled_replica_is_no_acknowledgement(pair: Replicated, store: RedisStore) -> None:
    """Also not the second time, when the store finds the answer of the same request."""
    session = await a_session(store)
    request = a_request()
    pair.links[0].stall()
    for _ in range(2):
        began = time.perf_counter()
        error = await refused(store.add_labels(session.uid, request, "ann", labels([7])))
        assert error.reason is Reason.STATE_NOT_REPLICATED
        assert error.retry_after_s is not None
        assert time.perf_counter() - began < 2
    pair.links[0].forward()
    pair.until_in_sync()
    again = await store.add_labels(session.uid, request, "ann", labels([7]))
    assert again.replayed
    assert again.outcomes == (Outcome.NEW,)
    assert await labelled_rows(store, session) == {7: 1}


async def test_only_what_was_refused_is_lost(pair: Replicated, store: RedisStore) -> None:
    session = await a_session(store)
    await store.add_labels(session.uid, a_request(), "ann", labels([1]))
    pair.links[0].stall()
    request = a_request()
    error = await refused(store.add_labels(session.uid, request, "ann", labels([2])))
    assert error.reason is Reason.STATE_NOT_REPLICATED
    promoted = await RedisStore.connect(after_failover(pair).url)
    assert await labelled_rows(promoted, session) == {1: 1}
    written = await promoted.add_labels(session.uid, request, "ann", labels([2]))
    assert (written.replayed, written.outcomes) == (False, (Outcome.NEW,))
    assert await labelled_rows(promoted, session) == {1: 1, 2: 1}
    await promoted.close()


async def test_many_at_once_are_each_refused(pair: Replicated, store: RedisStore) -> None:
    """Calls share connections: none may count the replica's word about another one's write."""
    session = await a_session(store)
    pair.links[0].stall()
    answers = await asyncio.gather(
        *(
            store.add_labels(session.uid, a_request(), f"ann {row}", labels([row]))
            for row in range(40)
        ),
        return_exceptions=True,
    )
    assert {getattr(answer, "reason", answer) for answer in answers} <= {
        Reason.STATE_NOT_REPLICATED,
        Reason.STATE_UNAVAILABLE,
    }
    promoted = await RedisStore.connect(after_failover(pair).url)
    assert await labelled_rows(promoted, session) == Counter()
    await promoted.close()


# --- scripts that Redis has lost ------------------------------------------------------------------


def test_naive_pipeline_acknowledges_a_script_that_did_not_run(pair: Replicated) -> None:
    with pair.master.client(single_connection_client=True) as client:
        sha = client.script_load("return redis.call('SET', KEYS[1], ARGV[1])")
        client.script_flush()
        pipeline = client.pipeline(transaction=False)
        pipeline.evalsha(sha, 1, "label", "yes")
        pipeline.execute_command("WAIT", 1, SOON_MS)
        ran, acknowledged = pipeline.execute(raise_on_error=False)
        assert acknowledged == 1
        assert isinstance(ran, NoScriptError)
        assert client.get("label") is None


async def test_a_lost_script_is_sent_again_and_waited_for(
    pair: Replicated, store: RedisStore
) -> None:
    session = await a_session(store)
    pair.master.ask("SCRIPT", "FLUSH")
    await store.add_labels(session.uid, a_request(), "ann", labels([1]))
    pair.master.ask("SCRIPT", "FLUSH")
    pair.links[0].stall()
    error = await refused(store.add_labels(session.uid, a_request(), "ann", labels([2])))
    assert error.reason is Reason.STATE_NOT_REPLICATED
    promoted = await RedisStore.connect(after_failover(pair).url)
    assert await labelled_rows(promoted, session) == {1: 1}
    await promoted.close()


# --- another node of a cluster --------------------------------------------------------------------


async def test_another_node_of_a_cluster_acknowledges_nothing(tmp_path: Path) -> None:
    with Cluster(tmp_path, replicas=1) as cluster:
        store = await RedisStore.connect(cluster.url, min_replicas=1)
        insist, first = Insisting(), a_request()
        session = await insist(lambda: a_session(store))
        await insist(lambda: store.add_labels(session.uid, first, "ann", labels([1])))
        key = SessionKeys(session.uid).of_script()[0]
        with RedisCluster("127.0.0.1", cluster.nodes[0].port) as naive:
            slot = naive.keyslot(key)
            number = next(n for n, m in enumerate(cluster.masters) if slot in cluster.slots_of(m))
            cluster.replicas[number].stall()
            try:
                naive.set("{" + session.uid + "}:label", "yes")
                home = naive.get_node_from_key(key)
                # Without a node, the client asks any: one that knows nothing of the write.
                [another, *_] = (node for node in naive.get_primaries() if node != home)
                assert naive.wait(1, WAIT_MS, target_nodes=another) >= 1
                assert naive.wait(1, WAIT_MS, target_nodes=home) == 0
                request = a_request()
                error = await refused(store.add_labels(session.uid, request, "ann", labels([2])))
                assert error.reason is Reason.STATE_NOT_REPLICATED
            finally:
                cluster.replicas[number].resume()
            await insist(lambda: store.add_labels(session.uid, request, "ann", labels([2])))
        assert await labelled_rows(store, session) == {1: 1, 2: 1}
        await store.close()
