"""Results made in turn: who shares one, who must not, and what is dropped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from coresift.server.session.work.call import CALL, Call
from coresift.server.session.work.refreshes import Refreshes
from coresift.server.session.work.workers import Workers


class Made:
    """Refreshes that say since when they knew everything, and end when the test says so."""

    def __init__(self, workers: Workers) -> None:
        self.workers, self.turn = workers, asyncio.Lock()
        self.refreshes = Refreshes[float](workers, self.turn)
        self.since: list[float] = []
        self.refusable: list[bool] = []
        self.may_end = asyncio.Event()

    async def _make(self, since: float) -> float:
        self.since.append(since)
        self.refusable.append(CALL.get().refusable)
        await self.may_end.wait()
        return since

    def ask(self, began: float, *, refusable: bool = True) -> asyncio.Task[float]:
        async def call() -> float:
            CALL.set(Call("a", refusable=refusable))
            return await self.refreshes.of(began, self._make)

        return asyncio.create_task(call())

    @property
    def tasks(self) -> int:
        return len(self.workers._tasks)


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def cancel(*calls: asyncio.Task[float]) -> None:
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await settle()


@pytest_asyncio.fixture
async def made() -> AsyncIterator[Made]:
    workers = Workers(1)
    yield Made(workers)
    assert not workers._tasks
    await workers.drain(1)


async def test_all_who_asked_before_it_began_share_one(made: Made) -> None:
    async with made.turn:
        calls = [made.ask(began) for began in (3.0, 9.0, 5.0)]
        await settle()
        assert (made.tasks, made.since) == (1, [])
    made.may_end.set()
    assert await asyncio.gather(*calls) == [9.0] * 3
    assert made.since == [9.0]
    await settle()


async def test_who_asks_after_it_began_gets_the_next(made: Made) -> None:
    first = made.ask(1.0)
    await settle()
    later = [made.ask(2.0 + n) for n in range(5)]
    await settle()
    assert (made.tasks, made.since) == (2, [1.0])
    made.may_end.set()
    assert await first == 1.0
    assert await asyncio.gather(*later) == [6.0] * 5
    assert made.since == [1.0, 6.0]
    await settle()


async def test_those_who_leave_pile_nothing_up(made: Made) -> None:
    first = made.ask(1.0)
    await settle()
    for n in range(50):
        gone = [made.ask(2.0 + n), made.ask(2.5 + n)]
        await settle()
        await cancel(gone[0])
        assert made.tasks == 2  # the other one still waits for it
        await cancel(gone[1])
        assert made.tasks == 1
    last = made.ask(99.0)
    await settle()
    made.may_end.set()
    assert (await first, await last) == (1.0, 99.0)
    assert made.since == [1.0, 99.0]
    await settle()


async def test_what_has_begun_goes_on_without_its_callers(made: Made) -> None:
    call = made.ask(1.0)
    await settle()
    await cancel(call)
    assert (made.tasks, made.since) == (1, [1.0])
    made.may_end.set()
    await settle()
    assert made.tasks == 0


async def test_it_is_refused_only_where_every_caller_may_be(made: Made) -> None:
    async with made.turn:
        calls = [made.ask(1.0), made.ask(1.0)]
        await settle()
    await settle()
    calls += [made.ask(2.0), made.ask(2.0, refusable=False), made.ask(2.0)]
    await settle()
    made.may_end.set()
    await asyncio.gather(*calls)
    assert made.refusable == [True, False]
    await settle()


async def test_a_failure_is_told_to_all_and_is_over(made: Made) -> None:
    async def fail(since: float) -> float:
        raise ValueError(f"since {since}")

    async with made.turn:
        calls = [asyncio.create_task(made.refreshes.of(1.0, fail)) for _ in range(3)]
        await settle()
    for call in calls:
        with pytest.raises(ValueError, match=r"since 1\.0"):
            await call
    made.may_end.set()
    assert await made.ask(2.0) == 2.0
    await settle()
