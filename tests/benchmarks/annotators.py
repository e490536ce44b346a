"""Many annotators at once on one session: asks from a ranking at hand, labels and asks in turn."""

from __future__ import annotations

import asyncio
import bisect
import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import numpy as np
from tests.benchmarks.labeling import Scenario, first_rows, label_first, row_of
from tests.benchmarks.load import Stubs, closed_loop, open_loop, stubs
from tests.benchmarks.pools import BenchPool
from tests.benchmarks.process import Server, State

from coresift.client import Client
from coresift.v1 import selection_pb2 as pb

HOT = 10
ALONE_CALLS = 400
OFFERED = 300
"""Calls a second of the open loop."""
PLAIN = Scenario("seals(100)")


class Offers:
    """What a session answers: items offered twice, and heads that were not the newest.

    No lease ends while it is measured, so that an item is live or labelled from its first offer on.

    Attributes:
        session: its id.
        twice: offers of items that had been offered or labelled before.
        empty: answers without items.
        stale: answers whose head lacks a label that was acknowledged before the call began.
        behind: the most newer heads that had been seen in answers when an answer came.
    """

    def __init__(self, client: Client, pool: BenchPool) -> None:
        """A session with its first labels, that has been asked once."""
        self.session = label_first(client, pool, PLAIN)
        self.twice = self.empty = self.stale = self.behind = 0
        self._seen = set(first_rows(pool, PLAIN).tolist())
        self._heads: list[int] = []
        self._acknowledged = 0
        first = client.next_batch(self.session, "first", size=1)
        self._seen.update(row_of(pick.item_id) for pick in first.picks)

    async def ask(self, line: Stubs, annotator: int, size: int) -> Any:
        """The answer of a NextBatch."""
        known = self._acknowledged
        request = pb.NextBatchRequest(
            session_id=self.session,
            request_id=str(uuid4()),
            annotator=f"annotator-{annotator}",
            size=size,
        )
        answer = await line.call("NextBatch", request)
        self.empty += not answer.picks
        for pick in answer.picks:
            row = row_of(pick.item_id)
            self.twice += row in self._seen
            self._seen.add(row)
        revision = answer.basis.revision
        self.stale += revision < known
        place = bisect.bisect_left(self._heads, revision)
        if place == len(self._heads) or self._heads[place] != revision:
            self._heads.insert(place, revision)
        self.behind = max(self.behind, len(self._heads) - 1 - place)
        return answer

    async def label(self, line: Stubs, annotator: int, labels: Sequence[pb.Label]) -> None:
        """Label what was offered."""
        request = pb.AddLabelsRequest(
            session_id=self.session,
            request_id=str(uuid4()),
            annotator=f"annotator-{annotator}",
            labels=labels,
        )
        revision = (await line.call("AddLabels", request)).basis.revision
        self._acknowledged = max(self._acknowledged, revision)


def measure_annotators(pool: BenchPool, seconds: float) -> dict[str, float]:
    """Latencies, rates, items offered twice, the head's age, and the longest script of Redis."""
    figures: dict[str, float] = {}
    longest = 0.0
    with State() as state, Server(pool.directory, state=state.url) as server:
        for measured in (_measure_offered, _measure_closed, _measure_pairs):
            with Client(server.listen, timeout_s=600) as client:
                offers = Offers(client, pool)
            server.settle()
            state.forget_scripts()
            figures |= asyncio.run(measured(server, pool, offers, seconds))
            longest = max(longest, 1e3 * state.longest_script_s())
            server.settle()
    return figures | {"longest Redis script ms": longest}


async def _measure_offered(
    server: Server, pool: BenchPool, offers: Offers, seconds: float
) -> dict[str, float]:
    async with stubs(server.listen) as line:

        async def ask(annotator: int) -> None:
            await offers.ask(line, annotator, HOT)

        alone = []
        for _ in range(ALONE_CALLS):
            began = time.perf_counter()
            await ask(0)
            alone.append(time.perf_counter() - began)
        refused = line.refused
        offered = await open_loop(ask, OFFERED, seconds)
    return {
        f"NextBatch({HOT}), one annotator: p50 ms": 1e3 * float(np.median(alone)),
        f"NextBatch({HOT}), {OFFERED} a second offered: p50 ms": offered.quantile_ms(0.5),
        f"NextBatch({HOT}), {OFFERED} a second offered: p99 ms": offered.quantile_ms(0.99),
        f"NextBatch({HOT}), {OFFERED} a second offered: refusals": line.refused - refused,
        f"NextBatch({HOT}), {OFFERED} a second offered: given up": offered.failed,
        f"NextBatch({HOT}), {OFFERED} a second offered: items offered twice": offers.twice,
        f"NextBatch({HOT}), {OFFERED} a second offered: answers without items": offers.empty,
    }


async def _measure_closed(
    server: Server, pool: BenchPool, offers: Offers, seconds: float
) -> dict[str, float]:
    async with stubs(server.listen) as line:

        async def ask(annotator: int) -> None:
            await offers.ask(line, annotator, HOT)

        closed = await closed_loop(ask, seconds)
    return {
        f"NextBatch({HOT}), closed loop: calls a second": closed.rate,
        f"NextBatch({HOT}), closed loop: p99 ms": closed.quantile_ms(0.99),
        f"NextBatch({HOT}), closed loop: refusals": line.refused,
        f"NextBatch({HOT}), closed loop: items offered twice": offers.twice,
        f"NextBatch({HOT}), closed loop: answers without items": offers.empty,
    }


async def _measure_pairs(
    server: Server, pool: BenchPool, offers: Offers, seconds: float
) -> dict[str, float]:
    before = server.metrics()
    async with stubs(server.listen) as line:

        async def pair(annotator: int) -> None:
            answer = await offers.ask(line, annotator, 1)
            labels = [
                pb.Label(
                    item_id=pick.item_id,
                    class_name=PLAIN.label(int(pool.clusters[row_of(pick.item_id)])),
                    lease_token=pick.lease_token,
                )
                for pick in answer.picks
            ]
            await offers.label(line, annotator, labels)

        pairs = await closed_loop(pair, seconds)
    grown = server.grown(before)
    fits = grown['coresift_stage_seconds_count{stage="fit"}']
    fitting_s = grown['coresift_stage_seconds_sum{stage="fit"}']
    return {
        "label and ask: pairs a second": pairs.rate,
        "label and ask: p50 ms": pairs.quantile_ms(0.5),
        "label and ask: p99 ms": pairs.quantile_ms(0.99),
        "label and ask: refusals": line.refused,
        "label and ask: given up": pairs.failed,
        "label and ask: items offered twice": offers.twice,
        "label and ask: answers that lack a label acknowledged before the call": offers.stale,
        "label and ask: newer heads than an answer's when it came, most": offers.behind,
        "label and ask: fits a pair": fits / max(len(pairs.times), 1),
        "label and ask: fit, mean ms": 1e3 * fitting_s / max(fits, 1),
    }
