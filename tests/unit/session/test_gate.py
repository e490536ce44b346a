"""Gates: places, queues, who is refused, and shares of tenants and sessions."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from coresift.server.errors import CoresiftError, Reason
from coresift.server.session.work.call import Call
from coresift.server.session.work.gate import (
    LEAST_RETRY_S,
    LONGEST_WAIT_S,
    MOST_GROWN_S,
    REST_S,
    Gate,
    GateLimits,
    Turn,
)
from coresift.server.session.work.gate_pressure import CALM_S, HOLD_S, MOST_REST, PATIENCE_S

WORK_S, BRIEF_S = 0.4, 0.02


class Bench:
    """A gate with a clock that stands still unless it is set."""

    def __init__(
        self, places: int, queue: int, *, adapts: bool = False, rests: bool = False
    ) -> None:
        self.now = 100.0
        self.causes: list[str] = []
        limits = GateLimits(places, queue, adapts, rests)
        self.gate = Gate("calls", limits, self.causes.append, clock=lambda: self.now)

    async def filled(self, *calls: Call) -> list[Turn]:
        return [await self.gate.enter(call) for call in calls]

    async def queued(self, *calls: Call) -> list[asyncio.Task[Turn]]:
        tasks = [asyncio.create_task(self.gate.enter(call)) for call in calls]
        await asyncio.sleep(0)
        return tasks

    async def work(self, call: Call, seconds: float) -> None:
        """A call from its start to its end."""
        turn = await self.gate.enter(call)
        self.now += seconds
        turn.end()

    def refusal(self, call: Call, left_s: float | None = None) -> CoresiftError:
        with pytest.raises(CoresiftError) as caught:
            self.gate.check(call, left_s)
        assert caught.value.reason is Reason.OVERLOADED
        assert caught.value.retry_after_s
        return caught.value

    @property
    def is_empty(self) -> bool:
        return (self.gate.working, self.gate.waiting) == (0, 0)


async def test_places_then_the_queue_in_order() -> None:
    bench = Bench(2, 4)
    first, second = await bench.filled(Call("a"), Call("a"))
    waiting = await bench.queued(Call("a"), Call("a"))
    assert (bench.gate.working, bench.gate.waiting) == (2, 2)
    first.end()
    first.end()
    assert await waiting[0]
    assert not waiting[1].done()
    second.end()
    (await waiting[0]).end()
    (await waiting[1]).end()
    assert bench.is_empty


async def test_who_has_begun_comes_before_those_who_have_not() -> None:
    bench = Bench(1, 4)
    [turn] = await bench.filled(Call("a"))
    [later] = await bench.queued(Call("a"))
    begun = asyncio.create_task(bench.gate.enter(Call("a"), first=True))
    await asyncio.sleep(0)
    turn.end()
    (await begun).end()
    (await later).end()
    assert bench.is_empty


async def test_those_who_have_begun_come_in_order() -> None:
    bench = Bench(1, 9)
    [turn] = await bench.filled(Call("a"))
    begun = [asyncio.create_task(bench.gate.enter(Call("a"), first=True)) for _ in range(3)]
    await asyncio.sleep(0)
    turn.end()
    for number, task in enumerate(begun):
        assert not any(later.done() for later in begun[number + 1 :])
        (await task).end()
    assert bench.is_empty


async def test_a_call_that_turns_out_to_be_of_another_session_keeps_its_place_if_it_may() -> None:
    bench = Bench(4, 9)
    turns = await bench.filled(*[Call("a", session="s") for _ in range(3)], Call("a"))
    assert await bench.gate.move(turns[2], "t") is turns[2]
    assert await bench.gate.move(turns[3], "s") is turns[3]
    waiting = asyncio.create_task(bench.gate.move(turns[2], "s"))
    await asyncio.sleep(0)
    assert (bench.gate.working, bench.gate.waiting) == (3, 1)
    turns[0].end()
    for turn in [*turns, await waiting]:
        turn.end()
    assert bench.is_empty


async def test_a_caller_that_goes_away_leaves_no_trace() -> None:
    bench = Bench(1, 4)
    [turn] = await bench.filled(Call("a"))
    gone, there = await bench.queued(Call("a"), Call("a"))
    gone.cancel()
    turn.end()
    assert await there
    with pytest.raises(asyncio.CancelledError):
        await gone
    again = await bench.queued(Call("a"))
    (await there).end()
    again[0].cancel()  # its turn has come, but it does not know yet
    await asyncio.gather(*again, return_exceptions=True)
    assert bench.is_empty


async def test_a_pause_gives_the_place_to_the_next_and_nobody_waits_again() -> None:
    bench = Bench(1, 4)
    [turn] = await bench.filled(Call("a"))
    [waiting] = await bench.queued(Call("a"))
    turn.pause()
    turn.pause()
    other = await waiting
    turn.resume()
    assert bench.gate.working == 2
    other.end()
    turn.end()
    turn.resume()
    assert bench.is_empty


async def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    bench = Bench(1, 1)
    [turn] = await bench.filled(Call("a"))
    [waiting] = await bench.queued(Call("a"))
    assert bench.refusal(Call("a")).metadata["cause"] == "queue"
    assert bench.causes == ["queue"]
    turn.end()
    (await waiting).end()


async def test_a_call_that_has_no_time_to_wait_is_refused() -> None:
    bench = Bench(1, 9)
    await bench.work(Call("a"), WORK_S)
    await bench.filled(Call("a"))
    bench.gate.check(Call("a"), left_s=2 * WORK_S)
    bench.refusal(Call("a"), left_s=WORK_S / 2)
    assert bench.causes == ["deadline"]


async def test_a_burst_may_queue_but_lasting_pressure_may_not() -> None:
    bench = Bench(1, 9)
    await bench.work(Call("a"), WORK_S)
    began = bench.now
    while bench.now - began < PATIENCE_S:
        turn = await bench.gate.enter(Call("a"))
        bench.gate.check(Call("a"))  # would wait for all of the turn
        bench.now += WORK_S
        turn.end()
    turn = await bench.gate.enter(Call("a"))
    bench.refusal(Call("a"))
    assert bench.causes == ["wait"]
    bench.now += 0.6 * WORK_S  # nearly done: a short wait is welcome
    bench.gate.check(Call("a"))
    bench.now += CALM_S
    turn.end()
    await bench.filled(Call("a"))
    bench.gate.check(Call("a"))  # the next burst


async def test_a_crowd_that_never_waits_long_is_never_refused() -> None:
    bench, crowd = Bench(2, 99, adapts=True), 8
    await bench.work(Call("a"), BRIEF_S)
    turns, waiting = await bench.filled(*[Call("a")] * 2), list[asyncio.Task[Turn]]()
    ends, served = bench.now + 20 * PATIENCE_S, 0
    while bench.now < ends:  # whoever is served comes again at once
        while len(waiting) < crowd - 2:
            bench.gate.check(Call("a"))
            waiting += await bench.queued(Call("a"))
        bench.now += BRIEF_S
        turns.pop(0).end()
        turns.append(await waiting.pop(0))
        served += 1
    assert served > PATIENCE_S / BRIEF_S
    assert not bench.causes
    assert bench.gate.places == 2
    assert not bench.gate.is_pressed
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_who_is_refused_comes_back_later_the_longer_it_lasts() -> None:
    bench = Bench(1, 9)
    await bench.work(Call("a"), BRIEF_S)
    await overrun(bench)
    pauses = []
    for _ in range(60):
        turn = await bench.gate.enter(Call("a"))
        with suppress(CoresiftError):
            bench.gate.check(Call("a"))
        pauses.append(bench.gate.refusal("wait", 0.0).retry_after_s or 0.0)
        bench.now += CALM_S / 2
        turn.end()
    assert LEAST_RETRY_S <= pauses[0] <= 3 * LEAST_RETRY_S
    assert min(pauses[-20:]) >= MOST_GROWN_S
    assert max(pauses) <= 3 * MOST_GROWN_S
    bench.now += CALM_S
    assert (bench.gate.refusal("wait", 0.0).retry_after_s or 0.0) <= 3 * LEAST_RETRY_S


async def test_even_a_burst_waits_no_longer_than_a_second() -> None:
    bench = Bench(1, 99)
    await bench.work(Call("a"), WORK_S)
    await bench.filled(Call("a"))
    waiting = await bench.queued(Call("a"))
    bench.gate.check(Call("a"))
    waiting += await bench.queued(Call("a"))
    bench.refusal(Call("a"))
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_one_session_leaves_places_to_others() -> None:
    bench = Bench(4, 9)
    turns = await bench.filled(*[Call("a", session="s")] * 3)
    [same] = await bench.queued(Call("a", session="s"))
    assert (bench.gate.working, bench.gate.waiting) == (3, 1)
    [other] = await bench.filled(Call("a", session="t"))  # does not queue behind it
    turns[0].end()
    for turn in [*turns, await same, other]:
        turn.end()
    assert bench.is_empty


async def test_the_tenant_that_had_least_comes_first() -> None:
    bench = Bench(1, 100)
    large, small = Call("a", tenant="large"), Call("a", tenant="small")
    bench.gate.check(large)
    bench.gate.check(small)
    [turn] = await bench.filled(large)
    waiting = await bench.queued(*[large] * 5)
    [first] = await bench.queued(small)
    bench.now += 0.01
    turn.end()
    (await first).end()
    assert not any(task.done() for task in waiting[1:])
    for task in waiting:
        (await task).end()


async def test_a_tenant_has_its_share_of_the_queue_and_alone_all_of_it() -> None:
    bench = Bench(1, 4)
    large, small = Call("a", tenant="large"), Call("a", tenant="small")
    await bench.filled(large)
    waiting = await bench.queued(*[large] * 3)
    bench.gate.check(large)
    bench.gate.check(small)
    bench.refusal(large)
    bench.gate.check(small)
    assert bench.causes == ["tenant"]
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_tenant_that_does_not_come_any_more_has_no_share() -> None:
    bench = Bench(1, 4)
    large, small = Call("a", tenant="large"), Call("a", tenant="small")
    bench.gate.check(large)
    bench.gate.check(small)
    bench.now += 60.0
    await bench.filled(large)
    waiting = await bench.queued(*[large] * 3)
    bench.gate.check(large)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def overrun(bench: Bench) -> None:
    """Somebody would wait longer than in a crowd."""
    await bench.work(Call("long"), LONGEST_WAIT_S)
    turns = await bench.filled(*[Call("long")] * bench.gate.limits.places)
    bench.gate.check(Call("a"))
    assert bench.gate.is_pressed
    for turn in turns:
        turn.end()


async def under_pressure(bench: Bench, slowed: bool, seconds: float = 5.0) -> list[int]:
    """The places of the rounds, in which as many work as may, on one core or on many."""
    if not bench.gate.is_pressed:
        await overrun(bench)
    places, ends = [], bench.now + seconds
    while bench.now < ends:
        bench.now = max(bench.now, bench.gate.rests_until)
        turns = await bench.filled(*[Call("a")] * bench.gate.places)
        places.append(len(turns))
        with suppress(CoresiftError):
            bench.gate.check(Call("a"))
        bench.now += BRIEF_S * (len(turns) if slowed else 1)
        for turn in turns:
            turn.end()
    return places


async def test_under_pressure_those_who_slow_each_other_down_get_fewer_places() -> None:
    bench = Bench(8, 99, adapts=True)
    await bench.work(Call("a"), BRIEF_S)
    places = await under_pressure(bench, slowed=True)
    assert places[0] == 8
    assert set(places[-20:]) == {1}
    bench.now += CALM_S
    await bench.work(Call("a"), BRIEF_S)
    assert bench.gate.places == 8


async def test_a_flood_from_the_start_finds_out_what_work_takes_alone() -> None:
    bench = Bench(8, 99, adapts=True)
    assert set((await under_pressure(bench, slowed=True))[-20:]) == {1}


async def test_under_pressure_those_who_do_not_keep_all_places() -> None:
    bench = Bench(8, 99, adapts=True)
    await bench.work(Call("a"), BRIEF_S)
    assert set(await under_pressure(bench, slowed=False)) == {8}


async def test_what_was_held_up_is_made_up_for_with_all_places() -> None:
    bench = Bench(8, 999, adapts=True)
    await bench.work(Call("a"), BRIEF_S)
    working = await bench.filled(*[Call("a")] * 8)
    held_up = await bench.queued(*[Call("a")] * 200)
    bench.gate.check(Call("a"))  # a burst
    bench.now += 1.0
    while len(held_up) > 8:  # one comes where all those end
        bench.now += 8 * BRIEF_S
        held_up += await bench.queued(Call("a"))
        for turn in working:
            turn.end()
        places = bench.gate.places
        working, held_up = [await task for task in held_up[:places]], held_up[places:]
        with suppress(CoresiftError):
            bench.gate.check(Call("a"))
        assert bench.gate.is_pressed
        assert places >= 4  # at the first look more had come than had ended
    while held_up:
        for turn in working:
            turn.end()
        working = [await task for task in held_up[: bench.gate.places]]
        held_up = held_up[len(working) :]
    for turn in working:
        turn.end()
    assert bench.is_empty


async def test_a_pause_is_no_end_of_what_comes_too_fast() -> None:
    bench = Bench(8, 99, adapts=True)
    await bench.work(Call("a"), BRIEF_S)
    await overrun(bench)
    turns, ends = await bench.filled(*[Call("a")] * 8), bench.now + 5.0
    while bench.now < ends:
        with suppress(CoresiftError):
            bench.gate.check(Call("a"))
        bench.now += 8 * BRIEF_S
        for turn in turns:
            turn.pause()
            turn.resume()
    assert bench.gate.places == 1
    for turn in turns:
        turn.end()


async def test_one_session_has_as_many_places_as_it_may() -> None:
    gate = Gate("calls", GateLimits(16, 9, of_session=8))
    assert (gate.limits.session_places, GateLimits(16, 9).session_places) == (8, 12)


async def test_under_pressure_more_places_are_tried_rarely() -> None:
    bench = Bench(8, 99, adapts=True)
    await under_pressure(bench, slowed=True)
    places = await under_pressure(bench, slowed=True, seconds=20 * HOLD_S)
    assert set(places) == {1, 2}
    assert places.count(1) > 10 * places.count(2)
    assert (await under_pressure(bench, slowed=False, seconds=2 * HOLD_S))[-1] == 8


async def test_where_even_one_place_keeps_the_machine_busy_it_rests() -> None:
    bench, alone = Bench(1, 99, adapts=True, rests=True), REST_S / 2
    await bench.work(Call("a"), alone)
    await overrun(bench)
    shares = []
    for _ in range(5_000):  # beside so many refused calls work takes longer, the less it rests
        rests = max(0.0, bench.gate.rests_until - bench.now)
        bench.now += rests
        turn = await bench.gate.enter(Call("a"))
        with suppress(CoresiftError):
            bench.gate.check(Call("a"))
        took = alone * (1.0 + 0.8 * alone / (alone + rests))
        bench.now += took
        turn.end()
        shares.append(rests / took)
    assert min(shares[-500:]) > 0.5
    assert max(shares[-500:]) <= MOST_REST + 1e-9
    bench.now += CALM_S
    await bench.work(Call("a"), alone)
    assert bench.gate.rests_until <= bench.now


async def test_newcomers_do_not_overtake_who_waited_while_a_place_rested() -> None:
    bench = Bench(1, 9)
    [turn] = await bench.filled(Call("a"))
    bench.gate.rests_until = bench.now + BRIEF_S
    turn.end()
    [first] = await bench.queued(Call("a"))
    bench.now += BRIEF_S  # the alarm is late
    [second] = await bench.queued(Call("a"))
    turn = await first
    assert not second.done()
    turn.end()
    (await second).end()
    assert bench.is_empty


async def test_who_waits_while_a_place_rests_comes_in_afterwards() -> None:
    bench = Bench(1, 9)
    [turn] = await bench.filled(Call("a"))
    bench.gate.rests_until = bench.now + BRIEF_S
    turn.end()
    waiting = await bench.queued(Call("a"), Call("a"))
    assert bench.gate.working == 0
    bench.now += BRIEF_S
    (await waiting[0]).end()
    (await waiting[1]).end()
    assert bench.is_empty
