"""What callers of a server see while its Redis is away, and short of replicas."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.fixtures.redis_topologies import Replicated
from tests.fixtures.servers import Pools, ServerProcess, is_spam, refusal_of
from tests.fixtures.tcp_proxy import TcpProxy

from coresift.client import Client
from coresift.v1 import selection_pb2 as pb
from coresift.v1 import selection_pb2_grpc

SOON_S = 0.05
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicated]:
    with Replicated(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(pair: Replicated) -> Iterator[TcpProxy]:
    with TcpProxy(pair.master.address) as running:
        yield running


@pytest.fixture(scope="module")
def server(
    pools: Pools, proxy: TcpProxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    state = ("--state", f"redis://{proxy.address}/0", "--state-min-replicas", "1")
    rest = ("--pool", pools.things.directory, "--artifacts", tmp_path_factory.mktemp("artifacts"))
    with ServerProcess(*state, *rest) as running:
        yield running


@pytest.fixture
def calls(server: ServerProcess) -> Iterator[Callable[[str, int], Callable[[], object]]]:
    """Calls of three methods in turn, without retries: by session and number."""
    with grpc.insecure_channel(server.listen) as channel:
        stub = selection_pb2_grpc.SelectionServiceStub(channel)

        def call(session: str, number: int) -> Callable[[], object]:
            request_id = f"away-{session}-{number}"
            label = pb.Label(item_id=f"item-{number}", class_name="positive")
            requests = (
                (stub.GetSession, pb.GetSessionRequest(session_id=session)),
                (
                    stub.NextBatch,
                    pb.NextBatchRequest(
                        session_id=session, annotator="ann", size=1, request_id=request_id
                    ),
                ),
                (
                    stub.AddLabels,
                    pb.AddLabelsRequest(
                        session_id=session, annotator="ann", labels=[label], request_id=request_id
                    ),
                ),
            )
            method, request = requests[number % 3]
            return lambda: method(request, timeout=10)

        yield call


@pytest.fixture(autouse=True)
def _mended(pair: Replicated, proxy: TcpProxy) -> Iterator[None]:
    gc.disable()  # a collection in this large process takes 0.3 s, and would be measured
    yield
    gc.enable()
    proxy.forward()
    pair.links[0].forward()
    pair.until_in_sync()


@pytest.mark.parametrize("fault", ["refuse", "stall"])
def test_callers_are_told_at_once_and_served_again(
    server: ServerProcess,
    proxy: TcpProxy,
    calls: Callable[[str, int], Callable[[], object]],
    fault: str,
) -> None:
    with (
        Client(server.listen) as client,
        grpc.insecure_channel(server.listen) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)

        state = health.Watch(health_pb2.HealthCheckRequest(service="state"), timeout=30)
        session = client.create_session("things").session_id
        client.next_batch(session, "ann", 1)
        getattr(proxy, fault)()
        refusal_of(calls(session, 0))  # finds out; a stalled Redis takes a second
        times = []
        for number in range(60):
            call = calls(session, number)
            began = time.perf_counter()
            refusal = refusal_of(call)
            times.append((time.perf_counter() - began, number))
            assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "STATE_UNAVAILABLE")
            assert refusal.retry_after_s is not None
        # On a busy machine a few may meet another process's turn.
        assert sorted(times)[-4][0] < SOON_S, sorted(times)[-6:]
        print(f"{fault}: median {sorted(times)[30][0] * 1000:.1f} ms, worst {sorted(times)[-3:]}")
        for answer in state:
            if answer.status != SERVING:
                break
        ready = health.Check(health_pb2.HealthCheckRequest(service="readiness"))
        assert ready.status == SERVING
        proxy.forward()
        client.next_batch(session, "ann", 1)  # the client's own retries suffice
        assert next(state).status == SERVING
        state.cancel()


def test_a_shortfall_is_an_error_that_the_client_repeats(
    server: ServerProcess,
    pair: Replicated,
    calls: Callable[[str, int], Callable[[], object]],
) -> None:
    with Client(server.listen) as client:
        session = client.create_session("things").session_id
        pair.links[0].stall()
        refusal = refusal_of(calls(session, 2))
        assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "STATE_NOT_REPLICATED")
        assert refusal.retry_after_s is not None
        assert client.get_session(session).session_id == session
        pair.links[0].forward()
        batch = client.next_batch(session, "ann", 5)
        client.add_labels(session, {pick.item_id: is_spam(pick.item_id) for pick in batch}, "ann")
        # The refused one was done as well.
        assert client.progress(session).labelled_items == len(
            {"item-2", *(p.item_id for p in batch)}
        )
