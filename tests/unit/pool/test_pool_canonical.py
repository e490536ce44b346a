from __future__ import annotations

import numpy as np
import pytest

from coresift.server.pool.canonical import pair_similarities, product_error, row_products


@pytest.mark.parametrize("d", [1, 2, 7, 8, 9, 64, 127, 129, 257, 1024])
def test_row_products_have_the_same_bits_in_any_company(d: int) -> None:
    chance = np.random.default_rng(d)
    X = chance.standard_normal((5000, d), dtype=np.float32)
    w = chance.standard_normal(d)
    products = row_products(X, w)
    order = chance.permutation(len(X))
    assert np.array_equal(row_products(X[order], w), products[order])
    assert np.array_equal(row_products(np.asfortranarray(X), w), products)
    for row in (0, 4095, 4096, 4999):
        assert row_products(X[row : row + 1], w)[0] == products[row]
    assert np.allclose(products, X.astype(np.float64) @ w, rtol=1e-12, atol=1e-12)


def test_pair_similarities_equal_row_products() -> None:
    chance = np.random.default_rng(0)
    X = chance.standard_normal((300, 33), dtype=np.float32)
    q = chance.standard_normal((1, 33), dtype=np.float32)
    pairs = pair_similarities("cosine", X, np.repeat(q, 300, axis=0))
    assert np.array_equal(pairs, row_products(X, q[0].astype(np.float64)))


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
