from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from tests.fixtures.pools import make_pool, write_inputs

from coresift.server.pool.builder import BuildOptions, build_pool
from coresift.server.pool.failures import BuildError
from coresift.server.pool.input_files import InputFiles
from coresift.server.pool.pool import Pool, verify_pool

X = np.random.default_rng(0).standard_normal((60, 5)).astype(np.float32)
IDS = [f"ü{row}" for row in range(60)]


def refused(options: BuildOptions, words: str) -> None:
    with pytest.raises(BuildError, match=words):
        build_pool(options)
    left = [path.name for path in options.out.parent.iterdir() if ".tmp" in path.name]
    assert left == []


@pytest.mark.parametrize("ending", ["parquet", "arrow", "feather"])
@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_tables_equal_npy(tmp_path: Path, ending: str, fixed: bool, dtype: type) -> None:
    values = pa.array(X.astype(dtype).ravel())
    lists = pa.FixedSizeListArray.from_arrays(values, 5)
    if not fixed:
        lists = lists.cast(pa.list_(values.type))
    table = pa.table({"key": IDS, "vec": lists})
    path = tmp_path / f"in.{ending}"
    if ending == "parquet":
        pq.write_table(table, path, row_group_size=17)
    elif ending == "feather":
        pyarrow.feather.write_feather(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=13)
    files = InputFiles(path, id_column="key", embedding_column="vec")
    manifest = build_pool(BuildOptions(files, tmp_path / "a"))
    other = write_inputs(tmp_path, X.astype(dtype), IDS)
    assert manifest.version == build_pool(BuildOptions(other, tmp_path / "b")).version
    assert verify_pool(tmp_path / "a").dtype == np.dtype(dtype).name


@pytest.mark.parametrize("kind", ["txt", "txt.gz", "crlf", "jsonl", "jsonl.gz", "parquet"])
def test_kinds_of_id_files(tmp_path: Path, kind: str) -> None:
    np.save(tmp_path / "x.npy", X)
    path = tmp_path / f"ids.{kind if kind != 'crlf' else 'txt'}"
    text = "\n".join(IDS)
    if kind == "crlf":
        path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    elif kind == "parquet":
        pq.write_table(pa.table({"id": IDS}), path)
    else:
        if "jsonl" in kind:
            text = "".join(json.dumps({"id": i, "more": 1}) + "\n" for i in IDS)
        path.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())
    build_pool(BuildOptions(InputFiles(tmp_path / "x.npy", path), tmp_path / "p"))
    pool = Pool.open(tmp_path / "p")
    assert pool.ids.ids_of(np.arange(60)) == IDS


def test_rows_take_part_of_the_input_in_order(tmp_path: Path) -> None:
    files = write_inputs(tmp_path, X, IDS)
    np.save(tmp_path / "rows.npy", np.array([7, 3, 50]))
    (tmp_path / "meta.jsonl").write_text("".join(f'{{"id": "{i}", "t": "T{i}"}}\n' for i in IDS))
    chosen = InputFiles(
        files.embeddings, files.ids, tmp_path / "meta.jsonl", rows=tmp_path / "rows.npy"
    )
    build_pool(BuildOptions(chosen, tmp_path / "p", metric="ip"))
    pool = Pool.open(tmp_path / "p")
    assert np.array_equal(pool.fetch(np.arange(3)), X[[7, 3, 50]])
    assert pool.ids.ids_of(np.arange(3)) == ["ü7", "ü3", "ü50"]
    assert pool.metadata(np.array([1])) == [{"t": "Tü3"}]
    for rows, words in (([3, 3], "more than once"), ([60], "number 0 is 60"), ([0.5], "integers")):
        np.save(tmp_path / "rows.npy", np.array(rows))
        refused(BuildOptions(chosen, tmp_path / "q"), words)


def test_metadata_is_aligned_text(tmp_path: Path) -> None:
    files = write_inputs(tmp_path, X, IDS)
    order = np.random.default_rng(1).permutation(60)
    table = pa.table(
        {
            "id": [IDS[row] for row in order],
            "text": [f"text {row}" if row % 2 else None for row in order],
            "number": order,
        }
    )
    pq.write_table(table, tmp_path / "meta.parquet")
    inputs = InputFiles(files.embeddings, files.ids, tmp_path / "meta.parquet")
    manifest = build_pool(BuildOptions(inputs, tmp_path / "p"))
    pool = Pool.open(tmp_path / "p")
    assert manifest.metadata_columns == ("text", "number")
    assert pool.metadata(np.array([5, 4])) == [{"text": "text 5", "number": "5"}, {"number": "4"}]
    assert pool.metadata(np.array([], np.int64)) == []


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([*IDS, "stranger"], "1 ids are not in the pool, the first is 'stranger'"),
        (IDS[:-2], r"lacks 2 items, the first is 'ü58' \(row 58\)"),
        ([*IDS, "ü3"], "'ü3' stands at rows 3, 60"),
    ],
)
def test_metadata_that_does_not_fit(tmp_path: Path, ids: list[str], words: str) -> None:
    files = write_inputs(tmp_path, X, IDS)
    pq.write_table(pa.table({"id": ids, "text": ids}), tmp_path / "meta.parquet")
    inputs = InputFiles(files.embeddings, files.ids, tmp_path / "meta.parquet")
    refused(BuildOptions(inputs, tmp_path / "p"), words)


def test_metadata_without_ids_or_text(tmp_path: Path) -> None:
    files = write_inputs(tmp_path, X, IDS)
    inputs = InputFiles(files.embeddings, files.ids, tmp_path / "meta.parquet")
    pq.write_table(pa.table({"key": IDS}), tmp_path / "meta.parquet")
    refused(BuildOptions(inputs, tmp_path / "p"), "no column 'id' .*; it has: key")
    pq.write_table(pa.table({"id": IDS, "deep": [{"a": 1}] * 60}), tmp_path / "meta.parquet")
    refused(BuildOptions(inputs, tmp_path / "p"), "column 'deep' is of type struct")


def spoiled(row: int, value: float) -> np.ndarray:
    Y = X.copy()
    Y[row, 2] = value
    return Y


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (spoiled(17, np.nan), r"row 17 \(id 'ü17'\) holds NaN"),
        (spoiled(3, -np.inf), r"row 3 .* infinity"),
        (np.where(np.arange(60)[:, None] == 9, 0, X), r"row 9 \(id 'ü9'\) is a zero vector"),
        (X.astype(np.float64), "holds float64; say --dtype float32"),
        (X.astype(np.int32), "holds int32"),
        (X.astype(">f4"), "holds >f4"),
        (X[0], r"shape \(5,\)"),
        (X[:, :0], "dimension 0"),
        (X[:0], "no items"),
        (X[:59], "60 ids, .* 59 embeddings"),
        (np.array([{}] * 60), "no readable .npy"),
    ],
)
def test_refused_embeddings(tmp_path: Path, array: np.ndarray, words: str) -> None:
    files = write_inputs(tmp_path, X, IDS)
    np.save(files.embeddings, array)
    refused(BuildOptions(files, tmp_path / "p"), words)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([*IDS[:-1], "ü5"], "id 'ü5' stands at rows 5, 59; ids must be distinct"),
        (["", *IDS[1:]], "the id at row 0 is empty"),
        ([*IDS[:-1], "é" * 129], "the id at row 59 has 258 bytes, at most 256"),
        (IDS[1:], "59 ids"),
        (["same"] * 60, "stands at rows 0, 1, 2;"),
    ],
)
def test_refused_ids(tmp_path: Path, ids: list[str], words: str) -> None:
    refused(BuildOptions(write_inputs(tmp_path, X, ids), tmp_path / "p"), words)


def test_an_id_of_256_bytes_is_allowed(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, X, [*IDS[:-1], "é" * 128])
    assert pool.ids.rows_of(["é" * 128]).tolist() == [59]


def test_refused_files(tmp_path: Path) -> None:
    files = write_inputs(tmp_path, X, IDS)
    out = tmp_path / "p"
    npy, ids = files.embeddings, files.ids
    assert ids is not None
    refused(BuildOptions(InputFiles(npy), out), "holds no ids: name them with --ids")
    refused(BuildOptions(InputFiles(tmp_path / "no.npy", ids), out), "does not exist")
    refused(BuildOptions(InputFiles(npy, tmp_path / "no.txt"), out), "does not exist")
    refused(BuildOptions(InputFiles(ids, ids), out), "no known kind")
    (tmp_path / "latin.txt").write_bytes(b"\xff\n" * 60)
    refused(BuildOptions(InputFiles(npy, tmp_path / "latin.txt"), out), "not UTF-8")
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"abc\n")[:-6])
    refused(BuildOptions(InputFiles(npy, tmp_path / "cut.txt.gz"), out), "cannot be read")
    (tmp_path / "cut.npy").write_bytes(npy.read_bytes()[:100])
    refused(BuildOptions(InputFiles(tmp_path / "cut.npy", ids), out), "no readable .npy")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    refused(BuildOptions(InputFiles(tmp_path / "bad.parquet"), out), "cannot be read")
    out.mkdir()
    refused(BuildOptions(files, out), "exists already")


def test_refused_tables(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    files = InputFiles(path)
    for column, words in (
        ([[1.0, 2.0], [1.0]], "row 1 has 1 numbers, the rows before it 2"),
        ([[1.0, 2.0], None], "no embedding at row 1"),
        ([[1.0, None], [1.0, 2.0]], "a number is missing"),
        (["a", "b"], "expected lists"),
    ):
        pq.write_table(pa.table({"id": ["a", "b"], "embedding": column}), path)
        refused(BuildOptions(files, tmp_path / "p"), words)
    refused(BuildOptions(InputFiles(path, embedding_column="e"), tmp_path / "p"), "no column 'e'")
    lists = pa.array([[1.0, 2.0], [2.0, 1.0]], pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": ["a", "b"], "embedding": lists}), path)
    refused(
        BuildOptions(InputFiles(path, id_column="e"), tmp_path / "p"), "no column 'e'; it has: "
    )


def test_refused_options(tmp_path: Path) -> None:
    files = write_inputs(tmp_path, X, IDS)
    refused(BuildOptions(files, tmp_path / "p", neighbours=60), "60 items have no 60 neighbours")
    refused(BuildOptions(files, tmp_path / "p", neighbours=1001), "0..1000")
    refused(BuildOptions(files, tmp_path / "p", name="a\nb"), "printable")
    big = write_inputs(tmp_path, 1e6 * X, IDS, "big")
    refused(BuildOptions(big, tmp_path / "p", metric="ip", dtype="float16"), "not fit in float16")
    huge = write_inputs(tmp_path, 1e25 * X, IDS, "huge")
    refused(BuildOptions(huge, tmp_path / "p", metric="l2"), "norm above 1e\\+18")
    build_pool(BuildOptions(huge, tmp_path / "q"))


@pytest.mark.parametrize("given", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kept", ["float16", "float32"])
def test_dtype_option(tmp_path: Path, given: type, kept: str) -> None:
    pool = make_pool(tmp_path, X.astype(given), dtype=kept)
    assert pool.manifest.dtype == kept
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    assert np.abs(pool.fetch(np.arange(60)) - unit).max() < 2e-3
    assert np.allclose(np.linalg.norm(pool.fetch(np.arange(60)), axis=1), 1, atol=1e-6)


def test_version_is_the_content(tmp_path: Path) -> None:
    files = write_inputs(tmp_path, X, IDS)
    versions = [
        build_pool(BuildOptions(files, tmp_path / "a")).version,
        build_pool(BuildOptions(files, tmp_path / "b", name="other")).version,
        build_pool(BuildOptions(files, tmp_path / "c", metric="ip")).version,
        build_pool(BuildOptions(files, tmp_path / "d", neighbours=3)).version,
        build_pool(BuildOptions(files, tmp_path / "e", index="ivf")).version,
        build_pool(BuildOptions(write_inputs(tmp_path, X, IDS[::-1], "r"), tmp_path / "f")).version,
        build_pool(BuildOptions(write_inputs(tmp_path, -X, IDS, "n"), tmp_path / "g")).version,
    ]
    assert versions[0] == versions[1]
    assert len(set(versions)) == 6
    assert all(len(version) == 32 and int(version, 16) >= 0 for version in versions)


def test_cold_start_goes_round_the_clusters(tmp_path: Path) -> None:
    chance = np.random.default_rng(3)
    points = np.concatenate(
        [
            c + 0.01 * chance.standard_normal((n, 2))
            for c, n in (
                (np.array([9.0, 0.0]), 40),
                (np.array([0.0, 9.0]), 25),
                (np.array([-9.0, 0.0]), 16),
            )
        ]
    )
    pool = make_pool(tmp_path, points.astype(np.float32), metric="l2")
    rows, clusters = pool.cold_start_rows, np.asarray(pool.clusters)
    assert sorted(rows.tolist()) == list(range(81))
    sizes = np.bincount(clusters)
    first = clusters[rows[: len(sizes)]]
    assert len(set(first.tolist())) == len(sizes)
    assert (np.diff(sizes[first]) <= 0).all()
    for cluster in range(len(sizes)):
        mine = rows[clusters[rows] == cluster]
        centroid = pool.centroids[cluster].astype(np.float64)
        distance = ((pool.fetch(mine) - centroid) ** 2).sum(axis=1)
        assert (np.diff(distance) > -1e-4).all()


def test_a_crash_leaves_nothing(tmp_path: Path) -> None:
    files = write_inputs(tmp_path, X, IDS)

    def crash(phase: str, share: float) -> None:
        if phase == "checksums":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_pool(BuildOptions(files, tmp_path / "p"), crash)
    assert sorted(os.listdir(tmp_path)) == ["in.npy", "in.txt"]
