"""Laws of every batch policy, and the slow twin of each."""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from tests.fixtures.pools import make_pool

from coresift.server.arrays import Rows
from coresift.server.head import Head, Task
from coresift.server.pool.pool import Pool
from coresift.server.selection.badge import Badge
from coresift.server.selection.batch import BatchPolicy, Shortlist, Top
from coresift.server.selection.batch_policies import HALVINGS, ClusterMargin, Gist, Power
from coresift.server.selection.parameters import read
from coresift.server.selection.priority import priorities

N, D = 900, 8
POLICIES: dict[str, BatchPolicy] = {
    "top": Top(),
    "cluster_margin": ClusterMargin(),
    "badge": Badge(),
    "gist": Gist(),
    "gist, far apart": Gist(min_distance=1.2),
    "power": Power(),
    "power, uniform": Power(beta=0),
}
RANDOM = {"badge", "power", "power, uniform"}
EVERY_POLICY = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
HEADS = ["none", "binary", "multiclass", "multilabel", "saturated"]


@pytest.fixture(scope="module", params=["cosine", "ip", "l2"])
def pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """A third of the rows are copies of others."""
    chance = np.random.default_rng(3)
    X = chance.standard_normal((N, D)).astype(np.float32)
    X[600:] = X[chance.integers(0, 600, 300)]
    return make_pool(tmp_path_factory.mktemp("pool"), X, metric=request.param)


@pytest.fixture(scope="module")
def unit_pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    X = np.random.default_rng(4).standard_normal((N, D)).astype(np.float32)
    return make_pool(tmp_path_factory.mktemp("unit"), X)


def a_head(kind: str) -> Head | None:
    """Random weights, with columns that were never fitted where there are several."""
    if kind == "none":
        return None
    chance = np.random.default_rng(1)
    task = Task.MULTICLASS if kind == "saturated" else Task[kind.upper()]
    count = 1 if task is Task.BINARY else 5
    weights, bias = 3 * chance.standard_normal((count, D)), chance.standard_normal(count)
    fitted = np.ones(count, np.bool_)
    if task is not Task.BINARY:
        fitted[2], weights[2], bias[2] = False, 0, -np.inf
    if kind == "saturated":
        weights *= 1e4
    return Head(task, weights, bias, fitted)


def a_shortlist(
    pool: Pool,
    n: int,
    *,
    head: str = "multiclass",
    seed: int = 1,
    revision: int = 2,
    order: int = 5,
) -> Shortlist:
    rows = np.random.default_rng(order).permutation(pool.manifest.items)[:n].astype(np.int32)
    scores = np.linspace(1, -1, n) if head != "none" else np.full(n, np.nan)
    return Shortlist(pool, rows, scores, a_head(head), seed, revision)


@EVERY_POLICY
@pytest.mark.parametrize("head", HEADS)
def test_an_arrangement_is_an_order_of_distinct_places(
    pool: Pool, policy: BatchPolicy, head: str
) -> None:
    for n in (0, 1, 2, 17, 600):
        for count in (0, 1, n // 2, n, n + 3):
            places = policy.arrange(a_shortlist(pool, n, head=head), count)
            assert places.dtype == np.int64
            assert len(places) == min(count, n)
            assert len(np.unique(places)) == len(places)
            assert set(places.tolist()) <= set(range(n))


@EVERY_POLICY
@pytest.mark.parametrize("head", HEADS)
def test_a_smaller_batch_is_the_beginning_of_a_larger_one(
    pool: Pool, policy: BatchPolicy, head: str
) -> None:
    whole = policy.arrange(a_shortlist(pool, 700, head=head), 700)
    for count in (1, 2, 3, 40, 300, 699):
        again = policy.arrange(a_shortlist(pool, 700, head=head), count)
        assert again.tolist() == whole[:count].tolist()


@pytest.mark.parametrize("name", POLICIES)
def test_only_random_policies_depend_on_seed_and_revision(unit_pool: Pool, name: str) -> None:
    def arranged(seed: int, revision: int) -> list[int]:
        shortlist = a_shortlist(unit_pool, 300, seed=seed, revision=revision)
        return POLICIES[name].arrange(shortlist, 60).tolist()

    assert arranged(1, 2) == arranged(1, 2)
    assert (arranged(1, 2) != arranged(1, 3)) == (name in RANDOM)
    assert (arranged(1, 2) != arranged(4, 2)) == (name in RANDOM)


@EVERY_POLICY
def test_copies_of_one_row_keep_their_rank_or_their_draw(
    tmp_path: Any, policy: BatchPolicy
) -> None:
    pool = make_pool(tmp_path, np.ones((40, D), np.float32))
    places = policy.arrange(a_shortlist(pool, 40), 40).tolist()
    assert sorted(places) == list(range(40))
    if not isinstance(policy, Power):
        assert places == list(range(40))


@pytest.mark.parametrize("kind", [ClusterMargin, Badge, Gist, Power])
def test_parameters_are_typed_and_bounded(kind: type[Any]) -> None:
    assert read(kind, {"oversampling": 3.0}, "config.batch.params").oversampling == 3
    assert kind().oversampling == 10


def test_cluster_margin_goes_round_the_clusters_the_smallest_first(pool: Pool) -> None:
    for n in (1, 5, 200, 700):
        shortlist = a_shortlist(pool, n)
        members: dict[int, list[int]] = {}
        for place, row in enumerate(shortlist.rows.tolist()):
            members.setdefault(int(pool.clusters[row]), []).append(place)
        turns = sorted(members.values(), key=lambda own: (len(own), own[0]))
        twin = [own[turn] for turn in range(n) for own in turns if turn < len(own)]
        assert ClusterMargin().arrange(shortlist, n).tolist() == twin


def embeddings(shortlist: Shortlist) -> npt.NDArray[np.float64]:
    """Explicit gradients of the last layer, float64 [n, K' * d]."""
    X = shortlist.vectors.astype(np.float64)
    if shortlist.head is None:
        return X
    rows = []
    for p, x in zip(shortlist.probabilities, X, strict=True):
        if shortlist.head.task is Task.MULTILABEL:
            slope = p - np.round(p)
        else:
            slope = p - np.eye(len(p))[p.argmax()]
        rows.append(np.outer(slope, x).ravel())
    return np.array(rows)


def badge_twin(shortlist: Shortlist, count: int) -> list[int]:
    """All clocks, all distances, one choice after the other."""
    G = embeddings(shortlist)
    purpose = f"badge:{shortlist.revision}"
    clock = -np.log1p(-priorities(shortlist.seed, purpose, shortlist.rows))
    chosen = [int((G**2).sum(axis=1).argmax()) if shortlist.head is not None else 0]
    nearest = np.full(len(G), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, ((G - G[chosen[-1]]) ** 2).sum(axis=1))
        nearest[chosen] = 0
        # Below this a distance may be rounding.
        running = nearest > 1e-13 * (G**2).sum(axis=1)
        if not running.any():
            break
        waits = np.where(running, clock / np.where(running, nearest, 1), np.inf)
        chosen.append(int(waits.argmin()))
        clock = clock - nearest * waits.min()
    return chosen + [place for place in range(len(G)) if place not in set(chosen)][:count]


@pytest.mark.parametrize("head", ["none", "binary", "multiclass", "multilabel"])
def test_badge_is_its_twin_on_explicit_gradients(pool: Pool, head: str) -> None:
    for n, count in ((2, 2), (60, 60), (800, 120)):
        shortlist = a_shortlist(pool, n, head=head)
        assert Badge().arrange(shortlist, count).tolist() == badge_twin(shortlist, count)[:count]


@pytest.mark.parametrize("head", ["multiclass", "multilabel"])
def test_badge_does_not_depend_on_the_order_of_the_shortlist(unit_pool: Pool, head: str) -> None:
    one = a_shortlist(unit_pool, N, head=head)
    other = a_shortlist(unit_pool, N, head=head, order=6)
    first, second = (short.rows[Badge().arrange(short, 200)] for short in (one, other))
    assert first.tolist() == second.tolist()


def test_badge_never_picks_a_copy_while_others_are_left(pool: Pool) -> None:
    shortlist = a_shortlist(pool, N)
    places = Badge().arrange(shortlist, N)
    copies = Counter(x.tobytes() for x in shortlist.vectors)
    picked = [shortlist.vectors[place].tobytes() for place in places]
    assert len(set(picked[: len(copies)])) == len(copies)
    assert places[len(copies) :].tolist() == sorted(places[len(copies) :].tolist())


def frequencies_match(expected: dict[Any, float], found: Counter[Any]) -> None:
    total = found.total()
    names = list(expected)
    assert set(found) <= set(names)
    counts = [found[name] for name in names]
    assert chisquare(counts, [total * expected[name] for name in names]).pvalue > 1e-3


def test_badge_draws_by_squared_distance(tmp_path: Any) -> None:
    X = np.array([[3, 0], [0, 0.5], [0, -1], [1, 1], [2, 1]], np.float32)
    pool = make_pool(tmp_path, X, metric="l2")
    rows = np.arange(5, dtype=np.int32)

    def squared(row: int, others: tuple[int, ...]) -> float:
        return min(float(((X[row] - X[other]) ** 2).sum()) for other in others)

    expected = {}
    for pair in permutations(range(1, 5), 2):
        chance, chosen = 1.0, (0,)
        for row in pair:
            total = sum(squared(other, chosen) for other in range(5))
            chance *= squared(row, chosen) / total
            chosen = (*chosen, row)
        expected[pair] = chance
    found: Counter[Any] = Counter()
    for seed in range(4_000):
        places = Badge().arrange(Shortlist(pool, rows, np.zeros(5), None, seed, 0), 3)
        found[tuple(places[1:].tolist())] += 1
    frequencies_match(expected, found)


def gist_twin(X: npt.NDArray[np.float64], distance: float) -> list[int]:
    chosen: list[int] = []
    for halving in range(HALVINGS + 1):
        least = (distance / 2**halving) ** 2
        for place in range(len(X)):
            far = [((X[place] - X[other]) ** 2).sum() >= least for other in chosen]
            if place not in chosen and all(far):
                chosen.append(place)
    return chosen + [place for place in range(len(X)) if place not in chosen]


@pytest.mark.parametrize("distance", [0.0, 0.3, 1.1, 50.0])
def test_gist_is_its_twin(pool: Pool, distance: float) -> None:
    shortlist = a_shortlist(pool, 120)
    twin = gist_twin(shortlist.vectors.astype(np.float64), distance)
    assert Gist(distance).arrange(shortlist, 120).tolist() == twin


@pytest.mark.parametrize("distance", [1.0, math.sqrt(2), 2.0])
@pytest.mark.parametrize("offset", [0, 10_000])
def test_gist_decides_exactly_at_its_distance(
    tmp_path: Any, distance: float, offset: float
) -> None:
    """Points of a lattice, also far from the origin: all distances are ties."""
    X = np.random.default_rng(2).integers(0, 3, (100, 4)).astype(np.float32) + offset
    shortlist = a_shortlist(make_pool(tmp_path, X, metric="l2"), 100, head="none")
    twin = gist_twin(shortlist.vectors.astype(np.float64), distance)
    assert Gist(distance).arrange(shortlist, 100).tolist() == twin


def test_picks_of_gist_keep_their_distance(unit_pool: Pool) -> None:
    """Over several blocks: a maximal set, and the greedy one."""
    shortlist = a_shortlist(unit_pool, N)
    X = shortlist.vectors.astype(np.float64)
    apart = ((X[:, None, :] - X[None, :, :]) ** 2).sum(axis=2) >= 0.8**2
    greedy: list[int] = []
    for place in range(N):
        if apart[place, greedy].all():
            greedy.append(place)
    assert 20 < len(greedy) < N // 2
    places = Gist(0.8).arrange(shortlist, N)
    assert places[: len(greedy)].tolist() == greedy


@settings(max_examples=20, deadline=None)
@given(beta=st.floats(0, 100), seed=st.integers(0, 2**63), n=st.integers(0, 300))
def test_power_sorts_ranks_with_gumbel_noise(
    unit_pool: Pool, beta: float, seed: int, n: int
) -> None:
    shortlist = a_shortlist(unit_pool, n, seed=seed)
    uniform = priorities(seed, "power:2", shortlist.rows)
    keys = [
        -beta * math.log(rank) - math.log(-math.log1p(-u))
        for rank, u in enumerate(uniform.tolist(), 1)
    ]
    twin = sorted(range(n), key=lambda place: -keys[place])
    assert Power(beta).arrange(shortlist, n).tolist() == twin


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.5])
def test_power_draws_by_rank(unit_pool: Pool, beta: float) -> None:
    """Two draws without replacement, each proportional to rank**-beta of what is left."""
    weights = [rank**-beta for rank in range(1, 5)]
    expected = {
        (i, j): weights[i] / sum(weights) * weights[j] / (sum(weights) - weights[i])
        for i, j in permutations(range(4), 2)
    }
    rows: Rows = np.array([40, 3, 7, 100], np.int32)
    found: Counter[Any] = Counter()
    for seed in range(4_000):
        shortlist = Shortlist(unit_pool, rows, np.zeros(4), None, seed, 0)
        found[tuple(Power(beta).arrange(shortlist, 2).tolist())] += 1
    frequencies_match(expected, found)


def test_a_large_beta_is_the_top(unit_pool: Pool) -> None:
    shortlist = a_shortlist(unit_pool, 30)
    assert Power(100).arrange(shortlist, 10).tolist()[:3] == [0, 1, 2]
