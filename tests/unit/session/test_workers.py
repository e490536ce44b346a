"""Worker threads: what callers that wait or go away hold of them."""

from __future__ import annotations

import asyncio
from functools import partial
from threading import Event

import pytest

from coresift.server.errors import CoresiftError
from coresift.server.session.work import workers as module
from coresift.server.session.work.call import CALL, Call, in_turn
from coresift.server.session.work.gate import Gate, GateLimits
from coresift.server.session.work.workers import MOST_REST, REST_S, Workers


async def test_those_who_wait_for_shared_work_hold_no_permit() -> None:
    gate, workers = Gate("calls", GateLimits(2, 9)), Workers(1)
    release = Event()

    async def fit() -> int:
        return await workers.run(lambda: release.wait() and 7)

    async def call() -> int:
        mine = Call("a", refusable=True)
        CALL.set(mine)
        mine.permit = await gate.enter(mine)
        try:
            return await workers.shared(fit())
        finally:
            mine.permit.end()

    calls = [asyncio.create_task(call()) for _ in range(20)]
    while gate.waiting or workers.gate.waiting < 19:  # noqa: ASYNC110 - until all got there
        await asyncio.sleep(0)
    assert gate.working == 0
    release.set()
    assert await asyncio.gather(*calls) == [7] * 20
    assert (gate.working, workers.gate.working) == (0, 0)
    await workers.drain(1)


async def test_a_thread_is_taken_until_the_work_of_a_caller_that_is_gone_ends() -> None:
    workers, running, release = Workers(1), Event(), Event()

    def work() -> None:
        running.set()
        release.wait()

    call = asyncio.create_task(workers.run(work))
    await asyncio.to_thread(running.wait)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert workers.gate.working == 1
    release.set()
    assert await workers.run(lambda: 3) == 3
    assert workers.gate.working == 0
    await workers.drain(1)


async def test_a_call_is_refused_where_it_first_needs_a_thread_and_never_after() -> None:
    causes: list[str] = []
    workers, release = Workers(1, refused=causes.append), Event()
    calls: list[asyncio.Task[bool]] = []

    async def run(call: Call) -> bool:
        CALL.set(call)
        return await workers.run(release.wait)

    async def refused() -> None:
        with pytest.raises(CoresiftError):
            await run(Call("a", refusable=True))

    while not causes:
        begun = Call("a", refusable=False)
        calls.append(asyncio.create_task(run(begun)))
        await asyncio.sleep(0)
        if workers.gate.waiting == workers.gate.limits.queue:
            await asyncio.create_task(refused())
            calls.append(asyncio.create_task(run(begun)))
    assert causes == ["queue"]
    release.set()
    assert all(await asyncio.gather(*calls))
    assert (workers.gate.working, workers.gate.waiting) == (0, 0)
    await workers.drain(1)


async def test_a_drain_waits_for_what_background_work_starts_meanwhile() -> None:
    workers, done = Workers(1), list[int]()

    async def work(more: int) -> None:
        await asyncio.sleep(0.01)
        done.append(await workers.run(lambda: more))
        if more:
            workers.spawn(work(more - 1))

    workers.spawn(work(3))
    await workers.drain(10)
    assert done == [3, 2, 1, 0]


@pytest.mark.parametrize("grace_s", [0, 0.1])
async def test_a_drain_cancels_what_goes_on_and_on(grace_s: float) -> None:
    workers, tasks = Workers(1), list[asyncio.Task[None]]()

    async def work() -> None:
        await asyncio.sleep(0.01)
        tasks.append(workers.spawn(work()))

    tasks.append(workers.spawn(work()))
    began = asyncio.get_running_loop().time()
    await workers.drain(grace_s)
    assert grace_s <= asyncio.get_running_loop().time() - began < grace_s + 5
    *before, last = tasks
    assert bool(before) == bool(grace_s)
    assert not any(task.cancelled() for task in before)
    assert last.cancelled()


async def test_those_who_wait_for_their_turn_hold_no_permit() -> None:
    gate, lock = Gate("calls", GateLimits(2, 9)), asyncio.Lock()
    await lock.acquire()
    mine = Call("a")
    CALL.set(mine)
    mine.permit = await gate.enter(mine)

    async def take() -> int:
        async with in_turn(lock):
            return gate.working

    taking = asyncio.create_task(take())
    while gate.working:  # noqa: ASYNC110 - until it waits
        await asyncio.sleep(0)
    lock.release()
    assert await taking == 1
    assert not lock.locked()
    mine.permit.end()
    assert gate.working == 0


async def test_sparing_work_rests_the_longer_the_more_calls_came_meanwhile_and_other_work_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a clock that stands still but for the work, and for sleeps, which are not slept."""
    now, came, slept = 0.0, 0, list[float]()

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return now

    async def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(max(0.0, seconds))
        now += max(0.0, seconds)

    def work(seconds: float, calls: int) -> None:
        nonlocal now, came
        now, came = now + seconds, came + calls

    monkeypatch.setattr(module, "time", Clock)
    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    workers = Workers(1)
    workers.calls = lambda: came
    for calls in (0, 10, 10_000, 0):
        await workers.run_sparingly(partial(work, 0.1, calls))
        await workers.run_behind(lambda: None)
    assert slept == pytest.approx([0.0, 0.0, 10 * REST_S, 0.1 * MOST_REST])
    with pytest.raises(ZeroDivisionError):
        await workers.run_sparingly(lambda: 1 // 0)
    assert await workers.run_sparingly(lambda: 5) == 5
    await workers.drain(1)
