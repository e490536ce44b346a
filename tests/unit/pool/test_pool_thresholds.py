from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from coresift.server.pool.thresholds import lower_bounds, order_by, places, places_above


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 300),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 5, 10**6]),
    st.sampled_from([1e-42, 1e-3, 1.0, 1e36]),
)
def test_order_is_that_of_lexsort(n: int, seed: int, levels: int, scale: float) -> None:
    chance = np.random.default_rng(seed)
    groups = chance.integers(0, 9, n)
    values = (chance.integers(-levels, levels + 1, n) / levels * scale).astype(np.float32)
    values[chance.random(n) < 0.1] = -np.inf
    values[chance.random(n) < 0.1] = -0.0
    order, expected = order_by(groups, values), np.lexsort((-values, groups))
    assert sorted(order.tolist()) == list(range(n))
    assert (groups[order] == groups[expected]).all()
    assert (values[order] == values[expected]).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 200), st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_at_least_k_reach_the_bound(m: int, n: int, k: int, seed: int) -> None:
    k = min(k, n)
    values = np.random.default_rng(seed).integers(-5, 6, (m, n)).astype(np.float32)
    bounds = lower_bounds(values, k)
    assert ((values >= bounds[:, None]).sum(axis=1) >= k).all()
    found = places_above(values, bounds)
    for mine, other in zip(found, np.nonzero(values >= bounds[:, None]), strict=True):
        assert np.array_equal(mine, other)


def test_places_of_nothing() -> None:
    assert [len(part) for part in places(np.zeros((3, 5), bool))] == [0, 0]
