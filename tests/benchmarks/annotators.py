"""Many annotators at once on one session: asks from a ranking at hand, labels and asks in turn."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
import numpy as np
from tests.benchmarks.labeling import Scenario, label_first, row_of
from tests.benchmarks.pools import BenchPool
from tests.benchmarks.process import Server, State

from coresift.client import Client
from coresift.v1 import selection_pb2 as pb
from coresift.v1 import selection_pb2_grpc

ANNOTATORS = 64
CHANNELS = 4
HOT = 10
ALONE_CALLS = 400
OFFERED = 300
"""Calls a second of the open loop, whatever becomes of them."""
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]

PLAIN = Scenario("seals(100)")
CALL_S = 60.0
RETRY_S = 0.05
"""After a refusal for overload."""

Work = Callable[[int], Awaitable[None]]
"""A turn of an annotator, by number."""


@dataclass
class Turns:
    """Seconds of each turn that was not refused, and of all together."""

    times: list[float] = field(default_factory=list)
    refused: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """A second."""
        return len(self.times) / self.seconds

    @property
    def refused_share(self) -> float:
        """Of all that were begun."""
        return self.refused / (self.refused + len(self.times))

    def quantile_ms(self, share: float) -> float:
        """Of those that were not refused."""
        return 1e3 * float(np.quantile(self.times, share))


def measure_annotators(pool: BenchPool, seconds: float) -> dict[str, float]:
    """Latencies, rates, items offered twice, the head's age, and the longest script of Redis."""
    figures: dict[str, float] = {}
    with State() as state, Server(pool.directory, state=state.url) as server:
        for name, measured in (("asks", _measure_asks), ("pairs", _measure_pairs)):
            with Client(server.listen, timeout_s=600) as client:
                session = label_first(client, pool, PLAIN)
                client.next_batch(session, "first", size=1)
            server.settle()
            state.forget_scripts()
            figures |= asyncio.run(measured(server, pool, session, seconds))
            figures[f"{name}: longest Redis script ms"] = 1e3 * state.longest_script_s()
            server.settle()
    return figures


async def _measure_asks(
    server: Server, pool: BenchPool, session: str, seconds: float
) -> dict[str, float]:
    seen: Counter[str] = Counter()
    async with _stubs(server) as stubs:

        async def ask(annotator: int) -> None:
            answer = await _ask(next(stubs), session, annotator, HOT)
            seen.update(pick.item_id for pick in answer.picks)

        alone = [await _timed(ask(0)) for _ in range(ALONE_CALLS)]
        offered = await _open_loop(ask, OFFERED, seconds)
        closed = await _closed_loop(ask, seconds)
    served = [latency for latency in offered if latency is not None]
    return {
        f"NextBatch({HOT}), one annotator, p50 ms": 1e3 * float(np.median(alone)),
        f"{OFFERED} a second offered: p50 ms": 1e3 * float(np.median(served)),
        f"{OFFERED} a second offered: p99 ms": 1e3 * float(np.quantile(served, 0.99)),
        f"{OFFERED} a second offered: refused share": 1 - len(served) / len(offered),
        f"{ANNOTATORS} annotators, closed loop: calls a second": closed.rate,
        f"{ANNOTATORS} annotators, closed loop: p99 ms": closed.quantile_ms(0.99),
        f"{ANNOTATORS} annotators, closed loop: refused share": closed.refused_share,
        "asks: items offered twice": float(seen.total() - len(seen)),
    }


async def _measure_pairs(
    server: Server, pool: BenchPool, session: str, seconds: float
) -> dict[str, float]:
    before, seen = server.metrics(), Counter[str]()
    async with _stubs(server) as stubs:

        async def pair(annotator: int) -> None:
            stub = next(stubs)
            answer = await _ask(stub, session, annotator, 1)
            seen.update(pick.item_id for pick in answer.picks)
            labels = [
                pb.Label(
                    item_id=pick.item_id,
                    class_name=PLAIN.label(int(pool.clusters[row_of(pick.item_id)])),
                    lease_token=pick.lease_token,
                )
                for pick in answer.picks
            ]
            request = pb.AddLabelsRequest(
                session_id=session,
                request_id=str(uuid4()),
                annotator=f"annotator-{annotator}",
                labels=labels,
            )
            await stub.AddLabels(request, timeout=CALL_S)

        pairs = await _closed_loop(pair, seconds)
    grown = server.grown(before)
    fit = 'coresift_stage_seconds_{}{{stage="fit"}}'
    age = 'coresift_head_age_seconds_{}{{pool="bench"}}'
    fits = grown[fit.format("count")]
    return {
        "label-and-ask pairs a second": pairs.rate,
        "pair p50 ms": pairs.quantile_ms(0.5),
        "pair p99 ms": pairs.quantile_ms(0.99),
        "pairs: refused share": pairs.refused_share,
        "pairs: items offered twice": float(seen.total() - len(seen)),
        "fits a second": fits / pairs.seconds,
        "fit, mean ms": 1e3 * grown[fit.format("sum")] / max(fits, 1),
        "head's age, mean ms": 1e3 * grown[age.format("sum")] / max(grown[age.format("count")], 1),
    }


@asynccontextmanager
async def _stubs(server: Server) -> AsyncIterator[Iterator[Any]]:
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(server.listen, options=OPTIONS)
            )
            for _ in range(CHANNELS)
        ]
        yield itertools.cycle([selection_pb2_grpc.SelectionServiceStub(c) for c in channels])


async def _ask(stub: Any, session: str, annotator: int, size: int) -> Any:
    request = pb.NextBatchRequest(
        session_id=session, request_id=str(uuid4()), annotator=f"annotator-{annotator}", size=size
    )
    return await stub.NextBatch(request, timeout=CALL_S)


async def _timed(work: Awaitable[None]) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


async def _open_loop(work: Work, rate: float, seconds: float) -> list[float | None]:
    """Seconds from when each call was due until its answer; None: it was refused."""

    async def one(due: float, annotator: int) -> float | None:
        try:
            await work(annotator)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            return None
        return time.perf_counter() - due

    began, calls = time.perf_counter(), []
    for number in range(int(rate * seconds)):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        calls.append(asyncio.create_task(one(due, number % ANNOTATORS)))
    return list(await asyncio.gather(*calls))


async def _closed_loop(work: Work, seconds: float) -> Turns:
    """Turns of annotators who begin the next when the last is over."""
    turns, began = Turns(), time.perf_counter()

    async def annotate(annotator: int) -> None:
        while time.perf_counter() < began + seconds:
            try:
                turns.times.append(await _timed(work(annotator)))
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                turns.refused += 1
                await asyncio.sleep(RETRY_S)

    await asyncio.gather(*(annotate(annotator) for annotator in range(ANNOTATORS)))
    turns.seconds = time.perf_counter() - began
    return turns
