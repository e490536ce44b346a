"""Shortlists from bfloat16 products: the bound holds, and nothing but time changes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.fixtures.pools import brute_force, make_pool
from threadpoolctl import threadpool_info, threadpool_limits

from coresift.server.pool import half, half_gain, search
from coresift.server.pool.half import HalfQueries, HalfRows
from coresift.server.pool.half_gain import half_pays
from coresift.server.pool.rows import VectorRows
from coresift.server.pool.search import exact_search
from coresift.server.pool.segment import Segment

Floats = npt.NDArray[Any]


@pytest.fixture
def rounded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every search goes through small blocks in bfloat16; pairs that got a float32 product."""
    pairs: list[int] = []
    values = half._pair_values

    def counted(metric: Any, X: Any, slots: Any, *rest: Any) -> Any:
        pairs.append(len(slots))
        return values(metric, X, slots, *rest)

    monkeypatch.setattr(half, "_pair_values", counted)
    monkeypatch.setattr(search, "half_pays", lambda *_: True)
    monkeypatch.setattr(search, "_SEARCH_SLOTS", 100)
    monkeypatch.setattr(half, "_SPARSE", 4)
    monkeypatch.setattr(search, "in_order", map)  # with threads floors rise sooner or later
    return pairs


def mixture(n: int, d: int, seed: int = 0) -> Floats:
    chance = np.random.default_rng(seed)
    centres = chance.standard_normal((20, d))
    X = centres[chance.integers(0, 20, n)] + 0.5 * chance.standard_normal((n, d))
    return X.astype(np.float32)


@pytest.mark.parametrize("index", ["flat", "ivf"])
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_same_rows_are_nearest(
    tmp_path: Path, rounded: list[int], metric: str, dtype: type, index: str
) -> None:
    pool = make_pool(tmp_path, mixture(3000, 48).astype(dtype), metric=metric, index=index)
    queries = pool.normalise(mixture(40, 48, seed=1))
    rows, similarities = exact_search(pool._vectors, queries, 12)
    expected, values = brute_force(pool, queries, 12)
    assert np.array_equal(rows, expected)
    assert np.array_equal(similarities, values)
    assert 0 < sum(rounded) < 0.6 * 40 * 3000


@pytest.mark.parametrize("metric", ["ip", "l2"])
@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e9, 1e17])
def test_the_same_rows_are_nearest_at_any_scale(
    tmp_path: Path, rounded: list[int], metric: str, scale: float
) -> None:
    """Where squares underflow nothing can be ruled out, and all pairs are compared in float32."""
    X = mixture(3000, 16) * np.float32(scale)
    pool = make_pool(tmp_path, X, metric=metric)
    rows, _ = exact_search(pool._vectors, X[:30], 5)
    assert np.array_equal(rows, brute_force(pool, X[:30], 5)[0])
    assert (sum(rounded) > 0) is (scale > 1e-10)


def test_similarities_below_zero(rounded: list[int]) -> None:
    X = np.abs(mixture(2000, 32))
    pool = VectorRows([Segment(0, X, None, None, unit=False)], "ip", 100.0)
    queries = -X[:8]
    queries.flags.writeable = False  # as what came over the wire
    rows, similarities = exact_search(pool, queries, 10)
    exact = -(X[:8].astype(np.float64) @ X.astype(np.float64).T)
    assert np.array_equal(np.sort(rows), np.sort(np.argsort(-exact, axis=1)[:, :10]))
    assert (similarities < 0).all()
    assert sum(rounded)


def test_rows_that_bfloat16_cannot_tell_apart(rounded: list[int]) -> None:
    """All round to the same: every pair needs its float32 product."""
    X = np.ones((2000, 8), np.float32)
    X[:, 3] += np.random.default_rng(2).permutation(2000).astype(np.float32) * np.float32(2**-20)
    pool = VectorRows([Segment(0, X, None, None, unit=False)], "ip", 3.0)
    rows, _ = exact_search(pool, np.ones((3, 8), np.float32), 20)
    assert rows.tolist() == [np.argsort(-X[:, 3], kind="stable")[:20].tolist()] * 3
    assert not rounded


def worst(n: int, d: int, seed: int) -> Floats:
    """Numbers halfway between two of bfloat16, all rounded the same way."""
    chance = np.random.default_rng(seed)
    odd = 2 * chance.integers(0, 64, (n, d)) + 1 - 2 * (seed % 2)
    return ((1 + odd / 128 + 2.0**-8) * 2.0 ** chance.integers(-3, 1, (n, 1))).astype(np.float32)


def tiny(n: int, d: int, seed: int) -> Floats:
    """Of lengths around 1, with numbers that are subnormal, or become so in a product."""
    X = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    X[:, 1:] *= np.float32(1e-39)
    X[:, d // 2 :] = np.float32(3e-20)
    return X


@pytest.mark.parametrize("d", [1, 8, 64, 257, 1024])
@pytest.mark.parametrize("kind", ["worst", "tiny", "normal", "cancelling"])
def test_products_of_roundings_stay_within_the_bound(d: int, kind: str) -> None:
    chance = np.random.default_rng(d)
    if kind == "worst":
        X, Q = worst(300, d, 1), worst(40, d, 3)
    elif kind == "tiny":
        X, Q = tiny(300, d, 1), tiny(40, d, 2)
    else:
        X, Q = (chance.standard_normal((n, d)).astype(np.float32) for n in (300, 40))
        if kind == "cancelling":
            X *= chance.choice(np.float32([1, 1e4, -1e4]), X.shape)
    queries = HalfQueries.of(Q)
    x, q = torch.from_numpy(X).to(torch.bfloat16).float().numpy(), queries.rounded.float().numpy()
    lost = float(half._lengths(x - X).max())
    longest = float(half._lengths(X).max())
    error = half._error(queries, longest, lost)
    wide = X.astype(np.float64)
    exact = Q.astype(np.float64) @ wide.T
    for sums in (q @ x.T, (q[:, None, :] * x).cumsum(axis=2, dtype=np.float32)[:, :, -1]):
        assert (np.abs(sums - exact).max(axis=1) <= error).all()
    # What torch gives is such a sum, rounded: by at most 2^-8 of it.
    products = (queries.rounded @ torch.from_numpy(X).to(torch.bfloat16).T).float().numpy()
    assert (np.abs(products - exact) <= error[:, None] + 2.0**-7 * np.abs(exact) + 1e-37).all()
    norms = np.linalg.norm(Q.astype(np.float64), axis=1) * np.linalg.norm(wide, axis=1).max()
    assert (error <= (2.0**-7 + 2.0**-16 + (d + 8) * 2.0**-22) * norms + 1e-15).all()
    if kind == "worst" and d >= 64:
        assert np.abs(q @ x.T - exact).max() > 0.2 * error.max()


def test_lengths_are_no_less_than_they_are() -> None:
    for scale in (1e-30, 1e-20, 1.0, 1e17):
        X = mixture(200, 33) * np.float32(scale)
        true = np.sqrt((X.astype(np.float64) ** 2).sum(axis=1))
        found = half._lengths(X)
        assert (found >= true).all()
        assert (found <= true * 1.0001 + 1e-18).all()


@pytest.mark.parametrize("least", [[0.5, 0.25], [0.0, 0.5], [-0.3, 0.2], [-0.3, -1e-30]])
def test_what_may_reach_a_threshold(least: list[float]) -> None:
    """Everything that does, and nothing that is not within rounding of it."""
    chance = np.random.default_rng(4)
    sums = np.concatenate([chance.uniform(-1, 1, (2, 5000)), [[0.0, -0.0]] * 2], axis=1)
    sums = sums.astype(np.float32)
    reach = half._reach(torch.from_numpy(sums).to(torch.bfloat16), np.array(least))
    floor = np.array(least)[:, None]
    assert reach[sums >= floor].all()
    assert not reach[sums < floor - 2.0**-7 * np.abs(floor) - 1e-30].any()


def test_blocks_are_measured_once(rounded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    X = mixture(1000, 16)
    rows = HalfRows(Segment(0, X, None, None, unit=False), "ip")
    queries = HalfQueries.of(X[:4])
    floor, slack = np.full(4, 1.0, np.float32), np.zeros(4, np.float32)
    first = rows.nearest(0, 500, queries, 5, floor, slack)
    monkeypatch.setattr(half, "_lengths", None)
    for one, other in zip(first, rows.nearest(0, 500, queries, 5, floor, slack), strict=True):
        assert np.array_equal(one, other)


def test_torch_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    with half_gain.one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_half_pays_for_large_searches_once_it_was_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer: Future[float] = Future()
    monkeypatch.setattr(half_gain, "_measured", lambda: answer)
    large = (100, 1_000_000, 256)
    assert not half_pays(*large)
    answer.set_result(3.0)
    assert half_pays(*large)
    assert half_pays(*large, wait=True)
    for small in ((31, 10**9, 256), (100, 1_000_000, 16), (100, 100_000, 256)):
        assert not half_pays(*small)
    answer = Future()
    answer.set_result(1.2)
    assert not half_pays(*large)


def test_the_gain_is_that_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where BLAS takes all cores, as in `coresift pool build`, float32 would seem as fast."""
    threads = list[int]()

    def timed(work: Callable[[], object]) -> float:
        threads.extend(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas")
        work()
        return 1.0

    monkeypatch.setattr(half_gain, "_seconds", timed)
    with threadpool_limits(2, user_api="blas"):
        assert half_gain._gain() == 1.0
    assert set(threads) == {1}


def test_the_gain_is_measured() -> None:
    assert half_gain._measured().result() > 0
    assert half_gain._measured() is half_gain._measured()


def test_small_searches_do_without_torch(tmp_path: Path) -> None:
    make_pool(tmp_path, mixture(200, 64), neighbours=3)
    script = """
import sys
import numpy as np
from coresift.server.pool.pool import Pool
pool = Pool.open(sys.argv[1])
pool.search(pool.fetch(np.arange(100)), 5)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "pool")], check=True)


AFTER_THE_IMPORT = """
import gc
from coresift.server.pool.half_gain import half_pays

assert "torch" not in __import__("sys").modules
half_pays(64, 10**6, 256, wait=True)
assert "torch" in __import__("sys").modules
print(len(gc.get_objects()))
"""


def test_the_collector_does_not_look_at_torch() -> None:
    """Which is more than a hundred thousand objects."""
    command = [sys.executable, "-c", AFTER_THE_IMPORT]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(printed) < 20_000
