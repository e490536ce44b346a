"""Calls that go away before their turn leave no work behind for those that stay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.pools import make_pool
from tests.fixtures.replicas import Replica, now

from coresift.server.session.live.live import LiveSession
from coresift.server.session.view.labels import pack_class

NO, YES = pack_class(0), pack_class(1)

Ask = Callable[[Replica, LiveSession], Coroutine[Any, Any, object]]

CALLS: dict[str, Ask] = {
    "fitted": lambda _, live: live.fitted(now()),
    "ranked": lambda _, live: live.ranked(now()),
    "reviewed": lambda _, live: live.reviewed(now()),
    "progress": lambda replica, live: replica.reports.of(live),
}


@pytest.mark.parametrize("name", CALLS)
async def test_they_pile_up_no_work(redis_url: str, tmp_path: Path, name: str) -> None:
    X = np.random.default_rng(0).standard_normal((80, 8)).astype(np.float32)
    pool = make_pool(tmp_path, X)
    replica, ask = await Replica.start(redis_url, [pool]), CALLS[name]
    try:
        session = await replica.create(pool)
        await replica.label(session, {0: YES, 1: NO})
        live = await replica.live(session)
        await live.ranked(now())
        async with live._refreshing:
            for row in range(2, 30):
                await replica.label(session, {row: (NO, YES)[row % 2]})
                await live.sync(now())
                calls = [asyncio.create_task(ask(replica, live)) for _ in range(3)]
                while not live._refreshing._waiters:  # noqa: ASYNC110 - until one waits
                    await asyncio.sleep(0)
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
                assert len(replica.workers._tasks) <= 2
            fits = replica.fits()
        labelled = await replica.label(session, {40: YES})
        state, ranking = await asyncio.gather(live.fitted(now()), live.ranked(now()))
        review = await live.reviewed(now())
        for snapshot in (state.snapshot, ranking.snapshot, review.snapshot):
            assert snapshot.revision == labelled.revision
        assert replica.fits() <= fits + 2  # the one that a report has begun, and this one
    finally:
        await replica.stop()
