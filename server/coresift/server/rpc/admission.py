"""Whether a call may come in: permits by class, and refusals that cost next to nothing."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

from coresift.server.metrics import Metrics
from coresift.server.rpc.call_classes import LIMITS, CallClass, CallRule
from coresift.server.session.work.call import Call, Permit
from coresift.server.session.work.gate import Gate, Turn

OPEN_RETRY_S = 1.0
"""Where too many calls are open, new ones come back after one to three times this."""
FOR_NEW_TENANTS = 4
"""One open call out of so many is kept for tenants that have none."""
ARRIVAL_S = 0.1
"""A request that takes longer to arrive leaves the call's place to others meanwhile."""
LATE = 16
"""Requests that arrive so at a time: the memory of more of them would have no bound."""


class Admission:
    """The permits of one server. For the event loop only.

    Attributes:
        begun: calls that had all their permits, so far.
    """

    def __init__(self, metrics: Metrics, workers: Gate) -> None:
        """``workers``: who has a thread for numerics."""
        self.begun = 0
        self._workers = workers
        self._gates = {
            name: Gate(f"{name} calls", limits.gate, metrics.refused_by(name))
            for name, limits in LIMITS.items()
        }
        self._tasks: dict[Call, asyncio.Task[Any]] = {}
        self._open: dict[CallClass, Counter[str]] = {name: Counter() for name in LIMITS}
        self._late: set[Call] = set()
        self._waited_s: dict[Call, float] = {}
        """Of calls that are not at work yet."""
        self._queue_seconds = {name: metrics.call_queue_seconds.labels(name) for name in LIMITS}
        self._stopped: set[Call] = set()
        for name, gate in self._gates.items():
            metrics.calls_working.labels(name).set_function(partial(getattr, gate, "working"))
            metrics.calls_queued.labels(name).set_function(partial(getattr, gate, "waiting"))
            metrics.calls_open.labels(name).set_function(self._open[name].total)
        metrics.workers_busy.set_function(partial(getattr, workers, "working"))
        metrics.workers_queued.set_function(partial(getattr, workers, "waiting"))

    def is_pressed(self) -> bool:
        """Whether calls come faster than they are served, of whatever class."""
        return any(gate.is_pressed for gate in (self._workers, *self._gates.values()))

    def check(self, rule: CallRule, call: Call) -> None:
        """Refuse a call that would wait too long, or be one too many. OVERLOADED."""
        gate = self._gates[rule.call_class]
        if self._has_all_open(rule.call_class, call.tenant):
            raise gate.refusal("open", OPEN_RETRY_S)
        gate.check(call)
        if rule.computes:
            self._workers.check(call)

    def opened(self, rule: CallRule, call: Call) -> asyncio.Task[Any]:
        """Count the running task's call as open, until `ended`."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._tasks[call] = task
        self._open[rule.call_class][call.tenant] += 1
        return task

    async def enter(self, rule: CallRule, call: Call, left_s: float | None) -> Permit:
        """A permit, as soon as there is one; the call carries it. OVERLOADED."""
        gate = self._gates[rule.call_class]
        gate.check(call, left_s)
        with self._waiting(call):
            call.permit = await gate.enter(call)
        return call.permit

    async def enter_for(
        self, session: str, rule: CallRule, call: Call, left_s: float | None
    ) -> Permit:
        """The call's permit, once its request says which session it is for. OVERLOADED."""
        with self._waiting(call):
            call.permit = await self._gates[rule.call_class].move(
                cast("Turn", call.permit), session, left_s
            )
        return call.permit

    def begins(self, rule: CallRule, call: Call) -> None:
        """The call has all its permits: from here on it does what it came for."""
        self.begun += 1
        self._queue_seconds[rule.call_class].observe(self._waited_s.pop(call, 0.0))

    @contextmanager
    def _waiting(self, call: Call) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._waited_s[call] = self._waited_s.get(call, 0.0) + time.perf_counter() - began

    @contextmanager
    def arrival(self, call: Call) -> Iterator[None]:
        """While a request arrives: where that takes long, the call's place goes to others."""
        late = asyncio.get_running_loop().call_later(ARRIVAL_S, self._is_late, call)
        try:
            yield
        finally:
            late.cancel()
            self._late.discard(call)
            if call.permit is not None:
                call.permit.resume()

    def _is_late(self, call: Call) -> None:
        if call.permit is not None and len(self._late) < LATE:
            self._late.add(call)
            call.permit.pause()

    def ended(self, rule: CallRule, call: Call) -> None:
        """The call holds nothing any more; a second time does nothing."""
        if self._tasks.pop(call, None) is None:
            return
        self._waited_s.pop(call, None)
        opened = self._open[rule.call_class]
        opened[call.tenant] -= 1
        if not opened[call.tenant]:
            del opened[call.tenant]
        if call.permit is not None:
            call.permit.end()

    def _has_all_open(self, call_class: CallClass, tenant: str) -> bool:
        """Whether as many calls are open as may be, of the tenant or at all.

        While others have open calls a tenant has its share, before that not all.
        """
        opened, most = self._open[call_class], LIMITS[call_class].open
        tenants = len(opened) + (tenant not in opened)
        share = most if tenants == 1 else max(1, most // tenants)
        if tenants == 1 and tenant:
            share -= most // FOR_NEW_TENANTS
        return opened[tenant] >= share or opened.total() >= most

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
