"""The law of bounds: no row that may be among the best has its product outside of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coresift.server.head import Head, Task
from coresift.server.selection.leaders import Leaders
from coresift.server.selection.plain import MostLikelyPositive
from coresift.server.selection.strategy import OfOneLogit
from coresift.server.selection.uncertainty import BINARY, entropy_scorer

N = 400
POSITIVE: Any = MostLikelyPositive().prepare(None)  # type: ignore[arg-type]


def leaders_of(scorer: Any, offset: float, depth: int) -> Leaders:
    head = Head(Task.BINARY, np.ones((1, 1)), np.array([offset]), np.ones(1, np.bool_))
    return Leaders(scorer, head, np.zeros(N, np.bool_), depth, 1.0)


@settings(max_examples=300, deadline=None)
@given(
    scorer=st.sampled_from([BINARY, POSITIVE]),
    offset=st.floats(-1e4, 1e4),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e3, 1e20]),
    steps=st.integers(1, 10**6),
    depth=st.integers(1, 50),
    seed=st.integers(0, 10**6),
)
def test_bounds_hold_all_that_may_be_best(
    scorer: Any, offset: float, scale: float, steps: int, depth: int, seed: int
) -> None:
    leaders = leaders_of(scorer, offset, depth)
    chance = np.random.default_rng(seed)
    # About minus the offset the sums cancel; few steps give ties.
    products = scale * chance.integers(-steps, steps + 1, N) / steps - offset
    products = products.astype(np.float32)
    logits = (products + leaders.columns.offset)[:, None]
    part = leaders.columns.split(np.arange(N, dtype=np.int32), logits)
    assert leaders.bounds() == (-np.inf, np.inf)
    leaders.add(leaders.look(part))
    leaders._cut()
    near, _ = leaders.look(part)
    assert len(near) >= depth
    low, high = (np.float32(bound) for bound in leaders.bounds())
    inside = np.flatnonzero((products >= low) & (products <= high))
    assert set(near.tolist()) <= set(inside.tolist())


@pytest.mark.parametrize("least", [-np.inf, -3.0, 0.0])
def test_an_interval_is_that_of_the_score(least: float) -> None:
    logits = np.linspace(-5, 5, 101)[:, None]
    part: Any = leaders_of(BINARY, 0, 1).columns.split(np.arange(101, dtype=np.int32), logits)
    for scorer in (BINARY, POSITIVE):
        assert isinstance(scorer, OfOneLogit)
        low, high = scorer.interval(least)
        inside = (logits[:, 0] >= low) & (logits[:, 0] <= high)
        assert inside.tolist() == (scorer.score(part) >= least).tolist()


def test_scores_of_several_logits_have_no_column() -> None:
    several = entropy_scorer(Task.MULTICLASS)
    assert not isinstance(several, OfOneLogit)
    assert leaders_of(several, 0, 1).column is None
    assert leaders_of(BINARY, 0, 1).column is not None
