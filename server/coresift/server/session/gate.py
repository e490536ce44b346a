"""Who may work now, who waits, and who is told at once that it would wait too long.

A short burst may queue. Where callers come faster than they are served for longer than that, a
queue only makes everybody late: then only those are let in who hardly wait, and the others are
refused before anything is done for them.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

from coresift.server.errors import CoresiftError, Reason

PATIENCE_S = 1.0
"""How long callers may come too fast before the queue is kept short."""
CALM_S = 1.0
"""Without anyone who would wait long: the burst is over."""
LONGEST_WAIT_S = 1.0
"""In the queue, during a burst."""
SHORT_WAIT = 0.5
"""Of the usual time of the work: a wait that the caller hardly notices."""
FAIR_WAIT = 1.2
"""The same for a tenant that has had less than its share."""
CROWDED, ROOMY = 1.4, 1.15
"""Times that work takes beside other work, as multiples of the time that it takes alone."""
ADJUST_S = 0.1
SHARE_S = 2.0
"""Over which the tenants' shares are counted."""
LEAST_RETRY_S, MOST_RETRY_S = 0.05, 5.0


@dataclass(slots=True, eq=False)
class Call:
    """A call under way, as gates see it.

    Attributes:
        kind: what it does, a name out of a few: times are expected by it.
        refusable: whether it may be refused where it first needs a worker; it has changed nothing
            by then.
        permit: what it holds while it works, given back while it merely waits.
    """

    kind: str
    tenant: str = ""
    session: str = ""
    refusable: bool = False
    permit: Turn | None = None


BACKGROUND = Call("background")
"""Work that no call waits for."""

CALL: ContextVar[Call] = ContextVar("call", default=BACKGROUND)
"""The call that the running task works for; tasks that it starts inherit it."""


@dataclass(frozen=True, slots=True)
class GateLimits:
    """Bounds of a gate.

    Attributes:
        places: who work at a time.
        queue: who wait.
        adapts: take fewer places while callers come too fast and the work slows itself down.
    """

    places: int
    queue: int
    adapts: bool = False

    @property
    def session_places(self) -> int:
        """Of one session: the rest is for others."""
        return max(1, self.places - max(1, self.places // 4))


class Turn:
    """A place at a gate, until `end`."""

    __slots__ = ("_ended", "_gate", "alone", "began", "call", "holds")

    def __init__(self, gate: Gate, call: Call) -> None:
        self._gate, self.call = gate, call
        self.began, self.alone, self.holds = 0.0, False, False
        self._ended = False

    def pause(self) -> None:
        """Give the place back until `resume`."""
        if self.holds:
            self._gate._left(self)

    def resume(self) -> None:
        """Go on after a pause. Nobody who was let in waits again: there may be a few too many."""
        if not self.holds and not self._ended:
            self._gate._take(self, time.monotonic())

    def end(self) -> None:
        """Give the place back for good; more than once does nothing more."""
        self._ended = True
        self.pause()


@dataclass(slots=True)
class _Times:
    """Of one kind of work, in seconds, smoothed; 0: not known yet."""

    alone: float = 0.0
    usual: float = 0.0

    def add(self, seconds: float, alone: bool) -> None:
        self.usual += (seconds - self.usual) * (0.1 if self.usual else 1.0)
        if alone:
            self.alone += (seconds - self.alone) * (0.1 if self.alone else 1.0)


class _Shares:
    """What the tenants that came lately had of the work, in seconds, forgotten by and by."""

    def __init__(self) -> None:
        self._had: dict[str, float] = {}
        self._seen: dict[str, float] = {}
        self._at = 0.0

    def saw(self, tenant: str, now: float) -> None:
        self._fade(now)
        self._seen[tenant] = now
        self._had.setdefault(tenant, 0.0)

    def _fade(self, now: float) -> None:
        if now - self._at < ADJUST_S:
            return
        kept = 0.5 ** ((now - self._at) / SHARE_S)
        self._at = now
        self._had = {
            tenant: seconds * kept
            for tenant, seconds in self._had.items()
            if now - self._seen.get(tenant, -SHARE_S) < SHARE_S
        }

    def add(self, tenant: str, seconds: float) -> None:
        self._had[tenant] = self.of(tenant) + seconds

    def of(self, tenant: str) -> float:
        return self._had.get(tenant, 0.0)

    def is_short(self, tenant: str) -> bool:
        """Whether others are there too, and it had less than its share."""
        had, count = self._had, len(self._had)
        return count > 1 and self.of(tenant) * count < sum(had.values())

    @property
    def tenants(self) -> int:
        return max(1, len(self._had))


Refused = Callable[[str], None]
"""Told of the cause of each refusal: wait, queue, tenant, deadline; or a cause of the caller's."""


class Gate:
    """Places for work, and the queue before them. For the event loop only."""

    def __init__(self, name: str, limits: GateLimits, refused: Refused | None = None) -> None:
        """``name``: of what goes on behind it, in the plural."""
        self.name, self.limits = name, limits
        self._refused = refused or (lambda cause: None)
        self._places = limits.places
        self._working: dict[Turn, None] = {}
        self._waiting: dict[Turn, asyncio.Future[None]] = {}
        self._by_session: Counter[str] = Counter()
        self._times: dict[str, _Times] = {}
        self._shares = _Shares()
        self._pressed_since = self._pressed_at = -CALM_S
        self._adjusted_at = 0.0

    @property
    def working(self) -> int:
        """Places taken."""
        return len(self._working)

    @property
    def waiting(self) -> int:
        """Callers in the queue."""
        return len(self._waiting)

    @property
    def places(self) -> int:
        """Places that there are now."""
        return self._places

    def check(self, call: Call, left_s: float | None = None) -> None:
        """Refuse a call that would wait too long: longer than ``left_s`` at any rate. OVERLOADED.

        Leaves no trace of a call that is let in.
        """
        now = time.monotonic()
        self._shares.saw(call.tenant, now)
        if self._is_free(call):
            return
        wait = self._expected_wait(call, now)
        cause = "" if self._is_welcome(call, wait, now) else "wait"
        if self._shares.tenants > 1:
            queued = sum(turn.call.tenant == call.tenant for turn in self._waiting)
            if queued * self._shares.tenants >= self.limits.queue:
                cause = "tenant"
        elif self.waiting >= self.limits.queue:
            cause = "queue"
        if left_s is not None and wait > left_s:
            cause = "deadline"
        if cause:
            raise self.refusal(cause, wait)

    def refusal(self, cause: str, wait_s: float) -> CoresiftError:
        """A counted refusal: its RetryInfo spreads those who come back."""
        self._refused(cause)
        pause = min(MOST_RETRY_S, max(LEAST_RETRY_S, wait_s)) * random.uniform(1.0, 3.0)  # noqa: S311
        return CoresiftError(
            Reason.OVERLOADED,
            f"the server has all the {self.name} that it takes: try again",
            retry_after_s=round(pause, 2),
            cause=cause,
        )

    async def enter(self, call: Call, *, first: bool = False) -> Turn:
        """A place, as soon as there is one. ``first``: before those who have not begun."""
        turn = Turn(self, call)
        if self._is_free(call):
            self._take(turn, time.monotonic())
            return turn
        freed = asyncio.get_running_loop().create_future()
        self._waiting = {turn: freed, **self._waiting} if first else {**self._waiting, turn: freed}
        try:
            await freed
        except BaseException:
            self._waiting.pop(turn, None)
            turn.end()  # it may have come just before the caller went away
            raise
        return turn

    def _is_free(self, call: Call) -> bool:
        return self.working < self._places and not self._waiting and self._may_work(call)

    def _may_work(self, call: Call) -> bool:
        return not call.session or self._by_session[call.session] < self.limits.session_places

    def _is_welcome(self, call: Call, wait_s: float, now: float) -> bool:
        times = self._times.get(call.kind, _Times())
        bound = FAIR_WAIT if self._shares.is_short(call.tenant) else SHORT_WAIT
        if wait_s <= bound * (times.alone or times.usual):
            return True
        if now - self._pressed_at > CALM_S:
            self._pressed_since = now
        self._pressed_at = now
        return now - self._pressed_since < PATIENCE_S and wait_s <= LONGEST_WAIT_S

    def _is_pressed(self, now: float) -> bool:
        return now - self._pressed_at < CALM_S and now - self._pressed_since > PATIENCE_S

    def _expected_wait(self, call: Call, now: float) -> float:
        """Until the call's turn, if all take as long as usual."""
        had, usual = self._shares.of(call.tenant), self._usual
        running = sum(max(0.0, usual(t.call) - (now - t.began)) for t in self._working)
        ahead = sum(usual(t.call) for t in self._waiting if self._shares.of(t.call.tenant) <= had)
        return (running + ahead) / self._places

    def _usual(self, call: Call) -> float:
        times = self._times.get(call.kind)
        return times.usual if times else 0.0

    def _take(self, turn: Turn, now: float) -> None:
        turn.began, turn.alone, turn.holds = now, not self._working, True
        if len(self._working) == 1:
            next(iter(self._working)).alone = False
        self._working[turn] = None
        if turn.call.session:
            self._by_session[turn.call.session] += 1

    def _left(self, turn: Turn) -> None:
        now = time.monotonic()
        seconds = now - turn.began
        turn.holds = False
        del self._working[turn]
        session = turn.call.session
        if session:
            self._by_session[session] -= 1
            if not self._by_session[session]:
                del self._by_session[session]
        self._times.setdefault(turn.call.kind, _Times()).add(seconds, turn.alone)
        self._shares.add(turn.call.tenant, seconds)
        if self.limits.adapts:
            self._adapt(turn.call.kind, now)
        self._call_next(now)

    def _adapt(self, kind: str, now: float) -> None:
        """Under pressure as many places as do not slow each other down, otherwise all."""
        if not self._is_pressed(now):
            self._places = self.limits.places
            return
        times = self._times[kind]
        if now - self._adjusted_at < max(ADJUST_S, 4 * times.usual) or not times.alone:
            return
        self._adjusted_at = now
        if times.usual > CROWDED * times.alone:
            self._places = max(1, self._places * 3 // 4)
        elif times.usual < ROOMY * times.alone:
            self._places = min(self.limits.places, self._places + 1)

    def _call_next(self, now: float) -> None:
        """Let in who waits: of the tenant that had least, in the order of coming."""
        while self._waiting and self.working < self._places:
            able = [turn for turn in self._waiting if self._may_work(turn.call)]
            if not able:
                return
            turn = min(able, key=lambda turn: self._shares.of(turn.call.tenant))
            freed = self._waiting.pop(turn)
            if not freed.done():
                self._take(turn, now)
                freed.set_result(None)
