"""Pages are a dictionary by row, and copies do not feel each other's changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coresift.server.session.view.pages import PAGE_BITS, Pages

rows = st.sampled_from([0, 1, 5, 1 << PAGE_BITS, (1 << PAGE_BITS) + 1, 2_000_000_000])
steps = st.one_of(
    st.tuples(st.just("put"), rows),
    st.tuples(st.just("pop"), rows),
    st.tuples(st.just("copy"), st.just(0)),
)


def assert_same(pages: Pages[int], model: dict[int, int]) -> None:
    assert pages == model
    assert len(pages) == len(model)
    assert set(pages) == model.keys()
    assert set(pages.items()) == set(model.items())
    assert list(pages.values()) == [model[row] for row in pages]
    assert pages.rows().dtype == np.int32
    assert pages.rows().tolist() == list(pages)
    assert pages.among([0, 2, 5, 5, 2_000_000_000]) == model.keys() & {0, 5, 2_000_000_000}
    for row in (0, 5, 2_000_000_000):
        assert (row in pages) == (row in model)
        assert pages.get(row) == model.get(row)


@settings(max_examples=200, deadline=None)
@given(changes=st.lists(st.tuples(steps, st.booleans()), max_size=40))
def test_copies_are_dictionaries_of_their_own(
    changes: list[tuple[tuple[str, int], bool]],
) -> None:
    """Changes go to the newest copy or to the one that it was made of."""
    tables: list[tuple[Pages[int], dict[int, int]]] = [(Pages(), {})]
    for value, ((kind, row), is_newest) in enumerate(changes):
        pages, model = tables[-1] if is_newest else tables[max(0, len(tables) - 2)]
        match kind:
            case "put":
                pages[row] = model[row] = value
            case "pop":
                assert pages.pop(row, None) == model.pop(row, None)
            case _:
                tables.append((pages.copy(), dict(model)))
    for pages, model in tables:
        assert_same(pages, model)
        assert list(Pages(pages.items())) == list(pages)


def test_a_row_that_is_not_there() -> None:
    pages = Pages([(1, "a")])
    with pytest.raises(KeyError):
        pages[2]
    with pytest.raises(KeyError):
        del pages[3]
    assert dict(pages) == {1: "a"}
