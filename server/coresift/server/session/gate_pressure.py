"""Whether callers come too fast for long, and how many may then work at a time."""

from __future__ import annotations

from coresift.server.session.gate_times import Times

PATIENCE_S = 1.0
"""How long callers may come too fast: a burst, which may queue."""
CALM_S = 1.0
"""Without anyone who would wait long: the burst is over."""
CROWDED, ROOMY = 1.4, 1.15
"""Times that work takes beside other work, as multiples of the time that it takes alone."""
ADJUST_S, ADJUST_TIMES = 0.1, 2
"""Between two changes of the places; and as multiple of the work's usual time."""
HOLD_S = 10.0
"""After there were too many places until one more is tried: it makes all late until it is gone."""


class Pressure:
    """Callers that would have to wait long, and since when they come. Times are monotonic."""

    def __init__(self) -> None:
        self._since = self._latest = -CALM_S

    def felt(self, now: float) -> None:
        """Somebody would have to wait long."""
        if now - self._latest > CALM_S:
            self._since = now
        self._latest = now

    def is_burst(self, now: float) -> bool:
        """Whether it has not lasted long."""
        return now - self._since < PATIENCE_S

    def lasts(self, now: float) -> bool:
        """Whether it has lasted long, and still does."""
        return now - self._latest < CALM_S and not self.is_burst(now)


class Places:
    """How many may work at a time: under lasting pressure as many as do not slow each other down.

    Attributes:
        now: their number, from 1 to ``most``.
    """

    def __init__(self, most: int) -> None:
        self.now = self._most = most
        self._adjusted_at, self._crowded_at = 0.0, -HOLD_S

    def adjust(self, times: Times, lasts: bool, now: float) -> None:
        """Learn from work that just ended; ``lasts``: whether the pressure does."""
        if not lasts:
            self.now = self._most
            return
        if now - self._adjusted_at < max(ADJUST_S, ADJUST_TIMES * times.usual):
            return
        self._adjusted_at = now
        # A kind that has never been alone is not known to be fast: fewer places will tell.
        if times.usual > CROWDED * times.alone:
            share = max(0.5, min(0.75, times.alone / times.usual))
            self.now, self._crowded_at = max(1, int(share * self.now)), now
        elif times.usual < ROOMY * times.alone and now - self._crowded_at >= HOLD_S:
            self.now = min(self._most, self.now + 1)
