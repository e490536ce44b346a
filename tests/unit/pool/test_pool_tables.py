"""Neighbour tables of a recall: near lists only, but among their rows the true neighbours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.fixtures.pools import brute_force, extend_pool, make_pool, write_inputs

from coresift.server.pool import layout, list_join
from coresift.server.pool.builder import BuildOptions, build_pool
from coresift.server.pool.failures import BuildError
from coresift.server.pool.list_join import ListJoin, probes_for
from coresift.server.pool.manifest import read_manifest
from coresift.server.pool.pool import Pool, verify_pool
from coresift.server.pool.self_join import Lists

Floats = npt.NDArray[Any]


def mixture(n: int, d: int = 24, seed: int = 0) -> Floats:
    """Clusters of Zipf sizes with noise as large as what they share, a tenth of it copies."""
    chance = np.random.default_rng(seed)
    centres = chance.standard_normal((40, d))
    shares = 1 / np.arange(1, 41)
    X = centres[chance.choice(40, n, p=shares / shares.sum())]
    X = X + 0.7 * chance.standard_normal((n, d))
    X[-n // 10 :] = X[: n // 10]
    return X.astype(np.float32)


def recall_of(pool: Pool, exact: Pool) -> float:
    found, true = pool.neighbour_table, exact.neighbour_table
    assert found is not None
    assert true is not None
    hits = sum(len(np.intersect1d(a, b)) for a, b in zip(found, true, strict=True))
    return hits / true.size


def a_join(pool: Pool, probes: int, k: int) -> ListJoin:
    lists = Lists.of(np.asarray(pool.clusters), np.asarray(pool.centroids), pool.manifest.metric)
    return ListJoin(pool._vectors, lists, probes, k)


def table_of(join: ListJoin) -> npt.NDArray[np.int32]:
    table = np.full((join.pool.items, join.k), -1, np.int32)
    for rows, neighbours in join.work(join.chunks()):
        assert (table[rows] == -1).all()
        table[rows] = neighbours
    return table


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("recall", [0.7, 0.95])
def test_the_table_has_its_recall(tmp_path: Path, metric: str, recall: float) -> None:
    X = mixture(3_000)
    exact = make_pool(tmp_path / "exact", X, metric=metric, neighbours=10)
    pool = make_pool(tmp_path / "near", X, metric=metric, neighbours=10, neighbours_recall=recall)
    assert pool.manifest.neighbours_recall == recall
    assert recall - 0.01 <= recall_of(pool, exact) < 1
    table = pool.neighbour_table
    assert table is not None
    rows = np.arange(3_000, dtype=np.int32)
    assert not (table == rows[:, None]).any()
    similar = pool.similarities(table.ravel(), pool.fetch(rows), np.repeat(rows, 10))
    similar = similar.reshape(table.shape)
    falls, ties = similar[:, :-1] > similar[:, 1:], similar[:, :-1] == similar[:, 1:]
    assert (falls | (ties & (table[:, :-1] < table[:, 1:]))).all()
    verify_pool(tmp_path / "near" / "pool")


@pytest.mark.parametrize("index", ["flat", "ivf"])
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("half", [False, True])
def test_a_join_of_all_lists_is_exact(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    metric: str,
    dtype: type,
    index: str,
    half: bool,
) -> None:
    """In many parts, with and without bfloat16."""
    monkeypatch.setattr(list_join, "half_pays", lambda *_, **__: half)
    monkeypatch.setattr(list_join, "ROWS", 37)
    monkeypatch.setattr(list_join, "QUERY_ROWS", 11)
    monkeypatch.setattr(list_join, "FIRST", 50)
    monkeypatch.setattr(list_join, "COLUMNS", 120)
    X = mixture(600).astype(dtype)
    exact = make_pool(tmp_path, X, metric=metric, index=index, neighbours=7)
    join = a_join(exact, 10_000, 7)
    assert np.array_equal(table_of(join), exact.neighbour_table)


def test_parts_and_threads_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make_pool(tmp_path, mixture(2_000))
    expected = table_of(a_join(pool, 3, 12))
    monkeypatch.setattr(list_join, "half_pays", lambda *_, **__: True)
    monkeypatch.setattr(list_join, "in_order", map)
    for rows, first, columns in ((64, 20, 90), (5, 300, 1_000)):
        monkeypatch.setattr(list_join, "ROWS", rows)
        monkeypatch.setattr(list_join, "FIRST", first)
        monkeypatch.setattr(list_join, "COLUMNS", columns)
        assert np.array_equal(table_of(a_join(pool, 3, 12)), expected)


def test_neighbours_among_a_rows_lists_are_the_nearest(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, mixture(500), metric="l2")
    join = a_join(pool, 4, 6)
    table = table_of(join)
    order, _ = brute_force(pool, pool.fetch(np.arange(500)), 500)
    for number, start, end in join.lists.chunks(10_000):
        near = set(join.lists.around(number, 4, 6).tolist())
        for row in join.lists.order[start:end]:
            expected = [other for other in order[row] if other in near and other != row][:6]
            assert table[row].tolist() == expected


def test_copies_are_each_others_neighbours(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, np.ones((300, 4), np.float32), neighbours=3, neighbours_recall=0.9)
    assert pool.neighbour_table is not None
    assert pool.neighbour_table[:2].tolist() == [[1, 2, 3], [0, 2, 3]]
    assert pool.neighbour_table[299].tolist() == [0, 1, 2]


def test_more_recall_takes_more_lists(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, mixture(4_000))
    lists = a_join(pool, 1, 1).lists
    probes = [probes_for(pool._vectors, lists, 20, recall) for recall in (0.1, 0.6, 0.9, 0.99, 1)]
    assert probes == sorted(probes)
    assert probes[0] < probes[2] < probes[-1] <= len(lists)
    tiny = make_pool(tmp_path / "tiny", mixture(200))
    join = a_join(tiny, 1, 5)
    every = ListJoin(join.pool, join.lists, probes_for(join.pool, join.lists, 5, 1.0), 5)
    exact = make_pool(tmp_path / "exact", mixture(200), neighbours=5)
    assert np.array_equal(table_of(every), exact.neighbour_table)


def test_a_kth_neighbour_in_few_lists(tmp_path: Path) -> None:
    """One probe, and more neighbours wanted than the list has."""
    pool = make_pool(tmp_path, mixture(300))
    table = table_of(a_join(pool, 1, 250))
    assert (np.diff(np.sort(table, axis=1), axis=1) > 0).all()
    assert table.min() >= 0


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_an_append_compares_with_all_that_is_new(tmp_path: Path, metric: str) -> None:
    X, new = mixture(2_000), mixture(150, seed=3)
    old = make_pool(tmp_path, X, metric=metric, neighbours=8, neighbours_recall=0.8)
    after = extend_pool(tmp_path, new, [f"new-{row}" for row in range(150)])
    assert after.manifest.neighbours_recall == 0.8
    assert after.manifest.format_version == 2
    exact = make_pool(tmp_path / "exact", np.concatenate([X, new]), metric=metric, neighbours=8)
    assert old.neighbour_table is not None
    assert after.neighbour_table is not None
    assert exact.neighbour_table is not None
    assert np.array_equal(after.neighbour_table[2_000:], exact.neighbour_table[2_000:])
    for row in range(0, 2_000, 97):
        known = [*old.neighbour_table[row], *range(2_000, 2_150)]
        q = after.fetch(np.full(1, row))
        similar = after.similarities(np.array(known, np.int32), q, np.zeros(len(known), np.int64))
        best = sorted(zip(-similar, known, strict=True))[:8]
        assert after.neighbour_table[row].tolist() == [other for _, other in best]
    assert recall_of(after, exact) > 0.79


def test_manifests_of_exact_tables_stay_as_they_were(tmp_path: Path) -> None:
    files = write_inputs(tmp_path, mixture(300))
    made = {}
    for name, k, recall in (("a", 4, 1.0), ("b", 4, 0.9), ("c", 4, 0.8), ("d", 0, 0.8)):
        options = BuildOptions(files, tmp_path / name, neighbours=k, neighbours_recall=recall)
        made[name] = build_pool(options)
        assert read_manifest(tmp_path / name) == made[name]
    assert [made[name].format_version for name in "abcd"] == [1, 2, 2, 1]
    assert len({manifest.version for manifest in made.values()}) == 4
    for name in "ad":
        assert "neighbours_recall" not in json.loads(
            (tmp_path / name / "manifest.json").read_text()
        )
        assert made[name].neighbours_recall == 1
    again = build_pool(
        BuildOptions(files, tmp_path / "e", neighbours=4, neighbours_recall=0.9, name="b")
    )
    assert again == made["b"]
    assert (tmp_path / "e" / layout.NEIGHBOURS).read_bytes() == (
        tmp_path / "b" / layout.NEIGHBOURS
    ).read_bytes()


@pytest.mark.parametrize("recall", [0.0, -1.0, 1.01, float("nan")])
def test_refused_recall(tmp_path: Path, recall: float) -> None:
    files = write_inputs(tmp_path, mixture(50))
    with pytest.raises(BuildError, match="neighbours_recall must be in"):
        build_pool(BuildOptions(files, tmp_path / "p", neighbours=2, neighbours_recall=recall))
