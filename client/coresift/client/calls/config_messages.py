"""Configuration values as messages, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TypeVar

from coresift.client.calls.config import (
    All,
    Anchors,
    BatchPolicy,
    Candidates,
    Groups,
    HeadConfig,
    Keep,
    Mix,
    RandomSubset,
    Seals,
    StopRule,
    Strategy,
    as_strategy,
)
from coresift.client.calls.named import params_of, struct
from coresift.client.enums import ClassWeight, member, number
from coresift.v1 import selection_pb2 as pb

T = TypeVar("T")
U = TypeVar("U")

POLICIES: Mapping[str, type[Candidates]] = {
    "all": All,
    "seals": Seals,
    "random_subset": RandomSubset,
    "anchors": Anchors,
}
"""Candidate policies by their names in the ``oneof`` of `CandidatePolicy`."""


def given(encode: Callable[[T], U], value: T | Keep | None) -> U | None:
    """The message of a value; None where there is none to send."""
    return None if value is None or isinstance(value, Keep) else encode(value)


def strategy_message(strategy: Strategy | Mix | str) -> pb.Strategy:
    """A strategy, or shares of several."""
    if isinstance(strategy, Mix):
        shares = [
            pb.StrategyShare(strategy=strategy_message(part), share=share)
            for part, share in strategy.shares
        ]
        return pb.Strategy(name="mix", shares=shares)
    strategy = as_strategy(strategy)
    return pb.Strategy(name=strategy.name, params=struct(strategy.params))


def strategy_of(message: pb.Strategy) -> Strategy | Mix:
    """The inverse of `strategy_message`."""
    if message.name == "mix":
        return Mix([(_single(part.strategy), part.share) for part in message.shares])
    return _single(message)


def candidates_message(candidates: Candidates | None, condition: str = "") -> pb.CandidatePolicy:
    """A candidate policy (None: the server's default) with a filter."""
    message = pb.CandidatePolicy(filter=condition)
    if candidates is None:
        return message
    [name] = [name for name, kind in POLICIES.items() if type(candidates) is kind]
    chosen = getattr(message, name)
    chosen.SetInParent()
    for key, value in asdict(candidates).items():
        # On the wire 0 means the default: nobody asks for 0 and wants 100.
        setattr(chosen, key, _nonzero(f"{type(candidates).__name__}.{key}", value))
    return message


def candidates_of(message: pb.CandidatePolicy) -> Candidates:
    """The inverse of `candidates_message`, without the filter."""
    name = message.WhichOneof("policy") or "seals"
    chosen, kind = getattr(message, name), POLICIES[name]
    values = {own.name: getattr(chosen, own.name) for own in chosen.DESCRIPTOR.fields}
    known = kind.__dataclass_fields__
    return kind(**{key: value for key, value in values.items() if value and key in known})


def head_message(head: HeadConfig) -> pb.HeadConfig:
    """How heads are fitted."""
    weight = number(pb.ClassWeight, ClassWeight, head.class_weight)
    return pb.HeadConfig(c=_nonzero("HeadConfig.c", head.c), class_weight=weight)


def head_of(message: pb.HeadConfig) -> HeadConfig:
    """The inverse of `head_message`."""
    weight = message.class_weight or pb.CLASS_WEIGHT_NONE
    return HeadConfig(message.c or 100.0, member(pb.ClassWeight, ClassWeight, weight))


def batch_message(batch: BatchPolicy | str) -> pb.BatchPolicy:
    """How a batch is taken from the scores."""
    batch = BatchPolicy(batch) if isinstance(batch, str) else batch
    return pb.BatchPolicy(
        name=batch.name,
        params=struct(batch.params),
        max_similarity=batch.max_similarity,
        class_shares=batch.class_shares,
    )


def batch_of(message: pb.BatchPolicy) -> BatchPolicy:
    """The inverse of `batch_message`."""
    return BatchPolicy(
        message.name or "top",
        max_similarity=message.max_similarity if message.HasField("max_similarity") else None,
        class_shares=dict(message.class_shares),
        **params_of(message.params),
    )


def groups_message(groups: Groups) -> pb.GroupRule:
    """Which items belong together."""
    if not groups.column:
        raise ValueError("Groups.column must name a metadata column")
    _nonzero("Groups.max_per_batch", groups.max_per_batch)
    return pb.GroupRule(**asdict(groups))


def groups_of(message: pb.GroupRule) -> Groups | None:
    """The inverse of `groups_message`; None: no groups."""
    if not message.column:
        return None
    most = message.max_per_batch or 1
    return Groups(message.column, most, message.one_lease, message.one_label)


def stop_message(stop: StopRule) -> pb.StopRule:
    """When to advise to stop."""
    if stop.target_recall is not None:
        _nonzero("StopRule.target_recall", stop.target_recall)
    return pb.StopRule(
        target_recall=stop.target_recall or 0.0,
        confidence=_nonzero("StopRule.confidence", stop.confidence),
        class_name=stop.class_name,
    )


def stop_of(message: pb.StopRule) -> StopRule | None:
    """The inverse of `stop_message`; None: nothing is judged."""
    if not message.target_recall and not message.class_name:
        return None
    return StopRule(
        message.target_recall or None,
        confidence=message.confidence or 0.95,
        class_name=message.class_name,
    )


def _single(message: pb.Strategy) -> Strategy:
    return Strategy(message.name or "max_entropy", **params_of(message.params))


def _nonzero(name: str, value: T) -> T:
    if value == 0:
        raise ValueError(f"{name} must be greater than 0, got 0")
    return value
