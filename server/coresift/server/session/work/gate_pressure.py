"""Whether callers come too fast for long, and how many may then work at a time."""

from __future__ import annotations

from coresift.server.session.work.gate_times import Times

PATIENCE_S = 1.0
"""How long callers may come too fast: a burst, which may queue."""
CALM_S = 1.0
"""Without anyone who would wait long: the burst is over."""
CROWDED, ROOMY = 1.4, 1.15
"""Times that work takes beside other work, as multiples of the time that it takes alone."""
ADJUST_S, ADJUST_TIMES = 0.05, 2
"""Between two changes of the places; and as multiple of the work's usual time."""
FIRST_HOLD_S, HOLD_S = 0.5, 10.0
"""After there were too many places until one more is tried, at first and at most: it makes all late
until it is gone. Twice as long after each try in vain."""
MORE_REST, LESS_REST, MOST_REST = 0.25, 0.1, 1.5
"""Steps, and the bound: two fifths of the time are left for work."""


class Pressure:
    """Callers that would have to wait long, and since when they come. Times are monotonic."""

    def __init__(self) -> None:
        self._since = self._latest = -CALM_S

    def felt(self, now: float) -> None:
        """Somebody would have to wait long."""
        if now - self._latest > CALM_S:
            self._since = now
        self._latest = now

    def is_off(self, now: float) -> bool:
        """Whether nobody had to wait long for a while."""
        return now - self._latest >= CALM_S

    def age_s(self, now: float) -> float:
        """For how long callers have come too fast; 0 while they do not."""
        return 0.0 if self.is_off(now) else now - self._since

    def is_burst(self, now: float) -> bool:
        """Whether it has not lasted long."""
        return now - self._since < PATIENCE_S


class Places:
    """How many may work at a time: under pressure as many as do not slow each other down.

    Attributes:
        now: their number, from 1 to ``most``.
        rest: how long the last one stays empty after work, as multiple of the time that it took:
            where even one place keeps the machine so busy that calls wait before they come here.
        refused: calls since the last look.
    """

    def __init__(self, most: int, rests: bool) -> None:
        """``rests``: the last one may."""
        self.now, self.rest = most, 0.0
        self._most, self._rests = most, rests
        self._adjusted_at, self._crowded_at = 0.0, -HOLD_S
        self._hold_s, self._tries = FIRST_HOLD_S, False
        self.refused = self._waiting = 0

    def adjust(self, times: Times, calm: bool, waiting: int, now: float) -> None:
        """Learn from work that just ended; ``calm``: nobody has to wait long; ``waiting``: in the
        queue.

        As long as it does not grow all places stay: what was held up is being made up for, and with
        fewer places, where less ends, it would never be.
        """
        if calm:
            self.now, self.rest = self._most, 0.0
            self._hold_s, self._tries = FIRST_HOLD_S, False
            self.refused, self._waiting = 0, waiting
            return
        if now - self._adjusted_at < max(ADJUST_S, ADJUST_TIMES * times.usual):
            return
        self._adjusted_at, grows = now, waiting + self.refused > self._waiting
        self.refused, self._waiting = 0, waiting
        # A kind that has never been alone is not known to be fast: fewer places will tell.
        if times.usual > CROWDED * times.alone:
            if grows:
                self._take_less(times)
            self._crowded_at = now
            if self._tries:
                self._hold_s, self._tries = min(HOLD_S, 2 * self._hold_s), False
        elif times.usual < ROOMY * times.alone:
            self._take_more(is_due=now - self._crowded_at >= self._hold_s)

    def _take_less(self, times: Times) -> None:
        if self.now > 1:
            share = max(0.5, min(0.75, times.alone / times.usual))
            self.now = max(1, int(share * self.now))
        elif self._rests and times.alone:
            self.rest = min(MOST_REST, self.rest + MORE_REST)

    def _take_more(self, is_due: bool) -> None:
        if self.rest:
            self.rest = max(0.0, self.rest - LESS_REST)
        elif is_due:
            self.now, self._tries = min(self._most, self.now + 1), True
