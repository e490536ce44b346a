"""A view as columns of a file, and back. Pure functions, for worker threads.

One row, each column the bytes of a little-endian array: tables of a million rows are read whole
or not at all. Orders are kept wherever a dictionary's order has a meaning.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, TypeVar

import msgpack
import numpy as np
import pyarrow as pa

from coresift.server.arrays import Int64s, Rows
from coresift.server.session.setup.config import SessionConfig
from coresift.server.session.view.pages import Pages
from coresift.server.session.view.view import View
from coresift.server.state.values import Settings

FORMAT = 1
"""Of the file; a release ignores those of another format and reads the log."""

PIECE = 20_000
"""Numbers converted at a time."""
NONE: Rows = np.empty(0, np.int32)

T = TypeVar("T")
Ints = Rows | Int64s
Ballot = tuple[tuple[str, bytes], ...]
"""The votes of a row: annotators and packed labels, in their order."""


def pack_view(uid: str, view: View) -> pa.Table:
    """The view of session ``uid``; nobody may change it meanwhile."""
    ballots, places = _ballots(view.votes)
    names: dict[str, int] = {}
    values: dict[bytes, int] = {}
    votes = [vote for ballot in ballots for vote in ballot]
    leases = [(row, name) for row, holders in view.leases.items() for name in sorted(holders)]
    skips = _skips(view)
    columns = {
        "vote_rows": view.votes.rows(),
        "vote_ballots": places,
        "ballot_sizes": _array(map(len, ballots)),
        "ballot_annotators": _array(_number(names, name) for name, _ in votes),
        "ballot_values": _array(_number(values, value) for _, value in votes),
        "ever_rows": np.array(view.ever_rows),
        "ever_offsets": np.array(view.ever_offsets),
        "lease_rows": _array(row for row, _ in leases),
        "lease_annotators": _array(_number(names, name) for _, name in leases),
        "skip_rows": np.concatenate([NONE, *skips.values()]),
        "skip_annotators": _array(_number(names, n) for n, rows in skips.items() for _ in rows),
        "hidden_rows": view.hidden.rows(),
        "hidden_offsets": _array(view.hidden.values(), "<i8"),
        "under_voted": np.sort(_array(view.under_voted)),
        "extra_rows": view.extra.rows(),
        "extra_votes": _array(view.extra.values()),
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
    packed = {name: [_bytes(name, column)] for name, column in columns.items()}
    return pa.table({"head": [msgpack.packb(head)], **packed})


def unpack_view(uid: str, table: pa.Table) -> View:
    """The view in a file.

    Raises:
        ValueError: it is not one of session ``uid`` in this format.
    """
    head = msgpack.unpackb(table["head"][0].as_py(), strict_map_key=False)
    if (head["format"], head["uid"]) != (FORMAT, uid):
        raise ValueError(f"format {head['format']} of session {head['uid']}")

    def whole(name: str) -> Ints:
        return np.frombuffer(table[name][0].as_py(), _kind(name))

    def column(name: str) -> Iterator[int]:
        return _numbers(whole(name))

    configs = {
        version: SessionConfig.from_settings(Settings(0, None, config))
        for version, config in head["configs"]
    }
    offset, revision, nonce, config_version, tip = head["key"]
    names, values = head["annotators"], head["values"]
    view = View(configs[config_version], config_version)
    view.configs = configs
    view.offset, view.revision, view.nonce, view.tip = offset, revision, nonce, tip
    votes = (
        (names[annotator], values[value])
        for annotator, value in _pairs(column("ballot_annotators"), column("ballot_values"))
    )
    ballots = []
    for size in column("ballot_sizes"):
        ballot = dict(islice(votes, size))
        ballots.append(view.shared(ballot) if size == 1 else ballot)
    places = column("vote_ballots")
    view.votes = Pages(_pairs(column("vote_rows"), (ballots[place] for place in places)))
    view.ever_rows = array("i", whole("ever_rows").astype(np.intc).tobytes())
    view.ever_offsets = array("q", whole("ever_offsets").astype(np.longlong).tobytes())
    view.retracted = {row for row in column("ever_rows") if row not in view.votes}
    for row, annotator in _pairs(column("lease_rows"), column("lease_annotators")):
        view.leases[row] = view.leases.get(row, frozenset()) | {names[annotator]}
    view.skips = {
        (row, names[annotator])
        for row, annotator in _pairs(column("skip_rows"), column("skip_annotators"))
    }
    view.hidden = Pages(_pairs(column("hidden_rows"), column("hidden_offsets")))
    view.under_voted = set(column("under_voted"))
    view.extra = Pages(_pairs(column("extra_rows"), column("extra_votes")))
    view.vote_count, view.label_count = head["votes"], head["labels"]
    view.recent = deque((second, labels) for second, labels in head["recent"])
    return view


def _ballots(votes: Pages[dict[str, bytes]]) -> tuple[list[Ballot], Rows]:
    """The distinct ones in the order of their first row, and the place of each row's, int32."""
    numbers: dict[Ballot, int] = {}
    places = _array(numbers.setdefault(tuple(own.items()), len(numbers)) for own in votes.values())
    return list(numbers), places


def _skips(view: View) -> dict[str, Rows]:
    """Rows that each annotator has skipped, both ascending."""
    rows: dict[str, list[int]] = {}
    for row, name in view.skips:
        rows.setdefault(name, []).append(row)
    return {name: np.sort(_array(rows[name])) for name in sorted(rows)}


def _number(numbers: dict[Any, int], thing: str | bytes) -> int:
    return numbers.setdefault(thing, len(numbers))


def _pairs(keys: Iterable[int], values: Iterable[T]) -> Iterator[tuple[int, T]]:
    return zip(keys, values, strict=True)


def _array(numbers: Iterable[int], kind: str = "<i4") -> Any:
    """In pieces, so that other threads run between them: one call would hold the interpreter."""
    rest, pieces = iter(numbers), [np.empty(0, kind)]
    while len(piece := np.fromiter(islice(rest, PIECE), kind)):
        pieces.append(piece)
    return np.concatenate(pieces)


def _numbers(array: Ints) -> Iterator[int]:
    """The other way, in pieces as well."""
    pieces = (array[start : start + PIECE].tolist() for start in range(0, len(array), PIECE))
    return chain.from_iterable(pieces)


def _kind(name: str) -> str:
    return "<i8" if name.endswith("_offsets") else "<i4"


def _bytes(name: str, column: Ints) -> bytes:
    return column.astype(_kind(name)).tobytes()
