from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.pools import brute_force, compiled, make_pool

from coresift.server.errors import CoresiftError, Reason
from coresift.server.pool import search as search_module
from coresift.server.pool import shortlist as shortlist_module
from coresift.server.pool.compute import HostCompute
from coresift.server.pool.failures import Cancelled
from coresift.server.pool.pool import Pool
from coresift.server.pool.rows import Block, VectorRows
from coresift.server.pool.search import exact_search
from coresift.server.pool.segment import Segment


def clustered(n: int, d: int, seed: int = 0) -> np.ndarray:
    chance = np.random.default_rng(seed)
    centres = chance.standard_normal((max(2, n // 50), d))
    X = centres[chance.integers(0, len(centres), n)] + 0.5 * chance.standard_normal((n, d))
    return X.astype(np.float32)


def test_many_blocks_and_prunings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ascending similarity: every block is better than all before."""
    monkeypatch.setattr(search_module, "_SEARCH_SLOTS", 64)
    monkeypatch.setattr(HostCompute, "block_bytes", 1)
    X = np.zeros((3000, 4), np.float32)
    X[:, 0] = np.arange(3000) / 3000
    pool = VectorRows([Segment(0, X, None, None, unit=False)], "ip", 1.0)
    rows, similarities = exact_search(pool, np.eye(4, dtype=np.float32)[:1], 100)
    assert rows[0].tolist() == list(range(2999, 2899, -1))
    assert similarities[0].tolist() == X[rows[0], 0].astype(np.float64).tolist()


@pytest.mark.parametrize("order", ["up", "down"])
def test_differences_below_float32_decide(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of rows that float32 products cannot tell apart, in any order of rows."""
    monkeypatch.setattr(search_module, "_SEARCH_SLOTS", 512)
    monkeypatch.setattr(shortlist_module, "_CROWD", 100)
    monkeypatch.setattr(HostCompute, "block_bytes", 1)
    X = np.ones((4000, 3), np.float32)
    X[:, 1] = np.arange(4000, dtype=np.float32)[:: 1 if order == "up" else -1]
    X[:, 2] = -X[:, 1]
    q = np.array([[1e6, 1 + 2**-20, 1]], np.float32)
    pool = VectorRows([Segment(0, X, None, None, unit=False)], "ip", 6000.0)
    rows, _ = exact_search(pool, q, 50)
    expected = list(range(3999, 3949, -1)) if order == "up" else list(range(50))
    assert rows[0].tolist() == expected


def test_all_rows_equal(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, np.ones((20_000, 3), np.float32))
    rows, similarities = pool.search(pool.fetch(np.array([7, 19_999])), 5)
    assert rows.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert np.allclose(similarities, 1)
    assert pool.neighbours(np.array([0, 3, 19_999]), 4).tolist() == [
        [1, 2, 3, 4],
        [0, 1, 2, 4],
        [0, 1, 2, 3],
    ]


def test_k_beyond_the_pool(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, clustered(7, 3))
    assert pool.search(pool.fetch(np.arange(2)), 100)[0].shape == (2, 7)
    found = pool.neighbours(np.arange(7), 100)
    assert found.shape == (7, 6)
    assert all(row not in others for row, others in enumerate(found))
    with pytest.raises(ValueError, match="k must be at least 1"):
        pool.search(pool.fetch(np.arange(2)), 0)


def test_one_item(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, np.ones((1, 2), np.float32))
    assert pool.neighbours(np.array([0]), 3).shape == (1, 0)
    assert pool.cold_start_rows.tolist() == [0]


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_ivf_finds_99_percent(tmp_path: Path, metric: str) -> None:
    X = clustered(8000, 16)
    flat = make_pool(tmp_path / "flat", X, metric=metric)
    ivf = make_pool(tmp_path / "ivf", X, metric=metric, index="ivf")
    chosen = np.random.default_rng(5).choice(8000, 200, replace=False)
    exact, near = flat.neighbours(chosen, 50), ivf.neighbours(chosen, 50)
    hits = sum(len(np.intersect1d(a, b)) for a, b in zip(exact, near, strict=True))
    assert hits >= 0.98 * exact.size
    alone = np.concatenate([ivf.neighbours(chosen[i : i + 1], 50) for i in range(20)])
    assert np.array_equal(alone, near[:20])


def test_ivf_searches_all_where_its_lists_are_short(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, clustered(500, 4), index="ivf")
    q = pool.fetch(np.arange(3))
    rows, similarities = pool.search(q, 400)
    expected, values = brute_force(pool, q, 400)
    assert np.array_equal(rows, expected)
    assert np.array_equal(similarities, values)


def test_ivf_holds_the_same_rows(tmp_path: Path) -> None:
    X = clustered(3000, 8).astype(np.float16)
    flat = make_pool(tmp_path / "flat", X)
    ivf = make_pool(tmp_path / "ivf", X, index="ivf")
    rows = np.random.default_rng(0).permutation(3000)
    assert np.array_equal(flat.fetch(rows), ivf.fetch(rows))
    matrix = np.random.default_rng(1).standard_normal((8, 3)).astype(np.float32)
    expected = flat.fetch(np.arange(3000)) @ matrix
    for pool in (flat, ivf):
        seen = np.zeros(3000, int)
        for rows, product, vectors in pool.scan(lambda b: (b.rows, b.product(matrix), b.vectors())):
            assert (np.diff(rows) > 0).all()
            seen[rows] += 1
            assert np.array_equal(vectors, pool.fetch(rows))
            assert np.allclose(product, expected[rows], atol=1e-5)
        assert (seen == 1).all()


def test_cosine_in_float16_is_as_if_normalised_in_float32(tmp_path: Path) -> None:
    X = (3 * clustered(2000, 24)).astype(np.float16)
    wide = X.astype(np.float32)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    pool = make_pool(tmp_path, X)
    assert np.abs(pool.fetch(np.arange(2000)) - wide).max() <= 2**-23
    w = wide[:2].T.copy()
    product = np.concatenate(list(pool.scan(lambda block: block.product(w))))
    assert np.abs(product - wide @ w).max() <= 1e-6
    assert pool.max_norm == 1


def test_a_block_cannot_be_written_to(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, clustered(50, 3))

    def spoil(block: Block) -> None:
        block.vectors()[:] = 0

    with pytest.raises(ValueError, match="read-only"):
        list(pool.scan(spoil))
    with pytest.raises(ValueError, match="read-only"):
        pool.clusters[:] = 0


def test_stop_ends_scan_and_search(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, clustered(50, 3))
    with pytest.raises(Cancelled):
        list(pool.scan(lambda block: block.rows, stop=lambda: True))
    with pytest.raises(Cancelled):
        pool.search(pool.fetch(np.arange(2)), 3, stop=lambda: True)


@pytest.mark.parametrize("index", ["flat", "ivf"])
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_compiled_kernels_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: str, metric: str, dtype: type
) -> None:
    monkeypatch.setattr(search_module, "_SEARCH_SLOTS", 100)
    host = make_pool(tmp_path, clustered(3000, 12).astype(dtype), index=index, metric=metric)
    large = compiled(Pool.open(tmp_path / "pool"))
    for count in (5, 30):
        q = host.normalise(np.random.default_rng(9).standard_normal((count, 12)))
        for mine, other in zip(host.search(q, 20), large.search(q, 20), strict=True):
            assert np.array_equal(mine, other)
    rows = np.arange(0, 3000, 100)
    assert np.array_equal(host.fetch(rows), large.fetch(rows))


@pytest.mark.parametrize("index", ["flat", "ivf"])
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_torch_device_gives_the_same(tmp_path: Path, index: str, metric: str, dtype: type) -> None:
    host = make_pool(tmp_path, clustered(3000, 12).astype(dtype), index=index, metric=metric)
    device = Pool.open(tmp_path / "pool", device="torch:cpu")
    q = host.normalise(np.random.default_rng(9).standard_normal((30, 12)))
    for mine, other in zip(host.search(q, 20), device.search(q, 20), strict=True):
        assert np.array_equal(mine, other)
    rows = np.arange(0, 3000, 100)
    assert np.array_equal(host.neighbours(rows, 10), device.neighbours(rows, 10))
    mine = {tuple(r): p for r, p in host.scan(lambda b: (b.rows, b.product(q[:2].T)))}
    other = {tuple(r): p for r, p in device.scan(lambda b: (b.rows, b.product(q[:2].T)))}
    a = np.concatenate([mine[key] for key in sorted(mine)])
    b = np.concatenate([other[key] for key in sorted(other)])
    assert np.allclose(a, b, atol=1e-4)
    for rows, vectors in device.scan(lambda b: (b.rows, b.vectors())):
        assert np.array_equal(vectors, host.fetch(rows))


def test_normalise_names_the_offender(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, clustered(20, 3))
    good = pool.normalise([[3.0, 0.0, 4.0]])
    assert good.dtype == np.float32
    assert np.allclose(good, [[0.6, 0, 0.8]])
    assert np.allclose(pool.normalise([[1e-30, 0, 0]]), [[1, 0, 0]])
    for vectors, field, words in (
        ([[1.0, 2.0]], "vectors", "must have 3 numbers"),
        ([1.0, 2.0, 3.0], "vectors", "must have 3 numbers"),
        ([[1, 1, 1], [0, 0, 0]], "vectors[1]", "zero vector"),
        ([[1, 1, 1], [1, 1, 1], [1, np.nan, 0]], "vectors[2]", "NaN"),
        ([[np.inf, 1, 1]], "vectors[0]", "infinity"),
        ([[1e20, 1, 1]], "vectors[0]", "norm above"),
    ):
        with pytest.raises(CoresiftError, match=words) as refusal:
            pool.normalise(vectors)
        assert refusal.value.reason is Reason.INVALID_VECTOR
        assert refusal.value.field == field


def test_normalise_leaves_other_metrics_alone(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, clustered(20, 3), metric="l2")
    assert np.array_equal(pool.normalise(np.zeros((1, 3))), np.zeros((1, 3)))


def test_closed_pool_is_of_no_use(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, clustered(20, 3))
    assert pool.nbytes() == sum(
        path.stat().st_size
        for path in (tmp_path / "pool").iterdir()
        if path.name != "manifest.json"
    )
    pool.close()
    with pytest.raises(AttributeError):
        pool.fetch(np.arange(2))


def test_no_such_row(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, clustered(20, 3))
    for wrong in (-1, 20):
        with pytest.raises(IndexError):
            pool.fetch(np.array([wrong]))
