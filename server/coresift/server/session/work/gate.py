"""Who may work now, who waits, and who is told at once that it would wait too long.

A crowd may queue while its queue stays short: people who work at the same time, each of whom
waits for an answer before the next question. So may a burst. Where callers come faster than they
are served for longer than that, a queue only makes everybody late: then only those are let in who
hardly wait, and the others are refused before anything is done for them.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from coresift.server.errors import CoresiftError, Reason
from coresift.server.session.work.call import Call
from coresift.server.session.work.gate_pressure import Places, Pressure
from coresift.server.session.work.gate_shares import Shares
from coresift.server.session.work.gate_times import Times

CROWD_WAIT_S = 0.25
"""In the queue, for as long as nobody would wait longer: 64 annotators at 300 calls a second."""
LONGEST_WAIT_S = 1.0
"""In the queue, during a burst."""
SHORT_WAIT = 0.5
"""Of the usual time of the work: a wait that the caller hardly notices."""
FAIR_WAIT = 1.2
"""The same for a tenant that has had less than its share."""
REST_S = 0.005
"""At most, of a place after work: where calls take long, refused ones are cheap beside them."""
LEAST_RETRY_S, MOST_RETRY_S = 0.05, 5.0
RETRY_GROWTH, MOST_GROWN_S = 0.1, 1.0
"""Those refused come back the later the longer the pressure lasts, by this share of it: else the
same few callers, coming back at once, would keep it up for ever."""

Refused = Callable[[str], None]
"""Told of the cause of each refusal: wait, queue, tenant, deadline; or a cause of the caller's."""


@dataclass(frozen=True, slots=True)
class GateLimits:
    """Bounds of a gate.

    Attributes:
        places: who work at a time.
        queue: who wait.
        adapts: take fewer places while callers come too fast and the work slows itself down.
        rests: let the last place rest, too: the work is brief, on a thread that refuses as well.
        of_session: places that one session may have; 0: all but a quarter.
    """

    places: int
    queue: int
    adapts: bool = False
    rests: bool = False
    of_session: int = 0

    @property
    def session_places(self) -> int:
        """Of one session: the rest is for others."""
        return self.of_session or max(1, self.places - max(1, self.places // 4))


class Turn:
    """A place at a gate, until `end`.

    Attributes:
        began: monotonic, when it was last taken.
        alone: whether nobody else has worked since then.
        is_first: whether it comes before those of its tenant that have not begun.
    """

    __slots__ = ("_ended", "_gate", "_holds", "alone", "began", "call", "is_first")

    def __init__(self, gate: Gate, call: Call, is_first: bool) -> None:
        self._gate, self.call, self.is_first = gate, call, is_first
        self.began, self.alone = 0.0, False
        self._holds = self._ended = False

    def begin(self, now: float, alone: bool) -> None:
        """The gate gave it the place."""
        self.began, self.alone, self._holds = now, alone, True

    def pause(self) -> None:
        """Give the place back until `resume`."""
        if self._holds:
            self._holds = False
            self._gate.left(self)

    def resume(self) -> None:
        """Go on after a pause. Nobody who was let in waits again: there may be a few too many."""
        if not (self._holds or self._ended):
            self._gate.take(self)

    def end(self) -> None:
        """Give the place back for good; more than once does nothing more."""
        self._ended = True
        self.pause()

    def forfeit(self) -> None:
        """The gate took the place away for good."""
        self._holds, self._ended = False, True


class Gate:
    """Places for work, and the queue before them. For the event loop only.

    Attributes:
        rests_until: monotonic; before then nobody gets a place.
    """

    def __init__(
        self,
        name: str,
        limits: GateLimits,
        refused: Refused | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``name``: of what goes on behind it, in the plural."""
        self.name, self.limits, self._of_session = name, limits, limits.session_places
        self._refused, self._clock = refused or (lambda cause: None), clock
        self._working: dict[Turn, None] = {}
        self._waiting: OrderedDict[Turn, asyncio.Future[None]] = OrderedDict()
        self._by_session: Counter[str] = Counter()
        self._times: defaultdict[str, Times] = defaultdict(Times)
        self._shares, self._pressure = Shares(), Pressure()
        self._places = Places(limits.places, limits.rests)
        self.rests_until = 0.0
        self._alarm: asyncio.TimerHandle | None = None

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
        return self._places.now

    @property
    def is_pressed(self) -> bool:
        """Whether somebody would have had to wait long lately."""
        return not self._pressure.is_off(self._clock())

    def check(self, call: Call, left_s: float | None = None) -> None:
        """Refuse a call that would wait too long: longer than ``left_s`` at any rate. OVERLOADED.

        Takes nothing for a call that is let in.
        """
        now = self._clock()
        self._shares.saw(call.tenant, now)
        if self._is_free(call, now):
            return
        wait = self._expected_wait(call, now)
        cause = "" if self._is_welcome(call, wait, now) else "wait"
        if self._has_full_queue(call):
            cause = "tenant" if self._shares.tenants > 1 else "queue"
        if left_s is not None and wait > left_s:
            cause = "deadline"
        if cause:
            raise self.refusal(cause, wait)

    def refusal(self, cause: str, wait_s: float) -> CoresiftError:
        """A counted refusal: its RetryInfo spreads those who come back."""
        self._refused(cause)
        self._places.refused += 1
        grown = min(MOST_GROWN_S, RETRY_GROWTH * self._pressure.age_s(self._clock()))
        pause = min(MOST_RETRY_S, max(LEAST_RETRY_S, wait_s, grown)) * random.uniform(1.0, 3.0)  # noqa: S311
        return CoresiftError(
            Reason.OVERLOADED,
            f"the server has all the {self.name} that it takes: try again",
            retry_after_s=round(pause, 2),
            cause=cause,
        )

    async def enter(self, call: Call, *, first: bool = False) -> Turn:
        """A place, as soon as there is one. ``first``: before those who have not begun."""
        turn = Turn(self, call, first)
        if self._is_free(call, self._clock()):
            self.take(turn)
            return turn
        self._waiting[turn] = freed = asyncio.get_running_loop().create_future()
        self._call_next()
        try:
            await freed
        except BaseException:
            self._waiting.pop(turn, None)
            turn.end()  # it may have come just before the caller went away
            raise
        return turn

    async def move(self, turn: Turn, session: str, left_s: float | None = None) -> Turn:
        """Let the caller go on for ``session``: with its place where that session may have one
        more, else with the next that it may have. OVERLOADED.
        """
        call = turn.call
        if session == call.session:
            return turn
        self._forget(turn)
        call.session = session
        if self._may_work(call):
            self._working[turn] = None
            self._by_session[session] += 1
            return turn
        turn.forfeit()
        self._call_next()
        self.check(call, left_s)
        return await self.enter(call, first=True)

    def take(self, turn: Turn) -> None:
        """Give a place to ``turn``, were it one too many."""
        if len(self._working) == 1:
            next(iter(self._working)).alone = False
        turn.begin(self._clock(), alone=not self._working)
        self._working[turn] = None
        self._by_session[turn.call.session] += 1

    def left(self, turn: Turn) -> None:
        """``turn`` gave its place back: learn from it, and let in who waits."""
        now, call = self._clock(), turn.call
        self._forget(turn)
        times, seconds, calm = self._times[call.kind], now - turn.began, self._pressure.is_off(now)
        times.add(seconds, turn.alone, calm)
        self._shares.add(call.tenant, seconds)
        if self.limits.adapts:
            self._places.adjust(times, calm, self.waiting, now)
            self.rests_until = now + min(REST_S, self._places.rest * min(seconds, times.usual))
        self._call_next()

    def _forget(self, turn: Turn) -> None:
        session = turn.call.session
        del self._working[turn]
        self._by_session[session] -= 1
        if not self._by_session[session]:
            del self._by_session[session]

    def _call_next(self) -> None:
        """Let in who waits: of the tenant that had least, those who have begun before the others,
        in the order of coming."""
        while self._waiting and self.working < self.places:
            if (rest := self.rests_until - self._clock()) > 0:
                self._call_next_after(rest)
                return
            able = [turn for turn in self._waiting if self._may_work(turn.call)]
            if not able:
                return
            turn = min(able, key=self._order)
            freed = self._waiting.pop(turn)
            if not freed.done():  # its caller may have gone away
                self.take(turn)
                freed.set_result(None)

    def _call_next_after(self, seconds: float) -> None:
        if self._alarm is None:

            def wake() -> None:
                self._alarm = None
                self._call_next()

            self._alarm = asyncio.get_running_loop().call_later(seconds, wake)

    def _order(self, turn: Turn) -> tuple[float, bool]:
        return self._shares.of(turn.call.tenant), not turn.is_first

    def _is_free(self, call: Call, now: float) -> bool:
        # Those who wait while there are places belong to sessions that have all of theirs, or come
        # in when the alarm rings, which may be late.
        has_place = self.working < self.places and now >= self.rests_until
        return has_place and self._alarm is None and self._may_work(call)

    def _may_work(self, call: Call) -> bool:
        return not call.session or self._by_session[call.session] < self._of_session

    def _is_welcome(self, call: Call, wait_s: float, now: float) -> bool:
        bound = FAIR_WAIT if self._shares.is_short(call.tenant) else SHORT_WAIT
        if wait_s <= bound * self._times[call.kind].expected:
            return True
        if wait_s <= CROWD_WAIT_S and self._pressure.is_off(now):
            return True
        self._pressure.felt(now)
        return self._pressure.is_burst(now) and wait_s <= LONGEST_WAIT_S

    def _has_full_queue(self, call: Call) -> bool:
        """Whether the call's tenant has its share of the queue: alone all of it."""
        tenants = self._shares.tenants
        if tenants == 1:
            return self.waiting >= self.limits.queue
        queued = sum(turn.call.tenant == call.tenant for turn in self._waiting)
        return queued * tenants >= self.limits.queue

    def _expected_wait(self, call: Call, now: float) -> float:
        """Until the call's turn, if all take as long as usual."""
        times, had = self._times, self._shares.of(call.tenant)
        running = sum(max(0.0, times[t.call.kind].usual - (now - t.began)) for t in self._working)
        ahead = sum(
            times[t.call.kind].usual for t in self._waiting if self._shares.of(t.call.tenant) <= had
        )
        rest = max(0.0, self.rests_until - now)
        return rest + (1.0 + self._places.rest) * (running + ahead) / self.places
