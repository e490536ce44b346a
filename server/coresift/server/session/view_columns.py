"""A view as columns of a file, and back. Pure functions, for worker threads.

One row, each column the bytes of a little-endian array: tables of a million rows are read whole
or not at all. Orders are kept wherever a dictionary's order has a meaning.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Collection, Iterable
from typing import Any, TypeVar

import msgpack
import numpy as np
import pyarrow as pa

from coresift.server.arrays import Rows
from coresift.server.session.config import SessionConfig
from coresift.server.session.view import View
from coresift.server.state.store import Settings

FORMAT = 1
"""Of the file; a release ignores those of another format and reads the log."""

PIECE = 50_000

T = TypeVar("T")
Ballot = tuple[tuple[str, bytes], ...]
"""The votes of a row: annotators and packed labels, in their order."""


def pack_view(uid: str, view: View) -> pa.Table:
    """The view of session ``uid``; nobody may change it meanwhile."""
    ballots, places = _ballots(view.votes.values())
    names: dict[str, int] = {}
    values: dict[bytes, int] = {}
    votes = [vote for ballot in ballots for vote in ballot]
    leases = [(row, name) for row, holders in view.leases.items() for name in sorted(holders)]
    skips = sorted(view.skips)
    columns = {
        "vote_rows": _packed(view.votes, "<i4"),
        "vote_ballots": _packed(places, "<i4"),
        "ballot_sizes": _packed(map(len, ballots), "<i4"),
        "ballot_annotators": _packed((_number(names, name) for name, _ in votes), "<i4"),
        "ballot_values": _packed((_number(values, value) for _, value in votes), "<i4"),
        "ever_rows": np.array(view.ever_rows, "<i4").tobytes(),
        "ever_offsets": np.array(view.ever_offsets, "<i8").tobytes(),
        "lease_rows": _packed((row for row, _ in leases), "<i4"),
        "lease_annotators": _packed((_number(names, name) for _, name in leases), "<i4"),
        "skip_rows": _packed((row for row, _ in skips), "<i4"),
        "skip_annotators": _packed((_number(names, name) for _, name in skips), "<i4"),
        "hidden_rows": _packed(view.hidden, "<i4"),
        "hidden_offsets": _packed(view.hidden.values(), "<i8"),
        "under_voted": _packed(sorted(view.under_voted), "<i4"),
        "extra_rows": _packed(view.extra, "<i4"),
        "extra_votes": _packed(view.extra.values(), "<i4"),
    }
    head = {
        "format": FORMAT,
        "uid": uid,
        "key": [view.offset, view.revision, view.nonce, view.config_version, view.tip],
        "configs": [[v, config.settings().config] for v, config in view.configs.items()],
        "annotators": list(names),
        "values": list(values),
        "votes": view.vote_count,
        "labels": view.label_count,
        "recent": list(view.recent),
    }
    return pa.table({"head": [msgpack.packb(head)], **{k: [v] for k, v in columns.items()}})


def unpack_view(uid: str, table: pa.Table) -> View:
    """The view in a file.

    Raises:
        ValueError: it is not one of session ``uid`` in this format.
    """
    head = msgpack.unpackb(table["head"][0].as_py(), strict_map_key=False)
    if (head["format"], head["uid"]) != (FORMAT, uid):
        raise ValueError(f"format {head['format']} of session {head['uid']}")

    def column(name: str, kind: str = "<i4") -> list[int]:
        numbers: list[int] = np.frombuffer(table[name][0].as_py(), kind).tolist()
        return numbers

    configs = {
        version: SessionConfig.from_settings(Settings(0, None, config))
        for version, config in head["configs"]
    }
    offset, revision, nonce, config_version, tip = head["key"]
    names, values = head["annotators"], head["values"]
    view = View(configs[config_version], config_version)
    view.configs = configs
    view.offset, view.revision, view.nonce, view.tip = offset, revision, nonce, tip
    votes = [
        (names[annotator], values[value])
        for annotator, value in _pairs(column("ballot_annotators"), column("ballot_values"))
    ]
    ballots, at = [], 0
    for size in column("ballot_sizes"):
        ballot = dict(votes[at : at + size])
        ballots.append(view.shared(ballot) if size == 1 else ballot)
        at += size
    places = column("vote_ballots")
    view.votes = _table(column("vote_rows"), [ballots[place] for place in places])
    rows, offsets = column("ever_rows"), column("ever_offsets", "<i8")
    view.ever = _table(rows, offsets)
    view.ever_rows, view.ever_offsets = array("i", rows), array("q", offsets)
    for row, annotator in _pairs(column("lease_rows"), column("lease_annotators")):
        view.leases[row] = view.leases.get(row, frozenset()) | {names[annotator]}
    view.skips = {
        (row, names[annotator])
        for row, annotator in _pairs(column("skip_rows"), column("skip_annotators"))
    }
    view.hidden = dict(_pairs(column("hidden_rows"), column("hidden_offsets", "<i8")))
    view.under_voted = set(column("under_voted"))
    view.extra = dict(_pairs(column("extra_rows"), column("extra_votes")))
    view.vote_count, view.label_count = head["votes"], head["labels"]
    view.recent = deque((second, labels) for second, labels in head["recent"])
    return view


def _table(keys: list[int], values: list[T]) -> dict[int, T]:
    """In pieces, so that other threads run between them: one call would hold the interpreter."""
    if len(keys) != len(values):
        raise ValueError(f"{len(keys)} rows with {len(values)} values")
    table: dict[int, T] = {}
    for start in range(0, len(keys), PIECE):
        piece = slice(start, start + PIECE)
        table.update(zip(keys[piece], values[piece], strict=True))
    return table


def _pairs(keys: list[int], values: list[int]) -> Iterable[tuple[int, int]]:
    return zip(keys, values, strict=True)


def _ballots(votes: Collection[dict[str, bytes]]) -> tuple[list[Ballot], Rows]:
    """The distinct ones in the order of their first row, and the place of each row's, int32."""
    several = list(votes)
    objects = np.fromiter(map(id, several), np.int64, len(several))
    _, firsts, inverse = np.unique(objects, return_index=True, return_inverse=True)
    places: dict[Ballot, int] = {}
    of_object = np.empty(len(firsts), np.int32)
    for which in np.argsort(firsts).tolist():
        ballot = tuple(several[firsts[which]].items())
        of_object[which] = places.setdefault(ballot, len(places))
    return list(places), of_object[inverse]


def _number(numbers: dict[Any, int], thing: str | bytes) -> int:
    return numbers.setdefault(thing, len(numbers))


def _packed(numbers: Iterable[int], kind: str) -> bytes:
    return np.fromiter(numbers, kind).tobytes()
