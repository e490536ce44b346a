"""A session's life: create, read, list, change, delete."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np

from coresift.server.arrays import Float64s
from coresift.server.caller import CALLER
from coresift.server.errors import CoresiftError, Reason, invalid
from coresift.server.head import Head
from coresift.server.pool.pool import Pool
from coresift.server.session.live.sessions import LiveSessions, check_visible
from coresift.server.session.setup.config import SessionConfig
from coresift.server.session.setup.config_checks import complete
from coresift.server.session.setup.materials import Loader
from coresift.server.session.setup.pools import Pools
from coresift.server.session.signals.signals import Signals
from coresift.server.session.work.workers import Workers
from coresift.server.state.store import Store
from coresift.server.state.values import Request, SessionRecord, Settings

LEAST_READ = 200
"""Records read at a time where some may be hidden from the caller."""
MAX_WEIGHT = 1e30
"""Of a prior head: logits of unit rows stay finite in float32."""


@dataclass(frozen=True, slots=True)
class PriorWeights:
    """A head as it came over the wire: weights float64 [K, d], bias float64 [K]."""

    weights: Float64s
    bias: Float64s


def prior_head(config: SessionConfig, pool: Pool, prior: PriorWeights) -> Head:
    """The head to start from. INVALID_FIELD for a wrong shape or numbers that are not finite."""
    columns, dimension = len(config.head_classes), pool.manifest.dimension
    if prior.weights.shape != (columns, dimension) or prior.bias.shape != (columns,):
        raise invalid(
            "prior_head.weights",
            f"and bias must be {columns} x {dimension} and {columns} numbers, "
            f"got {prior.weights.shape} and {prior.bias.shape}",
        )
    for name, numbers in (("weights", prior.weights), ("bias", prior.bias)):
        if not (np.abs(numbers) <= MAX_WEIGHT).all():  # false for NaN, too
            raise invalid(f"prior_head.{name}", f"must be numbers of at most {MAX_WEIGHT:g}")
    return Head(config.task, prior.weights, prior.bias, np.ones(columns, np.bool_))


class Lifecycle:
    """The session calls that do not label."""

    def __init__(
        self,
        pools: Pools,
        sessions: LiveSessions,
        signals: Signals,
        loader: Loader,
        store: Store,
        workers: Workers,
    ) -> None:
        self._pools, self._sessions, self._signals = pools, sessions, signals
        self._loader, self._store, self._workers = loader, store, workers

    async def create(
        self, session_id: str, config: SessionConfig, prior: PriorWeights | None, request: Request
    ) -> SessionRecord:
        """Create a session on the newest served version of its pool, or on the one named."""
        try:
            config = await self._resolved(config, prior)
        except CoresiftError:
            # What was right when the same request came first may not fit what is there now.
            created = await self._store.created(request)
            if created is None or not CALLER.get().sees(config.pool):
                raise
            return created
        if not session_id:  # a retry must find the same session
            made = blake2b(request.request_id.encode(), digest_size=10).hexdigest()
            session_id = CALLER.get().kept_as(f"s-{made}")
        return await self._store.create(session_id, config.settings(), request)

    async def _resolved(self, config: SessionConfig, prior: PriorWeights | None) -> SessionConfig:
        """The configuration with the pool's version, its signals and the prior head filled in."""
        pool = self._find(config.pool, config.pool_version)
        config = await self._complete(replace(config, pool_version=pool.manifest.version))
        if prior is not None:
            head = prior_head(config, pool, prior)
            stored = await self._workers.run(lambda: self._loader.keep_prior(head))
            config = replace(config, prior_head=stored)
        return config

    async def read(self, session_id: str) -> SessionRecord:
        """The session as it is in the store. SESSION_NOT_FOUND."""
        record = await self._store.read(session_id)
        check_visible(SessionConfig.from_settings(record.settings).pool)
        return record

    async def page(self, after: str, count: int) -> list[SessionRecord]:
        """The caller's sessions by id, after the given one of its own.

        Without those of which this release cannot read the configuration: they must not hide the
        others.
        """
        caller, found = CALLER.get(), list[SessionRecord]()
        after = caller.kept_as(after)
        least = 0 if caller.pools is None else LEAST_READ
        while len(found) < count:
            wanted = max(count - len(found), least)
            least = LEAST_READ  # some were left out: many more may be
            records = await self._store.list_sessions(after, wanted, caller.tenant)
            for record in records:
                try:
                    pool = SessionConfig.from_settings(record.settings).pool
                except CoresiftError:
                    continue
                if caller.sees(pool):
                    found.append(record)
            if len(records) < wanted:
                break
            after = records[-1].session_id
        return found[:count]

    async def update(
        self,
        session_id: str,
        changes: Mapping[str, Any],
        expected_version: int | None,
        request: Request,
    ) -> SessionRecord:
        """Change fields of the configuration, whatever it is without an expected version."""
        record = await self.read(session_id)
        while True:
            try:
                return await self._updated(record, changes, expected_version, request)
            except CoresiftError as error:
                if error.reason is not Reason.SESSION_NOT_FOUND:
                    raise
                missed, record = record, await self.read(session_id)
                if record.uid == missed.uid:  # else it lives on elsewhere
                    raise

    async def _updated(
        self,
        record: SessionRecord,
        changes: Mapping[str, Any],
        expected_version: int | None,
        request: Request,
    ) -> SessionRecord:
        if (done := await self._answered(record, request)) is not None:
            return done
        for _ in range(5):
            record = await self._store.read(record.session_id)
            config = SessionConfig.from_settings(record.settings)
            changed = replace(config, **changes)
            if "pool_version" in changes:
                version = self._forward(config, changes["pool_version"])
                changed = replace(changed, pool_version=version)
            if not {"mix", "pool_version"} & changes.keys():
                changed = await self._checked(changed)  # its signals stay, deleted or not
            else:
                changed = await self._complete(changed)
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

    async def _checked(self, config: SessionConfig) -> SessionConfig:
        """The configuration checked against its pool."""
        pool = self._pools.of_session(config.pool, config.pool_version)
        return await self._workers.run(lambda: complete(config, pool))

    async def _complete(self, config: SessionConfig) -> SessionConfig:
        """The same, and its signals found."""
        config = await self._checked(config)
        return replace(config, signals=await self._signals.files_of(config))

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
                f"pool version {pool.manifest.version} does not extend the session's "
                f"{config.pool_version}",
                field="config.pool_version",
            )
        return pool.manifest.version

    async def _check_visible(self, session_id: str) -> None:
        if CALLER.get().pools is None:
            return
        try:
            record = await self._store.read(session_id)
        except CoresiftError as error:
            if error.reason is not Reason.SESSION_NOT_FOUND:
                raise
            return  # deleted before, perhaps by the same request
        check_visible(SessionConfig.from_settings(record.settings).pool)

    async def delete(self, session_id: str, request: Request) -> int:
        """Hide a session; returns when it is purged (ms)."""
        await self._check_visible(session_id)
        purge_ms = await self._store.delete(session_id, request)
        self._sessions.drop(session_id)
        return purge_ms

    async def undelete(self, session_id: str, request: Request) -> SessionRecord:
        """Bring a hidden session back with all that it had. SESSION_NOT_FOUND."""

        def check(settings: Settings) -> None:
            check_visible(SessionConfig.from_settings(settings).pool)

        return await self._store.undelete(session_id, request, check)


def check_mask(paths: Sequence[str], mutable: Collection[str]) -> None:
    """Refuse an empty mask, unknown fields and fields that never change."""
    if not paths:
        raise invalid("update_mask", "must name at least one field")
    for path in paths:
        if path not in mutable:
            never = path in {"pool", "task", "classes", "seed", "pseudonymous"}
            what = "never changes" if never else "is no field to change"
            raise CoresiftError(
                Reason.IMMUTABLE_FIELD if never else Reason.INVALID_FIELD,
                f"update_mask: {path!r} {what}; valid are {', '.join(mutable)}",
                field="update_mask",
            )
