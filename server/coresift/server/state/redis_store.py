"""The store on Redis: `RedisStore` joins the operations over one link."""

from __future__ import annotations

from coresift.server.state.cache_operations import CacheOperations
from coresift.server.state.document_operations import DocumentOperations
from coresift.server.state.label_operations import LabelOperations
from coresift.server.state.link import Link, Observe
from coresift.server.state.removal_operations import RemovalOperations


class RedisStore(RemovalOperations, LabelOperations, CacheOperations, DocumentOperations):
    """Implements `coresift.server.state.store.Store`; made by `connect`.

    Every operation is one script (creation, deletion and listing are a few), at most 1 s long.
    Raises `CoresiftError` STATE_UNAVAILABLE (within 50 ms once that is known), STATE_FULL,
    STATE_READ_ONLY and FORMAT_TOO_NEW besides what each operation names.
    """

    @classmethod
    async def connect(
        cls, url: str, *, volatile: bool = False, observe: Observe | None = None
    ) -> RedisStore:
        """Connect and check.

        Args:
            url: ``redis://``, ``rediss://`` or ``unix://``.
            volatile: accept a Redis that keeps nothing on disk.
            observe: called after each call with its name, its seconds, and whether Redis did it.
        Raises:
            StartError: the URL is malformed, Redis does not answer, or cannot be trusted.
        """
        store = cls(Link(url, volatile=volatile, observe=observe))
        try:
            await store.check()
        except BaseException:
            await store.close()
            raise
        return store

    async def check(self) -> None:
        """See `Store.check`. Every later connection is checked in the same way."""
        await self._link.check()

    def available(self) -> bool:
        """See `Store.available`."""
        return self._link.available()

    async def close(self) -> None:
        """Wait for commits under way, then close the connections."""
        await self._link.close()
