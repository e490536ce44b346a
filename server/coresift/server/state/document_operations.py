"""Small documents outside sessions: the records of signals and of core-set jobs."""

from __future__ import annotations

from functools import partial

from coresift.server.errors import CoresiftError, Reason
from coresift.server.state import scripts
from coresift.server.state.cache_operations import MAX_VALUE_BYTES
from coresift.server.state.keys import SpaceKeys
from coresift.server.state.link import Link

LIST_PIECE = 200


class DocumentOperations:
    """The part of the store that keeps documents, each under a space and a key."""

    _link: Link

    async def put_document(
        self, space: str, key: str, value: bytes, *, replaces: bytes | None, ttl_ms: int | None
    ) -> bytes | None:
        """See `Store.put_document`. TOO_LARGE above 1 MiB."""
        if len(value) > MAX_VALUE_BYTES:
            raise CoresiftError(
                Reason.TOO_LARGE, f"a document has at most 1 MiB, this one {len(value)} bytes"
            )
        at = SpaceKeys(space)
        must_be = ("0", b"") if replaces is None else ("1", replaces)
        standing: bytes | None = await self._link.commit(
            "put_document",
            lambda: self._link.written(
                scripts.DOCUMENT_PUT,
                [at.index, at.document(key)],
                [key, value, *must_be, ttl_ms or 0],
            ),
            # Done twice, the second would find the first's value and call it a conflict.
            repeatable=False,
        )
        return standing

    async def get_document(self, space: str, key: str) -> bytes | None:
        """See `Store.get_document`."""
        document = SpaceKeys(space).document(key)
        value: bytes | None = await self._link.call(
            "get_document", lambda: self._link.client.get(document)
        )
        return value

    async def list_documents(self, space: str, after: str, count: int) -> list[tuple[str, bytes]]:
        """See `Store.list_documents`."""
        found: list[tuple[str, bytes]] = []
        while len(found) < count:
            wanted = min(LIST_PIECE, count - len(found))
            names, documents = await self._link.call(
                "list_documents",
                partial(self._list_documents, space, after, wanted),
            )
            found += documents
            if len(names) < wanted:
                break
            after = names[-1]
        return found

    async def _list_documents(
        self, space: str, after: str, count: int
    ) -> tuple[list[str], list[tuple[str, bytes]]]:
        at = SpaceKeys(space)
        start = b"(" + after.encode() if after else b"-"
        members = await self._link.client.zrangebylex(at.index, start, "+", 0, count)
        names = [member.decode() for member in members]
        if not names:
            return [], []
        values = await self._link.client.mget([at.document(name) for name in names])
        pairs = zip(names, values, strict=True)
        documents = [(name, value) for name, value in pairs if value is not None]
        ended = [name for name, value in zip(names, values, strict=True) if value is None]
        if ended:
            gone = [at.document(name) for name in ended]
            await self._link.run(scripts.DOCUMENT_SWEEP, [at.index, *gone], ended)
        return names, documents

    async def delete_document(self, space: str, key: str, *, only: bytes | None = None) -> bool:
        """See `Store.delete_document`."""
        at = SpaceKeys(space)
        there = await self._link.commit(
            "delete_document",
            lambda: self._link.written(
                scripts.DOCUMENT_DELETE,
                [at.index, at.document(key)],
                [key, "0" if only is None else "1", only or b""],
            ),
            repeatable=False,
        )
        return bool(there)
