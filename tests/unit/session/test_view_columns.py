"""A view that was kept and read again, with the rest of the log, is the view of the log."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.rewinds import contents

from coresift.server.head import Task
from coresift.server.session.setup.config import SessionConfig
from coresift.server.session.view.labels import UNSURE, pack_class
from coresift.server.session.view.pages import Pages
from coresift.server.session.view.snapshot import Snapshot
from coresift.server.session.view.view import View
from coresift.server.session.view.view_columns import pack_view, unpack_view
from coresift.server.state.entries import (
    ConfigEntry,
    Entry,
    ExpiryEntry,
    GrantEntry,
    LabelsEntry,
    ReleaseEntry,
)
from coresift.server.state.values import RETRACTION

CONFIG = SessionConfig("p", "v", Task.BINARY, ("no", "yes"))
NEXT = replace(CONFIG, votes_per_item=2)
LAST = replace(CONFIG, seed=9, label_budget=7)

rows = st.integers(0, 12)
several = st.lists(rows, min_size=1, max_size=5, unique=True).map(tuple)
annotators = st.sampled_from(["ann", "bob", "cÿd"])
nonces = st.binary(max_size=9)
times = st.integers(0, 10_000_000)
values = st.sampled_from([pack_class(0), pack_class(1), UNSURE, RETRACTION])
labels = st.dictionaries(rows, values, min_size=1, max_size=5)
kinds: st.SearchStrategy[Entry] = st.one_of(
    st.builds(
        lambda ms, nonce, who, of: LabelsEntry(
            0, ms, "q", nonce, who, tuple(of), tuple(map(str, of)), tuple(of.values()), ()
        ),
        times,
        nonces,
        annotators,
        labels,
    ),
    st.builds(
        lambda ms, who, of, again, nonce: GrantEntry(
            0, ms, "q", who, of, len(of), 9, 0, 0, 1, b"", again, nonce
        ),
        times,
        annotators,
        several,
        st.booleans(),
        nonces,
    ),
    st.builds(
        lambda ms, who, of, reason, nonce: ReleaseEntry(0, ms, "q", who, of, reason, nonce),
        times,
        annotators,
        several,
        st.integers(1, 3),
        nonces,
    ),
    st.builds(
        lambda ms, of, nonce: ExpiryEntry(0, ms, tuple(of), nonce),
        times,
        st.lists(st.tuples(rows, annotators), max_size=4, unique=True),
        nonces,
    ),
    st.builds(
        lambda ms, config, nonce: ConfigEntry(0, ms, "q", 0, config.settings().config, nonce),
        times,
        st.sampled_from([CONFIG, NEXT, LAST]),
        nonces,
    ),
)


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    """Entries of every kind, with gapless offsets, times that rise and rising versions."""
    first: Entry = ConfigEntry(1, 0, "q", 1, CONFIG.settings().config, b"first")
    log, version, time_ms = [first], 1, 0
    for entry in draw(st.lists(kinds, max_size=25)):
        time_ms += entry.time_ms
        changes: dict[str, Any] = {"offset": len(log) + 1, "time_ms": time_ms}
        if isinstance(entry, ConfigEntry):
            version += 1
            changes["config_version"] = version
        log.append(replace(entry, **changes))
    return log


def of_log(log: list[Entry]) -> View:
    view = View(CONFIG, 1)
    view.apply(log)
    return view


@settings(max_examples=300, deadline=None)
@given(log=logs(), data=st.data())
def test_kept_and_read_again_it_is_the_view_of_the_log(
    log: list[Entry], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(1, len(log)))
    kept = of_log(log[:cut])
    table = pack_view("uid", kept)
    read = unpack_view("uid", table)
    assert contents(read) == contents(kept)
    read.apply(log)
    whole = of_log(log)
    assert contents(read) == contents(whole)
    assert read.key() == whole.key()
    one, other = Snapshot.of(read), Snapshot.of(whole)
    assert np.array_equal(one.ever, other.ever)
    assert np.array_equal(one.first_offsets, other.first_offsets)
    assert list(one.votes) == list(other.votes)


@settings(max_examples=50, deadline=None)
@given(log=logs())
def test_a_copy_goes_its_own_way(log: list[Entry]) -> None:
    half = len(log) // 2
    view = of_log(log[:half])
    copy, before = view.copy(), contents(of_log(log[:half]))
    assert copy.lineage is view.lineage
    copy.apply(log)
    assert contents(view) == before
    assert contents(copy) == contents(of_log(log))


def test_one_state_has_one_file() -> None:
    """Replicas that build the same view in different ways name the same content."""
    entry = LabelsEntry(2, 5, "q", b"n", "ann", (1, 2), ("1", "2"), (pack_class(1),) * 2, ())
    first: Entry = ConfigEntry(1, 0, "q", 1, CONFIG.settings().config)
    view = of_log([first, entry])
    apart = view.copy()
    apart.votes = Pages((row, dict(votes)) for row, votes in view.votes.items())
    assert pack_view("uid", apart).equals(pack_view("uid", view))
    assert view.votes[1] is view.votes[2]


def change_head(table: pa.Table, **changes: object) -> pa.Table:
    head = msgpack.unpackb(table["head"][0].as_py(), strict_map_key=False) | changes
    return table.set_column(0, "head", pa.array([msgpack.packb(head)]))


def test_files_of_others_are_refused() -> None:
    first: Entry = ConfigEntry(1, 0, "q", 1, CONFIG.settings().config)
    label = LabelsEntry(2, 5, "q", b"n", "ann", (1,), ("1",), (pack_class(1),), ())
    table = pack_view("uid", of_log([first, label]))
    unpack_view("uid", table)
    for changes in ({"format": 2}, {"uid": "another"}):
        with pytest.raises(ValueError, match=r"format \d of session"):
            unpack_view("uid", change_head(table, **changes))
    short = table.set_column(table.schema.get_field_index("vote_rows"), "vote_rows", [[b""]])
    with pytest.raises(ValueError, match="is longer"):
        unpack_view("uid", short)
