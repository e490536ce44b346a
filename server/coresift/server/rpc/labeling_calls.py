"""Handlers of labeling: batches, labels and leases."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from coresift.server.errors import invalid
from coresift.server.pool.pool import Pool
from coresift.server.rpc import checks, encode
from coresift.server.rpc.batch_messages import batch_message, ids_of, metadata_of
from coresift.server.rpc.label_messages import checked_labels
from coresift.server.rpc.services import Services
from coresift.server.session.grants import Ask
from coresift.server.session.labeling import check_distinct
from coresift.server.session.live.live import LiveSession
from coresift.server.session.setup.lease_tokens import SALT_BYTES, lease_token
from coresift.server.session.setup.pseudonyms import kept_name
from coresift.server.state.values import Release
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
            return batch_message(batch, config, request.include_metadata)

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
            labels = checked_labels(live, kept, request.labels)
            done = await self.services.labeling.add_labels(live, identity, kept, labels)
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
                renewed=ids_of(live.pool, done.renewed),
                lost=ids_of(live.pool, done.lost),
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
            return pb.ReleaseLeasesResponse(released=ids_of(live.pool, ended))

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
            item_ids = ids_of(pool, rows)
            metadata = metadata_of(pool, rows, request.include_metadata)
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


def _distinct_rows(pool: Pool, item_ids: Sequence[str]) -> list[int]:
    rows: list[int] = checks.rows(pool, "item_ids[{}]", item_ids).tolist()
    check_distinct("item_ids", rows)
    return rows


def _lease_key(key: str) -> tuple[int, str]:
    if not key:
        return -1, ""
    row, _, annotator = key.partition(":")
    return checks.small_number(row), annotator
