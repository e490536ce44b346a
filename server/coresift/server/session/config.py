"""A session's configuration: what it may be, and its form in the state store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_args

import msgpack

from coresift.server.errors import CoresiftError, Reason, invalid
from coresift.server.head import ClassWeight, HeadConfig, Task
from coresift.server.selection.strategies import ONLY_BINARY, STRATEGIES
from coresift.server.state.store import Settings

DEFAULT_LEASE_MS = 15 * 60 * 1000
MIN_LEASE_MS, MAX_LEASE_MS = 1_000, 24 * 3600 * 1000
MAX_CLASSES = 1_000
MAX_NEIGHBOURS = 1_000
MAX_VOTES_PER_ITEM = 100


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """How a session selects.

    ``seals_k`` is the candidate policy: the k of SEALS (Coleman et al., 2022), or None for all.
    """

    pool: str
    pool_version: str
    task: Task
    classes: tuple[str, ...]
    strategy: str = "max_entropy"
    seals_k: int | None = 100
    head: HeadConfig = field(default_factory=HeadConfig)
    seed: int = 0
    votes_per_item: int = 1
    label_budget: int | None = None
    lease_ms: int = DEFAULT_LEASE_MS

    def settings(self) -> Settings:
        """The form that the store keeps."""
        return Settings(self.votes_per_item, self.label_budget, msgpack.packb(asdict(self)))

    @classmethod
    def from_settings(cls, settings: Settings) -> SessionConfig:
        """The inverse of `settings`. FORMAT_TOO_NEW for what only a newer release knows."""
        fields = msgpack.unpackb(settings.config)
        if unknown := _unknown(fields):
            raise CoresiftError(
                Reason.FORMAT_TOO_NEW,
                f"a newer release configured this session: {', '.join(unknown)}",
            )
        return cls(
            **fields
            | {
                "task": Task(fields["task"]),
                "classes": tuple(fields["classes"]),
                "head": HeadConfig(**fields["head"]),
            }
        )


def _unknown(fields: Mapping[str, Any]) -> list[str]:
    """Fields, and values of fields that choose, which this release does not know."""
    head = fields["head"]
    chosen = {
        "task": fields["task"] in {int(task) for task in Task},
        "strategy": fields["strategy"] in STRATEGIES,
        "head.class_weight": head["class_weight"] in get_args(ClassWeight),
    }
    return sorted(
        [
            *fields.keys() - set(SessionConfig.__slots__),
            *(f"head.{name}" for name in head.keys() - set(HeadConfig.__slots__)),
            *(name for name, is_known in chosen.items() if not is_known),
        ]
    )


def complete(config: SessionConfig) -> SessionConfig:
    """The configuration with defaults filled in; raises INVALID_FIELD or UNKNOWN_METHOD."""
    classes = config.classes
    if config.task is Task.BINARY and not classes:
        classes = ("negative", "positive")
    _check_classes(config.task, classes)
    _check_strategy(config)
    if not 0 < config.head.c <= 1e6:
        raise invalid("config.head.c", f"must be in (0, 1e6], got {config.head.c}")
    if config.seals_k is not None and not 1 <= config.seals_k <= MAX_NEIGHBOURS:
        raise invalid(
            "config.candidates.seals.k", f"must be 1..{MAX_NEIGHBOURS}, got {config.seals_k}"
        )
    if not 1 <= config.votes_per_item <= MAX_VOTES_PER_ITEM:
        raise invalid(
            "config.votes_per_item",
            f"must be 1..{MAX_VOTES_PER_ITEM}, got {config.votes_per_item}",
        )
    if config.label_budget is not None and config.label_budget >= 2**53:
        raise invalid("config.label_budget", f"must be below 2^53, got {config.label_budget}")
    check_lease("config.lease_duration", config.lease_ms)
    return replace(config, classes=classes)


def check_lease(field: str, lease_ms: int) -> None:
    """Refuse lease durations outside 1 s..24 h."""
    if not MIN_LEASE_MS <= lease_ms <= MAX_LEASE_MS:
        raise invalid(field, f"must be 1 s to 24 h, got {lease_ms / 1000:g} s")


def _check_classes(task: Task, classes: tuple[str, ...]) -> None:
    least = 1 if task is Task.MULTILABEL else 2
    most = 2 if task is Task.BINARY else MAX_CLASSES
    if not least <= len(classes) <= most:
        raise invalid(
            "config.classes", f"must hold {least}..{most} names for this task, got {len(classes)}"
        )
    seen: set[str] = set()
    for i, name in enumerate(classes):
        if not 1 <= len(name.encode()) <= 128:
            raise invalid(f"config.classes[{i}]", "must have 1..128 bytes")
        if name in seen:
            raise invalid(f"config.classes[{i}]", f"repeats {name!r}")
        seen.add(name)


def _check_strategy(config: SessionConfig) -> None:
    if config.strategy not in STRATEGIES:
        raise CoresiftError(
            Reason.UNKNOWN_METHOD,
            f"no strategy {config.strategy!r}; valid are {', '.join(STRATEGIES)}",
            field="config.strategy.name",
            valid=",".join(STRATEGIES),
        )
    if config.strategy in ONLY_BINARY and config.task is not Task.BINARY:
        raise invalid("config.strategy.name", f"{config.strategy!r} needs a binary task")
