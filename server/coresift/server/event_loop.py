"""How late the event loop is, which every call shares."""

from __future__ import annotations

import asyncio

from coresift.server.metrics import Metrics

LOOK_S = 0.1


async def watch_loop(metrics: Metrics) -> None:
    """Publish the loop's lag and the number of its tasks until cancelled."""
    loop = asyncio.get_running_loop()
    metrics.tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
    while True:
        due = loop.time() + LOOK_S
        await asyncio.sleep(LOOK_S)
        metrics.loop_lag.observe(max(0.0, loop.time() - due))
