from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fixtures.pools import make_pool, write_inputs

from coresift.server.errors import CoresiftError, Reason
from coresift.server.pool.builder import AppendOptions, BuildOptions, append_pool, build_pool
from coresift.server.pool.groups import ColumnGroups, group_numbers
from coresift.server.pool.input_files import InputFiles
from coresift.server.pool.pool import Pool

VIDEOS = ["v7", "v2", None, "v7", "", "v1", "v2"]
NUMBERS = [0, 1, -1, 0, 2, 3, 1]


def numbered(values: list[str | None]) -> list[int]:
    """One row at a time."""
    seen: dict[str, int] = {}
    return [-1 if value is None else seen.setdefault(value, len(seen)) for value in values]


@given(st.lists(st.none() | st.sampled_from("abcde"), min_size=1, max_size=30), st.integers(1, 31))
def test_numbers_in_order_of_first_appearance_in_any_chunks(
    values: list[str | None], chunk: int
) -> None:
    whole = pa.table({"v": pa.array(values, pa.large_string())})
    table = pa.Table.from_batches(whole.to_batches(max_chunksize=chunk))
    numbers = group_numbers(table, "v")
    assert numbers.dtype == np.int32
    assert numbers.tolist() == numbered(values)


def with_videos(folder: Path, values: list[str | None], stem: str = "in") -> InputFiles:
    X = np.random.default_rng(len(stem)).standard_normal((len(values), 3)).astype(np.float32)
    ids = [f"{stem}-{row}" for row in range(len(X))]
    files = write_inputs(folder, X, ids, stem)
    columns = {"id": ids, "video": values, "page": [str(row % 2) for row in range(len(X))]}
    pq.write_table(pa.table(columns), folder / f"{stem}.parquet")
    return InputFiles(files.embeddings, files.ids, folder / f"{stem}.parquet")


def test_old_rows_keep_their_numbers_in_a_newer_version(tmp_path: Path) -> None:
    build_pool(BuildOptions(with_videos(tmp_path, VIDEOS), tmp_path / "v1"))
    more = with_videos(tmp_path, ["v0", "v2", None, "v9", "v7", "v0"], "more")
    append_pool(AppendOptions(tmp_path / "v1", more, tmp_path / "v2"))
    X = np.eye(3, dtype=np.float32)
    bare = write_inputs(tmp_path, X, ["x", "y", "z"], "bare")
    append_pool(AppendOptions(tmp_path / "v2", bare, tmp_path / "v3"))
    assert Pool.open(tmp_path / "v1").groups("video").tolist() == NUMBERS
    added = [4, 1, -1, 5, 0, 4]
    assert Pool.open(tmp_path / "v2").groups("video").tolist() == NUMBERS + added
    assert Pool.open(tmp_path / "v3").groups("video").tolist() == NUMBERS + added + [-1] * 3


def test_numbers_are_made_once_and_cannot_be_changed(tmp_path: Path) -> None:
    build_pool(BuildOptions(with_videos(tmp_path, VIDEOS), tmp_path / "pool"))
    pool = Pool.open(tmp_path / "pool")
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: pool.groups("video"), range(32)))
    assert all(numbers is made[0] for numbers in made)
    with pytest.raises(ValueError, match="read-only"):
        made[0][0] = 5
    assert pool.groups("page").tolist() == [0, 1, 0, 1, 0, 1, 0]


def test_the_four_columns_used_last_are_kept() -> None:
    table = pa.table({name: pa.array(["a", "b"], pa.large_string()) for name in "uvwxyz"})
    groups = ColumnGroups()
    first = {name: groups.of(table, name, "f") for name in "uvwx"}
    assert groups.of(table, "u", "f") is first["u"]
    groups.of(table, "y", "f")
    assert groups.of(table, "u", "f") is first["u"]
    again = groups.of(table, "v", "f")
    assert again is not first["v"]
    assert again.tolist() == first["v"].tolist()


def test_refused_columns(tmp_path: Path) -> None:
    build_pool(BuildOptions(with_videos(tmp_path, VIDEOS), tmp_path / "pool"))
    pool = Pool.open(tmp_path / "pool")
    with pytest.raises(CoresiftError, match="got 'vid'; the pool has video, page") as caught:
        pool.groups("vid")
    assert (caught.value.reason, caught.value.field) == (Reason.INVALID_FIELD, "groups.column")
    with pytest.raises(CoresiftError, match="grouping must") as caught:
        pool.groups("", field="grouping")
    assert caught.value.field == "grouping"
    bare = make_pool(tmp_path / "bare", np.eye(3, dtype=np.float32))
    with pytest.raises(CoresiftError, match="column needs metadata, and pool "):
        bare.groups("video")
