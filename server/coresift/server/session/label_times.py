"""When the newest labels came: how old what a head lacks is."""

from __future__ import annotations

from collections import deque

KEPT = 1_024
"""Times kept of one session. Where more labels come without a batch, neighbours share theirs."""


class LabelTimes:
    """Times of the log entries with labels that no batch has been chosen with yet."""

    def __init__(self) -> None:
        self._times: deque[tuple[int, int]] = deque()

    def add(self, offset: int, time_ms: int) -> None:
        """There is an entry with labels; entries come in order, some perhaps twice."""
        if self._times and offset <= self._times[-1][0]:
            return
        if len(self._times) >= KEPT:
            self._halve()
        self._times.append((offset, time_ms))

    def _halve(self) -> None:
        # The later offset with the earlier time: nothing looks younger than it is.
        ends = [offset for offset, _ in self._times][1::2]
        times = [time_ms for _, time_ms in self._times][::2]
        self._times = deque(zip(ends, times, strict=True))

    def age_s(self, revision: int, now_ms: int) -> float:
        """Seconds since the first labels after a revision came; 0 if there are none.

        The times of labels up to the revision are forgotten: heads only become newer.
        """
        while self._times and self._times[0][0] <= revision:
            self._times.popleft()
        return max(0, now_ms - self._times[0][1]) / 1e3 if self._times else 0.0
