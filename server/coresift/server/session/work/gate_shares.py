"""How much of the work each tenant had lately."""

from __future__ import annotations

HALF_S = 2.0
"""In which half of what a tenant had is forgotten, and a tenant that does not come altogether."""
FADE_S = 0.1
"""Between two reckonings."""


class Shares:
    """What the tenants that came lately had, in seconds of work, forgotten by and by."""

    def __init__(self) -> None:
        self._had: dict[str, float] = {}
        self._seen: dict[str, float] = {}
        self._faded_at = 0.0

    @property
    def tenants(self) -> int:
        """That came lately, at least one."""
        return max(1, len(self._had))

    def saw(self, tenant: str, now: float) -> None:
        """A call of the tenant came."""
        if now - self._faded_at >= FADE_S:
            self._fade(now)
        self._seen[tenant] = now
        self._had.setdefault(tenant, 0.0)

    def add(self, tenant: str, seconds: float) -> None:
        """Count work that ended."""
        if tenant in self._had:
            self._had[tenant] += seconds

    def of(self, tenant: str) -> float:
        """Seconds of work."""
        return self._had.get(tenant, 0.0)

    def is_short(self, tenant: str) -> bool:
        """Whether others are there too, and it had less than its share."""
        return self.tenants > 1 and self.of(tenant) * self.tenants < sum(self._had.values())

    def _fade(self, now: float) -> None:
        kept = 0.5 ** ((now - self._faded_at) / HALF_S)
        self._faded_at = now
        self._seen = {tenant: at for tenant, at in self._seen.items() if now - at < HALF_S}
        self._had = {tenant: kept * self._had[tenant] for tenant in self._seen}
