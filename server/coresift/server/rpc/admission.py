"""Whether a call may come in: permits by class, and refusals that cost next to nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from typing import Any, cast

from coresift.server.metrics import Metrics
from coresift.server.rpc.call_classes import LIMITS, CallClass, CallRule
from coresift.server.session.call import Call, Permit
from coresift.server.session.gate import Gate

OPEN_RETRY_S = 1.0
"""Where too many calls are open, new ones come back after one to three times this."""


class Admission:
    """The permits of one server. For the event loop only."""

    def __init__(self, metrics: Metrics, workers: Gate) -> None:
        """``workers``: who has a thread for numerics."""
        self._workers = workers
        self._gates = {
            name: Gate(f"{name} calls", limits.gate, metrics.refused_by(name))
            for name, limits in LIMITS.items()
        }
        self._tasks: dict[Call, asyncio.Task[Any]] = {}
        self._open: Counter[CallClass] = Counter()
        self._stopped: set[Call] = set()
        for name, gate in self._gates.items():
            metrics.calls_working.labels(name).set_function(partial(getattr, gate, "working"))
            metrics.calls_queued.labels(name).set_function(partial(getattr, gate, "waiting"))
            metrics.calls_open.labels(name).set_function(partial(self._open.__getitem__, name))
        metrics.workers_busy.set_function(partial(getattr, workers, "working"))
        metrics.workers_queued.set_function(partial(getattr, workers, "waiting"))

    def check(self, rule: CallRule, call: Call) -> None:
        """Refuse a call that would wait too long, or be one too many. OVERLOADED."""
        gate = self._gates[rule.call_class]
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

    async def enter(self, rule: CallRule, call: Call, left_s: float | None) -> Permit:
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
