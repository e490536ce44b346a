"""A pool on the device and the same on the CPU: scores within 1e-3, and the same picks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.fixtures.coreset_cases import METRICS, Case, by_case
from tests.fixtures.pools import make_pool
from tests.laws.test_strategy_laws import OF_HEADS, a_head, said, scorer_of

from coresift.server.pool.pool import Pool
from coresift.server.selection.circular_scan import show_pool
from coresift.server.selection.leaders import Leaders
from coresift.server.selection.scoring import Columns, Scored

N, D = 3_000, 12
CLOSE = 1e-3
Pair = tuple[Pool, Pool]
KINDS = [(dtype, metric) for dtype in ("float32", "float16") for metric in ("cosine", "ip", "l2")]


def a_pair(folder: Path, device: str, dtype: str, metric: str, index: str = "auto") -> Pair:
    """On the CPU and on the device; a tenth of the rows are copies."""
    chance = np.random.default_rng(6)
    X = chance.standard_normal((N, D))
    X[-N // 10 :] = X[chance.integers(0, N - N // 10, N // 10)]
    host = make_pool(folder, X.astype(dtype), metric=metric, index=index, device="cpu")
    return host, Pool.open(folder / "pool", device=device)


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def pair(
    request: pytest.FixtureRequest, device: str, tmp_path_factory: pytest.TempPathFactory
) -> Pair:
    """One pool, opened on both."""
    return a_pair(tmp_path_factory.mktemp("pair"), device, *request.param)


@pytest.mark.parametrize("index", ["flat", "ivf"])
@pytest.mark.parametrize(("dtype", "metric"), KINDS)
def test_neighbours(tmp_path: Path, device: str, dtype: str, metric: str, index: str) -> None:
    host, other = a_pair(tmp_path, device, dtype, metric, index)
    queries = host.normalise(np.random.default_rng(9).standard_normal((30, D)))
    for mine, theirs in zip(host.search(queries, 20), other.search(queries, 20), strict=True):
        assert np.array_equal(mine, theirs)
    rows = np.arange(0, N, 7)
    assert np.array_equal(host.neighbours(rows, 10), other.neighbours(rows, 10))
    assert np.abs(host.mean() - other.mean()).max() <= 1e-6


def products_of(pool: Pool, matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Of all rows, [N, c]."""
    products = np.empty((N, matrix.shape[1]), np.float32)
    for rows, part in pool.scan(lambda block: (block.rows, block.product(matrix))):
        products[rows] = part
    return products


def picks_of(pool: Pool, scorer: Any, head: Any) -> Scored:
    leaders = Leaders(scorer, head, np.zeros(N, np.bool_), 100, pool.max_norm)
    show_pool(pool, [leaders])
    return leaders.best(pool.fetch)


@pytest.mark.parametrize(("choice", "task"), OF_HEADS, ids=said)
def test_scores_and_picks(pair: Pair, choice: Any, task: Any) -> None:
    head = a_head(task, 2)
    scorer = scorer_of(pair[0], choice, head)
    columns = Columns.of(scorer, head)
    assert columns.weights is not None
    rows = np.arange(N, dtype=np.int32)
    mine, theirs = (
        scorer.score(columns.part(rows, lambda matrix, pool=pool: products_of(pool, matrix)))  # type: ignore[misc]
        for pool in pair
    )
    assert np.abs(mine - theirs).max() <= CLOSE
    one, two = (picks_of(pool, scorer, head) for pool in pair)
    assert one.rows.tolist() == two.rows.tolist()
    assert one.scores.tobytes() == two.scores.tobytes()
    assert one.predicted.tolist() == two.predicted.tolist()


def test_rows_between(pair: Pair) -> None:
    w = np.random.default_rng(3).standard_normal(D).astype(np.float32)
    products = products_of(pair[0], w[:, None])[:, 0]
    # Bounds in the middle of gaps: nothing lies where rounding decides.
    values = np.unique(products)
    places = np.flatnonzero(np.diff(values) > 1e-3)[[2, -3]]
    low, high = ((values[place] + values[place + 1]) / 2 for place in places)
    parts = list(pair[1].between(w, lambda: (float(low), float(high))))
    rows = np.concatenate([part[0] for part in parts])
    assert sorted(rows.tolist()) == np.flatnonzero((products > low) & (products < high)).tolist()
    assert np.abs(np.concatenate([part[1] for part in parts]) - products[rows]).max() <= CLOSE


@pytest.fixture(scope="module")
def pairs(device: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """By metric."""
    folder = tmp_path_factory.mktemp("pairs")
    return {metric: a_pair(folder / metric, device, "float32", metric) for metric in METRICS}


@by_case
def test_core_sets(pairs: dict[str, Pair], case: Case) -> None:
    one, two = (case.recipe().select(case.problem(pool, 60)) for pool in pairs[case.metric])
    assert one.positions.tolist() == two.positions.tolist()
    assert np.allclose(one.scores, two.scores, rtol=CLOSE, atol=CLOSE)
