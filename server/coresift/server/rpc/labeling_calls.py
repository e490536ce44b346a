"""Handlers of labeling: batches, labels and leases."""

from __future__ import annotations

import math
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from coresift.server.errors import CoresiftError, Reason, invalid
from coresift.server.head import Task
from coresift.server.pool.pool import Pool
from coresift.server.rpc import checks, encode
from coresift.server.rpc.services import Services
from coresift.server.session.batches import Ask, Batch, Pick
from coresift.server.session.config import SessionConfig
from coresift.server.session.config_checks import check_class
from coresift.server.session.labeling import check_distinct
from coresift.server.session.labels import UNSURE, ClassSets, pack_class, pack_sets
from coresift.server.session.lease_tokens import SALT_BYTES, is_lease_token, lease_token
from coresift.server.session.live import LiveSession
from coresift.server.session.pseudonyms import kept_name
from coresift.server.session.ranking import PickReason
from coresift.server.state.store import RETRACTION, LabelWrite, Release
from coresift.v1 import selection_pb2 as pb


class LabelingCalls:
    """NextBatch to ListLabels."""

    services: Services

    async def NextBatch(
        self, request: pb.NextBatchRequest, context: object
    ) -> pb.NextBatchResponse:
        session_id = checks.own_name("session_id", request.session_id)
        ask = Ask(
            request=checks.request_of(request, request.request_id),
            annotator=checks.annotator(request.annotator),
            size=checks.count("size", request.size, checks.MAX_BATCH),
            lease_ms=checks.lease_ms(request),
            min_revision=request.min_revision if request.HasField("min_revision") else None,
            review=_purpose(request) == pb.PURPOSE_REVIEW,
        )

        async def lease(live: LiveSession) -> pb.NextBatchResponse:
            kept = kept_name(live.config, live.secret, ask.annotator)
            own = ask if kept == ask.annotator else replace(ask, annotator=kept)
            batch = await self.services.batches.next(live, own)
            config = await live.config_of(batch.config_version)
            return _batch(batch, config, request.include_metadata)

        return await self.services.on(session_id, lease)

    async def AddLabels(
        self, request: pb.AddLabelsRequest, context: object
    ) -> pb.AddLabelsResponse:
        identity = checks.request_of(request, request.request_id)
        session_id = checks.own_name("session_id", request.session_id)
        annotator = checks.annotator(request.annotator)
        checks.count("labels", len(request.labels), checks.MAX_LABELS)

        async def add(live: LiveSession) -> pb.AddLabelsResponse:
            kept = kept_name(live.config, live.secret, annotator)
            writes = _writes(live, kept, request.labels)
            done = await self.services.labeling.add_labels(live, identity, kept, writes)
            config = await live.config_of(done.config_version)
            return pb.AddLabelsResponse(
                basis=encode.basis(config, done.config_version, done.revision),
                outcomes=[pb.LabelOutcome.ValueType(int(o)) for o in done.outcomes],
            )

        return await self.services.on(session_id, add)

    async def RenewLeases(
        self, request: pb.RenewLeasesRequest, context: object
    ) -> pb.RenewLeasesResponse:
        identity = checks.request_of(request, request.request_id)
        session_id = checks.own_name("session_id", request.session_id)
        annotator = checks.annotator(request.annotator)
        checks.count("item_ids", len(request.item_ids), checks.MAX_LABELS, least=0)
        lease_ms = checks.lease_ms(request)

        async def renew(live: LiveSession) -> pb.RenewLeasesResponse:
            rows = _distinct_rows(live.pool, request.item_ids)
            kept = kept_name(live.config, live.secret, annotator)
            done = await self.services.labeling.renew(live, identity, kept, rows, lease_ms)
            return pb.RenewLeasesResponse(
                lease_deadline=encode.timestamp(done.deadline_ms),
                renewed=_ids(live.pool, done.renewed),
                lost=_ids(live.pool, done.lost),
            )

        return await self.services.on(session_id, renew)

    async def ReleaseLeases(
        self, request: pb.ReleaseLeasesRequest, context: object
    ) -> pb.ReleaseLeasesResponse:
        identity = checks.request_of(request, request.request_id)
        session_id = checks.own_name("session_id", request.session_id)
        annotator = checks.annotator(request.annotator)
        checks.count("item_ids", len(request.item_ids), checks.MAX_LABELS)
        reason = Release(checks.known("reason", request.reason, pb.ReleaseReason))

        async def release(live: LiveSession) -> pb.ReleaseLeasesResponse:
            rows = _distinct_rows(live.pool, request.item_ids)
            kept = kept_name(live.config, live.secret, annotator)
            ended = await self.services.labeling.release(live, identity, kept, rows, reason)
            return pb.ReleaseLeasesResponse(released=_ids(live.pool, ended))

        return await self.services.on(session_id, release)

    async def ListLeases(
        self, request: pb.ListLeasesRequest, context: object
    ) -> pb.ListLeasesResponse:
        session_id = checks.own_name("session_id", request.session_id)
        if request.annotator:
            checks.annotator(request.annotator)
        size = checks.page_size(request.page_size)
        after = _lease_key(checks.page_after("leases", request.page_token))

        async def page(live: LiveSession) -> pb.ListLeasesResponse:
            kept = kept_name(live.config, live.secret, request.annotator)
            leases = await self.services.labeling.leases(live, kept, after, size + 1)
            page, pool = leases[:size], live.pool
            rows = [lease.row for lease in page]
            item_ids = _ids(pool, rows)
            metadata = _metadata(pool, rows, request.include_metadata)
            answer = pb.ListLeasesResponse()
            for lease, item_id, columns in zip(page, item_ids, metadata, strict=True):
                token = b""
                if request.annotator:
                    salt = secrets.token_bytes(SALT_BYTES)
                    token = lease_token(live.secret, salt, lease.row, lease.annotator)
                answer.leases.add(
                    item_id=item_id,
                    annotator=lease.annotator,
                    deadline=encode.timestamp(lease.deadline_ms),
                    lease_token=token,
                    metadata=columns,
                )
            if len(leases) > size:
                answer.next_page_token = checks.page_token(
                    "leases", f"{page[-1].row}:{page[-1].annotator}"
                )
            return answer

        return await self.services.on(session_id, page)

    async def ListLabels(
        self, request: pb.ListLabelsRequest, context: object
    ) -> AsyncIterator[pb.ListLabelsResponse]:
        session_id = checks.own_name("session_id", request.session_id)
        end = request.end_revision if request.HasField("end_revision") else None
        if end is not None and end < request.start_revision:
            raise invalid("end_revision", f"must be at least start_revision, got {end}")

        async def open_log(live: LiveSession) -> LiveSession:
            await self.services.labeling.check_range(live, request.start_revision, end)
            return live

        live = await self.services.on(session_id, open_log)
        answer = pb.ListLabelsResponse()
        async for entry in self.services.labeling.labels(live, request.start_revision, end):
            if len(answer.labels) + len(entry.item_ids) > checks.MAX_LABELS:
                yield answer
                answer = pb.ListLabelsResponse()
            answer.basis.CopyFrom(encode.basis(live.config, live.view.config_version, entry.offset))
            for item_id, value, outcome in zip(
                entry.item_ids, entry.values, entry.outcomes, strict=True
            ):
                answer.labels.add(
                    revision=entry.offset,
                    annotator=entry.annotator,
                    label=encode.label(live.config, item_id, value),
                    outcome=pb.LabelOutcome.ValueType(outcome),
                    time=encode.timestamp(entry.time_ms),
                )
        if answer.labels:
            yield answer


def _purpose(request: pb.NextBatchRequest) -> int:
    return checks.known("purpose", request.purpose, pb.Purpose) if request.purpose else 0


def _batch(batch: Batch, config: SessionConfig, include_metadata: bool) -> pb.NextBatchResponse:
    pool = batch.live.pool
    rows = [pick.row for pick in batch.picks]
    answer = pb.NextBatchResponse(
        basis=encode.basis(config, batch.config_version, batch.revision, batch.head_version),
        phase=pb.Phase.Value(f"PHASE_{batch.phase}"),
        strategy=config.strategy,
        details=batch.details,
    )
    metadata = _metadata(pool, rows, include_metadata)
    for pick, item_id, columns in zip(batch.picks, _ids(pool, rows), metadata, strict=True):
        answer.picks.add(
            item_id=item_id,
            score=pick.score,
            predicted_class=encode.class_name(config, pick.predicted),
            reason=pb.PickReason.ValueType(int(pick.reason)),
            strategy=_strategy_of(config, pick),
            lease_token=pick.token,
            metadata=columns,
        )
    if batch.deadline_ms is not None:
        answer.lease_deadline.CopyFrom(encode.timestamp(batch.deadline_ms))
    if batch.next_available_ms is not None:
        answer.next_available_time.CopyFrom(encode.timestamp(batch.next_available_ms))
    return answer


def _strategy_of(config: SessionConfig, pick: Pick) -> str:
    """Name of the strategy that scored a pick; empty where none did."""
    if pick.reason in (PickReason.EXPLOIT, PickReason.EXPAND) and not math.isnan(pick.score):
        return config.mix[pick.component].strategy.name
    return ""


def _writes(live: LiveSession, annotator: str, labels: Sequence[pb.Label]) -> list[LabelWrite]:
    """Checked labels. CONFLICTING_LABELS, UNKNOWN_CLASS, LEASE_TOKEN_FOREIGN."""
    config = live.config
    numbers = {name: i for i, name in enumerate(config.classes)}
    item_ids = [label.item_id for label in labels]
    rows = checks.rows(live.pool, "labels[{}].item_id", item_ids).tolist()
    first: dict[int, bytes] = {}
    writes = []
    for i, (label, item_id, row) in enumerate(zip(labels, item_ids, rows, strict=True)):
        value = _value(i, config, numbers, label)
        if first.setdefault(row, value) != value:
            raise CoresiftError(
                Reason.CONFLICTING_LABELS,
                f"labels[{i}]: item {item_id!r} stands twice with different labels",
                field=f"labels[{i}]",
                item_id=item_id,
            )
        token = label.lease_token
        if token and not is_lease_token(token, live.secret, row, annotator):
            raise CoresiftError(
                Reason.LEASE_TOKEN_FOREIGN,
                f"labels[{i}].lease_token was not made for this session, item and annotator",
                field=f"labels[{i}].lease_token",
            )
        writes.append(LabelWrite(row, item_id, value, bool(token)))
    return writes


def _value(i: int, config: SessionConfig, numbers: Mapping[str, int], label: pb.Label) -> bytes:
    """The packed value of ``labels[i]``."""
    kind = label.WhichOneof("value")
    if kind == "unsure":
        return UNSURE
    if kind == "retraction":
        return RETRACTION
    wanted = "classes" if config.task is Task.MULTILABEL else "class_name"
    if kind != wanted:
        if kind is None:
            given = "is required: class_name, classes, unsure or retraction"
            raise invalid(f"labels[{i}].value", given)
        raise invalid(f"labels[{i}].{kind}", f"does not fit the task; use {wanted}")
    if kind == "class_name":
        return pack_class(_number(i, "class_name", numbers, label.class_name))
    present, absent = (
        {_number(i, f"classes.{side}", numbers, name) for name in names}
        for side, names in (("present", label.classes.present), ("absent", label.classes.absent))
    )
    if not present and not absent:
        raise invalid(f"labels[{i}].classes", "must name at least one class present or absent")
    if present & absent:
        both = config.classes[min(present & absent)]
        raise invalid(f"labels[{i}].classes", f"calls {both!r} both present and absent")
    return pack_sets(ClassSets(tuple(sorted(present)), tuple(sorted(absent))))


def _number(i: int, part: str, numbers: Mapping[str, int], name: str) -> int:
    if name not in numbers:
        check_class(f"labels[{i}].{part}", name, list(numbers))
    return numbers[name]


def _distinct_rows(pool: Pool, item_ids: Sequence[str]) -> list[int]:
    rows: list[int] = checks.rows(pool, "item_ids[{}]", item_ids).tolist()
    check_distinct("item_ids", rows)
    return rows


def _ids(pool: Pool, rows: Sequence[int]) -> list[str]:
    if rows and max(rows) >= pool.manifest.items:  # the store knows of a later version
        raise CoresiftError(
            Reason.POOL_VERSION_NOT_LOADED,
            f"this replica works on version {pool.manifest.version} of pool "
            f"{pool.manifest.name!r}, which lacks items of the session",
            retry_after_s=1.0,
        )
    return pool.ids.ids_of(np.array(rows, np.int32)) if rows else []


def _metadata(pool: Pool, rows: Sequence[int], included: bool) -> Sequence[dict[str, str] | None]:
    if not included or not rows:
        return [None] * len(rows)  # an empty map would be filled one by one
    return pool.metadata(np.array(rows, np.int32))


def _lease_key(key: str) -> tuple[int, str]:
    if not key:
        return -1, ""
    row, _, annotator = key.partition(":")
    return checks.small_number(row), annotator
