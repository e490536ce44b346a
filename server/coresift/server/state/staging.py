"""Rows of a staged session as ``restore_rows.lua`` takes them, in pieces."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from coresift.server.state.replies import pack
from coresift.server.state.transfer import Rows

PIECE = 1_000
"""Rows of one script."""
GROUP_ROWS = 1_000
"""As in ``labels.lua``."""
NOTHING: dict[str, list[Any]] = {name: [] for name in "vwxsghlr"}


def staged_rows(rows: Rows) -> Iterator[tuple[str, dict[str, list[Any]]]]:
    """The arguments of each script, and the annotator whose hands it fills (empty: nobody's)."""
    votes = [part for row, own in rows.votes.items() for part in (str(row), pack(dict(own)))]
    extra = [part for row, more in rows.extra.items() for part in (str(row), more)]
    skips = [str(row) if name is None else lease_member(row, name) for row, name in rows.skips]
    held = Counter(lease.row for lease in rows.leases)
    counts = [part for row, count in held.items() for part in (str(row), count)]
    leases = [
        part
        for lease in rows.leases
        for part in (lease.deadline_ms, lease_member(lease.row, lease.annotator))
    ]
    lists: dict[str, list[Any]] = {
        "v": votes,
        "w": list(map(str, rows.unvoted)),
        "x": extra,
        "s": skips,
        "g": _groups(rows),
        "h": counts,
        "l": leases,
    }
    for name, values in lists.items():
        for piece in _cut(values):
            yield "", NOTHING | {name: piece}
    hands: defaultdict[str, list[str]] = defaultdict(list)
    for lease in rows.leases:
        hands[lease.annotator].append(str(lease.row))
    for annotator, own in hands.items():
        for piece in _cut(own):
            yield annotator, NOTHING | {"r": piece}


def lease_member(row: int, annotator: str) -> str:
    """A member of ``leases`` and ``skips``."""
    return f"{row}:{annotator}"


def _groups(rows: Rows) -> list[Any]:
    fields: list[Any] = []
    for group, labelled in rows.labelled_groups.items():
        fields += [f"v{group}", pack([str(row) for row in labelled[:GROUP_ROWS]])]
    for group, row in rows.leased_groups.items():
        fields += [f"l{group}", str(row)]
    return fields


def _cut(values: Sequence[Any]) -> Iterator[list[Any]]:
    """Pieces of an even length, so that pairs stay together."""
    for start in range(0, len(values), 2 * PIECE):
        yield list(values[start : start + 2 * PIECE])
