"""What the scripts of labels and leases are told, and what is refused before they run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from coresift.server.errors import CoresiftError, Reason, invalid
from coresift.server.state.values import (
    MAX_GROUP,
    NO_GROUP,
    LabelWrite,
    ViewKey,
)


def view_arguments(view: ViewKey) -> dict[str, Any]:
    """The scripts' arguments (``prelude.lua``: is_rewound)."""
    return {
        "vp": view.offset,
        "vt": view.tip,
        "vr": view.revision,
        "vn": view.nonce,
        "vc": view.config_version,
    }


def distinct(rows: Sequence[int]) -> list[int]:
    """The rows, each once."""
    return list(dict.fromkeys(map(int, rows)))


def places(rows: Sequence[int], once: Collection[int]) -> dict[str, list[int]]:
    """Which of the distinct rows each label has; absent where no row stands there twice."""
    if len(rows) == len(once):
        return {}
    place_of = {row: place for place, row in enumerate(once, 1)}
    return {"l": [place_of[row] for row in rows]}


def groups_argument(groups: Sequence[int]) -> dict[str, list[int]]:
    """The scripts' argument, absent where no item has a group."""
    least, most = min(groups, default=NO_GROUP), max(groups, default=NO_GROUP)
    if not NO_GROUP <= least <= most <= MAX_GROUP:
        raise ValueError(f"groups must be {NO_GROUP}..{MAX_GROUP}")
    return {} if most == NO_GROUP else {"g": list(map(int, groups))}


def check_limit(field: str, count: int, most: int) -> None:
    """INVALID_FIELD for a number that is not in 1..most."""
    if not 1 <= count <= most:
        raise invalid(field, f"must be 1..{most}, got {count}")


def refuse_conflicts(labels: Sequence[LabelWrite]) -> None:
    """CONFLICTING_LABELS where a row stands twice, differently."""
    values: dict[int, bytes] = {}
    for index, label in enumerate(labels):
        if values.setdefault(label.row, label.value) != label.value:
            raise CoresiftError(
                Reason.CONFLICTING_LABELS,
                f"labels[{index}] labels {label.item_id!r} a second time, differently",
                field=f"labels[{index}]",
                item_id=label.item_id,
            )
