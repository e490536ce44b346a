"""Whether a call may come in: permits by class, and refusals that cost next to nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from typing import Any, cast

from coresift.server.metrics import Metrics
from coresift.server.rpc.call_classes import LIMITS, CallClass, CallRule
from coresift.server.rpc.loop_guard import LoopGuard
from coresift.server.session.gate import Call, Gate, Turn

LOOP_RETRY_S = 0.5
"""Those whom the loop has no time for come back after one to three times this."""
OPEN_RETRY_S = 1.0
TASKS_S = 1.0


class Admission:
    """The permits of one server. For the event loop only.

    Attributes:
        loop: whether the loop that all calls share keeps up.
    """

    def __init__(self, metrics: Metrics, workers: Gate) -> None:
        """``workers``: who has a thread for numerics."""
        self._metrics, self._workers = metrics, workers
        self._gates = {
            name: Gate(f"{name} calls", limits.gate, metrics.refused_by(name))
            for name, limits in LIMITS.items()
        }
        self._tasks: dict[Call, asyncio.Task[Any]] = {}
        self._open: Counter[CallClass] = Counter()
        self._stopped: set[Call] = set()
        self.loop = LoopGuard(metrics.loop_wait.observe)
        metrics.admitted_share.set_function(lambda: self.loop.share)
        for name, gate in self._gates.items():
            metrics.calls_working.labels(name).set_function(partial(getattr, gate, "working"))
            metrics.calls_queued.labels(name).set_function(partial(getattr, gate, "waiting"))
            metrics.calls_open.labels(name).set_function(partial(self._open.__getitem__, name))
        metrics.workers_busy.set_function(partial(getattr, workers, "working"))
        metrics.workers_queued.set_function(partial(getattr, workers, "waiting"))

    def check(self, rule: CallRule, call: Call) -> None:
        """Refuse a call that would wait too long, or that the loop has no time for. OVERLOADED."""
        gate = self._gates[rule.call_class]
        if not self.loop.has_time():
            raise gate.refusal("loop", LOOP_RETRY_S)
        if self._open[rule.call_class] >= LIMITS[rule.call_class].open:
            raise gate.refusal("open", OPEN_RETRY_S)
        gate.check(call)
        if rule.computes:
            self._workers.check(call)

    def opened(self, rule: CallRule, call: Call) -> asyncio.Task[Any]:
        """Count the running task's call as open, until `ended`."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._tasks[call] = task
        self._open[rule.call_class] += 1
        return task

    async def enter(self, rule: CallRule, call: Call, left_s: float | None) -> Turn:
        """A permit, as soon as there is one; the call carries it. OVERLOADED."""
        gate = self._gates[rule.call_class]
        gate.check(call, left_s)
        call.permit = await gate.enter(call)
        return call.permit

    def ended(self, rule: CallRule, call: Call) -> None:
        """The call holds nothing any more; a second time does nothing."""
        if self._tasks.pop(call, None) is None:
            return
        self._open[rule.call_class] -= 1
        if call.permit is not None:
            call.permit.end()

    async def stop(self) -> None:
        """End every call that is left at the end of a drain, with DRAINING."""
        tasks = list(self._tasks.values())
        self._stopped.update(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def was_stopped(self, call: Call) -> bool:
        """Whether `stop` ended the call, not its caller."""
        return call in self._stopped

    async def watch(self) -> None:
        """Watch the loop until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.loop.watch())
            tasks.create_task(self._count_tasks())

    async def _count_tasks(self) -> None:
        while True:
            self._metrics.tasks.set(len(asyncio.all_tasks()))
            await asyncio.sleep(TASKS_S)
