"""How many core-set jobs a replica admits: what does not fit is refused before it is a job."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from coresift.server.caller import tenant_of
from coresift.server.errors import CoresiftError, Reason
from coresift.server.memory_promises import RETRY_S, MemoryPromises, gigabytes
from coresift.server.session.coresets.coreset_requests import JobSpec

QUEUED = 16
"""Jobs that may wait for their turn."""
FOR_NEW_TENANTS = 4
"""One place out of so many stays free for tenants that have no job here yet."""


@dataclass(frozen=True, slots=True)
class Room:
    """Places and memory for jobs.

    Attributes:
        turns: jobs that run at the same time.
        promises: memory, of which others promise some too.
        queued: jobs that may wait besides them.
    """

    turns: int
    promises: MemoryPromises
    queued: int = QUEUED

    def check(self, spec: JobSpec, others: Collection[JobSpec]) -> None:
        """Refuse a new job that does not fit beside what is under way here, or is beyond the share
        of its tenant.

        Args:
            others: the jobs that run or wait here; ``promises`` counts their memory.

        Raises:
            CoresiftError: OVERLOADED for a job that may fit when others have ended, TOO_LARGE for
                one that would not fit then either.
        """
        needed = spec.expected_bytes
        remedy = "take a smaller budget, another method, or a server with more memory"
        self.promises.check(f"method {spec.method}", needed, "method", remedy)
        tenant = tenant_of(spec.job_id)
        own = [other for other in others if tenant_of(other.job_id) == tenant]
        tenants = len({tenant, *(tenant_of(other.job_id) for other in others)})
        held = sum(other.expected_bytes for other in own)
        # A first job needs no more than that it fits: it may be larger than any share.
        if own and tenants > 1 and (held + needed) * tenants > self.promises.available():
            raise _later(
                f"method {spec.method} needs {gigabytes(needed)} besides the {gigabytes(held)} of "
                "your other core-set jobs here, which are not the only ones"
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


def _later(why: str) -> CoresiftError:
    """OVERLOADED."""
    return CoresiftError(
        Reason.OVERLOADED, f"{why}: try again when some have ended", retry_after_s=RETRY_S
    )
