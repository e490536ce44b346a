"""Handlers of the sessions' life cycle."""

from __future__ import annotations

from typing import Any

from coresift.server.errors import invalid
from coresift.server.head import HeadConfig, Task
from coresift.server.rpc import checks, encode
from coresift.server.rpc.services import Services
from coresift.server.session.config import DEFAULT_LEASE_MS, SessionConfig
from coresift.server.session.lifecycle import check_mask
from coresift.v1 import selection_pb2 as pb


class SessionCalls:
    """CreateSession to GetSessionProgress."""

    services: Services

    async def CreateSession(
        self, request: pb.CreateSessionRequest, context: object
    ) -> pb.CreateSessionResponse:
        identity = checks.request_of(request, request.request_id)
        if request.session_id:
            checks.name("session_id", request.session_id)
        config = _config(request.config)
        record = await self.services.lifecycle.create(request.session_id, config, identity)
        return pb.CreateSessionResponse(session=encode.session(record))

    async def GetSession(
        self, request: pb.GetSessionRequest, context: object
    ) -> pb.GetSessionResponse:
        checks.name("session_id", request.session_id)
        record = await self.services.lifecycle.read(request.session_id)
        return pb.GetSessionResponse(session=encode.session(record))

    async def ListSessions(
        self, request: pb.ListSessionsRequest, context: object
    ) -> pb.ListSessionsResponse:
        size = checks.page_size(request.page_size)
        after = checks.page_after("sessions", request.page_token)
        records = await self.services.lifecycle.page(after, size + 1)
        return pb.ListSessionsResponse(
            sessions=[encode.session(record) for record in records[:size]],
            next_page_token=(
                checks.page_token("sessions", records[size - 1].session_id)
                if len(records) > size
                else ""
            ),
        )

    async def UpdateSession(
        self, request: pb.UpdateSessionRequest, context: object
    ) -> pb.UpdateSessionResponse:
        identity = checks.request_of(request, request.request_id)
        checks.name("session_id", request.session_id)
        expected = None
        if request.HasField("expected_config_version"):
            expected = request.expected_config_version
        record = await self.services.lifecycle.update(
            request.session_id, _changes(request), expected, identity
        )
        return pb.UpdateSessionResponse(session=encode.session(record))

    async def DeleteSession(
        self, request: pb.DeleteSessionRequest, context: object
    ) -> pb.DeleteSessionResponse:
        identity = checks.request_of(request, request.request_id)
        checks.name("session_id", request.session_id)
        purge_ms = await self.services.lifecycle.delete(request.session_id, identity)
        return pb.DeleteSessionResponse(purge_time=encode.timestamp(purge_ms))

    async def GetSessionProgress(
        self, request: pb.GetSessionProgressRequest, context: object
    ) -> pb.GetSessionProgressResponse:
        checks.name("session_id", request.session_id)
        progress = await self.services.on(request.session_id, self.services.lifecycle.progress)
        if progress.budget_spent:
            advice = pb.STOP_ADVICE_BUDGET_SPENT
        elif progress.exhausted:
            advice = pb.STOP_ADVICE_POOL_EXHAUSTED
        else:
            advice = pb.STOP_ADVICE_CONTINUE
        return pb.GetSessionProgressResponse(
            basis=encode.basis(
                progress.config, progress.config_version, progress.revision, progress.head_version
            ),
            pool_items=progress.pool_items,
            labelled_items=progress.labelled_items,
            votes=progress.votes,
            unsure_votes=progress.unsure_votes,
            live_leases=progress.live_leases,
            candidates=progress.candidates,
            considered_share=progress.considered_share,
            classes=[
                pb.ClassCount(class_name=name, positive=present, negative=absent)
                for name, present, absent in progress.classes
            ],
            unfitted_classes=progress.unfitted_classes,
            hidden_items=progress.hidden_items,
            stop_advice=advice,
        )


def _config(given: pb.SessionConfig) -> SessionConfig:
    if not given.pool:
        raise invalid("config.pool", "is required")
    return SessionConfig(
        pool=given.pool,
        pool_version=given.pool_version,
        task=Task(checks.known("config.task", given.task, pb.Task)),
        classes=tuple(given.classes),
        seed=given.seed,
        **{field: _FIELDS[field](given) for field in _FIELDS},
    )


def _strategy(given: pb.SessionConfig) -> str:
    return given.strategy.name or "max_entropy"


def _seals_k(given: pb.SessionConfig) -> int | None:
    if given.candidates.WhichOneof("policy") == "all":
        return None
    return given.candidates.seals.k or 100


def _head(given: pb.SessionConfig) -> HeadConfig:
    balanced = False
    if given.head.class_weight:
        field = "config.head.class_weight"
        weight = checks.known(field, given.head.class_weight, pb.ClassWeight)
        balanced = weight == pb.CLASS_WEIGHT_BALANCED
    return HeadConfig(given.head.c or 100.0, "balanced" if balanced else "none")


def _label_budget(given: pb.SessionConfig) -> int | None:
    return given.label_budget if given.HasField("label_budget") else None


def _lease_ms(given: pb.SessionConfig) -> int:
    return checks.lease_ms(given, "config.lease_duration") or DEFAULT_LEASE_MS


_FIELDS: dict[str, Any] = {
    "strategy": _strategy,
    "seals_k": _seals_k,
    "head": _head,
    "votes_per_item": lambda given: given.votes_per_item or 1,
    "label_budget": _label_budget,
    "lease_ms": _lease_ms,
}
"""Fields of the domain's configuration that UpdateSession may change, and how they are read."""

_PATHS = {"candidates": "seals_k", "lease_duration": "lease_ms"}
"""Paths on the wire that have another name in the domain."""


def _changes(request: pb.UpdateSessionRequest) -> dict[str, Any]:
    paths = list(request.update_mask.paths)
    check_mask(paths, _PATHS)
    changes: dict[str, Any] = {}
    for path in paths:
        field = _PATHS.get(path, path)
        if field == "pool_version":
            changes[field] = request.config.pool_version
        else:
            changes[field] = _FIELDS[field](request.config)
    return changes
