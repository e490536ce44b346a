"""A session's life: create, read, list, change, delete, and how far it is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from coresift.server.errors import CoresiftError, Reason, invalid
from coresift.server.head import Task
from coresift.server.pool.pool import Pool
from coresift.server.session.config import SessionConfig, complete
from coresift.server.session.labels import ClassSets, unpack
from coresift.server.session.live import LiveSession, LiveSessions
from coresift.server.session.pools import Pools
from coresift.server.state.store import Request, SessionRecord, Store

MUTABLE = frozenset(
    {"strategy", "seals_k", "head", "votes_per_item", "label_budget", "lease_ms", "pool_version"}
)
"""Fields of `SessionConfig` that UpdateSession may change."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a session is; see GetSessionProgressResponse."""

    config: SessionConfig
    config_version: int
    revision: int
    head_version: str
    pool_items: int
    labelled_items: int
    votes: int
    unsure_votes: int
    live_leases: int
    candidates: int
    considered_share: float
    classes: tuple[tuple[str, int, int], ...]
    """Name, votes present, votes absent (multilabel)."""
    unfitted_classes: tuple[str, ...]
    hidden_items: int
    budget_spent: bool
    exhausted: bool


class Lifecycle:
    """The session calls that do not label."""

    def __init__(self, pools: Pools, sessions: LiveSessions, store: Store) -> None:
        self._pools, self._sessions, self._store = pools, sessions, store

    async def create(
        self, session_id: str, config: SessionConfig, request: Request
    ) -> SessionRecord:
        """Create a session on the newest served version of its pool, or on the one named."""
        pool = self._find(config.pool, config.pool_version)
        config = complete(replace(config, pool_version=pool.manifest.version))
        if not session_id:  # a retry must find the same session
            session_id = "s-" + blake2b(request.request_id.encode(), digest_size=10).hexdigest()
        return await self._store.create(session_id, config.settings(), request)

    async def read(self, session_id: str) -> SessionRecord:
        """The session as it is in the store."""
        return await self._store.read(session_id)

    async def page(self, after: str, count: int) -> list[SessionRecord]:
        """Sessions by id, after the given one."""
        return await self._store.list_sessions(after, count)

    async def update(
        self,
        session_id: str,
        changes: Mapping[str, Any],
        expected_version: int | None,
        request: Request,
    ) -> SessionRecord:
        """Change fields of `MUTABLE`. Without an expected version, whatever is there changes."""
        record = await self._store.read(session_id)
        if (done := await self._answered(record, request)) is not None:
            return done
        for _ in range(5):
            record = await self._store.read(session_id)
            config = SessionConfig.from_settings(record.settings)
            changed = complete(replace(config, **changes))
            if "pool_version" in changes:
                version = self._forward(config, changes["pool_version"])
                changed = replace(changed, pool_version=version)
            try:
                return await self._store.configure(
                    record.uid,
                    request,
                    changed.settings(),
                    record.config_version if expected_version is None else expected_version,
                )
            except CoresiftError as error:
                raced = error.reason is Reason.CONFIG_VERSION_MISMATCH and expected_version is None
                if not raced:
                    raise
        raise CoresiftError(
            Reason.CONFIG_VERSION_MISMATCH, "the configuration changes too often to be updated"
        )

    async def _answered(self, record: SessionRecord, request: Request) -> SessionRecord | None:
        """The stored answer of an update: what was right then may not fit what is there now."""
        try:  # there is no version 0: only a repeated request succeeds
            return await self._store.configure(record.uid, request, record.settings, 0)
        except CoresiftError as error:
            if error.reason is not Reason.CONFIG_VERSION_MISMATCH:
                raise
            return None

    def _find(self, pool: str, version: str) -> Pool:
        return self._pools.find(pool, version, "config.pool", "config.pool_version")

    def _forward(self, config: SessionConfig, version: str) -> str:
        """The version (empty: the newest here) if it extends the session's. IMMUTABLE_FIELD."""
        pool = self._find(config.pool, version)
        if config.pool_version not in pool.manifest.lineage:
            raise CoresiftError(
                Reason.IMMUTABLE_FIELD,
                f"pool version {version!r} does not extend the session's {config.pool_version}",
                field="config.pool_version",
            )
        return pool.manifest.version

    async def delete(self, session_id: str, request: Request) -> int:
        """Hide a session; returns when it is purged (ms)."""
        purge_ms = await self._store.delete(session_id, request)
        self._sessions.drop(session_id)
        return purge_ms

    async def progress(self, live: LiveSession) -> Progress:
        """Counts of labels, leases and candidates, with the head up to the newest label."""
        began = time.monotonic()
        state = await live.fitted(began)
        candidates, considered = await live.candidate_counts(began)
        leases = await self._store.leases(live.uid)
        view, config, items = live.view, live.config, live.pool.manifest.items
        budget = config.label_budget
        unfitted: Sequence[str] = config.classes if config.task is not Task.BINARY else ()
        if state.head is not None:
            names = _head_classes(config)
            unfitted = [n for n, ok in zip(names, state.head.fitted, strict=True) if not ok]
        elif config.task is Task.BINARY:
            unfitted = _head_classes(config)
        done = {row for row, item in view.votes.items() if len(item) >= config.votes_per_item}
        return Progress(
            config=config,
            config_version=view.config_version,
            revision=view.revision,
            head_version=state.version,
            pool_items=items,
            labelled_items=len(view.votes),
            votes=view.vote_count,
            unsure_votes=view.unsure_votes(),
            live_leases=len(leases),
            candidates=candidates,
            considered_share=considered,
            classes=_count_classes(config, view.votes),
            unfitted_classes=tuple(unfitted),
            hidden_items=len(view.hidden),
            budget_spent=budget is not None and view.vote_count >= budget,
            exhausted=len(done | view.hidden) >= items,
        )


def _head_classes(config: SessionConfig) -> tuple[str, ...]:
    """Names of the head's columns: binary heads have the positive class only."""
    return config.classes[1:] if config.task is Task.BINARY else config.classes


def _count_classes(
    config: SessionConfig, votes: Mapping[int, Mapping[str, bytes]]
) -> tuple[tuple[str, int, int], ...]:
    present, absent = [0] * len(config.classes), [0] * len(config.classes)
    for item in votes.values():
        for packed in item.values():
            value = unpack(packed)
            if isinstance(value, ClassSets):
                for number in value.present:
                    present[number] += 1
                for number in value.absent:
                    absent[number] += 1
            elif value is not None:
                present[value] += 1
    return tuple(zip(config.classes, present, absent, strict=True))


def check_mask(paths: Sequence[str], renamed: Mapping[str, str]) -> None:
    """Refuse an empty mask, unknown fields and fields that never change.

    Args:
        renamed: paths whose field of `SessionConfig` has another name.
    """
    if not paths:
        raise invalid("update_mask", "must name at least one field")
    for path in paths:
        field = renamed.get(path, path)
        if field not in MUTABLE or path in renamed.values():
            never = field in {"pool", "task", "classes", "seed"}
            raise CoresiftError(
                Reason.IMMUTABLE_FIELD if never else Reason.INVALID_FIELD,
                f"update_mask: {path!r} {'never changes' if never else 'is no field to change'}",
                field="update_mask",
            )
