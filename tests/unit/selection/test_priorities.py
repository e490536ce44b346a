"""Keyed priorities: uniform, and blind to order, company and the pool's size."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from coresift.server.selection.priority import priorities, random_order

seeds = st.integers(0, 2**64 - 1)


@settings(max_examples=100, deadline=None)
@given(seed=seeds, rows=st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=50))
def test_a_priority_depends_on_the_row_alone(seed: int, rows: list[int]) -> None:
    together = priorities(seed, "x", np.array(rows, np.int32))
    alone = [float(priorities(seed, "x", np.array([row], np.int32))[0]) for row in rows]
    assert together.tolist() == alone
    assert all(0 <= value < 1 for value in alone)


def test_priorities_are_uniform_and_unrelated() -> None:
    rows = np.arange(50_000, dtype=np.int32)
    first, other_seed, other_use = (
        priorities(1, "a", rows),
        priorities(2, "a", rows),
        priorities(1, "b", rows),
    )
    for drawn in (first, other_seed, other_use):
        assert stats.kstest(drawn, "uniform").pvalue > 0.01
        assert len(np.unique(drawn)) == len(rows)
        assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(first, other_seed)[0, 1]) < 0.02
    assert abs(np.corrcoef(first, other_use)[0, 1]) < 0.02


@settings(max_examples=150, deadline=None)
@given(seed=seeds, items=st.integers(1, 300), count=st.integers(0, 320), more=st.integers(0, 50))
def test_an_order_is_by_priority_and_extends(seed: int, items: int, count: int, more: int) -> None:
    order = random_order(seed, "x", items, count)
    rows = np.arange(items, dtype=np.int32)
    priority = dict(zip(rows.tolist(), priorities(seed, "x", rows).tolist(), strict=True))
    expected = sorted(priority, key=lambda row: (-priority[row], row))
    assert order.dtype == np.int32
    assert order.tolist() == expected[:count]
    longer = random_order(seed, "x", items + more, items + more)
    assert [row for row in longer.tolist() if row < items] == expected


def test_an_early_place_is_equally_likely_for_every_row() -> None:
    counts = np.zeros(40)
    for seed in range(2_000):
        counts[random_order(seed, "x", 40, 8)] += 1
    assert counts.sum() == 16_000
    assert stats.chisquare(counts).pvalue > 0.01
