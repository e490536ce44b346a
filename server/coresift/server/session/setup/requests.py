"""Writes outside sessions, remembered by request_id for 24 h, so that they may be repeated."""

from __future__ import annotations

from coresift.server.caller import bare
from coresift.server.errors import CoresiftError, Reason
from coresift.server.state.store import Store
from coresift.server.state.values import ANSWER_MS, Request

SPACE = "requests"


class Requests:
    """Answers of writes that no session keeps."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def answer(self, request: Request) -> bytes | None:
        """What the request was answered; None if it is new. REQUEST_ID_REUSED."""
        kept = await self._store.get_document(SPACE, request.request_id)
        return None if kept is None else _answer(request, kept)

    async def keep(self, request: Request, answer: bytes) -> bytes:
        """Remember the answer, unless there is one already; returns what stands."""
        kept = await self._store.put_document(
            SPACE, request.request_id, request.digest + answer, replaces=None, ttl_ms=ANSWER_MS
        )
        return answer if kept is None else _answer(request, kept)


def _answer(request: Request, kept: bytes) -> bytes:
    if not kept.startswith(request.digest):
        raise CoresiftError(
            Reason.REQUEST_ID_REUSED,
            f"request_id {bare(request.request_id)!r} was used before with another body",
            field="request_id",
        )
    return kept[len(request.digest) :]
