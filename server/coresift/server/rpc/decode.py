"""Messages as domain values: a session's configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from google.protobuf import struct_pb2

from coresift.server.errors import invalid
from coresift.server.head import HeadConfig, Task
from coresift.server.rpc import checks
from coresift.server.selection.candidates import CANDIDATE_POLICIES, CandidatePolicy, Seals
from coresift.server.selection.parameters import Params
from coresift.server.selection.registry import MIX, Choice
from coresift.server.session.lifecycle import PriorWeights, check_mask
from coresift.server.session.setup.config import (
    DEFAULT_LEASE_MS,
    BatchConfig,
    Component,
    GroupRule,
    SessionConfig,
    StopRule,
)
from coresift.v1 import selection_pb2 as pb

MAX_PRIOR = 1_000_000
"""Numbers of a prior head."""


def session_config(given: pb.SessionConfig) -> SessionConfig:
    """The configuration of a new session, as far as its form can be checked."""
    if not given.pool:
        raise invalid("config.pool", "is required")
    values: dict[str, Any] = {}
    for path in _FIELDS:
        values |= _FIELDS[path](given)
    return SessionConfig(
        pool=given.pool,
        task=Task(checks.known("config.task", given.task, pb.Task)),
        classes=tuple(given.classes),
        seed=given.seed,
        pseudonymous=given.pseudonymous,
        **values,
    )


def changes(request: pb.UpdateSessionRequest) -> dict[str, Any]:
    """New values of the fields in the mask, by their names in the domain."""
    paths = list(request.update_mask.paths)
    check_mask(paths, set(_FIELDS))
    values: dict[str, Any] = {}
    for path in paths:
        values |= _FIELDS[path](request.config)
    return values


def prior_weights(request: pb.CreateSessionRequest) -> PriorWeights:
    """The head that a session starts from."""
    given = request.prior_head
    for name, data in (("weights", given.weights), ("bias", given.bias)):
        if len(data) % 8 or not 1 <= len(data) // 8 <= MAX_PRIOR:
            raise invalid(
                f"prior_head.{name}", f"must hold 1..{MAX_PRIOR} float64, got {len(data)} bytes"
            )
    weights, bias = np.frombuffer(given.weights, "<f8"), np.frombuffer(given.bias, "<f8")
    if not given.dimension or len(weights) != given.dimension * len(bias):
        raise invalid(
            "prior_head.weights",
            f"must hold {given.dimension} numbers a class for {len(bias)} classes, "
            f"got {len(weights)}",
        )
    return PriorWeights(weights.reshape(len(bias), given.dimension), bias)


def _mix(given: pb.SessionConfig) -> dict[str, Any]:
    strategy = given.strategy
    if strategy.name != MIX:
        if strategy.shares:
            raise invalid("config.strategy.shares", f"needs the strategy {MIX!r}")
        choice = _choice(strategy.name or "max_entropy", strategy.params, "config.strategy.params")
        return {"mix": (Component(choice),)}
    if len(strategy.shares) < 2:
        raise invalid("config.strategy.shares", "must hold 2..8 strategies")
    if strategy.params.fields:
        raise invalid("config.strategy.params", f"mean nothing for {MIX!r}")
    parts = []
    for i, part in enumerate(strategy.shares):
        path = f"config.strategy.shares[{i}].strategy"
        if part.strategy.name == MIX or part.strategy.shares:
            raise invalid(path, "must not be a mix itself")
        choice = _choice(part.strategy.name, part.strategy.params, f"{path}.params")
        parts.append(Component(choice, part.share))
    return {"mix": tuple(parts)}


def _choice(name: str, given: struct_pb2.Struct, path: str) -> Choice:
    return Choice(name, params(given, path))


def params(given: struct_pb2.Struct, path: str) -> Params:
    """Parameters by name, in order. INVALID_FIELD for a value that is no scalar."""
    values = []
    for name in sorted(given.fields):
        kind = given.fields[name].WhichOneof("kind")
        if kind not in ("number_value", "string_value", "bool_value"):
            raise invalid(f"{path}.{name}", "must be a number, a text or a boolean")
        values.append((name, getattr(given.fields[name], kind)))
    return tuple(values)


def _candidates(given: pb.SessionConfig) -> dict[str, Any]:
    name = given.candidates.WhichOneof("policy")
    policy: CandidatePolicy = Seals()
    if name is not None:
        chosen, kind = getattr(given.candidates, name), CANDIDATE_POLICIES[name]
        numbers = {own.name: getattr(chosen, own.name) for own in fields(kind)}
        policy = kind(**{key: number for key, number in numbers.items() if number})
    return {"candidates": policy, "filter": given.candidates.filter}


def _head(given: pb.SessionConfig) -> dict[str, Any]:
    balanced = False
    if given.head.class_weight:
        field = "config.head.class_weight"
        weight = checks.known(field, given.head.class_weight, pb.ClassWeight)
        balanced = weight == pb.CLASS_WEIGHT_BALANCED
    return {"head": HeadConfig(given.head.c or 100.0, "balanced" if balanced else "none")}


def _batch(given: pb.SessionConfig) -> dict[str, Any]:
    batch = given.batch
    similarity = batch.max_similarity if batch.HasField("max_similarity") else None
    shares = tuple(sorted(batch.class_shares.items()))
    policy = _choice(batch.name or "top", batch.params, "config.batch.params")
    return {"batch": BatchConfig(policy, similarity, shares)}


def _groups(given: pb.SessionConfig) -> dict[str, Any]:
    rule = given.groups
    if not rule.column:
        if given.HasField("groups") and rule != pb.GroupRule():
            raise invalid("config.groups.column", "is required")
        return {"groups": None}
    most = rule.max_per_batch or 1
    return {"groups": GroupRule(rule.column, most, rule.one_lease, rule.one_label)}


def _stop(given: pb.SessionConfig) -> dict[str, Any]:
    stop = given.stop
    rule = StopRule(stop.target_recall or None, stop.confidence or 0.95, stop.class_name)
    return {"stop": rule}


def _label_budget(given: pb.SessionConfig) -> dict[str, Any]:
    return {"label_budget": given.label_budget if given.HasField("label_budget") else None}


def _lease_ms(given: pb.SessionConfig) -> dict[str, Any]:
    return {"lease_ms": checks.lease_ms(given, "config.lease_duration") or DEFAULT_LEASE_MS}


_FIELDS: Mapping[str, Callable[[pb.SessionConfig], dict[str, Any]]] = {
    "strategy": _mix,
    "candidates": _candidates,
    "head": _head,
    "votes_per_item": lambda given: {"votes_per_item": given.votes_per_item or 1},
    "label_budget": _label_budget,
    "lease_duration": _lease_ms,
    "pool_version": lambda given: {"pool_version": given.pool_version},
    "batch": _batch,
    "groups": _groups,
    "explore_fraction": lambda given: {"explore_fraction": given.explore_fraction},
    "validation_size": lambda given: {"validation_size": given.validation_size},
    "stop": _stop,
}
"""Paths that UpdateSession may name, and the fields of the domain that each sets."""
