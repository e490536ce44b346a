"""What a core-set job reads: items, head, classes, signals, targets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from coresift.server.arrays import Bools, Float32s, Int64s, Rows
from coresift.server.artifacts import Artifacts
from coresift.server.coreset.items import Items, Part
from coresift.server.coreset.problem import Problem, Report, SignalColumns
from coresift.server.errors import CoresiftError, Reason
from coresift.server.head import Head, Task
from coresift.server.pool.pool import Pool
from coresift.server.pool.rows import Stop, check
from coresift.server.session.coresets.coreset_requests import Asked, JobSpec, Pinned, Targets
from coresift.server.session.live.history import head_at, labelled_at
from coresift.server.session.live.sessions import LiveSessions
from coresift.server.session.setup.pools import Pools
from coresift.server.session.work.workers import Workers
from coresift.server.state.store import Store


class Inputs:
    """Fetches what jobs read."""

    def __init__(
        self,
        pools: Pools,
        sessions: LiveSessions,
        store: Store,
        artifacts: Artifacts,
        workers: Workers,
    ) -> None:
        self._pools, self._sessions, self._store = pools, sessions, store
        self._artifacts, self._workers = artifacts, workers

    def pool(self, spec: JobSpec) -> Pool:
        """The pool version of a job. POOL_VERSION_NOT_LOADED."""
        return self._pools.of_session(spec.pool, spec.pool_version)

    async def problem(self, spec: JobSpec, asked: Asked, report: Report, stop: Stop) -> Problem:
        """What a job was planned on, also long after: pool version, head, labels, signals.

        Raises:
            CoresiftError: POOL_VERSION_NOT_LOADED, SESSION_NOT_FOUND, HEAD_NOT_FITTED,
                ARTIFACT_MISSING.
        """
        pool = self.pool(spec)
        head = await self._head(spec, asked) if spec.head_version else None
        labelled = None
        if asked.start_from_labels:
            labelled = await self._labelled(spec, asked)
        return await self._workers.run(
            partial(self._problem, spec, asked, pool, head, labelled, report, stop)
        )

    def _problem(
        self,
        spec: JobSpec,
        asked: Asked,
        pool: Pool,
        head: Head | None,
        labelled: Rows | None,
        report: Report,
        stop: Stop,
    ) -> Problem:
        start, gone = not_to_choose(pool, asked, labelled)
        rows = np.arange(pool.manifest.items, dtype=np.int32)
        items = Items(pool, np.delete(rows, gone) if len(gone) else rows, stop)
        signals = {}
        for signal in spec.signals:
            check(stop)
            signals[signal.name] = columns_of(self._artifacts, signal)
        classes = None
        if asked.class_signal:
            classes = signals[asked.class_signal].values[:, 0].astype(np.int32)
        elif asked.predicted_classes and head is not None:
            classes = _predicted_classes(head, Items(pool, rows, stop), report)
        return Problem(
            items=items,
            budget=spec.budget,
            seed=spec.seed,
            report=report,
            head=head,
            start=start,
            classes=classes,
            signals=signals,
            query=target_vectors(pool, asked.query, "query") if asked.query else None,
            avoid=target_vectors(pool, asked.avoid, "avoid") if asked.avoid else None,
        )

    async def _head(self, spec: JobSpec, asked: Asked) -> Head:
        live = await self._sessions.open(asked.session_id)
        state = live.head_state
        if state is not None and state.head is not None and state.version == spec.head_version:
            return state.head
        await live.sync(time.monotonic())
        return await head_at(live, spec, self._store, self._workers)

    async def _labelled(self, spec: JobSpec, asked: Asked) -> Rows:
        live = await self._sessions.open(asked.session_id)
        await live.sync(time.monotonic())
        return await labelled_at(live, spec, self._store)


def columns_of(artifacts: Artifacts, signal: Pinned) -> SignalColumns:
    """An uploaded signal from its file. ARTIFACT_MISSING."""
    table = artifacts.get("signals", signal.content_hash)
    values: Any = np.column_stack([table[name].to_numpy() for name in signal.columns])
    kind: Any = signal.kind
    return SignalColumns(kind, signal.columns, values)


def _predicted_classes(head: Head, items: Items, report: Report) -> Rows:
    """The class that a head finds most likely for each item, int32 [n]; binary: 1 is positive.

    The lowest number where two are equally likely.
    """
    classes = np.empty(len(items), np.int32)

    def visit(part: Part) -> tuple[Int64s, Int64s | Bools]:
        logits = head.logits(part.vectors())
        if head.task is Task.BINARY:
            return part.positions, logits[:, 0] > 0
        return part.positions, logits.argmax(axis=1)

    done = 0
    for positions, found in items.scan(visit):
        classes[positions] = found
        done += len(positions)
        report("prepare", done / len(items), None)
    return classes


def not_to_choose(pool: Pool, asked: Asked, labelled: Rows | None) -> tuple[Rows, Rows]:
    """Start rows (given items and labelled ones), and with them all rows that are not to be
    chosen: query and avoid items are there to be compared with. int32, ascending. ITEM_NOT_FOUND.
    """
    start = _rows_of(pool, asked.start_item_ids, "start_item_ids")
    if labelled is not None:
        start = np.union1d(start, labelled).astype(np.int32)
    start = np.unique(start)
    targets = [
        _rows_of(pool, given.item_ids, f"{field}.item_ids")
        for field, given in (("query", asked.query), ("avoid", asked.avoid))
    ]
    return start, np.unique(np.concatenate([start, *targets]))


def target_vectors(pool: Pool, targets: Targets, field: str) -> Float32s:
    """Vectors of targets as the pool's metric demands them, float32 [q, d]. ITEM_NOT_FOUND,
    INVALID_VECTOR."""
    parts = [pool.fetch(_rows_of(pool, targets.item_ids, f"{field}.item_ids"))]
    if targets.vectors is not None:
        parts.append(pool.normalise(targets.vectors, field=f"{field}.vectors"))
    return np.concatenate(parts)


def _rows_of(pool: Pool, item_ids: Sequence[str], field: str) -> Rows:
    rows = pool.ids.rows_of(item_ids)
    if (missing := np.flatnonzero(rows < 0)).size:
        place = int(missing[0])
        raise CoresiftError(
            Reason.ITEM_NOT_FOUND,
            f"no item {item_ids[place]!r} in pool {pool.manifest.name!r}",
            field=f"{field}[{place}]",
            item_id=item_ids[place],
        )
    return rows.astype(np.int32)
