from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coresift.server.pool import ids as ids_module
from coresift.server.pool.ids import FEW_ROWS, ItemIds, write_ids
from coresift.server.pool.strings import PADDING, hash_string, hash_strings, to_layout

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


def opened(folder: Path, ids: list[str]) -> ItemIds:
    write_ids(folder, pa.array(ids, pa.large_string()))
    return ItemIds.open(folder, len(ids))


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(names, min_size=1, max_size=40, unique=True), st.lists(names, max_size=10))
def test_round_trip(tmp_path: Path, stored: list[str], others: list[str]) -> None:
    ids = opened(tmp_path, stored)
    wanted = [*reversed(stored), *others]
    expected = [stored.index(name) if name in stored else -1 for name in wanted]
    assert ids.rows_of(wanted).tolist() == expected
    packed = [name.encode() for name in wanted]
    offsets = np.cumsum([0, *map(len, packed)]).astype(np.int32)
    assert ids.rows_of_packed(b"".join(packed), offsets).tolist() == expected
    rows = np.array([row for row in expected if row >= 0])
    assert ids.ids_of(rows) == [stored[row] for row in rows]
    assert [ids.ids_of(rows[i : i + 1])[0] for i in range(len(rows))] == ids.ids_of(rows)
    assert [ids.rows_of([name]).tolist()[0] for name in wanted] == expected
    data, ends = ids.column(rows)
    places = np.frombuffer(ends, np.int32)
    assert [data[a:b].decode() for a, b in pairwise(places)] == [stored[row] for row in rows]


def test_equal_hashes_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def three(data: object, offsets: object) -> object:
        return hash_strings(data, offsets) % np.uint64(3)  # type: ignore[arg-type]

    monkeypatch.setattr(ids_module, "hash_strings", three)
    monkeypatch.setattr(ids_module, "hash_string", lambda text: hash_string(text) % 3)
    stored = [f"näme {i}" for i in range(200)]
    ids = opened(tmp_path, stored)
    wanted = [*stored, "other", "x", "y"]
    expected = [*range(200), -1, -1, -1]
    assert ids.rows_of(wanted).tolist() == expected
    assert [ids.rows_of([name]).tolist()[0] for name in wanted] == expected


@given(st.binary(max_size=60))
def test_the_hash_of_one_string_is_that_among_many(text: bytes) -> None:
    padded = np.frombuffer(text + bytes(PADDING), np.uint8)
    assert hash_strings(padded, np.array([0, len(text)])).tolist() == [hash_string(text)]


def test_few_rows_and_many_have_the_same_ids(tmp_path: Path) -> None:
    stored = [f"näme {i}" for i in range(2 * FEW_ROWS)]
    ids = opened(tmp_path, stored)
    assert ids.ids_of(np.arange(2 * FEW_ROWS)) == stored
    assert ids.ids_of(np.arange(FEW_ROWS)) == stored[:FEW_ROWS]


def test_strange_requests(tmp_path: Path) -> None:
    ids = opened(tmp_path, ["a", "?", "\ufffd"])
    assert ids.rows_of(["\ud800", "", "a"]).tolist() == [-1, -1, 0]
    assert ids.rows_of([]).tolist() == []
    assert ids.rows_of_packed(b"", np.zeros(1, np.int32)).tolist() == []
    assert ids.rows_of_packed(b"\xff?\xbd", np.array([0, 1, 2, 3], "<i4")).tolist() == [-1, 1, -1]
    assert ids.ids_of(np.array([], np.int64)) == []
    assert ids.column(np.array([], np.int64)) == (b"", b"\0\0\0\0")
    for wrong in ([-1], [3]):
        with pytest.raises(IndexError):
            ids.ids_of(np.array(wrong))


def test_hash_depends_on_every_byte_and_the_length() -> None:
    base = "x" * 40
    texts = [base[:n] for n in range(41)] + [base[:i] + "y" + base[i + 1 :] for i in range(40)]
    hashes = hash_strings(*to_layout(pa.array(texts, pa.large_string())))
    assert len(set(hashes.tolist())) == len(texts)


def test_a_million_ids(tmp_path: Path) -> None:
    numbers = pa.array(np.arange(1_000_000))
    write_ids(tmp_path, numbers.cast(pa.large_string()))
    ids = ItemIds.open(tmp_path, 1_000_000)
    rows = np.random.default_rng(0).integers(0, 1_000_000, 1000)
    assert ids.rows_of([str(row) for row in rows]).tolist() == rows.tolist()
