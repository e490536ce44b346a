"""What is written of a staged session, in the pieces that scripts take."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from coresift.server.state.replies import pack
from coresift.server.state.transfer import Rows

T = TypeVar("T")

PIECE = 1_000
"""Rows of one script."""
LOG_PIECE_BYTES = 1 << 20
"""Of entries in one script."""
GROUP_ROWS = 1_000
"""As in ``labels.lua``."""
NOTHING: dict[str, list[Any]] = {name: [] for name in "vwxsghlr"}


def staged_rows(rows: Rows) -> Iterator[tuple[str, dict[str, list[Any]]]]:
    """The arguments of ``restore_rows.lua``, and the annotator whose hands it fills (empty: none).

    A piece is made when it is asked for: of a million rows all of them would take a second.
    """
    held = Counter(lease.row for lease in rows.leases)
    lists: dict[str, Iterable[Any]] = {
        "v": (part for row, own in rows.votes.items() for part in (str(row), pack(dict(own)))),
        "w": map(str, rows.unvoted),
        "x": (part for row, more in rows.extra.items() for part in (str(row), more)),
        "s": (str(row) if name is None else lease_member(row, name) for row, name in rows.skips),
        "g": _groups(rows),
        "h": (part for row, count in held.items() for part in (str(row), count)),
        "l": (
            part
            for lease in rows.leases
            for part in (lease.deadline_ms, lease_member(lease.row, lease.annotator))
        ),
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


def _groups(rows: Rows) -> Iterator[Any]:
    for group, labelled in rows.labelled_groups.items():
        yield f"v{group}"
        yield pack([str(row) for row in labelled[:GROUP_ROWS]])
    for group, row in rows.leased_groups.items():
        yield f"l{group}"
        yield str(row)


def _cut(values: Iterable[Any]) -> Iterator[list[Any]]:
    """Pieces of an even length, so that pairs stay together."""
    return pieces_of(values, 2 * PIECE)


def log_pieces(entries: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Entries that one script appends."""
    piece: list[bytes] = []
    size = 0
    for entry in entries:
        if piece and size + len(entry) > LOG_PIECE_BYTES:
            yield piece
            piece, size = [], 0
        piece.append(entry)
        size += len(entry)
    if piece:
        yield piece


def pieces_of(values: Iterable[T], most: int) -> Iterator[list[T]]:
    """Up to ``most`` of the values at a time."""
    rest = iter(values)
    while piece := list(islice(rest, most)):
        yield piece
