"""Gates: places, queues, shares of tenants and sessions, and what a pause gives back."""

from __future__ import annotations

import asyncio
from threading import Event

import pytest

from coresift.server.errors import CoresiftError, Reason
from coresift.server.session import gate as gates
from coresift.server.session.gate import CALL, Call, Gate, GateLimits, Turn
from coresift.server.session.workers import Workers


async def filled(gate: Gate, *calls: Call) -> list[Turn]:
    return [await gate.enter(call) for call in calls]


async def queued(gate: Gate, *calls: Call) -> list[asyncio.Task[Turn]]:
    tasks = [asyncio.create_task(gate.enter(call)) for call in calls]
    await asyncio.sleep(0)
    return tasks


async def test_places_then_the_queue_in_order() -> None:
    gate = Gate("calls", GateLimits(2, 4))
    first, second = await filled(gate, Call("a"), Call("a"))
    waiting = await queued(gate, Call("a"), Call("a"))
    assert (gate.working, gate.waiting) == (2, 2)
    first.end()
    first.end()
    assert await waiting[0]
    assert not waiting[1].done()
    second.end()
    (await waiting[0]).end()
    (await waiting[1]).end()
    assert (gate.working, gate.waiting) == (0, 0)


async def test_a_caller_that_goes_away_leaves_no_trace() -> None:
    gate = Gate("calls", GateLimits(1, 4))
    [turn] = await filled(gate, Call("a"))
    gone, there = await queued(gate, Call("a"), Call("a"))
    gone.cancel()
    turn.end()
    assert await there
    with pytest.raises(asyncio.CancelledError):
        await gone
    again = await queued(gate, Call("a"))
    (await there).end()
    again[0].cancel()  # its turn has come, but it does not know yet
    await asyncio.gather(*again, return_exceptions=True)
    assert (gate.working, gate.waiting) == (0, 0)


async def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    causes: list[str] = []
    gate = Gate("calls", GateLimits(1, 1), causes.append)
    [turn] = await filled(gate, Call("a"))
    [waiting] = await queued(gate, Call("a"))
    with pytest.raises(CoresiftError) as caught:
        gate.check(Call("a"))
    assert caught.value.reason is Reason.OVERLOADED
    assert caught.value.retry_after_s
    assert causes == ["queue"]
    turn.end()
    (await waiting).end()


async def test_a_call_that_has_no_time_to_wait_is_refused() -> None:
    causes: list[str] = []
    gate = Gate("calls", GateLimits(1, 9), causes.append)
    (await gate.enter(Call("a"))).end()
    [turn] = await filled(gate, Call("a"))
    gate._times["a"].usual = 0.5
    gate.check(Call("a"), left_s=10.0)
    with pytest.raises(CoresiftError):
        gate.check(Call("a"), left_s=0.1)
    assert causes == ["deadline"]
    turn.end()


async def test_a_burst_may_queue_but_lasting_pressure_may_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = 100.0
    monkeypatch.setattr(gates.time, "monotonic", lambda: clock)
    gate = Gate("calls", GateLimits(1, 9))
    turn = await gate.enter(Call("a"))
    clock += 0.4
    turn.end()
    turn = await gate.enter(Call("a"))  # takes 0.4 s as a rule
    gate.check(Call("a"))
    for _ in range(12):
        clock += 0.1
        turn.end()
        turn = await gate.enter(Call("a"))
        gate._times["a"].usual = gate._times["a"].alone = 0.4
        pressed_for = clock - 100.4
        if pressed_for <= gates.PATIENCE_S - 0.05:
            gate.check(Call("a"))
    with pytest.raises(CoresiftError):
        gate.check(Call("a"))
    clock += 0.25  # nearly done: a short wait is welcome
    gate.check(Call("a"))
    turn.end()


async def test_one_session_leaves_places_to_others() -> None:
    gate = Gate("calls", GateLimits(4, 9))
    turns = await filled(gate, *[Call("a", session="s")] * 3)
    same, other = await queued(gate, Call("a", session="s"), Call("a", session="t"))
    assert other.done() is False or gate.working == 4
    await asyncio.sleep(0)
    turns[0].end()
    await asyncio.gather(same, other)
    for turn in [*turns, same.result(), other.result()]:
        turn.end()
    assert gate.working == 0


async def test_the_tenant_that_had_least_comes_first() -> None:
    gate = Gate("calls", GateLimits(1, 100))
    gate.check(Call("a", tenant="small"))
    [turn] = await filled(gate, Call("a", tenant="large"))
    await asyncio.sleep(0.01)
    large = await queued(gate, *[Call("a", tenant="large")] * 5)
    [small] = await queued(gate, Call("a", tenant="small"))
    turn.end()
    (await small).end()
    assert not any(task.done() for task in large[1:])
    for task in large:
        (await task).end()


async def test_a_tenant_has_its_share_of_the_queue_and_alone_all_of_it() -> None:
    causes: list[str] = []
    gate = Gate("calls", GateLimits(1, 4), causes.append)
    [turn] = await filled(gate, Call("a", tenant="large"))
    waiting = await queued(gate, *[Call("a", tenant="large")] * 3)
    gate.check(Call("a", tenant="large"))
    gate.check(Call("a", tenant="small"))
    with pytest.raises(CoresiftError):
        gate.check(Call("a", tenant="large"))
    gate.check(Call("a", tenant="small"))
    assert causes == ["tenant"]
    turn.end()
    for task in waiting:
        (await task).end()


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
