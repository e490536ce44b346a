"""The pools that this replica serves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from coresift.server.errors import CoresiftError, Reason, StartError
from coresift.server.pool.pool import Pool

Place = tuple[str, int, str]


def pool_place(pool: Pool) -> Place:
    """Where a pool stands among others: by name, then from the oldest version to the newest."""
    manifest = pool.manifest
    return manifest.name, len(manifest.lineage), manifest.version


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
        served = (pool for versions in self._pools.values() for pool in versions.values())
        yield from sorted(served, key=pool_place)

    def find(
        self,
        name: str,
        version: str = "",
        field: str = "pool",
        version_field: str = "pool_version",
    ) -> Pool:
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
                f"pool {name!r} has no version {version!r} here; served are {', '.join(versions)}",
                field=version_field,
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
