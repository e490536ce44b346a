"""Laws of the limits of a batch: what stays is what a slow greedy keeps."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.pools import make_pool

from coresift.server.arrays import Int64s, Rows
from coresift.server.pool.pool import Pool
from coresift.server.selection.batch import Shortlist
from coresift.server.selection.limits import Limits, within
from coresift.server.selection.spacing import BLOCK

N, D = 700, 6
Shares = tuple[tuple[int, float], ...]


@pytest.fixture(scope="module", params=["cosine", "ip", "l2"])
def pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Rows of different lengths, a third of them copies, a third of them multiples of others."""
    chance = np.random.default_rng(3)
    X = chance.standard_normal((N, D)).astype(np.float32)
    X[250:500] = X[chance.integers(0, 250, 250)]
    X[500:] = 3 * X[chance.integers(0, 250, 200)]
    return make_pool(tmp_path_factory.mktemp("pool"), X, metric=request.param)


@pytest.fixture(scope="module")
def lattice(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Small integers: many pairs have the very same cosine; some rows are zero."""
    X = np.random.default_rng(2).integers(-1, 2, (N, 4)).astype(np.float32)
    return make_pool(tmp_path_factory.mktemp("lattice"), X, metric="ip")


def a_shortlist(pool: Pool, n: int = N) -> Shortlist:
    rows = np.random.default_rng(5).permutation(pool.manifest.items)[:n].astype(np.int32)
    return Shortlist(pool, rows, np.full(n, np.nan), None, 1, 2)


def some_classes(n: int, seed: int = 0) -> npt.NDArray[np.int16]:
    """Classes -1..3, the last ones rare."""
    return np.random.default_rng(seed).choice(
        np.arange(-1, 4, dtype=np.int16), n, p=[0.1, 0.5, 0.3, 0.08, 0.02]
    )


def some_groups(n: int) -> Rows:
    return np.random.default_rng(8).integers(-1, 60, n).astype(np.int32)


def cosine(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    size = math.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum()) / size if size else 0.0


def twin(
    limits: Limits,
    shortlist: Shortlist,
    order: Int64s,
    count: int,
    predicted: npt.NDArray[np.int16],
    groups: Rows,
) -> list[int]:
    """Row by row: whose turn it is, and whether it fits what is kept."""
    X = shortlist.vectors.astype(np.float64)
    named = dict(limits.class_shares)
    rest = max(0.0, 1 - math.fsum(named.values()))
    queues = {
        own: [p for p in order.tolist() if (predicted[p] if predicted[p] in named else None) == own]
        for own in [*named, None]
    }
    shares = {**named, None: rest}
    given = dict.fromkeys(queues, 0)
    kept: list[int] = []

    def fits(place: int) -> bool:
        group = int(groups[place])
        alike = sum(groups[other] == group for other in kept)
        if limits.max_per_group is not None and group >= 0 and alike >= limits.max_per_group:
            return False
        if limits.max_similarity is None:
            return True
        return all(cosine(X[place], X[other]) < limits.max_similarity for other in kept)

    def turn(own: int | None) -> float:
        return (given[own] + 0.5) / shares[own] if shares[own] else math.inf

    while len(kept) < count and any(queues.values()):
        own = min((name for name in queues if queues[name]), key=turn)
        place = queues[own].pop(0)
        if fits(place):
            kept.append(place)
            given[own] += 1
    return kept


LIMITS = {
    "none": Limits(),
    "copies": Limits(max_similarity=1.0),
    "near-duplicates": Limits(max_similarity=0.9),
    "half turns": Limits(max_similarity=0.5),
    "groups": Limits(max_per_group=2),
    "shares": Limits(class_shares=((3, 0.25), (0, 0.5))),
    "shares of all": Limits(class_shares=((3, 0.5), (2, 0.5))),
    "everything": Limits(0.8, ((1, 0.4), (3, 0.2)), 3),
}
EVERY_LIMIT = pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)


@EVERY_LIMIT
@pytest.mark.parametrize("n", [0, 1, 90, BLOCK + 44])
def test_what_stays_is_what_the_slow_greedy_keeps(pool: Pool, limits: Limits, n: int) -> None:
    shortlist = a_shortlist(pool, n)
    order = np.random.default_rng(1).permutation(n)[: n - n // 10].astype(np.int64)
    arguments = (order, n, some_classes(n), some_groups(n))
    found = within(limits, shortlist, *arguments)
    assert found.dtype == np.int64
    assert found.tolist() == twin(limits, shortlist, *arguments)


@pytest.mark.parametrize("cosine_limit", [0.0, 0.5, math.sqrt(0.5), 2 / math.sqrt(6), 0.75, 1.0])
def test_ties_at_the_similarity_are_decided_exactly(lattice: Pool, cosine_limit: float) -> None:
    limits, shortlist = Limits(max_similarity=cosine_limit), a_shortlist(lattice, 400)
    arguments = (np.arange(400), 400, some_classes(400), some_groups(400))
    found = within(limits, shortlist, *arguments)
    assert found.tolist() == twin(limits, shortlist, *arguments)


@EVERY_LIMIT
def test_a_smaller_count_gives_the_beginning(pool: Pool, limits: Limits) -> None:
    shortlist, classes, groups = a_shortlist(pool), some_classes(N), some_groups(N)
    whole = within(limits, shortlist, np.arange(N), N, classes, groups)
    for count in (0, 1, 2, 30, 200):
        again = within(limits, shortlist, np.arange(N), count, classes, groups)
        assert again.tolist() == whole[:count].tolist()


def test_no_two_kept_rows_are_alike_and_each_left_out_has_a_reason(pool: Pool) -> None:
    shortlist = a_shortlist(pool)
    kept = within(Limits(max_similarity=0.85), shortlist, np.arange(N), N, some_classes(N))
    X = shortlist.vectors.astype(np.float64)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    cosines = X @ X[kept].T
    assert (cosines[kept] - np.eye(len(kept)) < 0.85 + 1e-12).all()
    for place in set(range(N)) - set(kept.tolist()):
        assert cosines[place, kept < place].max() >= 0.85 - 1e-12
    assert kept.tolist() == sorted(kept.tolist())


def test_multiples_of_a_vector_are_its_near_duplicates_whatever_the_metric(pool: Pool) -> None:
    """Only 250 directions are in the pool."""
    kept = within(
        Limits(max_similarity=0.999999), a_shortlist(pool), np.arange(N), N, some_classes(N)
    )
    assert len(kept) == 250


def test_a_full_group_gives_nothing_more_and_no_group_has_no_limit(pool: Pool) -> None:
    groups = np.array([1, 1, -1, 2, -1, 1, 2, 3], np.int32)
    arguments = (np.arange(8), 8, some_classes(8), groups)
    kept = within(Limits(max_per_group=1), a_shortlist(pool, 8), *arguments)
    assert kept.tolist() == [0, 2, 3, 4, 7]


def test_a_group_limit_needs_groups(pool: Pool) -> None:
    with pytest.raises(ValueError, match="needs groups"):
        within(Limits(max_per_group=1), a_shortlist(pool, 8), np.arange(8), 8, some_classes(8))


@settings(max_examples=50, deadline=None)
@given(cuts=st.lists(st.integers(1, 20), min_size=2, max_size=3), data=st.data())
def test_every_prefix_is_as_near_to_the_shares_as_can_be(
    lattice: Pool, cuts: list[int], data: st.DataObject
) -> None:
    """The least sum of (kept - share * size)^2 / share over all ways to split the prefix."""
    shares = [Fraction(cut, sum(cuts)) for cut in cuts]
    n = 12 * len(shares)
    classes = np.array(data.draw(st.permutations(list(range(len(shares))) * 12)), np.int16)
    named: Shares = tuple((own, float(share)) for own, share in enumerate(shares))
    kept = within(Limits(class_shares=named), a_shortlist(lattice, n), np.arange(n), 12, classes)
    for size in range(1, 13):
        sizes = np.bincount(classes[kept[:size]], minlength=len(shares)).tolist()
        splits = product(range(size + 1), repeat=len(shares))
        best = min(distance(split, shares) for split in splits if sum(split) == size)
        # Floats may tell ties otherwise than fractions.
        assert float(distance(sizes, shares)) == pytest.approx(float(best), abs=1e-9)
        assert all(abs(own - share * size) < 1.5 for own, share in zip(sizes, shares, strict=True))
    for own in range(len(shares)):
        places = kept[classes[kept] == own].tolist()
        assert places == sorted(places)


def distance(sizes: Any, shares: list[Fraction]) -> Fraction:
    total = sum(sizes)
    parts = ((own - share * total) ** 2 / share for own, share in zip(sizes, shares, strict=True))
    return sum(parts, Fraction(0))


def test_shares_hold_among_kept_rows_though_one_class_is_full_of_copies(tmp_path: Any) -> None:
    X = np.random.default_rng(1).standard_normal((200, D)).astype(np.float32)
    X[:80] = X[0]
    shortlist = Shortlist(
        make_pool(tmp_path, X), np.arange(200, dtype=np.int32), np.zeros(200), None, 1, 1
    )
    classes = np.array([0] * 100 + [1] * 100, np.int16)
    limits = Limits(max_similarity=0.9999, class_shares=((0, 0.5), (1, 0.5)))
    kept = within(limits, shortlist, np.arange(200), 30, classes)
    assert np.bincount(classes[kept]).tolist() == [15, 15]


def test_where_a_class_runs_out_the_others_go_on_in_proportion(lattice: Pool) -> None:
    classes = np.array([0] * 4 + [1] * 60 + [2] * 30 + [3] * 6, np.int16)
    limits = Limits(class_shares=((0, 0.4), (1, 0.4), (2, 0.2)))
    shortlist = a_shortlist(lattice, 100)
    kept = within(limits, shortlist, np.arange(100), 100, classes)
    assert np.bincount(classes[kept[:94]]).tolist() == [4, 60, 30]
    assert np.bincount(classes[kept[:64]])[:3].tolist() == [4, 40, 20]
    # No share is left for the class that is not named: it comes when all others have run out.
    assert (classes[kept[94:]] == 3).all()
