"""Taking labels, and the leases between: AddLabels, RenewLeases, ReleaseLeases and the lists."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from coresift.server.errors import CoresiftError, Reason, invalid
from coresift.server.session.live.live import LiveSession
from coresift.server.session.view.catching_up import LOG_PAGE, check_reached
from coresift.server.session.view.labels import answer_of
from coresift.server.state.entries import LabelsEntry
from coresift.server.state.store import Store
from coresift.server.state.values import (
    Labelled,
    LabelWrite,
    LiveLease,
    Release,
    Renewed,
    Request,
)

MAX_LEASES = 1_000
"""Leases that are looked up at once."""
MAX_TRIPS = 6
"""Tries of one AddLabels while the configuration changes."""


class Labeling:
    """The calls on labels and leases, over a store and the replica's live sessions."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def add_labels(
        self, live: LiveSession, request: Request, annotator: str, labels: Sequence[LabelWrite]
    ) -> Labelled:
        """Commit labels and end the annotator's leases on their items."""
        known = max(live.view.revision, live.committed)
        labelled = await self._committed(live, request, annotator, labels)
        live.committed = max(live.committed, labelled.revision)
        if not labelled.replayed:
            _count(live, labels, labelled)
            live.rank_ahead(known)
        return labelled

    async def _committed(
        self, live: LiveSession, request: Request, annotator: str, labels: Sequence[LabelWrite]
    ) -> Labelled:
        """The labels, which have no groups yet, with theirs by the newest configuration."""
        for _ in range(MAX_TRIPS):
            config, version, writes = live.config, live.view.config_version, labels
            if config.groups is not None and config.groups.one_label:
                materials = await live.materials(config)
                groups = materials.kept_groups([label.row for label in labels])
                own = zip(labels, groups, strict=True)
                writes = [replace(label, group=group) for label, group in own]
            try:
                return await self._store.add_labels(live.uid, request, annotator, writes, version)
            except CoresiftError as error:
                if error.reason is not Reason.CONFIG_VERSION_MISMATCH:
                    raise
                await live.sync(time.monotonic())
        raise CoresiftError(
            Reason.STATE_UNAVAILABLE, "the configuration changes too fast", retry_after_s=0.1
        )

    async def renew(
        self,
        live: LiveSession,
        request: Request,
        annotator: str,
        rows: Sequence[int],
        lease_ms: int | None,
    ) -> Renewed:
        """Move the deadline of the annotator's leases."""
        if lease_ms is None:
            await live.sync(time.monotonic())  # the session's duration may have changed
        renewed = await self._store.renew(
            live.uid, request, annotator, rows, lease_ms or live.config.lease_ms
        )
        live.metrics.leased("renewed", len(renewed.renewed))
        return renewed

    async def release(
        self,
        live: LiveSession,
        request: Request,
        annotator: str,
        rows: Sequence[int],
        reason: Release,
    ) -> tuple[int, ...]:
        """Hand items back."""
        released = await self._store.release(live.uid, request, annotator, rows, reason)
        live.metrics.leased("released", len(released))
        return released

    async def check_range(self, live: LiveSession, start: int, end: int | None) -> None:
        """Refuse a range of revisions that lies beyond the log. REVISION_NOT_REACHED."""
        record = (await self._store.log(live.uid, 0, 1)).record
        check_reached("start_revision", start, record.revision + 1)
        check_reached("end_revision", end or 0, record.revision + 1)

    async def labels(
        self, live: LiveSession, start: int, end: int | None
    ) -> AsyncIterator[LabelsEntry]:
        """Label entries of the log at offsets in [start, end), in order.

        Without an end: those that were there when the call began.
        """
        after, last = max(start, 1) - 1, None if end is None else end - 1
        nonce = None
        while last is None or after < last:
            read = await self._store.log(live.uid, after, LOG_PAGE, nonce)
            last = read.record.offset if last is None else last
            for entry in read.entries:
                if isinstance(entry, LabelsEntry) and entry.offset <= last:
                    yield entry
            if not read.entries:
                return
            after, nonce = read.entries[-1].offset, read.entries[-1].nonce

    async def leases(
        self, live: LiveSession, annotator: str, after: tuple[int, str], count: int
    ) -> list[LiveLease]:
        """Up to ``count`` live leases of an annotator (of all, for an empty name).

        By row, then annotator; only those behind the row and annotator given.
        """
        await live.sync(time.monotonic())
        held, found, wanted = dict(live.view.leases), list[LiveLease](), count
        rows = await asyncio.to_thread(_held_rows, held, annotator, after[0])
        leases = (
            (row, holder)
            for row in rows
            for holder in sorted(held[row])
            if annotator in ("", holder) and (row, holder) > after
        )
        # The view knows of no end that nobody has written to the log yet.
        while len(found) < count and (piece := list(islice(leases, min(wanted, MAX_LEASES)))):
            found += await self._store.live_leases(live.uid, piece)
            wanted *= 2
        return found[:count]


def _count(live: LiveSession, labels: Sequence[LabelWrite], labelled: Labelled) -> None:
    values = (label.value for label in labels)
    kinds = Counter(zip(labelled.outcomes, values, strict=True))
    for (outcome, value), count in kinds.items():
        answer = answer_of(value, live.config.task)
        live.metrics.labelled(outcome.name.lower(), answer, count)


def _held_rows(held: Mapping[int, frozenset[str]], annotator: str, first: int) -> list[int]:
    """Rows from one on that the annotator (empty: somebody) holds, ascending."""
    rows = (row for row, holders in held.items() if row >= first)
    return sorted(row for row in rows if not annotator or annotator in held[row])


def check_distinct(field: str, rows: Sequence[int]) -> None:
    """Refuse a list that names an item twice."""
    seen: set[int] = set()
    for i, row in enumerate(rows):
        if row in seen:
            raise invalid(f"{field}[{i}]", "names an item twice")
        seen.add(row)
