"""How many core-set jobs a replica admits: what does not fit is refused before it is a job."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from coresift.server.caller import tenant_of
from coresift.server.errors import CoresiftError, Reason
from coresift.server.memory import available_bytes
from coresift.server.session.coresets.coreset_requests import JobSpec

QUEUED = 16
"""Jobs that may wait for their turn."""
FOR_NEW_TENANTS = 4
"""One place out of so many stays free for tenants that have no job here yet."""
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
        """Refuse a new job that does not fit beside those that run or wait here, or is beyond the
        share of its tenant.

        What the others were planned to hold counts in full, also where some of it is held
        already: a job that is refused may come again, one that exhausts memory takes all along.

        Raises:
            CoresiftError: OVERLOADED for a job that may fit when others have ended, TOO_LARGE for
                one that would not fit then either.
        """
        tenant = tenant_of(spec.job_id)
        own = [other for other in others if tenant_of(other.job_id) == tenant]
        tenants = len({tenant, *(tenant_of(other.job_id) for other in others)})
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
            raise _later(
                f"method {spec.method} needs {_gb(needed)}; {_gb(free)} are free, of which the "
                f"core-set jobs here may take {_gb(promised)}"
            )
        held = sum(other.expected_bytes for other in own)
        # A first job needs no more than that it fits: it may be larger than any share.
        if own and tenants > 1 and (held + needed) * tenants > free:
            raise _later(
                f"method {spec.method} needs {_gb(needed)} besides the {_gb(held)} of your other "
                "core-set jobs here, which are not the only ones"
            )
        if len(own) >= self._places(tenant, tenants) or len(others) >= self.turns + self.queued:
            raise _later(
                f"{len(others)} core-set jobs run or wait here, {len(own)} of them yours, and no "
                "more are admitted"
            )

    def _places(self, tenant: str, tenants: int) -> int:
        """Of one tenant: its share while others have jobs here, before that not all."""
        places = self.turns + self.queued
        if tenants > 1:
            return max(1, places // tenants)
        return places - places // FOR_NEW_TENANTS if tenant else places


def _gb(count: int) -> str:
    return f"{count / 1e9:,.3g} GB"


def _later(why: str) -> CoresiftError:
    """OVERLOADED."""
    return CoresiftError(
        Reason.OVERLOADED, f"{why}: try again when some have ended", retry_after_s=RETRY_S
    )
