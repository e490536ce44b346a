"""The pools that this replica serves, as far as the caller may see them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from coresift.server.caller import CALLER
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
        """What the caller sees, by name, then from the oldest version to the newest."""
        seen = (pool for versions in self._seen().values() for pool in versions.values())
        yield from sorted(seen, key=pool_place)

    def _seen(self) -> dict[str, dict[str, Pool]]:
        sees = CALLER.get().sees
        return {name: versions for name, versions in self._pools.items() if sees(name)}

    def find(
        self,
        name: str,
        version: str = "",
        field: str = "pool",
        version_field: str = "pool_version",
    ) -> Pool:
        """A pool by name; its newest version where none is named.

        Raises:
            CoresiftError: POOL_NOT_FOUND, also for one that is hidden from the caller.
        """
        seen = self._seen()
        versions = seen.get(name)
        if not versions:
            raise CoresiftError(
                Reason.POOL_NOT_FOUND,
                f"no pool {name!r} here; served are {', '.join(sorted(seen)) or 'none'}",
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
        """The pool version a session works on, whoever asks. POOL_VERSION_NOT_LOADED if it is not
        here."""
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
