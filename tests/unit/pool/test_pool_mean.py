from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.pools import extend_pool, make_pool

from coresift.server.pool.failures import Cancelled
from coresift.server.pool.pool import Pool

chance = np.random.default_rng(0)
X = (chance.standard_normal((700, 6)) + 3).astype(np.float32)


@pytest.mark.parametrize("device", ["cpu", "torch:cpu"])
@pytest.mark.parametrize("index", ["flat", "ivf"])
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_mean_of_all_rows(
    tmp_path: Path, device: str, index: str, metric: str, dtype: type
) -> None:
    pool = make_pool(tmp_path, X.astype(dtype), device=device, index=index, metric=metric)
    rows = pool.fetch(np.arange(700)).astype(np.float64)
    expected = [sum(column) / 700 for column in rows.T.tolist()]
    mean = pool.mean()
    assert mean.dtype == np.float64
    assert mean.shape == (6,)
    # Devices divide by the norm in their own order: one rounding of float32 a value.
    assert np.allclose(mean, expected, rtol=1e-7 if device == "torch:cpu" else 1e-14, atol=0)


def test_a_newer_version_has_its_own_mean(tmp_path: Path) -> None:
    old = make_pool(tmp_path, X, metric="ip")
    new = extend_pool(tmp_path, -X[:90], [f"new-{row}" for row in range(90)])
    assert np.allclose(new.mean() * 790, old.mean() * 700 - X[:90].astype(np.float64).sum(axis=0))


def test_float32_would_lose_what_float64_keeps(tmp_path: Path) -> None:
    large = np.full((3000, 2), 1.0, np.float32)
    large[0] = 1e9
    pool = make_pool(tmp_path, large, metric="ip")
    assert pool.mean().tolist() == [(1e9 + 2999) / 3000] * 2


def test_all_threads_share_one_mean_that_cannot_be_changed(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, X)
    start = threading.Barrier(8)

    def ask() -> np.ndarray:
        start.wait()
        return pool.mean()

    with ThreadPoolExecutor(8) as threads:
        means = [future.result() for future in [threads.submit(ask) for _ in range(8)]]
    assert all(mean is means[0] for mean in means)
    with pytest.raises(ValueError, match="read-only"):
        means[0][0] = 5


def test_same_bits_in_every_process(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, X, index="ivf")
    assert pool.mean().tobytes() == Pool.open(tmp_path / "pool").mean().tobytes()


def test_a_scan_that_was_stopped_leaves_nothing(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, X)
    with pytest.raises(Cancelled):
        pool.mean(stop=lambda: True)
    assert np.allclose(pool.mean(), pool.fetch(np.arange(700)).mean(axis=0))
