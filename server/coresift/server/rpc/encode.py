"""Domain values as messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
from google.protobuf import duration_pb2, struct_pb2, timestamp_pb2

from coresift.server.caller import bare
from coresift.server.head import HeadConfig
from coresift.server.pool.pool import Pool
from coresift.server.rpc import checks
from coresift.server.selection.candidates import name_of
from coresift.server.selection.parameters import Value
from coresift.server.selection.registry import Choice
from coresift.server.session.model import Model
from coresift.server.session.setup.config import SessionConfig
from coresift.server.session.signals.signals import Signal
from coresift.server.session.view.labels import ClassSets, unpack
from coresift.server.state.values import RETRACTION, SessionRecord
from coresift.v1 import selection_pb2 as pb

METRICS = {
    "cosine": pb.METRIC_COSINE,
    "ip": pb.METRIC_INNER_PRODUCT,
    "l2": pb.METRIC_L2,
}
CLASS_WEIGHTS = {"none": pb.CLASS_WEIGHT_NONE, "balanced": pb.CLASS_WEIGHT_BALANCED}


def timestamp(ms: int) -> timestamp_pb2.Timestamp:
    """A time in ms since the epoch."""
    return timestamp_pb2.Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)


def duration(ms: float) -> duration_pb2.Duration:
    """A duration in ms."""
    nanos = int(ms * 1e6)
    return duration_pb2.Duration(seconds=nanos // 10**9, nanos=nanos % 10**9)


def config(value: SessionConfig) -> pb.SessionConfig:
    """A session's configuration."""
    answer = pb.SessionConfig(
        pool=value.pool,
        pool_version=value.pool_version,
        task=pb.Task.ValueType(int(value.task)),
        classes=value.classes,
        strategy=strategy(value),
        candidates=candidates(value),
        head=head_config(value.head),
        seed=value.seed,
        votes_per_item=value.votes_per_item,
        label_budget=value.label_budget,
        lease_duration=duration(value.lease_ms),
        batch=pb.BatchPolicy(
            name=value.batch.policy.name,
            params=params(value.batch.policy),
            max_similarity=value.batch.max_similarity,
            class_shares=dict(value.batch.class_shares),
        ),
        explore_fraction=value.explore_fraction,
        validation_size=value.validation_size,
        stop=pb.StopRule(
            target_recall=value.stop.target_recall or 0.0,
            confidence=value.stop.confidence,
            class_name=value.stop.class_name,
        ),
        pseudonymous=value.pseudonymous,
    )
    if value.groups is not None:
        answer.groups.CopyFrom(pb.GroupRule(**asdict(value.groups)))
    return answer


def strategy(value: SessionConfig) -> pb.Strategy:
    """A session's strategy, a mix with its shares."""
    parts = [
        pb.Strategy(name=part.strategy.name, params=params(part.strategy)) for part in value.mix
    ]
    if len(parts) == 1:
        return parts[0]
    shares = [
        pb.StrategyShare(strategy=part, share=component.share)
        for part, component in zip(parts, value.mix, strict=True)
    ]
    return pb.Strategy(name=value.strategy, shares=shares)


def params(choice: Choice) -> struct_pb2.Struct:
    """Parameters of a choice."""
    return struct(dict(choice.params))


def struct(values: Mapping[str, Value]) -> struct_pb2.Struct:
    """Values by name."""
    answer = struct_pb2.Struct()
    answer.update(dict(values))
    return answer


def candidates(value: SessionConfig) -> pb.CandidatePolicy:
    """A session's candidate policy, with its filter."""
    answer = pb.CandidatePolicy(filter=value.filter)
    chosen = getattr(answer, name_of(value.candidates))
    chosen.SetInParent()
    for name, number in asdict(value.candidates).items():
        setattr(chosen, name, number)
    return answer


def head_config(value: HeadConfig) -> pb.HeadConfig:
    """How heads are fitted."""
    return pb.HeadConfig(c=value.c, class_weight=CLASS_WEIGHTS[value.class_weight])


def session(record: SessionRecord) -> pb.Session:
    """A session as the store has it."""
    value = SessionConfig.from_settings(record.settings)
    return pb.Session(
        session_id=bare(record.session_id),
        config=config(value),
        create_time=timestamp(record.created_ms),
        basis=basis(value, record.config_version, record.revision),
        prior_head=value.prior_head,
    )


def basis(
    value: SessionConfig, config_version: int, revision: int, head_version: str = ""
) -> pb.Basis:
    """What an answer about a session was computed from."""
    return pb.Basis(
        pool=value.pool,
        pool_version=value.pool_version,
        config_version=config_version,
        revision=revision,
        head_version=head_version,
        seed=value.seed,
    )


def model_basis(model: Model) -> pb.Basis:
    """The basis of an answer from a head."""
    snapshot = model.state.snapshot
    return basis(snapshot.config, snapshot.config_version, snapshot.revision, model.state.version)


def pool_basis(pool: Pool) -> pb.Basis:
    """The basis of an answer about a pool alone."""
    return pb.Basis(pool=pool.manifest.name, pool_version=pool.manifest.version)


def pool(value: Pool) -> pb.Pool:
    """What a pool holds, and the limits of calls."""
    manifest = value.manifest
    return pb.Pool(
        name=manifest.name,
        version=manifest.version,
        parent_version=manifest.parent or "",
        items=manifest.items,
        dimension=manifest.dimension,
        dtype=manifest.dtype,
        metric=METRICS[manifest.metric],
        index_kind=manifest.index,
        clusters=manifest.clusters,
        neighbours=manifest.neighbours,
        neighbours_recall=manifest.neighbours_recall if manifest.neighbours else 0.0,
        metadata_columns=manifest.metadata_columns,
        max_batch_size=checks.MAX_BATCH,
        max_labels_per_call=checks.MAX_LABELS,
        max_vectors_per_call=checks.MAX_VECTORS,
    )


def signal(value: Signal) -> pb.Signal:
    """A stored signal."""
    return pb.Signal(
        name=value.name,
        pool=value.pool,
        pool_version=value.pool_version,
        kind=pb.SignalKind.ValueType(value.kind),
        columns=value.columns,
        count=value.count,
        content_hash=value.content_hash,
        create_time=timestamp(value.created_ms),
        uri=value.uri,
    )


def label(value: SessionConfig, item_id: str, packed: bytes) -> pb.Label:
    """A label of the log."""
    names = value.classes
    if packed == RETRACTION:
        return pb.Label(item_id=item_id, retraction=pb.Retraction())
    content = unpack(packed)
    if content is None:
        return pb.Label(item_id=item_id, unsure=pb.Unsure())
    if isinstance(content, ClassSets):
        sets = pb.MultilabelValue(
            present=[names[i] for i in content.present], absent=[names[i] for i in content.absent]
        )
        return pb.Label(item_id=item_id, classes=sets)
    return pb.Label(item_id=item_id, class_name=names[content])


def item_column(value: Pool, rows: npt.NDArray[np.int32]) -> pb.StringColumn:
    """Ids of rows, packed."""
    data, offsets = value.ids.column(rows)
    return pb.StringColumn(data=data, offsets=offsets)


def class_name(value: SessionConfig, predicted: int) -> str:
    """The predicted class; empty without a head."""
    return value.classes[predicted] if predicted >= 0 else ""
