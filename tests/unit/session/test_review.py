"""Which votes a review weighs against each other."""

from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from coresift.server.head import Task
from coresift.server.session.ranking.review import votes_of
from coresift.server.session.setup.config import SessionConfig
from coresift.server.session.view.labels import UNSURE, pack_class
from coresift.server.session.view.pages import Pages
from coresift.server.session.view.snapshot import Snapshot
from coresift.server.session.view.votes import decide

CONFIG = SessionConfig("pool", "1", Task.MULTICLASS, ("ham", "eggs", "spam"))


@settings(max_examples=100, deadline=None)
@given(
    cast=st.dictionaries(
        st.integers(0, 99),
        st.dictionaries(st.sampled_from(["ann", "bob", "cyd", "dee"]), st.integers(-1, 2)),
        max_size=12,
    ),
    chance=st.randoms(use_true_random=False),
)
def test_votes_name_their_items_by_place_and_annotators_who_chose_a_class(
    cast: dict[int, dict[str, int]], chance: Random
) -> None:
    """-1 is unsure: items and annotators with nothing else take no part."""
    votes = Pages(
        (row, {name: UNSURE if said < 0 else pack_class(said) for name, said in own.items()})
        for row, own in cast.items()
        if own
    )
    nothing = np.empty(0, np.int64)
    snapshot = Snapshot(CONFIG, 1, 1, b"", object(), votes, nothing.astype(np.int32), nothing)
    chosen = {
        row: sorted((name, said) for name, said in own.items() if said >= 0)
        for row, own in cast.items()
    }
    rows = [row for row, own in chosen.items() if own]
    chance.shuffle(rows)
    found, annotators = votes_of(decide(snapshot), np.array(rows, np.int32))
    names = sorted({name for own in chosen.values() for name, _ in own})
    expected = [
        (rows.index(row), names.index(name), said)
        for row in sorted(rows)
        for name, said in chosen[row]
    ]
    given_votes = zip(found.items, found.annotators, found.classes, strict=True)
    assert list(given_votes) == expected
    assert annotators == len(names)
