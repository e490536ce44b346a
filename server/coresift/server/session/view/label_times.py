"""When the newest labels came: how old what a head lacks is."""

from __future__ import annotations

from bisect import bisect_right

KEPT = 1_024
"""Times kept of one session. Where more labels come without a batch, neighbours share theirs."""


class LabelTimes:
    """Times of the newest log entries with labels."""

    def __init__(self) -> None:
        self._offsets: list[int] = []
        self._times_ms: list[int] = []

    def add(self, offset: int, time_ms: int) -> None:
        """There is an entry with labels; entries come in order, some perhaps twice."""
        if self._offsets and offset <= self._offsets[-1]:
            return
        if len(self._offsets) >= KEPT:
            self._halve()
        self._offsets.append(offset)
        self._times_ms.append(time_ms)

    def _halve(self) -> None:
        # The later offset with the earlier time: nothing looks younger than it is.
        self._offsets, self._times_ms = self._offsets[1::2], self._times_ms[::2]

    def age_s(self, revision: int, now_ms: int) -> float:
        """Seconds since the first labels after a revision came; 0 if there are none."""
        place = bisect_right(self._offsets, revision)
        if place == len(self._offsets):
            return 0.0
        return max(0, now_ms - self._times_ms[place]) / 1e3
