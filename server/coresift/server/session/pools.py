"""The pools that this replica serves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from coresift.server.errors import CoresiftError, Reason, StartError
from coresift.server.pool.pool import Pool


class Pools:
    """Served pools by name and version."""

    def __init__(self, pools: Iterable[Pool]) -> None:
        self._pools: dict[str, dict[str, Pool]] = {}
        for pool in pools:
            versions = self._pools.setdefault(pool.manifest.name, {})
            if pool.manifest.version in versions:
                raise StartError(
                    f"pool {pool.manifest.name} version {pool.manifest.version} is given twice"
                )
            versions[pool.manifest.version] = pool

    def __iter__(self) -> Iterator[Pool]:
        """By name, then from the oldest version to the newest."""
        for name in sorted(self._pools):
            yield from sorted(
                self._pools[name].values(),
                key=lambda pool: (len(pool.manifest.lineage), pool.manifest.version),
            )

    def find(self, name: str, version: str = "", *, field: str = "pool") -> Pool:
        """A pool by name; its newest version where none is named. POOL_NOT_FOUND."""
        versions = self._pools.get(name)
        if not versions:
            raise CoresiftError(
                Reason.POOL_NOT_FOUND,
                f"no pool {name!r} here; served are {', '.join(sorted(self._pools)) or 'none'}",
                field=field,
            )
        if not version:
            return max(versions.values(), key=lambda pool: len(pool.manifest.lineage))
        if version not in versions:
            raise CoresiftError(
                Reason.POOL_NOT_FOUND,
                f"pool {name!r} has no version {version!r} here",
                field=f"{field}_version",
            )
        return versions[version]

    def of_session(self, name: str, version: str) -> Pool:
        """The pool version a session works on. POOL_VERSION_NOT_LOADED if it is not here."""
        pool = self._pools.get(name, {}).get(version)
        if pool is None:
            raise CoresiftError(
                Reason.POOL_VERSION_NOT_LOADED,
                f"this replica does not hold version {version} of pool {name!r}",
                retry_after_s=5.0,
                pool=name,
                pool_version=version,
            )
        return pool
