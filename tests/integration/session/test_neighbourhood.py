"""Neighbours of a session: looked up ahead on what is left of the cores, at once where needed."""

from __future__ import annotations

import asyncio
from threading import Event
from typing import Any

import numpy as np
import pytest
from tests.fixtures.pools import make_pool
from tests.fixtures.replicas import Pair, Replica

from coresift.server.pool.failures import Cancelled
from coresift.server.pool.pool import Pool
from coresift.server.selection.candidates import Seals
from coresift.server.session.ranking import neighbourhood
from coresift.server.session.ranking.neighbourhood import AHEAD_ROWS, Neighbourhood

ITEMS, K = 200, 5


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    X = np.random.default_rng(2).standard_normal((ITEMS, 8)).astype(np.float32)
    return make_pool(tmp_path_factory.mktemp("pool"), X)


class Searches:
    """The searches of a pool; those that can be stopped wait for it while they are ``held``."""

    def __init__(self, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[list[int]] = []
        self.held, self.begun = False, Event()
        search = pool.neighbours

        def neighbours(rows: Any, k: int, *, stop: Any = None) -> Any:
            self.rows.append(rows.tolist())
            self.begun.set()
            while stop is not None and self.held:
                if stop():
                    raise Cancelled
            return search(rows, k)

        monkeypatch.setattr(pool, "neighbours", neighbours)


async def some(replica: Replica, pool: Pool) -> Neighbourhood:
    session = await replica.create(pool, candidates=Seals(K))
    found = (await replica.live(session)).neighbourhood
    assert found is not None
    return found


async def test_what_is_needed_overtakes_a_search_ahead_of_it(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = pair
    near, expected = await some(one, pool), pool.neighbours(np.arange(ITEMS), K)
    searches = Searches(pool, monkeypatch)
    searches.held = True
    near.prefetch([1, 2, 3])
    await asyncio.to_thread(searches.begun.wait)
    np.testing.assert_array_equal(await near.of(np.array([9], np.int32)), expected[[9]])
    assert searches.rows == [[1, 2, 3], [9]]  # beside it
    np.testing.assert_array_equal(await near.of(np.array([2], np.int32)), expected[[2]])
    searches.held = False
    await one.workers.drain(5)
    assert sorted(searches.rows[2:]) == [[1, 3], [2]]
    np.testing.assert_array_equal(await near.of(np.array([1, 2, 3], np.int32)), expected[1:4])
    assert len(searches.rows) == 4


async def test_what_is_ahead_waits_until_what_is_needed_is_found(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = pair
    near, search, searched, go_on = await some(one, pool), pool.neighbours, list[Any](), Event()

    def neighbours(rows: Any, k: int, *, stop: Any = None) -> Any:
        searched.append(rows.tolist())
        go_on.wait()
        return search(rows, k)

    monkeypatch.setattr(pool, "neighbours", neighbours)
    monkeypatch.setattr(neighbourhood, "AHEAD_AFTER_S", 0.0)
    near.demand([9])
    near.prefetch([1, 2])
    while not searched:  # noqa: ASYNC110 - until it got there
        await asyncio.sleep(0)
    for _ in range(100):
        await asyncio.sleep(0)
    near.demand([2])
    meanwhile = searched.copy()
    go_on.set()
    await one.workers.drain(5)
    assert meanwhile == [[9]]
    assert searched == [[9], [2], [1]]


async def test_what_was_just_leased_is_not_looked_up_yet(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that only sleeps move on."""
    one, _ = pair
    near, searches, now = await some(one, pool), Searches(pool, monkeypatch), 0.0
    sleep = asyncio.sleep

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return now

    async def move_on(seconds: float) -> None:
        nonlocal now
        await sleep(0)
        now += max(0.0, seconds)

    monkeypatch.setattr(neighbourhood, "time", Clock)
    monkeypatch.setattr(neighbourhood.asyncio, "sleep", move_on)
    near.prefetch([1, 2])
    now = neighbourhood.AHEAD_AFTER_S / 2
    near.prefetch([3])
    await one.workers.drain(5)
    assert searches.rows == [[1, 2], [3]]


async def test_many_rows_ahead_go_in_small_parts_and_the_oldest_of_too_many_are_left_out(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = pair
    near, searches = await some(one, pool), Searches(pool, monkeypatch)
    monkeypatch.setattr(neighbourhood, "MOST_AHEAD", 150)
    near.prefetch(range(ITEMS))
    near.prefetch([199, 198])  # on their way
    await one.workers.drain(5)
    assert sorted(row for rows in searches.rows for row in rows) == list(range(50, ITEMS))
    assert max(map(len, searches.rows)) == AHEAD_ROWS


async def test_a_failed_search_ahead_leaves_nobody_waiting(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = pair
    near, expected = await some(one, pool), pool.neighbours(np.arange(ITEMS), K)

    def broken(*_: Any, **__: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(pool, "neighbours", broken)
        near.prefetch([4])
        with pytest.raises(MemoryError):
            await near.of(np.array([5], np.int32))
    rows = np.array([4, 5], np.int32)
    np.testing.assert_array_equal(await near.of(rows), expected[rows])
    near.prefetch([6])  # still at work
    await one.workers.drain(5)
    assert 6 in near._known
