"""Labels and leases: claim, label, renew, release, and the log they are written to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from coresift.server.errors import invalid
from coresift.server.state import scripts
from coresift.server.state.breaker import unavailable
from coresift.server.state.entries import Entry, ExpiryEntry, unpack_entry
from coresift.server.state.keys import SessionKeys
from coresift.server.state.label_arguments import (
    check_limit,
    distinct,
    groups_argument,
    places,
    refuse_conflicts,
    view_arguments,
)
from coresift.server.state.link import Link
from coresift.server.state.replies import (
    checked,
    granted_of,
    labelled_of,
    pack,
    record_of,
    renewed_of,
    unpack,
)
from coresift.server.state.scripts import Script
from coresift.server.state.values import (
    MAX_LABELS,
    MAX_PROPOSALS,
    Behind,
    Claim,
    Granted,
    Labelled,
    LabelWrite,
    LiveLease,
    LogRead,
    Release,
    Renewed,
    Request,
    Rewound,
    ViewKey,
)

MAX_LEASE_MS = 24 * 3600 * 1000
ACKNOWLEDGED = (scripts.LABELS, scripts.RELEASE)
"""What replicas are waited for. Leases are not: after a failover they may be granted again."""
LONG_BYTES = 64 * 1024
"""Entries beyond this size are unpacked on another thread: about 2 ms."""


class LabelOperations:
    """The part of the store that hands out items and keeps labels."""

    _link: Link

    async def claim(self, uid: str, claim: Claim) -> Granted | Behind | Rewound:
        """See `Store.claim`."""
        check_limit("size", claim.size, MAX_LABELS)
        check_limit("lease_duration", claim.lease_ms, MAX_LEASE_MS)
        if len(claim.proposals) > MAX_PROPOSALS:
            raise invalid("proposals", f"must be at most {MAX_PROPOSALS}")
        rows, payloads, groups = tuple(zip(*claim.proposals, strict=True)) or ((), (), ())
        arguments = {
            "a": claim.annotator,
            "z": claim.size,
            "l": claim.lease_ms,
            **view_arguments(claim.view),
            "w": -1 if claim.min_revision is None else claim.min_revision,
            "r": list(map(int, rows)),
            "p": b"".join(payloads),
            "y": list(map(len, payloads)),
            "x": claim.context,
            **groups_argument(groups),
        }
        if claim.review:
            arguments["k"] = True
        if claim.one_label:
            arguments["o"] = True
        kind, *rest = await self._write("claim", scripts.CLAIM, uid, claim.request, arguments)
        if kind == b"rewound":
            return Rewound()
        if kind == b"replayed":
            return granted_of(rest[0], replayed=True, entries=(), is_whole=False)
        *blob, blobs, newest = rest
        entries = tuple(await _unpacked(claim.view.offset, blobs))
        is_whole = claim.view.offset + len(entries) == newest
        if kind == b"behind":
            return Behind(entries, is_whole)
        return granted_of(*blob, replayed=False, entries=entries, is_whole=is_whole)

    async def add_labels(
        self,
        uid: str,
        request: Request,
        annotator: str,
        labels: Sequence[LabelWrite],
        config_version: int | None = None,
    ) -> Labelled:
        """See `Store.add_labels`."""
        check_limit("labels", len(labels), MAX_LABELS)
        refuse_conflicts(labels)
        rows = [int(label.row) for label in labels]
        group_of = dict(zip(rows, [label.group for label in labels], strict=True))
        arguments = {
            "a": annotator,
            "f": "".join("1" if label.leased else "0" for label in labels),
            "r": pack(rows),
            "t": list(map(str, group_of)),
            **places(rows, group_of),
            "i": pack([label.item_id for label in labels]),
            "v": pack([label.value for label in labels]),
            **groups_argument(list(group_of.values())),
            **({} if config_version is None else {"c": config_version}),
        }
        reply = await self._write("labels", scripts.LABELS, uid, request, arguments)
        return labelled_of(reply[1], replayed=reply[0] == b"replayed")

    async def renew(
        self, uid: str, request: Request, annotator: str, rows: Sequence[int], lease_ms: int
    ) -> Renewed:
        """See `Store.renew`."""
        if len(rows) > MAX_LABELS:
            raise invalid("item_ids", f"must be at most {MAX_LABELS}, got {len(rows)}")
        check_limit("lease_duration", lease_ms, MAX_LEASE_MS)
        arguments = {"a": annotator, "r": distinct(rows), "l": lease_ms}
        reply = await self._write("renew", scripts.RENEW, uid, request, arguments)
        return renewed_of(reply[1], by_row=not rows)

    async def release(
        self, uid: str, request: Request, annotator: str, rows: Sequence[int], reason: Release
    ) -> tuple[int, ...]:
        """See `Store.release`."""
        check_limit("item_ids", len(rows), MAX_LABELS)
        arguments = {"a": annotator, "r": distinct(rows), "w": int(reason)}
        reply = await self._write("release", scripts.RELEASE, uid, request, arguments)
        return tuple(unpack(reply[1])[b"y"])

    async def live_leases(self, uid: str, leases: Sequence[tuple[int, str]]) -> list[LiveLease]:
        """See `Store.live_leases`."""
        _, deadlines, _ = await self._leases(uid, leases)
        return [
            LiveLease(row, annotator, int(deadline))
            for (row, annotator), deadline in zip(leases, deadlines, strict=True)
            if deadline
        ]

    async def count_leases(self, uid: str) -> int:
        """See `Store.count_leases`."""
        *_, count = await self._leases(uid, ())
        return int(count)

    async def _leases(self, uid: str, leases: Sequence[tuple[int, str]]) -> Sequence[Any]:
        members = pack([f"{row}:{annotator}" for row, annotator in leases])
        return await self._read_script("leases", scripts.LEASES, uid, members)

    async def log(self, uid: str, after: int, count: int, nonce: bytes | None = None) -> LogRead:
        """See `Store.log`. Long pieces are read by several scripts."""
        entries: list[Entry] = []
        begun: dict[str, Any] = {} if nonce is None else {"vt": nonce}
        while True:
            at = after + len(entries)
            read, is_whole = await self._read_log(uid, at, count - len(entries), begun)
            if isinstance(read, Rewound):
                raise unavailable("a failover cut the log short while it was read")
            entries += read.entries
            if is_whole:
                return replace(read, entries=tuple(entries))
            begun = {"vt": entries[-1].nonce}

    async def catch_up(self, uid: str, view: ViewKey, count: int) -> LogRead | Rewound:
        """See `Store.catch_up`. One script."""
        read, _ = await self._read_log(uid, view.offset, count, view_arguments(view))
        return read

    async def _read_log(
        self, uid: str, after: int, count: int, begun: dict[str, Any]
    ) -> tuple[LogRead | Rewound, bool]:
        """What one script reads of a log that begins with ``begun``, and if that is all."""
        arguments = pack({"p": after, "n": count, **begun})
        kind, *rest = await self._read_script("log", scripts.LOG, uid, arguments, head=True)
        if kind == b"rewound":
            return Rewound(), True
        fields, blobs, is_whole, head = rest
        entries = await _unpacked(after, blobs)
        return LogRead(record_of(fields), tuple(entries), head), bool(is_whole)

    async def _write(
        self, operation: str, script: Script, uid: str, request: Request, arguments: dict[str, Any]
    ) -> Sequence[Any]:
        blob = pack({"q": request.request_id, "d": request.digest, **arguments})
        session = SessionKeys(uid).of_script(request.request_id, arguments["a"])
        run = self._link.written if script in ACKNOWLEDGED else self._link.run
        nonce = self._link.own_writes.nonce
        return checked(
            await self._link.commit(operation, lambda: run(script, session, [uid, blob, nonce()]))
        )

    def expired_here(self, entry: ExpiryEntry) -> bool:
        """See `Store.expired_here`."""
        return self._link.own_writes.expired_here(entry.nonce)

    async def _read_script(
        self, operation: str, script: Script, uid: str, blob: bytes = b"", *, head: bool = False
    ) -> Sequence[Any]:
        session = SessionKeys(uid)
        names = [*session.of_script(), session.head] if head else session.of_script()
        return checked(
            await self._link.call(operation, lambda: self._link.run(script, names, [uid, blob]))
        )


async def _unpacked(after: int, blobs: Sequence[bytes]) -> list[Entry]:
    def work() -> list[Entry]:
        return [unpack_entry(offset, blob) for offset, blob in enumerate(blobs, after + 1)]

    if sum(map(len, blobs)) < LONG_BYTES:
        return work()
    return await asyncio.to_thread(work)
