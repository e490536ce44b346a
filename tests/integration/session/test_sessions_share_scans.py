"""Sessions that rank the whole pool at the same time: one scan, and the picks of each alone."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest
from tests.fixtures.pools import make_pool
from tests.fixtures.replicas import Replica, only, rows_of

from coresift.server.arrays import Float32s
from coresift.server.pool.pool import Pool
from coresift.server.selection.candidates import All
from coresift.server.selection.circular_scan import CircularScan
from coresift.server.session.replay import read_log, replay
from coresift.server.session.view.labels import pack_class
from coresift.server.session.work import shared_scans

ITEMS, SESSIONS = 5_000, 8
KINDS = ["max_entropy", "margin", "most_likely_positive", "random"]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    X = np.random.default_rng(4).standard_normal((ITEMS, 8)).astype(np.float32)
    X[ITEMS // 2 :] = X[: ITEMS // 2]  # each item twice: every score ties
    return make_pool(tmp_path_factory.mktemp("pool"), X)


@pytest.fixture
def columns(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each product with a block, how many columns it had."""
    noted: list[int] = []
    (compute,) = pool._vectors.computes
    multiply = compute.product

    def product(start: int, stop: int, matrix: Float32s) -> Float32s:
        noted.append(matrix.shape[1])
        return multiply(start, stop, matrix)

    monkeypatch.setattr(compute, "product", product)
    return noted


async def test_sessions_that_come_together_share_a_scan(
    redis_url: str, pool: Pool, columns: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = await Replica.start(redis_url, [pool])
    try:
        sessions = []
        for number in range(SESSIONS):
            mix = only(KINDS[number % len(KINDS)])
            session = await replica.create(pool, candidates=All(), mix=mix, seed=number)
            chance = np.random.default_rng(number)
            rows = chance.choice(ITEMS, 40, replace=False).tolist()
            await replica.label(session, {row: pack_class(row % 2) for row in rows})
            sessions.append(session)
        live = await replica.live(sessions[0])
        of_vectors = SESSIONS - SESSIONS // len(KINDS)  # the random ones look at none
        may_go = threading.Event()

        class Held(CircularScan):
            def turn(self) -> None:
                may_go.wait()
                super().turn()

        monkeypatch.setattr(shared_scans, "CircularScan", Held)
        calls = [asyncio.create_task(replica.next_batch(s, size=50)) for s in sessions]
        while (shared := live.scans._scans.get(pool)) is None or len(shared.ends) < of_vectors:  # noqa: ASYNC110
            await asyncio.sleep(0)
        may_go.set()
        batches = await asyncio.gather(*calls)
        assert columns == [of_vectors] * pool.block_count
        assert all(len(set(rows_of(batch))) == 50 for batch in batches)
        for session in sessions:  # each with a scan of its own
            report = replay(replica.loader, await read_log(replica.store, session))
            assert (report.batches, report.differences) == (1, ())
    finally:
        await replica.stop()


async def test_a_mix_takes_one_scan(redis_url: str, pool: Pool, columns: list[int]) -> None:
    replica = await Replica.start(redis_url, [pool])
    try:
        mix = tuple(only(name)[0] for name in KINDS)
        session = await replica.create(pool, candidates=All(), mix=mix)
        await replica.label(session, {row: pack_class(row % 2) for row in range(40)})
        batch = await replica.next_batch(session, size=50)
        assert {pick.component for pick in batch.picks} == set(range(len(KINDS)))
        assert columns == [len(KINDS) - 1] * pool.block_count
        report = replay(replica.loader, await read_log(replica.store, session))
        assert report.differences == ()
    finally:
        await replica.stop()
