"""Overload: what is admitted keeps its latency, what is not is told so at once.

Replay: ``python -m pytest -m fault tests/fault/test_overload.py -s``.

The server and its Redis have one core, the generator of the load the other. Calls of 20 ms and
more are offered at 5 times the rate that is served at most, hot ones at twice. Promised are a 99th
percentile of the admitted calls within 2 and 3 times that of calls which come alone, and refusals
within 50 ms. The best of a few attempts counts, within `NOISE` times the promise: a core of a
shared machine is now and then away for tens of milliseconds, which is as long as what is measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.message import Message
from tests.fault.load import NUMBER, Outcome, offer, on_core, quantile
from tests.fixtures.pools import write_inputs
from tests.fixtures.servers import ServerProcess

from coresift.client import Client
from coresift.server.pool.builder import BuildOptions, build_pool
from coresift.v1 import selection_pb2 as pb

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]

ITEMS, DIMENSION = 1_400_000, 128
"""So that a scan takes 20 ms on one core."""
LONG_S = 0.02
WARM_S = 3.0
"""Until a burst counts as overload, and its queue is gone."""
MEASURED_S, FLOOD_S = 6.0, 3.0
REFUSED_SHARE = 0.1
"""Of a flood that is well above what can be served."""
SAME_RATE = 1.15
"""Rates that differ by less are one."""
ATTEMPTS = 3
NOISE = 1.5
REFUSED_S = 0.05


@dataclass(frozen=True)
class Load:
    """A kind of call, how fast it may come to be alone, and what is promised of a flood of it."""

    method: str
    request: Message
    alone: float
    factor: float
    target: float
    """Admitted latency as multiple of the unloaded."""


@dataclass(frozen=True)
class Overload:
    """What was measured of a load."""

    load: Load
    unloaded: list[Outcome]
    sustainable: float
    outcomes: list[Outcome]

    @property
    def admitted(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.code == "OK"]

    @property
    def refused(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.code == "RESOURCE_EXHAUSTED"]

    @property
    def ratio(self) -> float:
        """Of the 99th percentiles."""
        return quantile(self.admitted) / quantile(self.unloaded)

    @property
    def excess(self) -> float:
        """What was measured as multiple of what is promised, the worse of both promises."""
        return max(self.ratio / self.load.target, quantile(self.refused) / REFUSED_S)

    def __str__(self) -> str:
        """A line of the table."""
        alone, middle = 1e3 * quantile(self.unloaded), 1e3 * quantile(self.unloaded, 0.5)
        offered = self.load.factor * self.sustainable
        return (
            f"{self.load.method:<11} unloaded p50 {middle:5.1f} p99 {alone:5.1f} ms   "
            f"sustainable {self.sustainable:5.0f}/s   offered {offered:5.0f}/s   "
            f"admitted {len(self.admitted) / MEASURED_S:4.0f}/s "
            f"p99 {1e3 * quantile(self.admitted):6.1f} ms = x{self.ratio:.1f} "
            f"(promised x{self.load.target:g})   "
            f"refused p50 {1e3 * quantile(self.refused, 0.5):4.1f} "
            f"p99 {1e3 * quantile(self.refused):5.1f} ms (promised 50)"
        )


@dataclass(frozen=True)
class Service:
    """A server with a pool whose scan takes a while, and a session with a model."""

    address: str
    session_id: str
    folder: Path

    def overload(self, load: Load) -> Overload:
        """Measure ``load`` alone, find what is sustainable, then offer too much."""
        before = self._offered(load, load.alone, WARM_S, MEASURED_S)
        sustainable = self._sustainable(load, 1 / quantile(before, 0.5))
        while True:
            flood = self._offered(load, load.factor * sustainable, WARM_S, MEASURED_S)
            served = sum(outcome.code == "OK" for outcome in flood) / MEASURED_S
            if served <= SAME_RATE * sustainable:
                break
            sustainable = served  # something held the server up before
        after = self._offered(load, load.alone, WARM_S, MEASURED_S)
        # A delay by chance must not make the promise easier.
        unloaded = min(before, after, key=quantile)
        return Overload(load, unloaded, sustainable, flood)

    def _sustainable(self, load: Load, rate: float) -> float:
        """Calls a second that are served when more than that are offered."""
        while True:
            rate *= 2
            found = Counter(one.code for one in self._offered(load, rate, WARM_S, FLOOD_S))
            if found["RESOURCE_EXHAUSTED"] >= REFUSED_SHARE * found.total():
                return found["OK"] / FLOOD_S

    def _offered(self, load: Load, rate: float, warm_s: float, seconds: float) -> list[Outcome]:
        """The outcomes of the calls that were due after ``warm_s``."""
        request = load.request.SerializeToString()
        with on_core(0):
            found = offer(
                self.address, load.method, request, self.folder, rate=rate, seconds=warm_s + seconds
            )
        return [outcome for outcome in found if outcome.due_s >= warm_s]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("overload")
    X = np.random.default_rng(0).normal(size=(ITEMS, DIMENSION)).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    build_pool(BuildOptions(write_inputs(folder, X), folder / "pool", name="wide"))
    with ExitStack() as stack:
        with on_core(1):
            server = stack.enter_context(
                ServerProcess("--pool", folder / "pool", "--data-dir", folder / "data")
            )
        client = stack.enter_context(Client(server.listen))
        session = client.create_session("wide").session_id
        labels = {f"item-{n}": "positive" if n % 2 else "negative" for n in range(20)}
        client.add_labels(session, labels, "ann")
        yield Service(server.listen, session, folder)


def best(service: Service, load: Load) -> Overload:
    """The best of some attempts; every one of them must refuse, and leave nothing hanging."""
    attempts = []
    for _ in range(ATTEMPTS):
        attempts.append(service.overload(load))
        codes = Counter(outcome.code for outcome in attempts[-1].outcomes)
        assert set(codes) == {"OK", "RESOURCE_EXHAUSTED"}, codes
        print(attempts[-1])
        if attempts[-1].excess <= 1:
            break
    return min(attempts, key=lambda attempt: attempt.excess)


@pytest.mark.parametrize("method", ["Predict", "SearchPool"])
def test_long_calls_at_five_times_the_rate(service: Service, method: str) -> None:
    vector = pb.Vectors(dimension=DIMENSION, data=np.ones(DIMENSION, "<f4").tobytes())
    request = {
        "Predict": pb.PredictRequest(session_id=service.session_id, top=pb.PoolTop(count=100)),
        "SearchPool": pb.SearchPoolRequest(pool="wide", vector=vector, count=100),
    }[method]
    found = best(service, Load(method, request, alone=10, factor=5, target=2))
    assert quantile(found.unloaded, 0.5) >= LONG_S
    assert found.excess <= NOISE


@pytest.mark.parametrize(("method", "alone"), [("GetSession", 60), ("NextBatch", 10)])
def test_hot_calls_at_twice_the_rate(service: Service, method: str, alone: float) -> None:
    request = {
        "GetSession": pb.GetSessionRequest(session_id=service.session_id),
        "NextBatch": pb.NextBatchRequest(
            session_id=service.session_id, request_id=NUMBER.decode(), annotator="ann", size=1
        ),
    }[method]
    found = best(service, Load(method, request, alone=alone, factor=2, target=3))
    assert found.excess <= NOISE
