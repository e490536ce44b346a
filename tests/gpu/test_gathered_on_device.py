"""Products of rows from anywhere in a pool: k-center, joins and tables as a CPU makes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.coresets import a_problem
from tests.fixtures.pools import extend_pool, make_pool, write_inputs

from coresift.server.coreset import graph
from coresift.server.coreset.facility_location import FacilityLocation
from coresift.server.coreset.graph import neighbour_graph
from coresift.server.coreset.k_center import KCenter
from coresift.server.pool import device_compute, layout
from coresift.server.pool.builder import AppendOptions, BuildOptions, append_pool, build_pool
from coresift.server.pool.pool import Pool

N, D = 3_000, 12
CLOSE = 1e-5
Pair = tuple[Pool, Pool]
KINDS = [
    ("float32", "cosine", "flat"),
    ("float16", "cosine", "ivf"),
    ("float16", "ip", "flat"),
    ("float32", "l2", "ivf"),
]


def some_rows(n: int, seed: int) -> Any:
    """A third of them copies, some nearly so, and a zero."""
    chance = np.random.default_rng(seed)
    X = chance.standard_normal((n, D))
    X[: n // 3] = X[chance.integers(n // 3, n, n // 3)]
    X[: n // 9] *= 1 + 1e-6 * chance.standard_normal((n // 9, 1))
    return X


@pytest.fixture(params=[1, 2**26], ids=["small blocks", "large blocks"])
def blocks(request: pytest.FixtureRequest) -> Iterator[int]:
    """Sizes of blocks on the device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_compute, "_CPU_BLOCK", request.param)
        patch.setattr(device_compute, "GPU_BLOCK", request.param)
        yield request.param


@pytest.fixture(params=KINDS, ids="-".join)
def pair(request: pytest.FixtureRequest, device: str, blocks: int, tmp_path: Path) -> Pair:
    """A pool of two segments, on the CPU and on the device."""
    dtype, metric, index = request.param
    X = some_rows(N, 6).astype(dtype)
    if metric != "cosine":
        X[17] = 0
    make_pool(tmp_path, X[:1_700], metric=metric, index=index, device="cpu").close()
    extend_pool(tmp_path, X[1_700:], [f"more-{row}" for row in range(N - 1_700)]).close()
    host, other = (Pool.open(tmp_path / "next", device=place) for place in ("cpu", device))
    assert not host.is_on_device
    assert other.is_on_device
    assert (other.gathering.breadth > 1) == (blocks > 2**22)
    return host, other


@pytest.mark.parametrize("starts", [0, 900])
def test_k_center(pair: Pair, starts: int) -> None:
    one, two = (
        KCenter().select(a_problem(pool, 400, start=np.arange(starts), rows=np.arange(0, N, 2)))
        for pool in pair
    )
    assert one.positions.tolist() == two.positions.tolist()
    assert one.scores.tobytes() == two.scores.tobytes()
    assert one.weights is not None
    assert two.weights is not None
    assert one.weights.tolist() == two.weights.tolist()
    assert one.covering_radius == two.covering_radius


def test_what_is_gathered(pair: Pair) -> None:
    rows = np.random.default_rng(1).permutation(N)[:900].astype(np.int32)
    others = np.arange(40, N, 25, dtype=np.int32)
    (one, C), (two, E) = ((pool.gathering.of(rows), pool.gathering.of(others)) for pool in pair)
    assert len(one) == len(two) == 900
    places = np.array([4, 0, 899])
    assert one.vectors(places).tobytes() == two.vectors(places).tobytes()
    assert np.allclose(one.squares(), two.squares(), rtol=CLOSE)
    error = 40 * 2.0**-22 * max(1.0, pair[0].max_norm ** 2)
    mine, theirs = one.closest(C), two.closest(E)
    for near, far in zip(mine[1:], theirs[1:], strict=True):
        assert np.abs(near - far).max() <= error
    clear = mine[1] - mine[2] > 2 * error
    assert clear.any()
    assert (mine[0] == theirs[0])[clear].all()
    some = np.arange(0, 900, 7)
    least = mine[1][some] - np.float32(0.1)
    found = [
        set(zip(*(side.tolist() for side in each), strict=True))
        for each in (one.near(some, C, least, 10**6), two.near(some, E, least, 10**6))
        if each is not None
    ]
    surely = two.near(some, E, least + np.float32(2 * error), 10**6)
    assert surely is not None
    assert set(zip(*(side.tolist() for side in surely), strict=True)) <= found[0]
    assert len(found[0] ^ found[1]) <= len(found[0]) / 100
    assert one.near(some, C, least, len(some) - 1) is None
    assert two.near(some, E, least, len(some) - 1) is None


def test_one_centre_has_no_second(pair: Pair) -> None:
    rows = np.arange(5, dtype=np.int32)
    for pool in pair:
        which, _, second = pool.gathering.of(rows).closest(pool.gathering.of(rows[:1]))
        assert which.tolist() == [0] * 5
        assert (second == -np.inf).all()


def test_a_join(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly all lists are the same, and all are as similar."""
    monkeypatch.setattr(graph, "EXACT_ITEMS", 0)
    one, two = (neighbour_graph(a_problem(pool, 1, rows=np.arange(0, N, 2)), 16) for pool in pair)
    assert np.abs(one.similarities - two.similarities).max() <= CLOSE
    same = np.sort(one.neighbours, axis=1) == np.sort(two.neighbours, axis=1)
    # Which of several copies is listed is no matter.
    assert same.mean() > 0.98


@pytest.mark.parametrize("metric", ["cosine", "ip"])
def test_facility_location_on_a_join(
    tmp_path: Path, device: str, blocks: int, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without copies: which of them is listed would matter."""
    monkeypatch.setattr(graph, "EXACT_ITEMS", 0)
    X = np.random.default_rng(2).standard_normal((N, D)).astype(np.float16)
    make_pool(tmp_path, X, metric=metric, device="cpu").close()
    method = FacilityLocation(graph="neighbours", neighbours=16)
    one, two = (
        method.select(a_problem(Pool.open(tmp_path / "pool", device=place), 60))
        for place in ("cpu", device)
    )
    assert len(np.intersect1d(one.positions, two.positions)) >= 58
    assert one.objective == pytest.approx(two.objective, rel=1e-4)


@pytest.mark.parametrize(("dtype", "metric"), [("float32", "cosine"), ("float16", "l2")])
def test_a_table(tmp_path: Path, device: str, blocks: int, dtype: str, metric: Any) -> None:
    """Built and extended: the same bytes, so that the versions are the same, too."""
    X = some_rows(N, 7).astype(dtype)
    first = write_inputs(tmp_path, X[:2_000])
    more = write_inputs(tmp_path, X[2_000:], [f"more-{row}" for row in range(N - 2_000)], "more")
    made = []
    for place in ("cpu", device):
        built, longer = (tmp_path / f"{name}-{place}" for name in ("pool", "next"))
        options = BuildOptions(first, built, "p", metric, neighbours=9, device=place)
        made.append([build_pool(options), append_pool(AppendOptions(built, more, longer, place))])
        made[-1] += [(folder / layout.NEIGHBOURS).read_bytes() for folder in (built, longer)]
    assert made[0] == made[1]
