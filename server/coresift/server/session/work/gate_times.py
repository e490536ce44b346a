"""How long each kind of work takes, beside other work and alone."""

from __future__ import annotations

from dataclasses import dataclass

WEIGHT = 0.1
"""Of the latest time in the smoothed one."""


@dataclass(slots=True)
class Times:
    """Of one kind of work, in seconds, smoothed; 0: not known yet.

    Attributes:
        usual: whatever goes on beside it.
        alone: of work that had all places to itself from its start to its end, while nobody had
            to wait long: refusing many calls keeps the machine busy too. Until there was such
            work the shortest.
        is_sure: whether there was.
    """

    usual: float = 0.0
    alone: float = 0.0
    is_sure: bool = False

    @property
    def expected(self) -> float:
        """What a caller that comes alone would see."""
        return self.alone or self.usual

    def add(self, seconds: float, alone: bool, calm: bool) -> None:
        """Count work that ended; ``calm``: nobody has to wait long."""
        self.usual = _smoothed(self.usual, seconds)
        if alone and (calm or not self.alone or (seconds < self.alone and not self.is_sure)):
            self.alone = _smoothed(self.alone, seconds)
            self.is_sure |= calm


def _smoothed(before: float, latest: float) -> float:
    return before + WEIGHT * (latest - before) if before else latest
