from __future__ import annotations

import numpy as np
import pytest

from coresift.server.pool.canonical import matrix_products, pair_similarities, product_error


@pytest.mark.parametrize("m", [1, 2, 3, 17, 150])
@pytest.mark.parametrize("d", [1, 2, 7, 8, 9, 64, 127, 129, 257, 1024])
def test_products_have_the_same_bits_in_any_company(d: int, m: int) -> None:
    chance = np.random.default_rng(d)
    X = chance.standard_normal((5000, d), dtype=np.float32)
    W = chance.standard_normal((m, d))
    products = matrix_products(X, W)
    order = chance.permutation(len(X))
    assert np.array_equal(matrix_products(X[order], W), products[order])
    assert np.array_equal(matrix_products(np.asfortranarray(X), W), products)
    for row in (0, 4095, 4096, 4999):
        assert np.array_equal(matrix_products(X[row : row + 1], W)[0], products[row])
    assert np.allclose(products, X.astype(np.float64) @ W.T, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("metric", ["ip", "l2"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_float32_products_stay_within_the_bound(metric: str, scale: float) -> None:
    chance = np.random.default_rng(1)
    X = (scale * chance.standard_normal((500, 100))).astype(np.float32)
    Q = (scale * chance.standard_normal((20, 100))).astype(np.float32)
    norms = np.linalg.norm(Q.astype(np.float64), axis=1)
    bound = product_error(metric, 100, float(np.linalg.norm(X, axis=1).max()), norms)  # type: ignore[arg-type]
    fast = Q @ X.T
    if metric == "l2":
        fast = 2 * fast - (X**2).sum(axis=1) - (Q**2).sum(axis=1)[:, None]
    for q in range(20):
        exact = pair_similarities(metric, X, np.repeat(Q[q : q + 1], 500, axis=0))  # type: ignore[arg-type]
        assert np.abs(fast[q] - exact).max() <= bound[q]
