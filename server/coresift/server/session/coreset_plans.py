"""Core-set jobs before they run: what was asked, checked and resolved."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import psutil

from coresift.server.arrays import Rows
from coresift.server.coreset.methods import METHODS, Method
from coresift.server.errors import CoresiftError, Reason, invalid
from coresift.server.head import Head
from coresift.server.pool.pool import Pool
from coresift.server.session.history import head_at
from coresift.server.session.pools import Pools
from coresift.server.session.sessions import LiveSessions
from coresift.server.session.snapshot import head_of
from coresift.server.session.workers import Workers
from coresift.server.state.store import Request, Store

BYTES_PER_SECOND = 4e9
"""Of a pass over a pool, for estimates: what one memory channel sustains."""


@dataclass(frozen=True, slots=True)
class Ordered:
    """A ScoreCoreset as it was asked; ``pool`` or ``session_id`` is empty."""

    request: Request
    pool: str
    session_id: str
    method: str
    budget: int
    seed: int
    start_item_ids: tuple[str, ...]
    grace_s: float


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A job as asked for, with what it was planned on."""

    job_id: str
    digest: bytes
    pool: str
    pool_version: str
    method: str
    budget: int
    seed: int
    grace_s: float
    config_version: int
    revision: int
    head_version: str
    items: int
    expected_s: float
    expected_bytes: int


@dataclass(frozen=True, slots=True)
class Work:
    """What a job selects from."""

    pool: Pool
    head: Head | None
    start: Rows


class Planner:
    """Resolves what was asked into a plan."""

    def __init__(
        self, pools: Pools, sessions: LiveSessions, store: Store, workers: Workers
    ) -> None:
        self._pools, self._sessions = pools, sessions
        self._store, self._workers = store, workers

    async def first(self, ordered: Ordered) -> JobSpec:
        """A new job, on the newest labels and pool version.

        Raises:
            CoresiftError: UNKNOWN_METHOD, INVALID_FIELD, POOL_NOT_FOUND, SESSION_NOT_FOUND,
                ITEM_NOT_FOUND, HEAD_NOT_FITTED, TOO_LARGE.
        """
        method = _method(ordered)
        basis = (0, 0, "")
        if ordered.session_id:
            live = await self._sessions.open(ordered.session_id)
            state = await live.fitted(time.monotonic())
            if method.needs_head:
                head_of(state)
            pool, snapshot = live.pool, state.snapshot
            version = state.version if method.needs_head else ""
            basis = (snapshot.config_version, snapshot.revision, version)
        else:
            pool = self._pools.find(ordered.pool)
        items, start = pool.manifest.items, _start_rows(pool, ordered)
        if not 1 <= ordered.budget <= items - len(start):
            raise invalid("budget", f"must be 1..{items - len(start)}, got {ordered.budget}")
        passes, extra = method.cost(items, pool.manifest.dimension, ordered.budget)
        _check_room(ordered.method, extra)
        return JobSpec(
            ordered.request.request_id,
            ordered.request.digest,
            pool.manifest.name,
            pool.manifest.version,
            ordered.method,
            ordered.budget,
            ordered.seed,
            ordered.grace_s,
            *basis,
            items=items,
            expected_s=0.05 + passes * pool.nbytes() / BYTES_PER_SECOND,
            expected_bytes=int(extra),
        )

    async def work(self, spec: JobSpec, ordered: Ordered) -> Work:
        """What a job was planned on, also long after: pool version, head, start rows.

        Raises:
            CoresiftError: POOL_VERSION_NOT_LOADED, SESSION_NOT_FOUND, HEAD_NOT_FITTED.
        """
        pool = self._pools.of_session(spec.pool, spec.pool_version)
        head = None
        if spec.head_version:
            live = await self._sessions.open(ordered.session_id)
            state = live.head_state
            if state is not None and state.version == spec.head_version:
                head = state.head
            else:
                await live.sync(time.monotonic())
                head = await head_at(live, spec, self._store, self._workers)
        return Work(pool, head, _start_rows(pool, ordered))


def _method(ordered: Ordered) -> Method:
    method = METHODS.get(ordered.method)
    if method is None:
        raise CoresiftError(
            Reason.UNKNOWN_METHOD,
            f"no core-set method {ordered.method!r}; valid are {', '.join(METHODS)}",
            field="method",
            valid=",".join(METHODS),
        )
    if method.needs_head and not ordered.session_id:
        raise invalid("session_id", f"is required: {ordered.method} needs a session's head")
    if ordered.start_item_ids and not method.takes_start:
        raise invalid("start_item_ids", f"has no meaning for {ordered.method}")
    return method


def _check_room(method: str, needed: float) -> None:
    available = psutil.virtual_memory().available
    if needed > available:
        raise CoresiftError(
            Reason.TOO_LARGE,
            f"{method} needs {needed / 1e9:.1f} GB, {available / 1e9:.1f} GB are free",
            needed_bytes=f"{needed:.0f}",
        )


def _start_rows(pool: Pool, ordered: Ordered) -> Rows:
    """Rows of the given start items, ascending."""
    rows = pool.ids.rows_of(ordered.start_item_ids)
    if (missing := np.flatnonzero(rows < 0)).size:
        item_id = ordered.start_item_ids[int(missing[0])]
        raise CoresiftError(
            Reason.ITEM_NOT_FOUND,
            f"no item {item_id!r} in pool {pool.manifest.name!r}",
            field=f"start_item_ids[{int(missing[0])}]",
            item_id=item_id,
        )
    return np.unique(rows).astype(np.int32)
