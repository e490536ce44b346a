"""What one replica computed and others may use: heads, views and neighbours of a session."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from coresift.server.arrays import Rows
from coresift.server.state import keys, scripts
from coresift.server.state.keys import SessionKeys
from coresift.server.state.link import Link
from coresift.server.state.replies import checked, pack
from coresift.server.state.values import ViewFile

MAX_VALUE_BYTES = 1 << 20
MAX_PIECE = 1_000


class CacheOperations:
    """The part of the store that saves other replicas work. Losing it loses nothing."""

    _link: Link

    async def publish_head(self, uid: str, key: str, head: bytes) -> None:
        """See `Store.publish_head`. An outdated head, or one above 1 MiB, is not kept."""
        if len(head) > MAX_VALUE_BYTES:
            return
        session = SessionKeys(uid)
        checked(
            await self._link.commit(
                "publish_head",
                lambda: self._link.run(
                    scripts.HEAD, [*session.of_script(), session.head], [uid, key, head]
                ),
            )
        )

    async def put_view_file(self, uid: str, file: ViewFile) -> str | None:
        """See `Store.put_view_file`."""
        session = SessionKeys(uid)
        arguments = {
            "f": file.format,
            "p": file.offset,
            "t": file.tip,
            "z": file.size,
            "h": file.content_hash,
        }
        _, superseded = checked(
            await self._link.commit(
                "put_view_file",
                lambda: self._link.run(
                    scripts.VIEW_PUT, [*session.of_script(), session.view], [uid, pack(arguments)]
                ),
            )
        )
        return superseded.decode() or None

    async def get_view_file(self, uid: str) -> ViewFile | None:
        """See `Store.get_view_file`."""
        session = SessionKeys(uid)
        kind, *kept = checked(
            await self._link.call(
                "get_view_file",
                lambda: self._link.run(
                    scripts.VIEW_GET, [*session.of_script(), session.view], [uid]
                ),
            )
        )
        if kind == b"none":
            return None
        form, offset, tip, size, content_hash = kept
        return ViewFile(int(form), int(offset), tip, int(size), content_hash.decode())

    async def gone_view_files(self, count: int) -> list[str]:
        """See `Store.gone_view_files`."""
        client = self._link.client
        found = await self._link.call(
            "gone_view_files", lambda: client.srandmember(keys.GONE_VIEWS, count)
        )
        return [content_hash.decode() for content_hash in found]

    async def forget_view_file(self, content_hash: str) -> None:
        """See `Store.forget_view_file`."""
        client = self._link.client
        await self._link.commit(
            "forget_view_file", lambda: client.srem(keys.GONE_VIEWS, content_hash)
        )

    async def put_neighbours(
        self, uid: str, pool_version: str, rows: Rows, neighbours: Rows
    ) -> None:
        """See `Store.put_neighbours`."""
        k = neighbours.shape[1]
        if len(neighbours) != len(rows):
            raise ValueError(f"{len(neighbours)} lists of neighbours for {len(rows)} rows")
        session, table = SessionKeys(uid), _table(pool_version, k)
        names = [*session.of_script(), session.neighbours(table)]
        for piece in _pieces(len(rows), k):
            values = np.ascontiguousarray(neighbours[piece], dtype="<i4").tobytes()
            arguments = [uid, table, values, *rows[piece].tolist()]
            checked(
                await self._link.commit(
                    "put_neighbours",
                    partial(self._link.run, scripts.NEIGHBOURS_PUT, names, arguments),
                )
            )

    async def get_neighbours(
        self, uid: str, pool_version: str, k: int, rows: Rows
    ) -> tuple[Rows, Rows]:
        """See `Store.get_neighbours`."""
        session = SessionKeys(uid)
        names = [*session.of_script(), session.neighbours(_table(pool_version, k))]
        found: list[int] = []
        values: list[bytes] = []
        for piece in _pieces(len(rows), k):
            asked = rows[piece].tolist()
            _, replies = checked(
                await self._link.call(
                    "get_neighbours",
                    partial(self._link.run, scripts.NEIGHBOURS_GET, names, [uid, *asked]),
                )
            )
            for row, value in zip(asked, replies, strict=True):
                if value is not None:
                    found.append(row)
                    values.append(value)
        table = np.frombuffer(b"".join(values), dtype="<i4").reshape(len(found), k)
        return np.array(found, dtype=np.int32), table.astype(np.int32)


def _table(pool_version: str, k: int) -> str:
    """Appended rows change the neighbours of old ones, so each pool version has its table."""
    return f"{k}@{pool_version}"


def _pieces(count: int, k: int) -> Iterator[slice]:
    step = max(1, min(MAX_PIECE, MAX_VALUE_BYTES // (4 * k)))
    return (slice(start, start + step) for start in range(0, count, step))
