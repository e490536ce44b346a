"""The store on Redis: `RedisStore` joins the operations over one link."""

from __future__ import annotations

from collections.abc import Callable

from coresift.server.state.cache_operations import CacheOperations
from coresift.server.state.document_operations import DocumentOperations
from coresift.server.state.label_operations import LabelOperations
from coresift.server.state.link import Link, Observe
from coresift.server.state.transfer_operations import TransferOperations
from coresift.server.state.usage_operations import UsageOperations


class RedisStore(
    TransferOperations, LabelOperations, CacheOperations, DocumentOperations, UsageOperations
):
    """Implements `coresift.server.state.store.Store`; made by `connect`.

    Every operation is one script (creation, deletion and listing are a few), at most 1 s long.
    Raises `CoresiftError` STATE_UNAVAILABLE (within 50 ms once that is known), STATE_FULL,
    STATE_READ_ONLY and FORMAT_TOO_NEW besides what each operation names, and, where replicas are
    waited for, STATE_NOT_REPLICATED from those that are acknowledged to people.
    """

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        volatile: bool = False,
        min_replicas: int = 0,
        observe: Observe | None = None,
        count_shortfall: Callable[[], None] | None = None,
    ) -> RedisStore:
        """Connect and check.

        Args:
            url: a server, a master that sentinels watch, or a cluster: see `parse_state_url`.
            volatile: accept a Redis that keeps nothing on disk.
            min_replicas: how many replicas must have a write before it is acknowledged.
            observe: called after each call with its name, its seconds, and whether Redis did it.
            count_shortfall: called for each write that fewer replicas had in time.
        Raises:
            StartError: the URL is malformed, Redis does not answer, or cannot be trusted.
        """
        link = Link(
            url,
            volatile=volatile,
            min_replicas=min_replicas,
            observe=observe,
            count_shortfall=count_shortfall,
        )
        store = cls(link)
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
