"""The pools that this replica serves, as far as the caller may see them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Set

from coresift.server.caller import CALLER
from coresift.server.errors import CoresiftError, Reason, StartError
from coresift.server.pool.pool import Pool

Place = tuple[str, int, str]


def pool_place(pool: Pool) -> Place:
    """Where a pool stands among others: by name, then from the oldest version to the newest."""
    manifest = pool.manifest
    return manifest.name, len(manifest.lineage), manifest.version


_VERSION = re.compile(r"[0-9a-f]{32}")
RETRY_S, SOON_S = 5.0, 2.0
"""After which a version that others have may be here too; where it is looked for now."""


class Pools:
    """Served pools by name and version. Changed on the event loop only, read from any thread.

    What is served once is served until the process ends: sessions may work on it.
    """

    def __init__(self, pools: Iterable[Pool] = ()) -> None:
        self._pools: dict[str, dict[str, Pool]] = {}
        self._withdrawn: Set[tuple[str, str]] = frozenset()
        self._growing: Set[str] = frozenset()
        self._ask_for_more: Callable[[], object] = lambda: None
        for pool in pools:
            self.add(pool)

    def add(self, pool: Pool) -> None:
        """Serve one more version. StartError for one that is served."""
        name, version = pool.manifest.name, pool.manifest.version
        if self.holds(name, version):
            raise StartError(f"pool {name} version {version} is given twice")
        # Replaced, not changed: threads may be reading it.
        self._pools = {**self._pools, name: {**self._pools.get(name, {}), version: pool}}

    def holds(self, name: str, version: str) -> bool:
        """Whether a version is served."""
        return version in self._pools.get(name, {})

    def offer_only(self, present: Set[tuple[str, str]]) -> None:
        """Take these versions (name, version) for new sessions; the others only where they are
        named, or where their pool has no other."""
        served = {(name, version) for name, those in self._pools.items() for version in those}
        self._withdrawn = served - present

    def expect_more(self, names: Set[str], ask: Callable[[], object]) -> None:
        """Say of which pools versions may come; ``ask`` is called, from any thread, when a call
        names one that is not here."""
        self._growing, self._ask_for_more = names, ask

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
            CoresiftError: POOL_NOT_FOUND, also for one that is hidden from the caller;
                POOL_VERSION_NOT_LOADED for a version that may come, as other replicas may have it.
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
            offered = [p for v, p in versions.items() if (name, v) not in self._withdrawn]
            return max(offered or versions.values(), key=pool_place)
        if version not in versions:
            if name in self._growing and _VERSION.fullmatch(version):
                raise self._not_loaded(name, version)
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
            raise self._not_loaded(name, version)
        return pool

    def _not_loaded(self, name: str, version: str) -> CoresiftError:
        is_looked_for = name in self._growing
        if is_looked_for:
            self._ask_for_more()
        return CoresiftError(
            Reason.POOL_VERSION_NOT_LOADED,
            f"this replica does not hold version {version} of pool {name!r}",
            retry_after_s=SOON_S if is_looked_for else RETRY_S,
            pool=name,
            pool_version=version,
        )
