"""Memory that was promised to work under way: what is new must fit beside all of it."""

from __future__ import annotations

from collections.abc import Callable

from coresift.server.errors import CoresiftError, Reason
from coresift.server.memory import available_bytes

RETRY_S = 5.0
"""After which refused work may come again: some of the others have ended then."""


class MemoryPromises:
    """What core-set jobs and uploads were promised together. For the event loop only.

    All who promise memory share one. Each says itself what it has promised when it is asked:
    nothing is written down twice.
    """

    def __init__(self, available: Callable[[], int] = available_bytes) -> None:
        """``available``: bytes that are free now."""
        self.available = available
        self._promised: list[Callable[[], int]] = []

    def count(self, promised: Callable[[], int]) -> None:
        """Count what somebody has promised: ``promised`` tells how many bytes at the moment."""
        self._promised.append(promised)

    def check(self, what: str, needed: int, field: str, remedy: str) -> None:
        """Refuse work that does not fit beside all that is under way.

        What the others were promised counts in full, also where some of it is held already: work
        that is refused may come again, work that exhausts memory takes all along.

        Args:
            what, field: what needs the memory, and the field that asked for it.
            remedy: what to do where it can never fit.

        Raises:
            CoresiftError: OVERLOADED for work that may fit when others have ended, TOO_LARGE for
                what would not fit then either.
        """
        free, promised = self.available(), sum(count() for count in self._promised)
        if needed > free + promised:
            raise CoresiftError(
                Reason.TOO_LARGE,
                f"{what} needs {gigabytes(needed)}, {gigabytes(free)} are free: {remedy}",
                field=field,
                needed_bytes=str(needed),
                free_bytes=str(free),
            )
        if needed > free - promised:
            raise CoresiftError(
                Reason.OVERLOADED,
                f"{what} needs {gigabytes(needed)}; {gigabytes(free)} are free, of which core-set "
                f"jobs and uploads here may take {gigabytes(promised)}: try again when some have "
                "ended",
                retry_after_s=RETRY_S,
            )


def gigabytes(count: int) -> str:
    """Bytes, for messages."""
    return f"{count / 1e9:,.3g} GB"
