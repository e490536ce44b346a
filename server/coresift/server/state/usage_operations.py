"""How much there is: sessions, live leases, and the memory that Redis uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

from coresift.server.state import keys
from coresift.server.state.connect import info_fields
from coresift.server.state.keys import SessionKeys
from coresift.server.state.link import Link
from coresift.server.state.names import Name
from coresift.server.state.server import first_refusal
from coresift.server.state.values import Settings, Usage

PIECE = 200
"""Sessions that one call looks at: two pipelines of some milliseconds."""


class UsageOperations:
    """The part of the store that counts."""

    _link: Link

    async def usage(self, tenants: Iterable[str], group_of: Callable[[Settings], str]) -> Usage:
        """See `Store.usage`."""
        sessions: Counter[str] = Counter()
        leases: Counter[str] = Counter()
        for tenant in tenants:
            after: str | None = ""
            while after is not None:
                look = partial(self._look, tenant, after)
                after, found = await self._link.call("usage", look)
                for settings, live in found:
                    group = group_of(settings)
                    sessions[group] += 1
                    leases[group] += live
        used, limit = await self._link.call("usage", self._memory)
        return Usage(sessions, leases, used, limit)

    async def _look(self, tenant: str, after: str) -> tuple[str | None, list[tuple[Settings, int]]]:
        """Settings and live leases of a piece of the sessions; what the next begins after."""
        client = self._link.client
        start = b"(" + after.encode() if after else b"-"
        members = await client.zrangebylex(keys.listing(tenant), start, "+", 0, PIECE)
        ids = [member.decode() for member in members]
        blobs = await self._link.batch([("GET", keys.name_key(session_id)) for session_id in ids])
        if (refused := first_refusal(blobs)) is not None:
            raise refused
        names = [name for blob in blobs if (name := Name.readable(blob)) is not None]
        seconds, micros = await client.time()
        live = f"({1000 * seconds + micros // 1000}"
        counts = await self._link.batch(
            [("ZCOUNT", SessionKeys(name.uid).leases, live, "+inf") for name in names]
        )
        if (refused := first_refusal(counts)) is not None:
            raise refused
        found = [(name.settings, int(n)) for name, n in zip(names, counts, strict=True)]
        return ids[-1] if len(ids) == PIECE else None, found

    async def _memory(self) -> tuple[int, int]:
        """Used and allowed bytes of the fullest master; 0 where it has no limit."""
        replies = await self._link.everywhere(("INFO", "memory"))
        if (refused := first_refusal(replies)) is not None:
            raise refused
        infos = map(info_fields, replies)
        sizes = [(int(i["used_memory"]), int(i.get("maxmemory", 0))) for i in infos]
        return max(sizes, key=lambda size: (size[0] / size[1] if size[1] else 0.0, size[0]))
