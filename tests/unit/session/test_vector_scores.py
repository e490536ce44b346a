"""What is made of vectors outside the pool, without sessions: the nearest of some rows, and what
would be among the best."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fixtures.pools import make_pool

from coresift.server.pool.failures import Cancelled
from coresift.server.pool.pool import Pool
from coresift.server.session import vector_scores
from coresift.server.session.vector_scores import among_best, nearest_similarity

N, D = 90, 7
FEW = st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0])


@pytest.fixture(scope="module", params=["cosine", "ip", "l2"])
def pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Rows whose distances are far smaller than their norms."""
    X = np.random.default_rng(0).standard_normal((N, D)) + 1_000
    folder = tmp_path_factory.mktemp("pool")
    return make_pool(folder, X.astype(np.float32), metric=request.param)


def twin(pool: Pool, vector: np.ndarray, rows: np.ndarray) -> float:
    """The largest similarity, one row at a time."""
    q, X = vector.astype(np.float64), pool.fetch(rows).astype(np.float64)
    if pool.manifest.metric == "l2":
        return max(-float(((x - q) ** 2).sum()) for x in X)
    return max(float((x * q).sum()) for x in X)


@pytest.mark.parametrize("numbers", [1, 64, 1 << 22])
@pytest.mark.parametrize("count", [1, 33, N])
def test_the_nearest_of_some_rows(
    pool: Pool, count: int, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_scores, "BLOCK_NUMBERS", numbers)
    chance = np.random.default_rng(count)
    rows = np.sort(chance.choice(N, count, replace=False)).astype(np.int32)
    vectors = pool.normalise(chance.standard_normal((12, D)) + 1_000)
    found = nearest_similarity(pool, vectors, rows)
    expected = [twin(pool, vector, rows) for vector in vectors]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_a_row_is_nearest_to_itself_as_search_has_it(pool: Pool) -> None:
    everything = np.arange(N, dtype=np.int32)
    vectors = pool.fetch(everything)
    found = nearest_similarity(pool, vectors, everything)
    assert found.tolist() == pool.search(vectors, 1)[1][:, 0].tolist()


def test_nothing_is_near_without_rows(pool: Pool) -> None:
    found = nearest_similarity(pool, pool.fetch(np.arange(3)), np.empty(0, np.int32))
    assert np.isnan(found).all()
    assert len(found) == 3


def test_it_ends_between_blocks_when_the_caller_is_gone(pool: Pool) -> None:
    rows = np.arange(N, dtype=np.int32)
    with pytest.raises(Cancelled):
        nearest_similarity(pool, pool.fetch(rows), rows, stop=lambda: True)


@given(st.lists(FEW, max_size=12), st.lists(FEW, max_size=12), st.integers(1, 30))
def test_the_best_of_both_are_those_of_a_merge(
    scores: list[float], ranked: list[float], count: int
) -> None:
    """Ties go to the pool, then to the first vector."""
    merged = [(-s, 0, place) for place, s in enumerate(ranked)]
    merged += [(-s, 1, place) for place, s in enumerate(scores)]
    best = {place for _, kind, place in sorted(merged)[:count] if kind}
    falling = np.sort(np.array(ranked, np.float64))[::-1]
    found = among_best(np.array(scores, np.float64), falling, count)
    assert np.flatnonzero(found).tolist() == sorted(best)
    # What lies beyond the first `count` of the pool changes nothing.
    short = among_best(np.array(scores, np.float64), falling[:count], count)
    assert short.tolist() == found.tolist()


def test_what_has_no_score_is_never_among_the_best() -> None:
    scores = np.array([np.nan, -3.0, np.nan])
    assert among_best(scores, np.empty(0), 10).tolist() == [False, True, False]
