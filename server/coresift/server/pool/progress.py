"""How far a build is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""Told the phase and its share done, 0..1."""


class Counter:
    """Turns counts into shares of a phase."""

    def __init__(self, report: Progress, phase: str, total: int) -> None:
        self._report = report
        self._phase = phase
        self._total = max(total, 1)
        self._done = 0
        report(phase, 0.0)

    def add(self, count: int) -> None:
        """That many more are done."""
        self._done += count
        self._report(self._phase, min(1.0, self._done / self._total))


def silent(phase: str, share: float) -> None:
    """No progress wanted."""
