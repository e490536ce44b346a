"""Batches and leased items as messages."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from coresift.server.errors import CoresiftError, Reason
from coresift.server.pool.pool import Pool
from coresift.server.rpc import encode
from coresift.server.session.grants import Batch, Pick
from coresift.server.session.ranking.ranking import PickReason
from coresift.server.session.setup.config import SessionConfig
from coresift.v1 import selection_pb2 as pb


def batch_message(
    batch: Batch, config: SessionConfig, include_metadata: bool
) -> pb.NextBatchResponse:
    """The answer of NextBatch, under the configuration that it names."""
    pool = batch.live.pool
    rows = [pick.row for pick in batch.picks]
    answer = pb.NextBatchResponse(
        basis=encode.basis(config, batch.config_version, batch.revision, batch.head_version),
        phase=pb.Phase.Value(f"PHASE_{batch.phase}"),
        strategy=config.strategy,
        details=batch.details,
    )
    metadata = metadata_of(pool, rows, include_metadata)
    for pick, item_id, columns in zip(batch.picks, ids_of(pool, rows), metadata, strict=True):
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


def ids_of(pool: Pool, rows: Sequence[int]) -> list[str]:
    """Item ids of rows. POOL_VERSION_NOT_LOADED."""
    if rows and max(rows) >= pool.manifest.items:  # the store knows of a later version
        raise CoresiftError(
            Reason.POOL_VERSION_NOT_LOADED,
            f"this replica works on version {pool.manifest.version} of pool "
            f"{pool.manifest.name!r}, which lacks items of the session",
            retry_after_s=1.0,
        )
    return pool.ids.ids_of(np.array(rows, np.int32)) if rows else []


def metadata_of(pool: Pool, rows: Sequence[int], included: bool) -> Sequence[dict[str, str] | None]:
    """Metadata columns of rows, None for each where they are not ``included``."""
    if not included or not rows:
        return [None] * len(rows)  # an empty map would be filled one by one
    return pool.metadata(np.array(rows, np.int32))
