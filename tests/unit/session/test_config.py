"""A session's configuration: every bound from both sides, and its form in the store."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import pytest
from tests.fixtures.pools import make_pool
from tests.fixtures.replicas import only

from coresift.server.errors import CoresiftError, Reason
from coresift.server.head import HeadConfig, Task
from coresift.server.pool.pool import Pool
from coresift.server.rpc import decode, encode
from coresift.server.selection.candidates import (
    CANDIDATE_POLICIES,
    All,
    Anchors,
    RandomSubset,
    Seals,
)
from coresift.server.selection.registry import BATCH_POLICIES, MIX, STRATEGIES, Choice
from coresift.server.session.lifecycle import check_mask
from coresift.server.session.setup.config import (
    BatchConfig,
    Component,
    GroupRule,
    SessionConfig,
    SignalFile,
    StopRule,
)
from coresift.server.session.setup.config_checks import check_lease, complete
from coresift.server.state.values import Settings
from coresift.v1 import selection_pb2 as pb

REQUIRED = {"signal": {"name": "loss"}}
"""Parameters that strategies cannot do without."""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """60 unit rows with every neighbour known, a split and a camera."""
    X = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    metadata = [{"split": ("train", "test")[row % 3 == 0], "camera": row // 6} for row in range(60)]
    return make_pool(tmp_path_factory.mktemp("pool"), X, metadata=metadata, neighbours=59)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """A pool without metadata."""
    X = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    return make_pool(tmp_path_factory.mktemp("bare"), X)


def a_config(**fields: Any) -> SessionConfig:
    known: dict[str, Any] = {"pool": "p", "pool_version": "v", "task": Task.BINARY, "classes": ()}
    return SessionConfig(**known | fields)


def names(count: int) -> tuple[str, ...]:
    return tuple(f"class {number}" for number in range(count))


def a_mix(*shares: float) -> tuple[Component, ...]:
    parts = [Choice("random"), Choice("max_entropy"), Choice("margin")]
    return tuple(Component(parts[i % 3], share) for i, share in enumerate(shares))


def shares(*given: tuple[str, float]) -> BatchConfig:
    return BatchConfig(class_shares=given)


MULTI = {"task": Task.MULTICLASS, "classes": names(3)}
MULTILABEL = {"task": Task.MULTILABEL, "classes": names(3)}
OF_TASK: dict[Task, dict[str, Any]] = {
    Task.BINARY: {},
    Task.MULTICLASS: MULTI,
    Task.MULTILABEL: MULTILABEL,
}

RIGHT: list[dict[str, Any]] = [
    {},
    {"classes": ("no", "yes")},
    {"task": Task.MULTICLASS, "classes": names(2)},
    {"task": Task.MULTICLASS, "classes": names(1_000)},
    {"task": Task.MULTILABEL, "classes": names(1)},
    {"classes": ("x" * 128, "ä" * 64)},
    {"head": HeadConfig(5e-324)},
    {"head": HeadConfig(1e6)},
    {"head": HeadConfig(1.0, "balanced")},
    {"candidates": All()},
    {"candidates": Seals(1)},
    {"candidates": Seals(1_000)},
    {"candidates": RandomSubset(1)},
    {"candidates": RandomSubset(10_000_000)},
    {"candidates": Anchors(1, 1, 1)},
    {"candidates": Anchors(100_000, 100, 1_000)},
    {"filter": "split == 'train' and camera == 3"},
    {"mix": a_mix(1, 2)},
    {"mix": a_mix(1e-6, 1e6)},
    {"mix": a_mix(*range(1, 9))},
    {"mix": (Component(Choice("margin", (("over", "max"),))),)} | MULTILABEL,
    {"batch": BatchConfig(max_similarity=5e-324)},
    {"batch": BatchConfig(max_similarity=1.0)},
    {"batch": shares(("negative", 0.0), ("positive", 1.0))},
    {"batch": shares(("positive", 0.3))},
    {"batch": shares(("class 0", 0.5), ("class 2", 0.5))} | MULTI,
    {"batch": shares(*((name, 0.1) for name in names(10)))}
    | {"task": Task.MULTICLASS, "classes": names(10)},
    {"groups": GroupRule("camera")},
    {"groups": GroupRule("camera", 1_000)},
    {"groups": GroupRule("camera", one_lease=True, one_label=True)},
    {"groups": GroupRule("split", 1, one_lease=True)},
    {"explore_fraction": 0.25},
    {"explore_fraction": 1.0},
    {"validation_size": 1},
    {"validation_size": 100_000},
    {"stop": StopRule(5e-324, 0.5)},
    {"stop": StopRule(1.0, 0.999, "negative")},
    {"stop": StopRule(class_name="class 1")} | MULTI,
    {"stop": StopRule(0.9, class_name="class 1")} | MULTI,
    {"votes_per_item": 100},
    {"label_budget": 0},
    {"label_budget": 2**53 - 1},
    {"lease_ms": 1_000},
    {"lease_ms": 24 * 3600 * 1000},
    {"seed": 2**64 - 1},
    {"signals": (SignalFile("loss/", "ab" * 32, "loss"),)},
    {"prior_head": "cd" * 32},
    *({"batch": BatchConfig(Choice(name))} for name in BATCH_POLICIES),
    *(
        {"mix": only(name, **REQUIRED.get(name, {}))} | OF_TASK[task]
        for name, kind in STRATEGIES.items()
        for task in sorted(kind.tasks)
    ),
]


@pytest.mark.parametrize("fields", RIGHT)
def test_what_may_be_survives_the_store(pool: Pool, fields: dict[str, Any]) -> None:
    config = complete(a_config(**fields), pool)
    settings = config.settings()
    assert SessionConfig.from_settings(settings) == config
    assert (settings.quota, settings.budget) == (config.votes_per_item, config.label_budget)
    assert complete(config, pool) == config


@pytest.mark.parametrize("fields", RIGHT)
def test_what_may_be_survives_the_wire(pool: Pool, fields: dict[str, Any]) -> None:
    """All that a caller may set; where signals and a prior lie is the server's business."""
    config = complete(a_config(**fields | {"signals": (), "prior_head": ""}), pool)
    sent = pb.SessionConfig.FromString(encode.config(config).SerializeToString())
    again = decode.session_config(sent)
    assert encode.config(again) == sent
    assert complete(again, pool) == again
    assert again == config


def test_a_binary_task_names_its_sides_itself(pool: Pool) -> None:
    assert complete(a_config(), pool).classes == ("negative", "positive")


def test_a_session_is_known_by_its_strategy_or_as_a_mix() -> None:
    assert a_config().strategy == "max_entropy"
    assert a_config(mix=only("random")).strategy == "random"
    assert a_config(mix=a_mix(1, 1)).strategy == MIX


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"classes": ("one",)}, "config.classes"),
        ({"classes": names(3)}, "config.classes"),
        ({"task": Task.MULTICLASS, "classes": names(1)}, "config.classes"),
        ({"task": Task.MULTICLASS}, "config.classes"),
        ({"task": Task.MULTICLASS, "classes": names(1_001)}, "config.classes"),
        ({"task": Task.MULTILABEL}, "config.classes"),
        ({"task": Task.MULTILABEL, "classes": names(1_001)}, "config.classes"),
        ({"classes": ("a", "a")}, "config.classes[1]"),
        ({"classes": ("a", "")}, "config.classes[1]"),
        ({"classes": ("x" * 129, "b")}, "config.classes[0]"),
        ({"classes": ("ä" * 65, "b")}, "config.classes[0]"),
        ({"head": HeadConfig(0)}, "config.head.c"),
        ({"head": HeadConfig(-1)}, "config.head.c"),
        ({"head": HeadConfig(1e6 * (1 + 1e-9))}, "config.head.c"),
        ({"head": HeadConfig(float("nan"))}, "config.head.c"),
        ({"head": HeadConfig(float("inf"))}, "config.head.c"),
        ({"candidates": Seals(0)}, "config.candidates.seals.k"),
        ({"candidates": Seals(1_001)}, "config.candidates.seals.k"),
        ({"candidates": RandomSubset(0)}, "config.candidates.random_subset.size"),
        ({"candidates": RandomSubset(10_000_001)}, "config.candidates.random_subset.size"),
        ({"candidates": Anchors(size=0)}, "config.candidates.anchors.size"),
        ({"candidates": Anchors(size=100_001)}, "config.candidates.anchors.size"),
        ({"candidates": Anchors(per_class=0)}, "config.candidates.anchors.per_class"),
        ({"candidates": Anchors(per_class=101)}, "config.candidates.anchors.per_class"),
        ({"candidates": Anchors(neighbours=0)}, "config.candidates.anchors.neighbours"),
        ({"candidates": Anchors(neighbours=1_001)}, "config.candidates.anchors.neighbours"),
        ({"filter": "split = = 'train'"}, "config.candidates.filter"),
        ({"filter": "depth == 1"}, "config.candidates.filter"),
        ({"filter": "split == 'nothing'"}, "config.candidates.filter"),
        ({"mix": a_mix(9e-7, 1)}, "config.strategy.shares[0].share"),
        ({"mix": a_mix(1, 1.1e6)}, "config.strategy.shares[1].share"),
        ({"mix": ()}, "config.strategy.shares"),
        ({"mix": a_mix(*range(1, 10))}, "config.strategy.shares"),
        ({"mix": a_mix(1, 0)}, "config.strategy.shares[1].share"),
        ({"mix": a_mix(-1, 1)}, "config.strategy.shares[0].share"),
        ({"mix": a_mix(1, float("nan"))}, "config.strategy.shares[1].share"),
        ({"mix": a_mix(float("inf"), 1)}, "config.strategy.shares[0].share"),
        (
            {"mix": (*a_mix(1), Component(Choice("most_likely_positive")))} | MULTI,
            "config.strategy.shares[1].strategy.name",
        ),
        (
            {"mix": (*a_mix(1), Component(Choice("signal")))},
            "config.strategy.shares[1].strategy.params.name",
        ),
        ({"mix": only("signal")}, "config.strategy.params.name"),
        ({"mix": only("signal", name="")}, "config.strategy.params.name"),
        ({"mix": only("signal", name="x" * 129)}, "config.strategy.params.name"),
        ({"mix": only("signal", name="x", order="middle")}, "config.strategy.params.order"),
        ({"mix": only("random", luck=1.0)}, "config.strategy.params.luck"),
        ({"mix": only("margin", over="median")} | MULTILABEL, "config.strategy.params.over"),
        ({"mix": only("margin", over="max")}, "config.strategy"),
        ({"mix": only("most_likely_positive")} | MULTI, "config.strategy.name"),
        ({"batch": BatchConfig(Choice("top", (("n", 1.0),)))}, "config.batch.params.n"),
        ({"batch": BatchConfig(max_similarity=0.0)}, "config.batch.max_similarity"),
        ({"batch": BatchConfig(max_similarity=-0.5)}, "config.batch.max_similarity"),
        ({"batch": BatchConfig(max_similarity=1 + 1e-9)}, "config.batch.max_similarity"),
        ({"batch": BatchConfig(max_similarity=float("nan"))}, "config.batch.max_similarity"),
        ({"batch": shares(("positive", -0.1))}, "config.batch.class_shares['positive']"),
        ({"batch": shares(("positive", 1.1))}, "config.batch.class_shares['positive']"),
        ({"batch": shares(("positive", float("nan")))}, "config.batch.class_shares['positive']"),
        ({"batch": shares(("negative", 0.6), ("positive", 0.5))}, "config.batch.class_shares"),
        ({"batch": shares(("class 0", 0.1))} | MULTILABEL, "config.batch.class_shares"),
        ({"groups": GroupRule("video")}, "config.groups.column"),
        ({"groups": GroupRule("camera", 0)}, "config.groups.max_per_batch"),
        ({"groups": GroupRule("camera", 1_001)}, "config.groups.max_per_batch"),
        ({"groups": GroupRule("camera", 2, one_lease=True)}, "config.groups.max_per_batch"),
        (
            {"groups": GroupRule("camera", 2, one_lease=True, one_label=True)},
            "config.groups.max_per_batch",
        ),
        (
            {"groups": GroupRule("camera", one_label=True), "explore_fraction": 0.1},
            "config.explore_fraction",
        ),
        (
            {"groups": GroupRule("camera", one_label=True), "validation_size": 1},
            "config.validation_size",
        ),
        (
            {"groups": GroupRule("camera", one_label=True), "stop": StopRule(0.9)},
            "config.stop.target_recall",
        ),
        ({"explore_fraction": -1e-9}, "config.explore_fraction"),
        ({"explore_fraction": 1 + 1e-9}, "config.explore_fraction"),
        ({"explore_fraction": float("nan")}, "config.explore_fraction"),
        ({"validation_size": 100_001}, "config.validation_size"),
        ({"stop": StopRule(0.0)}, "config.stop.target_recall"),
        ({"stop": StopRule(1 + 1e-9)}, "config.stop.target_recall"),
        ({"stop": StopRule(float("nan"))}, "config.stop.target_recall"),
        ({"stop": StopRule(0.9, 0.499)}, "config.stop.confidence"),
        ({"stop": StopRule(0.9, 0.9991)}, "config.stop.confidence"),
        ({"stop": StopRule(confidence=float("nan"))}, "config.stop.confidence"),
        ({"stop": StopRule(0.9)} | MULTI, "config.stop.class_name"),
        ({"stop": StopRule(0.9)} | MULTILABEL, "config.stop.class_name"),
        ({"votes_per_item": 0}, "config.votes_per_item"),
        ({"votes_per_item": 101}, "config.votes_per_item"),
        ({"label_budget": 2**53}, "config.label_budget"),
        ({"lease_ms": 999}, "config.lease_duration"),
        ({"lease_ms": 24 * 3600 * 1000 + 1}, "config.lease_duration"),
    ],
)
def test_what_may_not_be_names_its_field(pool: Pool, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(CoresiftError) as caught:
        complete(a_config(**fields), pool)
    assert (caught.value.reason, caught.value.field) == (Reason.INVALID_FIELD, field)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"batch": shares(("spam", 0.5))}, "config.batch.class_shares['spam']"),
        ({"stop": StopRule(class_name="spam")}, "config.stop.class_name"),
        ({"stop": StopRule(0.9, class_name="positive")} | MULTI, "config.stop.class_name"),
    ],
)
def test_a_class_must_be_one_of_the_session(pool: Pool, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(CoresiftError) as caught:
        complete(a_config(**fields), pool)
    assert (caught.value.reason, caught.value.field) == (Reason.UNKNOWN_CLASS, field)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"filter": "split == 'train'"}, "config.candidates.filter"),
        ({"groups": GroupRule("camera")}, "config.groups.column"),
    ],
)
def test_filters_and_groups_need_metadata(bare: Pool, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(CoresiftError, match="needs metadata") as caught:
        complete(a_config(**fields), bare)
    assert (caught.value.reason, caught.value.field) == (Reason.INVALID_FIELD, field)


@pytest.mark.parametrize(
    ("fields", "field", "valid"),
    [
        ({"mix": only("sea")}, "config.strategy.name", [*STRATEGIES, MIX]),
        (
            {"mix": (*a_mix(1), Component(Choice("sea")))},
            "config.strategy.shares[1].strategy.name",
            [*STRATEGIES, MIX],
        ),
        ({"batch": BatchConfig(Choice("sea"))}, "config.batch.name", [*BATCH_POLICIES]),
    ],
)
def test_an_unknown_method_lists_the_known(
    pool: Pool, fields: dict[str, Any], field: str, valid: list[str]
) -> None:
    with pytest.raises(CoresiftError) as caught:
        complete(a_config(**fields), pool)
    assert (caught.value.reason, caught.value.field) == (Reason.UNKNOWN_METHOD, field)
    assert caught.value.metadata["valid"].split(",") == valid
    assert ", ".join(valid) in caught.value.message


FULL = a_config(
    classes=("no", "yes"),
    mix=(*a_mix(1), Component(Choice("signal", (("name", "loss"),)), 2.0)),
    candidates=Anchors(),
    batch=BatchConfig(max_similarity=0.9, class_shares=(("yes", 0.5),)),
    groups=GroupRule("camera"),
    stop=StopRule(0.9),
    signals=(SignalFile("loss/", "ab" * 32, "loss"),),
)
"""A configuration with something in every place."""


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("from_the_future",), 1),
        (("task",), 99),
        (("head", "kernel"), "rbf"),
        (("head", "class_weight"), "inverse square root"),
        (("mix", 1, "temperature"), 1.0),
        (("mix", 1, "strategy", "name"), "oracle"),
        (("mix", 1, "strategy", "version"), 2),
        (("mix", 1, "strategy", "params"), [["name", "loss"], ["clip", 1.0]]),
        (("mix", 1, "strategy", "params"), [["name", "loss"], ["order", "middle"]]),
        (("candidates", 0), "oracle"),
        (("candidates", 1, "radius"), 1.0),
        (("batch", "shuffle"), True),
        (("batch", "policy", "name"), "oracle"),
        (("batch", "policy", "version"), 2),
        (("batch", "policy", "params"), [["beta", 1.0]]),
        (("groups", "order"), "by time"),
        (("stop", "patience"), 3),
        (("signals", 0, "row"), 3),
        (("signals", 0, "content_hash"), "../../private"),
        (("signals", 0, "content_hash"), "AB" * 32),
        (("signals", 0, "content_hash"), 3),
        (("signals", 0, "doubt"), "oracle"),
        (("prior_head",), "ab" * 32 + "\n"),
        (("prior_head",), 3),
    ],
    ids=lambda part: ".".join(map(str, part)) if isinstance(part, tuple) else None,
)
def test_what_only_a_newer_release_knows_is_refused(path: tuple[Any, ...], value: object) -> None:
    packed = msgpack.unpackb(FULL.settings().config)
    assert SessionConfig.from_settings(Settings(1, None, msgpack.packb(packed))) == FULL
    place = packed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(CoresiftError, match="newer release") as caught:
        SessionConfig.from_settings(Settings(1, None, msgpack.packb(packed)))
    assert caught.value.reason is Reason.FORMAT_TOO_NEW


def test_a_lease_has_bounds() -> None:
    check_lease("lease_duration", 1_000)
    with pytest.raises(CoresiftError, match="lease_duration must be 1 s to 24 h"):
        check_lease("lease_duration", 500)


MUTABLE = {
    "strategy",
    "candidates",
    "head",
    "votes_per_item",
    "label_budget",
    "lease_duration",
    "pool_version",
    "batch",
    "groups",
    "explore_fraction",
    "validation_size",
    "stop",
}
NEVER = {"pool", "task", "classes", "seed", "pseudonymous"}


def test_every_field_of_the_wire_changes_or_never_does() -> None:
    fields = set(pb.SessionConfig.DESCRIPTOR.fields_by_name)
    assert fields == MUTABLE | NEVER
    for path in sorted(fields):
        request = pb.UpdateSessionRequest(session_id="s")
        request.update_mask.paths.append(path)
        if path in MUTABLE:
            assert decode.changes(request)
        else:
            with pytest.raises(CoresiftError) as caught:
                decode.changes(request)
            assert caught.value.reason is Reason.IMMUTABLE_FIELD


def test_a_mask_names_what_may_change() -> None:
    check_mask(sorted(MUTABLE), MUTABLE)


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        ([], Reason.INVALID_FIELD),
        (["nothing"], Reason.INVALID_FIELD),
        (["mix"], Reason.INVALID_FIELD),
        (["lease_ms"], Reason.INVALID_FIELD),
        (["strategy", "seed"], Reason.IMMUTABLE_FIELD),
        (["task"], Reason.IMMUTABLE_FIELD),
        (["classes"], Reason.IMMUTABLE_FIELD),
        (["pool"], Reason.IMMUTABLE_FIELD),
    ],
)
def test_a_mask_names_nothing_else(paths: list[str], reason: Reason) -> None:
    with pytest.raises(CoresiftError) as caught:
        check_mask(paths, MUTABLE)
    assert caught.value.reason is reason
    assert caught.value.field == "update_mask"


def test_every_candidate_policy_is_tried_here() -> None:
    assert {type(fields["candidates"]) for fields in RIGHT if "candidates" in fields} == set(
        CANDIDATE_POLICIES.values()
    )
