"""How many core-set jobs a replica admits: what does not fit is refused before it is a job."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from coresift.server.errors import CoresiftError, Reason
from coresift.server.memory import available_bytes
from coresift.server.session.coreset_requests import JobSpec

QUEUED = 16
"""Jobs that may wait for their turn."""
RETRY_S = 5.0
"""After which a refused job may be asked for again: some of the others have ended then."""


@dataclass(frozen=True, slots=True)
class Room:
    """Places and memory for jobs.

    Attributes:
        turns: jobs that run at the same time.
        queued: jobs that may wait besides them.
        available: bytes that are free now.
    """

    turns: int
    queued: int = QUEUED
    available: Callable[[], int] = available_bytes

    def check(self, spec: JobSpec, others: Collection[JobSpec]) -> None:
        """Refuse a new job that does not fit beside those that run or wait here.

        What the others were planned to hold counts in full, also where some of it is held
        already: a job that is refused may come again, one that exhausts memory takes all along.

        Raises:
            CoresiftError: OVERLOADED for a job that may fit when others have ended, TOO_LARGE for
                one that would not fit then either.
        """
        free, needed = self.available(), spec.expected_bytes
        promised = sum(other.expected_bytes for other in others)
        if needed > free + promised:
            raise CoresiftError(
                Reason.TOO_LARGE,
                f"method {spec.method} needs {_gb(needed)}, {_gb(free)} are free: take a smaller "
                "budget, another method, or a server with more memory",
                field="method",
                needed_bytes=str(needed),
                free_bytes=str(free),
            )
        if needed > free - promised:
            raise CoresiftError(
                Reason.OVERLOADED,
                f"method {spec.method} needs {_gb(needed)}; {_gb(free)} are free, of which the "
                f"core-set jobs here may take {_gb(promised)}: try again when some have ended",
                retry_after_s=RETRY_S,
            )
        if len(others) >= self.turns + self.queued:
            raise CoresiftError(
                Reason.OVERLOADED,
                f"{len(others)} core-set jobs run or wait here, and no more are admitted: "
                "try again when some have ended",
                retry_after_s=RETRY_S,
            )


def _gb(count: int) -> str:
    return f"{count / 1e9:,.3g} GB"
