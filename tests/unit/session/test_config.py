"""A session's configuration: every bound from both sides, and its form in the store."""

from __future__ import annotations

from typing import Any

import pytest

from coresift.server.errors import CoresiftError, Reason
from coresift.server.head import HeadConfig, Task
from coresift.server.selection.strategies import ONLY_BINARY, STRATEGIES
from coresift.server.session.config import SessionConfig, check_lease, complete
from coresift.server.session.lifecycle import MUTABLE, check_mask


def a_config(**fields: Any) -> SessionConfig:
    known: dict[str, Any] = {"pool": "p", "pool_version": "v", "task": Task.BINARY, "classes": ()}
    return SessionConfig(**known | fields)


def names(count: int) -> tuple[str, ...]:
    return tuple(f"class {number}" for number in range(count))


MULTI = {"task": Task.MULTICLASS, "classes": names(3)}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"classes": ("no", "yes")},
        {"task": Task.MULTICLASS, "classes": names(2)},
        {"task": Task.MULTICLASS, "classes": names(1_000)},
        {"task": Task.MULTILABEL, "classes": names(1)},
        {"classes": ("x" * 128, "ä" * 64)},
        {"head": HeadConfig(5e-324)},
        {"head": HeadConfig(1e6)},
        {"seals_k": None},
        {"seals_k": 1},
        {"seals_k": 1_000},
        {"votes_per_item": 100},
        {"label_budget": 0},
        {"label_budget": 2**53 - 1},
        {"lease_ms": 1_000},
        {"lease_ms": 24 * 3600 * 1000},
        {"seed": 2**64 - 1},
        *({"strategy": name} for name in STRATEGIES),
        *({"strategy": name} | MULTI for name in STRATEGIES if name not in ONLY_BINARY),
    ],
)
def test_what_may_be_survives_the_store(fields: dict[str, Any]) -> None:
    config = complete(a_config(**fields))
    settings = config.settings()
    assert SessionConfig.from_settings(settings) == config
    assert (settings.quota, settings.budget) == (config.votes_per_item, config.label_budget)
    assert complete(config) == config


def test_a_binary_task_names_its_sides_itself() -> None:
    assert complete(a_config()).classes == ("negative", "positive")


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
        ({"seals_k": 0}, "config.candidates.seals.k"),
        ({"seals_k": 1_001}, "config.candidates.seals.k"),
        ({"votes_per_item": 0}, "config.votes_per_item"),
        ({"votes_per_item": 101}, "config.votes_per_item"),
        ({"label_budget": 2**53}, "config.label_budget"),
        ({"lease_ms": 999}, "config.lease_duration"),
        ({"lease_ms": 24 * 3600 * 1000 + 1}, "config.lease_duration"),
        ({"strategy": "most_likely_positive"} | MULTI, "config.strategy.name"),
    ],
)
def test_what_may_not_be_names_its_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(CoresiftError) as caught:
        complete(a_config(**fields))
    assert caught.value.reason is Reason.INVALID_FIELD
    assert caught.value.field == field


def test_an_unknown_strategy_lists_the_known() -> None:
    with pytest.raises(CoresiftError) as caught:
        complete(a_config(strategy="bald"))
    assert caught.value.reason is Reason.UNKNOWN_METHOD
    assert caught.value.metadata["valid"].split(",") == list(STRATEGIES)


def test_a_lease_has_bounds() -> None:
    check_lease("lease_duration", 1_000)
    with pytest.raises(CoresiftError, match="lease_duration must be 1 s to 24 h"):
        check_lease("lease_duration", 500)


RENAMED = {"candidates": "seals_k", "lease_duration": "lease_ms"}


def test_a_mask_names_what_may_change() -> None:
    wire = {renamed: path for path, renamed in RENAMED.items()}
    check_mask([wire.get(field, field) for field in MUTABLE], RENAMED)


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        ([], Reason.INVALID_FIELD),
        (["nothing"], Reason.INVALID_FIELD),
        (["seals_k"], Reason.INVALID_FIELD),
        (["strategy", "seed"], Reason.IMMUTABLE_FIELD),
        (["task"], Reason.IMMUTABLE_FIELD),
        (["classes"], Reason.IMMUTABLE_FIELD),
        (["pool"], Reason.IMMUTABLE_FIELD),
    ],
)
def test_a_mask_names_nothing_else(paths: list[str], reason: Reason) -> None:
    with pytest.raises(CoresiftError) as caught:
        check_mask(paths, RENAMED)
    assert caught.value.reason is reason
    assert caught.value.field == "update_mask"
