"""Deadlines on an event loop that is late."""

from __future__ import annotations

import asyncio
import time

import pytest

from coresift.server.state.deadline import MOST_TIMES, answered_within


async def test_what_came_while_the_loop_was_late_is_read() -> None:
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    async with answered_within(0.05):
        loop.call_later(0.06, came.set)  # the deadline is looked at first
        time.sleep(0.2)  # noqa: ASYNC251
        await came.wait()


async def test_what_takes_several_turns_of_a_late_loop_is_waited_for() -> None:
    async with answered_within(0.05):
        for _ in range(MOST_TIMES):
            time.sleep(0.12)  # noqa: ASYNC251
            await asyncio.sleep(0)


async def test_what_does_not_come_is_not_waited_for() -> None:
    began = time.perf_counter()
    with pytest.raises(TimeoutError):
        async with answered_within(0.05):
            await asyncio.Event().wait()
    assert time.perf_counter() - began >= 0.05


async def test_a_loop_that_is_always_late_does_not_wait_for_ever() -> None:
    async def be_late() -> None:
        while True:
            time.sleep(0.1)  # noqa: ASYNC251
            await asyncio.sleep(0)

    busy = asyncio.create_task(be_late())
    try:
        with pytest.raises(TimeoutError):
            async with answered_within(0.02):
                await asyncio.Event().wait()
    finally:
        busy.cancel()


async def test_errors_and_cancellations_pass() -> None:
    with pytest.raises(KeyError):
        async with answered_within(1):
            raise KeyError

    async def work() -> None:
        async with answered_within(1):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
