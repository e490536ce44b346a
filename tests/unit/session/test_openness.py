"""What is looked at for many rows together is what each row is asked for."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from coresift.server.head import Task
from coresift.server.session.setup.config import SessionConfig
from coresift.server.session.view.view import View

NAMES = ("ann", "bob", "cyd")
rows = st.integers(0, 9)
names = st.sampled_from(NAMES)


@st.composite
def views(draw: st.DrawFn) -> View:
    quota = draw(st.integers(1, 2))
    config = SessionConfig("pool", "v1", Task.BINARY, ("no", "yes"), votes_per_item=quota)
    view = View(config, 1)
    for row, voters in draw(st.dictionaries(rows, st.sets(names, min_size=1))).items():
        view.votes[row] = dict.fromkeys(voters, b"\x01")
    view.leases.update(draw(st.dictionaries(rows, st.frozensets(names, min_size=1))))
    view.skips.update(draw(st.sets(st.tuples(rows, names))))
    for row in draw(st.sets(rows)):
        view.hidden[row] = 1
    for row in draw(st.sets(rows)):
        view.extra[row] = 1
    return view


@settings(deadline=None)
@given(view=views(), looked_at=st.lists(st.integers(0, 12)), name=names)
def test_places_are_those_of_free_rows(view: View, looked_at: list[int], name: str) -> None:
    new = [row not in view.votes and view.free_for(row, name) for row in looked_at]
    second = [view.free_for_review(row, name) for row in looked_at]
    assert view.places_for(looked_at, name) == [i for i, free in enumerate(new) if free]
    assert view.places_for_review(looked_at, name) == [i for i, free in enumerate(second) if free]
