"""The times of the manifests agree with the server's, and with them no call is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from tests.fault.test_rolling_restart import Load, fleet
from tests.fixtures.servers import Pools, ServerProcess, refusal_of
from tests.integration.deploy.manifests import SERVING, server, settings

from coresift.client import Client, Seals
from coresift.client.affinity import LOOK_UP_AGAIN_S
from coresift.server.upkeep import LEAVE_S, STOP_S
from coresift.v1 import selection_pb2 as pb
from coresift.v1 import selection_pb2_grpc

END_S = 3.0
"""After the drain: worker threads (1 s and 1 s), the health port and the state store."""
RESERVE_S = 5.0
"""For a node so busy that everything takes longer."""
READ_10M_S = 100.0
"""Ten million rows of 256 floats are 10 GB, from a volume of 100 MB a second."""


class Timings:
    """What an overlay's manifest says, seconds."""

    def __init__(self, overlay: str) -> None:
        pod = server(overlay).pod
        [container] = pod["containers"]
        self.pre_stop_s = float(container["lifecycle"]["preStop"]["sleep"]["seconds"])
        self.grace_s = float(pod["terminationGracePeriodSeconds"])
        self.drain_s = float(settings(overlay, container)["CORESIFT_DRAIN_S"])
        self.patience_s = {
            kind: float(container[f"{kind}Probe"]["periodSeconds"])
            * container[f"{kind}Probe"]["failureThreshold"]
            for kind in ("startup", "readiness", "liveness")
        }
        self.deadline_s = float(server(overlay).resource["spec"]["progressDeadlineSeconds"])


@pytest.mark.parametrize("overlay", SERVING)
def test_the_sums_are_right(overlay: str) -> None:
    times = Timings(overlay)
    drained_s = LEAVE_S + times.drain_s + END_S
    # Killed only after the drain has ended by itself.
    assert times.pre_stop_s + drained_s + RESERVE_S <= times.grace_s
    # Off the services, and looked up anew by clients, before connections are refused.
    assert times.patience_s["readiness"] < times.pre_stop_s
    assert times.pre_stop_s > LOOK_UP_AGAIN_S
    # What says "not serving" while it drains is not restarted for it.
    assert times.patience_s["liveness"] > times.pre_stop_s + drained_s
    # Calls under way have a time to end in before they are sent elsewhere.
    assert times.drain_s > 2 * STOP_S
    # A large pool is read before the pod is given up, and the rollout before that is.
    assert times.patience_s["startup"] >= 2 * READ_10M_S
    assert times.patience_s["startup"] <= times.deadline_s


def a_call_without_end(replica: ServerProcess, ended: threading.Event) -> Callable[[], str]:
    """How a call ends that would take for ever: an upload that stops after its header."""

    def parts() -> Iterator[pb.PutSignalsRequest]:
        header = pb.SignalHeader(request_id="r", name="s", pool="large", columns=["c"])
        header.kind, header.count, header.sha256 = pb.SIGNAL_KIND_NUMBER, 30_000, bytes(32)
        yield pb.PutSignalsRequest(header=header)
        ended.wait(60)

    def call() -> str:
        with grpc.insecure_channel(replica.listen) as channel:
            stub = selection_pb2_grpc.SelectionServiceStub(channel)
            return refusal_of(lambda: stub.PutSignals(parts(), timeout=60)).reason

    return call


@pytest.mark.parametrize(
    "scale",
    [
        pytest.param(0.05, id="short"),
        pytest.param(1.0, id="full", marks=[pytest.mark.long]),
    ],
)
def test_a_pod_that_leaves_loses_no_call(
    scale: float,
    pools: Pools,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the kubelet ends a pod: preStop, SIGTERM, and SIGKILL when the grace is over.

    In full with the times of the manifest, and a call in the way that never ends. The short form
    only shortens preStop, in which nothing but ordinary serving happens.
    """
    times, is_full = Timings("cpu"), scale == 1.0
    monkeypatch.setenv("CORESIFT_DRAIN_S", str(times.drain_s))
    ended = threading.Event()
    with fleet(pools, redis_url, tmp_path, 2) as (running, _):
        leaving, target = running[0], ",".join(replica.listen for replica in running)
        with Client(target) as client:
            made = [client.create_session("large", candidates=Seals(10)) for _ in range(3)]
        load = Load(target, [session.session_id for session in made])
        with ThreadPoolExecutor(3) as threads:
            workers = [threads.submit(load.blocking, 0), threads.submit(load.asynchronous, 1)]
            failed = lambda: any(worker.done() for worker in workers)  # noqa: E731
            try:
                load.done.update({0: 0, 1: 0})
                load.goes_on(failed)
                began = time.monotonic()  # the pod is to go
                load.stop.wait(scale * times.pre_stop_s)
                load.goes_on(failed)
                if is_full:
                    stuck = threads.submit(a_call_without_end(leaving, ended))
                    while not leaving.samples()['coresift_calls_open{call_class="uploading"}']:
                        assert not stuck.done(), stuck.result()
                leaving.terminate()
                left_s = times.grace_s - (time.monotonic() - began)
                assert leaving.process.wait(left_s) == 0, "it was killed"
                took_s = time.monotonic() - began
                load.goes_on(failed)
            finally:
                ended.set()
                load.stop.set()
            for worker in workers:
                worker.result()
            if is_full:
                assert stuck.result() == "DRAINING"
        with Client(target) as client:
            there = sum(len(list(client.list_labels(s.session_id))) for s in made)
    assert there == load.acknowledged.total() > 0
    print(
        f"\ngone {took_s:.1f} of {times.grace_s:g} s after, 0 of {load.calls.total()} calls failed"
    )
