"""What a session's configuration must keep: refusals that name the field and the limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from coresift.server.errors import CoresiftError, Reason, invalid
from coresift.server.head import Task
from coresift.server.pool.pool import Pool
from coresift.server.selection.candidates import name_of
from coresift.server.selection.parameters import read
from coresift.server.selection.registry import batch_policy_of, check_strategy
from coresift.server.selection.strategy import Setting
from coresift.server.session.setup.config import GroupRule, SessionConfig

MIN_LEASE_MS, MAX_LEASE_MS = 1_000, 24 * 3600 * 1000
MAX_CLASSES = 1_000
MAX_VOTES_PER_ITEM = 100
MAX_MIX = 8
MIN_SHARE, MAX_SHARE = 1e-6, 1e6
MAX_VALIDATION = 100_000
MAX_GROUP_ITEMS = 1_000
LISTED = 20
"""Names that an error lists."""


def complete(config: SessionConfig, pool: Pool) -> SessionConfig:
    """The configuration with defaults filled in.

    Raises:
        CoresiftError: INVALID_FIELD, UNKNOWN_METHOD, UNKNOWN_CLASS, POOL_LACKS_NEIGHBOURS.
    """
    if config.task is Task.BINARY and not config.classes:
        config = replace(config, classes=("negative", "positive"))
    _check_classes(config.task, config.classes)
    _check_mix(config, pool)
    _check_candidates(config, pool)
    _check_batch(config)
    if config.groups is not None:
        rule = config.groups
        config = replace(config, groups=replace(rule, one_lease=rule.one_lease or rule.one_label))
        _check_groups(rule, pool)
    _check_stop(config)
    _check_sampling(config)
    if not 0 < config.head.c <= 1e6:
        raise invalid("config.head.c", f"must be in (0, 1e6], got {config.head.c}")
    if not 0 <= config.explore_fraction <= 1:
        raise invalid("config.explore_fraction", f"must be 0..1, got {config.explore_fraction}")
    if config.validation_size > MAX_VALIDATION:
        raise invalid(
            "config.validation_size", f"must be 0..{MAX_VALIDATION}, got {config.validation_size}"
        )
    if not 1 <= config.votes_per_item <= MAX_VOTES_PER_ITEM:
        raise invalid(
            "config.votes_per_item",
            f"must be 1..{MAX_VOTES_PER_ITEM}, got {config.votes_per_item}",
        )
    if config.label_budget is not None and config.label_budget >= 2**53:
        raise invalid("config.label_budget", f"must be below 2^53, got {config.label_budget}")
    check_lease("config.lease_duration", config.lease_ms)
    return config


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


def _check_mix(config: SessionConfig, pool: Pool) -> None:
    logits = 1 if config.task is Task.BINARY else len(config.classes)
    setting = Setting(config.task, logits, pool)
    if len(config.mix) == 1:
        check_strategy(config.mix[0].strategy, setting)
        return
    path = "config.strategy.shares"
    if not 2 <= len(config.mix) <= MAX_MIX:
        raise invalid(path, f"must hold 2..{MAX_MIX} strategies, got {len(config.mix)}")
    for i, part in enumerate(config.mix):
        check_strategy(part.strategy, setting, f"{path}[{i}].strategy")
        if not MIN_SHARE <= part.share <= MAX_SHARE:
            raise invalid(
                f"{path}[{i}].share", f"must be {MIN_SHARE:g}..{MAX_SHARE:g}, got {part.share:g}"
            )


def _check_candidates(config: SessionConfig, pool: Pool) -> None:
    policy = config.candidates
    params: dict[str, Any] = {own.name: getattr(policy, own.name) for own in fields(policy)}
    read(type(policy), params, f"config.candidates.{name_of(policy)}")
    if config.filter:
        pool.where(config.filter, field="config.candidates.filter")


def _check_batch(config: SessionConfig) -> None:
    batch = config.batch
    batch_policy_of(batch.policy)
    if batch.max_similarity is not None and not 0 < batch.max_similarity <= 1:
        raise invalid(
            "config.batch.max_similarity", f"must be in (0, 1], got {batch.max_similarity:g}"
        )
    path = "config.batch.class_shares"
    if batch.class_shares and config.task is Task.MULTILABEL:
        raise invalid(path, "need a binary or multiclass task")
    for name, share in batch.class_shares:
        check_class(f"{path}[{name!r}]", name, config.classes)
        if not 0 <= share <= 1:
            raise invalid(f"{path}[{name!r}]", f"must be 0..1, got {share}")
    if (total := sum(share for _, share in batch.class_shares)) > 1 + 1e-9:
        raise invalid(path, f"must sum to at most 1, got {total:g}")


def check_class(field: str, name: str, classes: Sequence[str]) -> None:
    """Refuse a class that the session does not have. UNKNOWN_CLASS."""
    if name not in classes:
        more = "" if len(classes) <= LISTED else f" and {len(classes) - LISTED} more"
        raise CoresiftError(
            Reason.UNKNOWN_CLASS,
            f"{field}: the session has no class {name!r}; it has "
            f"{', '.join(classes[:LISTED])}{more}",
            field=field,
        )


def _check_groups(rule: GroupRule, pool: Pool) -> None:
    if not 1 <= rule.max_per_batch <= MAX_GROUP_ITEMS:
        raise invalid(
            "config.groups.max_per_batch", f"must be 1..{MAX_GROUP_ITEMS}, got {rule.max_per_batch}"
        )
    if (rule.one_lease or rule.one_label) and rule.max_per_batch != 1:
        raise invalid(
            "config.groups.max_per_batch", "must be 1 where a group has one lease or one label"
        )
    pool.groups(rule.column, field="config.groups.column")


def _check_sampling(config: SessionConfig) -> None:
    """Refuse random samples that could never be labelled whole."""
    if config.groups is None or not config.groups.one_label:
        return
    for field, asked in (
        ("explore_fraction", config.explore_fraction > 0),
        ("validation_size", config.validation_size > 0),
        ("stop.target_recall", config.stop.target_recall is not None),
    ):
        if asked:
            raise invalid(
                f"config.{field}",
                "needs a random sample of items, which groups.one_label never lets be labelled; "
                "leave one of them out",
            )


def _check_stop(config: SessionConfig) -> None:
    stop = config.stop
    if stop.target_recall is not None and not 0 < stop.target_recall <= 1:
        raise invalid("config.stop.target_recall", f"must be in (0, 1], got {stop.target_recall}")
    if not 0.5 <= stop.confidence <= 0.999:
        raise invalid("config.stop.confidence", f"must be 0.5..0.999, got {stop.confidence}")
    if stop.class_name:
        check_class("config.stop.class_name", stop.class_name, config.classes)
    elif stop.target_recall is not None and config.task is not Task.BINARY:
        raise invalid("config.stop.class_name", "is required with target_recall on this task")
