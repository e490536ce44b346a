from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coresift.client import StringColumn, convert
from coresift.client.convert import array, duration, matrix, vectors


@given(st.lists(st.text()), st.integers(1, 5))
def test_string_column_round_trip(strings: list[str], pieces: int) -> None:
    column = StringColumn.of(strings)
    assert list(column) == strings
    assert [column[i] for i in range(len(column))] == strings
    assert column[1:] == strings[1:]
    cuts = np.linspace(0, len(strings), pieces + 1).astype(int).tolist()
    parts = [column.part(a, b) for a, b in pairwise(cuts)]
    assert StringColumn.joined(parts) == column
    for part in parts:
        assert array(part.offsets, "i4", -1)[0] == 0


@given(st.lists(st.text(max_size=3)), st.slices(12))
def test_string_column_in_blocks(strings: list[str], part: slice) -> None:
    """Some blocks are ASCII, others are not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert, "_BLOCK", 3)
        column = StringColumn.of(iter(strings))
        assert list(column) == strings
        assert column[part] == strings[part]
        assert len(column) == len(strings)


def test_string_column_index() -> None:
    column = StringColumn.of(["a", "bc"])
    assert column[-1] == "bc"
    with pytest.raises(IndexError):
        column[2]


def test_durations() -> None:
    assert duration(None) is None
    for value in (1.5, timedelta(seconds=1.5)):
        wire = duration(value)
        assert wire is not None
        assert wire.ToTimedelta() == timedelta(seconds=1.5)


def test_vectors() -> None:
    X = np.arange(6, dtype=np.float64).reshape(2, 3).T[:, ::-1]
    message = vectors(matrix(X))
    assert message.dimension == 2
    np.testing.assert_array_equal(array(message.data, "f4", 3, 2), X)
    assert matrix([1, 2, 3]).shape == (1, 3)
    for bad in (np.zeros((0, 3)), np.zeros((2, 2, 2))):
        with pytest.raises(ValueError, match="must be a non-empty"):
            matrix(bad)
