from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.fixtures.pools import brute_force, extend_pool, make_pool, write_inputs

from coresift.server.pool.builder import AppendOptions, BuildOptions, append_pool, build_pool
from coresift.server.pool.failures import BuildError
from coresift.server.pool.input_files import InputFiles
from coresift.server.pool.pool import Pool, verify_pool

chance = np.random.default_rng(0)
OLD = chance.standard_normal((700, 6)).astype(np.float32)
NEW = chance.standard_normal((90, 6)).astype(np.float32)
NEW_IDS = [f"new-{row}" for row in range(90)]


@pytest.mark.parametrize("index", ["flat", "ivf"])
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_append_keeps_rows_and_finds_new_ones(
    tmp_path: Path, index: str, metric: str, dtype: type
) -> None:
    old = make_pool(tmp_path, OLD.astype(dtype), index=index, metric=metric, neighbours=5)
    new = extend_pool(tmp_path, NEW, NEW_IDS)
    before, after = old.manifest, new.manifest
    assert (after.items, after.parent) == (790, before.version)
    assert after.lineage == (before.version, after.version)
    assert after.metric == metric
    assert after.index == index
    assert after.dtype == np.dtype(dtype).name
    assert np.array_equal(new.fetch(np.arange(700)), old.fetch(np.arange(700)))
    assert np.array_equal(new.clusters[:700], old.clusters)
    assert new.ids.rows_of(["item-3", "new-0", "new-89", "new-90"]).tolist() == [3, 700, 789, -1]
    both = np.concatenate([OLD.astype(dtype), NEW.astype(dtype)])
    whole = make_pool(tmp_path / "whole", both, index=index, metric=metric, neighbours=5)
    assert np.allclose(new.fetch(np.arange(790)), whole.fetch(np.arange(790)), atol=2e-3)
    expected, _ = brute_force(new, new.fetch(np.arange(0, 790, 13)), 6)
    for row, nearest in zip(range(0, 790, 13), expected, strict=True):
        others = [other for other in nearest if other != row][:5]
        assert new.neighbour_table is not None
        assert new.neighbour_table[row].tolist() == others
    assert sorted(np.concatenate(list(new.scan(lambda b: b.rows)))) == list(range(790))
    assert len(new.cold_start_rows) == 790
    verify_pool(tmp_path / "next")


def test_old_segments_are_linked(tmp_path: Path) -> None:
    make_pool(tmp_path, OLD)
    extend_pool(tmp_path, NEW, NEW_IDS)
    assert os.path.samefile(
        tmp_path / "pool/segment-0.vectors", tmp_path / "next/segment-0.vectors"
    )


def test_three_versions_and_metadata(tmp_path: Path) -> None:
    files = write_inputs(tmp_path, OLD[:3])
    pq.write_table(
        pa.table({"id": ["item-0", "item-1", "item-2"], "text": list("abc")}),
        tmp_path / "meta.parquet",
    )
    inputs = InputFiles(files.embeddings, files.ids, tmp_path / "meta.parquet")
    build_pool(BuildOptions(inputs, tmp_path / "v1", name="mine"))
    append_pool(
        AppendOptions(tmp_path / "v1", write_inputs(tmp_path, NEW[:2], ["d", "e"]), tmp_path / "v2")
    )
    pq.write_table(pa.table({"id": ["f"], "uri": ["u"]}), tmp_path / "more.parquet")
    last = write_inputs(tmp_path, NEW[2:3], ["f"])
    last = InputFiles(last.embeddings, last.ids, tmp_path / "more.parquet")
    manifest = append_pool(AppendOptions(tmp_path / "v2", last, tmp_path / "v3"))
    assert manifest.name == "mine"
    assert len(manifest.lineage) == 3
    pool = Pool.open(tmp_path / "v3")
    assert pool.metadata(np.arange(6)) == [
        {"text": "a"},
        {"text": "b"},
        {"text": "c"},
        {},
        {},
        {"uri": "u"},
    ]
    assert np.array_equal(pool.fetch(np.array([5, 3, 0]))[0], pool.normalise(NEW[2:3])[0])


@pytest.mark.parametrize(
    ("X", "ids", "words"),
    [
        (
            NEW[:2],
            ["a", "item-6"],
            r"1 ids are in the pool already, the first is 'item-6' \(row 6\)",
        ),
        (NEW[:2, :5], ["a", "b"], "has dimension 5, the pool 6"),
        (NEW[:2] * 0, ["a", "b"], "row 0 .*zero vector"),
        (NEW[:2], ["a", "a"], "distinct"),
    ],
)
def test_refused(tmp_path: Path, X: np.ndarray, ids: list[str], words: str) -> None:
    make_pool(tmp_path, OLD)
    with pytest.raises(BuildError, match=words):
        extend_pool(tmp_path, X, ids)
    assert not (tmp_path / "next").exists()
    assert not list(tmp_path.glob(".*"))
