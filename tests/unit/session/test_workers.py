"""Worker threads: what callers that wait or go away hold of them."""

from __future__ import annotations

import asyncio
from threading import Event

import pytest

from coresift.server.errors import CoresiftError
from coresift.server.session.work.call import CALL, Call
from coresift.server.session.work.gate import Gate, GateLimits
from coresift.server.session.work.workers import Workers


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
