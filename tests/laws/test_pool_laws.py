"""Laws of pools: the fast paths and their slow obvious twins give the same answers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.pools import brute_force, make_pool

from coresift.server.pool import half as half_module
from coresift.server.pool import search as search_module
from coresift.server.pool.search import exact_search


@st.composite
def inputs(draw: st.DrawFn) -> np.ndarray:
    """Few distinct values and repeated rows: ties everywhere."""
    n = draw(st.integers(1, 60))
    d = draw(st.integers(1, 9))
    seed = draw(st.integers(0, 2**32 - 1))
    levels = draw(st.sampled_from([2, 5, 1000]))
    chance = np.random.default_rng(seed)
    X = chance.integers(1, levels + 1, (n, d)) / levels * chance.choice([-1, 1], (n, d))
    X = X[chance.integers(0, n, n)] if draw(st.booleans()) else X
    return X.astype(draw(st.sampled_from([np.float16, np.float32])))


pools = {
    "X": inputs(),
    "metric": st.sampled_from(["cosine", "ip", "l2"]),
    "index": st.sampled_from(["flat", "ivf"]),
}


@settings(max_examples=60, deadline=None)
@given(
    **pools, k=st.integers(1, 70), device=st.sampled_from([None, "torch:cpu"]), half=st.booleans()
)
def test_search_is_brute_force(
    X: Any, metric: str, index: str, k: int, device: str | None, half: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_module, "half_pays", lambda *_: half)
        patch.setattr(search_module, "_SEARCH_SLOTS", 7 if half else 8192)
        patch.setattr(half_module, "_SPARSE", 1)  # few enough are near, however many
        pool = make_pool(Path(folder), X, metric=metric, index=index, device=device)
        own = pool.fetch(np.arange(min(5, len(X))))
        outside = pool.normalise(np.random.default_rng(k).standard_normal((2, X.shape[1])))
        queries = np.concatenate([own, outside])
        expected_rows, expected = brute_force(pool, queries, min(k, len(X)))
        # The exact search under both index kinds; ivf itself only where it probes every list.
        found = exact_search(pool._vectors, queries, min(k, len(X)))
        answers = [found]
        if index == "flat" or pool.manifest.probes == pool.manifest.clusters:
            answers.append(pool.search(queries, k))
        for rows, similarities in answers:
            assert np.array_equal(similarities, expected)
            assert np.array_equal(rows, expected_rows)
        one = pool.search(queries[:1], k)
        assert np.array_equal(one[0], pool.search(queries, k)[0][:1])


@settings(max_examples=30, deadline=None)
@given(**pools, k=st.integers(1, 12))
def test_neighbours_are_other_rows(X: Any, metric: str, index: str, k: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        columns = min(k, len(X) - 1)
        bare = make_pool(Path(folder) / "a", X, metric=metric, index=index)
        table = make_pool(Path(folder) / "b", X, metric=metric, index=index, neighbours=columns)
        rows = np.arange(len(X))
        full, _ = brute_force(bare, bare.fetch(rows), len(X))
        expected = [[other for other in full[row] if other != row][:columns] for row in rows]
        assert table.neighbours(rows, k).tolist() == expected
        found = bare.neighbours(rows, k)
        assert found.shape == (len(X), columns)
        assert all(row not in others for row, others in enumerate(found))
        if index == "flat":
            assert found.tolist() == expected


@settings(max_examples=20, deadline=None)
@given(**pools)
def test_fetch_and_scan_are_the_input(X: Any, metric: str, index: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pool = make_pool(Path(folder), X, metric=metric, index=index)
        wide = X.astype(np.float64)
        if metric == "cosine":
            wide /= np.linalg.norm(wide, axis=1, keepdims=True)
        everything = pool.fetch(np.arange(len(X)))
        assert np.abs(everything - wide).max() <= 2**-23
        seen = np.concatenate(list(pool.scan(lambda block: block.rows)))
        assert sorted(seen.tolist()) == list(range(len(X)))
        for rows, vectors in pool.scan(lambda block: (block.rows, block.vectors())):
            assert np.array_equal(vectors, everything[rows])
        assert np.linalg.norm(everything, axis=1).max() <= pool.max_norm * (1 + 1e-6)
