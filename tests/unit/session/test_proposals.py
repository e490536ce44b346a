"""What is proposed to an annotator, and what is found when candidates run short."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.fixtures.pools import extend_pool, make_pool
from tests.fixtures.proposing import proposed
from tests.fixtures.replicas import only

from coresift.server.artifacts import Artifacts
from coresift.server.errors import CoresiftError, Reason, StartError
from coresift.server.head import Task
from coresift.server.pool.pool import Pool
from coresift.server.selection.candidates import All, Seals
from coresift.server.selection.priority import random_order
from coresift.server.selection.registry import BATCH_POLICIES, Choice
from coresift.server.session.ranking import ordering, proposals
from coresift.server.session.ranking.candidates import Candidates
from coresift.server.session.ranking.offers import Proposed
from coresift.server.session.ranking.ordering import deeper, rank
from coresift.server.session.ranking.passed import Passed
from coresift.server.session.ranking.proposals import expansion, merge
from coresift.server.session.ranking.proposing import MOST_SOURCES, sources
from coresift.server.session.ranking.ranking import Order, PickReason, Ranking
from coresift.server.session.ranking.review import review
from coresift.server.session.setup.config import BatchConfig, Component, GroupRule, SessionConfig
from coresift.server.session.setup.config_checks import complete
from coresift.server.session.setup.materials import Loader, Materials
from coresift.server.session.setup.pools import Pools
from coresift.server.session.view.labels import pack_class
from coresift.server.session.view.snapshot import Snapshot, head_state
from coresift.server.session.view.view import View
from coresift.server.state.entries import ExpiryEntry, GrantEntry, LabelsEntry, ReleaseEntry
from coresift.server.state.values import RETRACTION, Release

NO, YES = pack_class(0), pack_class(1)
N = 60
VIDEOS = 15
HALF = (Component(Choice("max_entropy"), 1.0), Component(Choice("random"), 1.0))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Rows of which some are copies; the last two have no video."""
    X = np.random.default_rng(0).standard_normal((N, 5)).astype(np.float32)
    X[50:] = X[10:20] + 1e-3 * X[20:30]
    metadata: list[dict[str, Any]] = [
        {"split": ("train", "test")[row % 4 == 3]} | ({"video": row % VIDEOS} if row < 58 else {})
        for row in range(N)
    ]
    return make_pool(tmp_path_factory.mktemp("pool"), X, metadata=metadata)


@pytest.fixture(scope="module")
def loader(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Loader:
    return Loader(Pools([pool]), Artifacts(str(tmp_path_factory.mktemp("artifacts"))))


def a_view(pool: Pool, *, is_cold: bool = False, **fields: Any) -> View:
    """Four labels by zoe, unless nobody has labelled yet."""
    manifest = pool.manifest
    known = {"candidates": All(), "mix": only("max_entropy")} | fields
    config = SessionConfig(manifest.name, manifest.version, Task.BINARY, (), **known)
    view = View(complete(config, pool), 1)
    if not is_cold:
        label(view, {row: YES if row % 2 else NO for row in range(4)})
    return view


def label(view: View, values: dict[int, bytes], annotator: str = "zoe") -> None:
    rows, at = tuple(values), view.offset + 1
    ids = tuple(f"item-{row}" for row in rows)
    entry = LabelsEntry(at, 0, "q", b"n", annotator, rows, ids, tuple(values.values()), ())
    view.apply([entry])


def lease(view: View, rows: Iterable[int], annotator: str = "bob") -> None:
    some, at = tuple(rows), view.offset + 1
    view.apply([GrantEntry(at, 0, "q", annotator, some, len(some), 1, at - 1, 0, 1, b"")])


def release(view: View, rows: Iterable[int], annotator: str, reason: Release) -> None:
    view.apply([ReleaseEntry(view.offset + 1, 0, "q", annotator, tuple(rows), reason)])


def ranked(
    loader: Loader, view: View, candidates: Sequence[int] | np.ndarray | None = None
) -> Ranking:
    materials, snapshot = loader.load(view.config), Snapshot.of(view)
    some = None if candidates is None else Candidates(np.array(candidates, np.int32))
    return rank(materials, head_state(materials, snapshot), some)


def rows_of(found: Sequence[Proposed]) -> list[int]:
    return [p.row for p in found]


def reasons_of(found: Sequence[Proposed]) -> list[PickReason]:
    return [p.reason for p in found]


# --- free rows in order --------------------------------------------------------------------------


def test_proposals_are_the_free_rows_in_order(pool: Pool, loader: Loader) -> None:
    view = a_view(pool)
    ranking = ranked(loader, view)
    scored = ranking.orders[0].scored
    order = scored.rows.tolist()
    lease(view, [order[0]])
    release(view, [order[1]], "ann", Release.SKIP)
    release(view, [order[2]], "bob", Release.SKIP)
    release(view, [order[3]], "bob", Release.CANNOT_LABEL)
    label(view, {order[4]: YES}, "bob")
    found = proposed(ranking, view, 10)
    assert rows_of(found) == [order[2], *order[5:14]]
    assert all(p.reason is PickReason.EXPLOIT for p in found)
    places = [order.index(p.row) for p in found]
    assert [p.score for p in found] == scored.scores[places].tolist()
    assert [p.predicted for p in found] == scored.predicted[places].tolist()
    assert len(proposed(ranking, view, 1_000)) == len(order) - 4


def test_items_that_lack_votes_come_first(pool: Pool, loader: Loader) -> None:
    view = a_view(pool, votes_per_item=3)
    label(view, {2: NO}, "bob")
    label(view, {3: YES}, "ann")
    lease(view, [1], "bob")
    lease(view, [1], "cyd")
    ranking = ranked(loader, view)
    found = proposed(ranking, view, 6)
    assert rows_of(found)[:2] == [2, 0]
    assert reasons_of(found) == [PickReason.UNDER_VOTED] * 2 + [PickReason.EXPLOIT] * 4
    assert math.isnan(found[0].score)
    assert rows_of(proposed(ranking, view, 1)) == [2]


def test_a_deeper_ranking_goes_on_where_the_first_ends(
    pool: Pool, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is leased: orders of strategies, of exploration and of a cold start."""
    for fields in ({}, {"mix": HALF, "explore_fraction": 0.4}, {"validation_size": 3}):
        for is_cold in (False, True):
            view = a_view(pool, is_cold=is_cold, **fields)
            whole = rows_of(proposed(ranked(loader, view), view, N))
            with monkeypatch.context() as patch:
                patch.setattr(ordering, "FIRST_DEPTH", 4)
                shallow = ranked(loader, view)
                assert not shallow.complete
                assert rows_of(proposed(shallow, view, 3)) == whole[:3]
                assert sorted(rows_of(proposed(shallow, view, N))) == sorted(whole)
                assert len(whole) == N - len(view.votes)


def ranked_rows(ranking: Ranking) -> list[int]:
    """Rows of all orders of the strategies, ascending."""
    return np.unique(np.concatenate([order.scored.rows for order in ranking.orders])).tolist()


def unasked(ranking: Ranking) -> Ranking:
    """The same ranking, of which nobody has asked anything yet."""

    def fresh(order: Order) -> Order:
        return replace(order, passed=Passed())

    return replace(
        ranking,
        orders=tuple(map(fresh, ranking.orders)),
        explore=None if ranking.explore is None else fresh(ranking.explore),
        validation=fresh(ranking.validation),
    )


events = st.tuples(
    st.sampled_from(["lease", "label", "retract", "skip", "defect", "release", "expire", "deepen"]),
    st.tuples(st.integers(0, 3), st.integers(1, 12)),
    st.sampled_from(["ann", "bob", "cyd"]),
)
"""What is done to rows from a place of the order on, so many of them, by whom."""


@settings(max_examples=100, deadline=None)
@given(steps=st.lists(events, max_size=10), votes=st.integers(1, 2))
@example(steps=[("label", (0, 3), "ann"), ("retract", (1, 1), "ann")], votes=1)
@example(
    steps=[("lease", (0, 9), "ann"), ("deepen", (0, 1), "ann"), ("release", (0, 2), "ann")],
    votes=1,
)
@example(
    steps=[("lease", (0, 9), "ann"), ("lease", (0, 9), "bob"), ("skip", (2, 3), "bob")], votes=2
)
@pytest.mark.parametrize("is_cold", [False, True])
def test_what_was_passed_hides_nothing(
    pool: Pool,
    loader: Loader,
    is_cold: bool,
    steps: list[tuple[str, tuple[int, int], str]],
    votes: int,
) -> None:
    """Whatever opens and closes rows between asks, and however deep the orders have become, the
    answers are those of a new ranking."""
    fields = {"votes_per_item": votes, "explore_fraction": 0.2, "validation_size": 4}
    view = a_view(pool, is_cold=is_cold, **fields)
    order = ranked(loader, view).orders[0].scored.rows.tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordering, "FIRST_DEPTH", 6)
        ranking = ranked(loader, view)
    for kind, (start, count), name in steps:
        rows = order[start : start + count]
        match kind:
            case "lease":
                lease(view, rows, name)
            case "label" | "retract":
                label(view, dict.fromkeys(rows, YES if kind == "label" else RETRACTION), name)
            case "expire":
                ended = tuple((row, name) for row in rows)
                view.apply([ExpiryEntry(view.offset + 1, 0, ended)])
            case "deepen":
                ranking = deeper(ranking)
            case _:
                reasons = {"skip": Release.SKIP, "defect": Release.CANNOT_LABEL}
                release(view, rows, name, reasons.get(kind, Release.RETURN))
        for asking, wanted in (("ann", 5), ("zoe", 1), ("bob", N)):
            found = proposed(ranking, view, wanted, asking)
            expected = proposed(unasked(ranking), view, wanted, asking)
            assert rows_of(found) == rows_of(expected)
            assert reasons_of(found) == reasons_of(expected)


# --- shares --------------------------------------------------------------------------------------

some_rows = st.lists(st.integers(0, 30), unique=True, max_size=25)


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(some_rows, min_size=1, max_size=5),
    data=st.data(),
    count=st.integers(0, 60),
    seen=st.sets(st.integers(0, 30), max_size=4),
)
def test_merged_orders_lag_by_turns(
    rows: list[list[int]], data: st.DataObject, count: int, seen: set[int]
) -> None:
    share = st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0])
    shares = data.draw(st.lists(share, min_size=len(rows), max_size=len(rows)))
    orders = [
        [Proposed(row, float(number), -1, PickReason.EXPLOIT) for row in own]
        for number, own in enumerate(rows)
    ]
    found = merge(orders, shares, count, seen)
    assert len({*rows_of(found), *seen}) == len(found) + len(seen)
    assert len({p.row for p in found}) == len(found)
    reachable = {row for own, share in zip(rows, shares, strict=True) if share for row in own}
    assert len(found) == min(count, len(reachable - seen))
    assert merge(orders, shares, max(0, count - 3), seen) == found[: max(0, count - 3)]
    taken, gone = [0] * len(rows), set(seen)
    for number, p in enumerate(found, 1):
        lags = {
            i: shares[i] * number - taken[i]
            for i, own in enumerate(rows)
            if shares[i] and not gone >= set(own)
        }
        i = int(p.score)
        assert lags[i] == max(lags.values())
        assert p.row == next(row for row in rows[i] if row not in gone)
        taken[i] += 1
        gone.add(p.row)


@pytest.mark.parametrize("shares", [(1.0, 1.0), (3.0, 1.0), (0.2, 0.3)])
@pytest.mark.parametrize("explored", [0.0, 0.3])
def test_every_prefix_of_a_batch_has_its_shares(
    pool: Pool, loader: Loader, shares: tuple[float, float], explored: float
) -> None:
    mix = tuple(
        Component(Choice(name), share)
        for name, share in zip(("max_entropy", "random"), shares, strict=True)
    )
    view = a_view(pool, mix=mix, explore_fraction=explored)
    found = proposed(ranked(loader, view), view, 30)
    # Binary entropy scores are at most 0, hashes at least.
    kinds = [
        "explore" if p.reason is PickReason.EXPLORE else "random" if p.score >= 0 else "entropy"
        for p in found
    ]
    expected = {
        "entropy": (1 - explored) * shares[0] / sum(shares),
        "random": (1 - explored) * shares[1] / sum(shares),
        "explore": explored,
    }
    for size in range(1, len(found) + 1):
        there = Counter(kinds[:size])
        for kind, share in expected.items():
            assert abs(there[kind] - share * size) < 1, (kind, size)
    singles = {
        name: rows_of(proposed(ranked(loader, single), single, N))
        for name in ("max_entropy", "random")
        for single in [a_view(pool, mix=only(name))]
    }
    for name, kind in (("max_entropy", "entropy"), ("random", "random")):
        own = [p.row for p, was in zip(found, kinds, strict=True) if was == kind]
        assert own == sorted(own, key=singles[name].index)


@pytest.mark.parametrize("is_cold", [False, True])
@pytest.mark.parametrize("where", ["", "split == 'train'"])
def test_exploration_follows_its_fixed_order(
    pool: Pool, loader: Loader, is_cold: bool, where: str
) -> None:
    view = a_view(pool, is_cold=is_cold, explore_fraction=0.4, seed=3, filter=where)
    lease(view, [5])
    found = proposed(ranked(loader, view), view, 20)
    order = random_order(3, "explore", N, N).tolist()
    allowed = [
        row for row in order if row not in view.votes and row != 5 and not (where and row % 4 == 3)
    ]
    taken: set[int] = set()
    for p in found:
        if p.reason is PickReason.EXPLORE:
            assert p.row == next(row for row in allowed if row not in taken)
        taken.add(p.row)
    for size in range(1, 21):
        count = reasons_of(found)[:size].count(PickReason.EXPLORE)
        assert abs(count - 0.4 * size) < 1
    only_explored = a_view(pool, is_cold=is_cold, explore_fraction=1.0, seed=3, filter=where)
    lease(only_explored, [5])
    everything = proposed(ranked(loader, only_explored), only_explored, N)
    assert rows_of(everything) == allowed
    assert set(reasons_of(everything)) == {PickReason.EXPLORE}


# --- the validation slice ------------------------------------------------------------------------


def test_validation_items_come_first_and_teach_nothing(pool: Pool, loader: Loader) -> None:
    fields = {"votes_per_item": 2, "is_cold": True}
    view = a_view(pool, validation_size=8, seed=2, explore_fraction=0.5, **fields)
    slice_ = random_order(2, "validation", N, 8).tolist()
    outside = [row for row in range(N) if row not in slice_]
    plain = a_view(pool, **fields)
    for each in (view, plain):
        label(each, {row: YES if row % 2 else NO for row in outside[:6]})
        label(each, dict.fromkeys(outside[:6], YES), "yan")
    label(view, dict.fromkeys(slice_[:2], YES))
    label(view, {slice_[0]: YES}, "yan")
    for annotator in ("bob", "cyd"):
        lease(view, [slice_[2]], annotator)
    ranking = ranked(loader, view)
    found = proposed(ranking, view, 20)
    assert rows_of(found)[:6] == [slice_[1], *slice_[3:]]
    reasons = [PickReason.UNDER_VOTED] + [PickReason.VALIDATION] * 5
    assert reasons_of(found)[:6] == reasons
    assert not {*reasons_of(found)[6:]} & {*reasons}
    assert not set(ranked_rows(ranking)) & set(slice_)
    # The head is that of a session in which nobody has labelled the slice.
    twin = ranked(loader, plain).state.head
    head = ranking.state.head
    assert head is not None
    assert twin is not None
    assert head.weights.tobytes() == twin.weights.tobytes()
    label(view, dict.fromkeys(slice_, NO))
    label(view, dict.fromkeys(slice_, NO), "yan")
    rest = proposed(ranked(loader, view), view, N)
    assert not set(rows_of(rest)) & set(slice_)
    assert len(rest) == N - len(view.votes)


# --- limits of a batch ---------------------------------------------------------------------------


def similarities(pool: Pool, rows: Sequence[int]) -> np.ndarray:
    X = pool.fetch(np.array(rows, np.int32)).astype(np.float64)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return X @ X.T - 2 * np.eye(len(X))


def test_near_duplicates_stay_out_of_one_batch(pool: Pool, loader: Loader) -> None:
    view = a_view(pool, batch=BatchConfig(max_similarity=0.99), mix=HALF, explore_fraction=0.2)
    found = proposed(ranked(loader, view), view, N)
    assert (similarities(pool, rows_of(found)) < 0.99).all()
    assert len(found) < N - 4
    free = a_view(pool, mix=HALF, explore_fraction=0.2)
    assert len(proposed(ranked(loader, free), free, N)) == N - 4
    # What is left out is like something that is in.
    left = sorted(set(range(4, N)) - set(rows_of(found)))
    both = similarities(pool, [*rows_of(found), *left])[len(found) :, : len(found)]
    assert (both.max(axis=1) >= 0.99).all()


@pytest.mark.parametrize("most", [1, 2])
def test_a_batch_has_few_items_of_a_group(pool: Pool, loader: Loader, most: int) -> None:
    view = a_view(pool, groups=GroupRule("video", most))
    found = rows_of(proposed(ranked(loader, view), view, N))
    counts = Counter(row % VIDEOS for row in found if row < 58)
    assert set(counts.values()) == {most}
    assert len(counts) == VIDEOS
    assert {58, 59} <= set(found)  # in no group
    alone = a_view(pool)
    order = rows_of(proposed(ranked(loader, alone), alone, N))
    assert found == sorted(found, key=order.index)


@pytest.mark.parametrize("one_label", [False, True])
@pytest.mark.parametrize("is_cold", [False, True])
def test_a_taken_group_has_nothing_but_the_item_that_took_it(
    pool: Pool, loader: Loader, one_label: bool, is_cold: bool
) -> None:
    rule = GroupRule("video", one_lease=True, one_label=one_label)
    view = a_view(pool, is_cold=is_cold, groups=rule, votes_per_item=2)
    lease(view, [20, 36, 58], "bob")
    lease(view, [20], "cyd")  # has all its votes now
    found = proposed(ranked(loader, view), view, N)
    videos = [p.row % VIDEOS for p in found if p.row < 58]
    assert len(set(videos)) == len(videos)
    of_video = {p.row % VIDEOS: p.row for p in found if p.row < 58}
    assert 20 % VIDEOS not in of_video
    assert of_video[36 % VIDEOS] == 36
    assert set(of_video) == set(range(VIDEOS)) - {20 % VIDEOS}
    assert {58, 59} <= {p.row for p in found}  # in no group
    lacking = {p.row for p in found if p.reason is PickReason.UNDER_VOTED}
    assert lacking == set(view.votes)
    for annotator in ("zoe", "yan"):
        label(view, dict.fromkeys(range(4), YES), annotator)
    done = proposed(ranked(loader, view), view, N)
    again = {p.row % VIDEOS for p in done if p.row < 58} & set(range(4))
    assert again == (set() if one_label else set(range(4)))


def test_many_items_of_closed_groups_do_not_hide_the_others(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A video of many frames scores best, and is leased."""
    count = 900
    X = np.random.default_rng(5).standard_normal((count, 4)).astype(np.float32)
    metadata = [{"video": "long" if row < count - 20 else f"clip {row}"} for row in range(count)]
    pool = make_pool(tmp_path_factory.mktemp("frames"), X, metadata=metadata)
    loader = Loader(Pools([pool]), Artifacts(str(tmp_path_factory.mktemp("artifacts"))))
    long, clips = range(4, count - 20), range(count - 20, count)
    rule = GroupRule("video", one_lease=True)
    for mix in (only("max_entropy"), only("random")):
        view = a_view(pool, mix=mix, groups=rule)
        lease(view, [10])
        found = proposed(ranked(loader, view), view, 5)
        assert len(found) == 5
        assert set(rows_of(found)) <= set(clips)
        near = ranked(loader, view, list(long)[:400])  # no candidate is open
        beyond = proposed(near, view, 5, near=list(long)[300:600])
        assert len(beyond) == 5
        assert set(rows_of(beyond)) <= set(clips)


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_classes_have_their_shares_while_they_last(
    pool: Pool, loader: Loader, share: float
) -> None:
    batch = BatchConfig(class_shares=(("positive", share),))
    view = a_view(pool, batch=batch)
    found = proposed(ranked(loader, view), view, 40)
    positive = [p.predicted == 1 for p in found]
    plain = a_view(pool)
    order = proposed(ranked(loader, plain), plain, N)
    total = sum(p.predicted == 1 for p in order)
    assert 0 < total < len(order)
    for size in range(1, len(found) + 1):
        count, others = sum(positive[:size]), size - sum(positive[:size])
        if count < total and others < len(order) - total:
            assert abs(count - share * size) < 1
    for kind in (0, 1):
        own = [p.row for p in found if p.predicted == kind]
        assert own == [p.row for p in order if p.predicted == kind][: len(own)]


@pytest.mark.parametrize("name", list(BATCH_POLICIES))
def test_a_policy_only_arranges(pool: Pool, loader: Loader, name: str) -> None:
    view = a_view(pool, batch=BatchConfig(Choice(name)))
    lease(view, [9])
    found = proposed(ranked(loader, view), view, 12)
    assert len(set(rows_of(found))) == 12
    assert not set(rows_of(found)) & {*range(4), 9}
    assert proposed(ranked(loader, view), view, 12) == found
    everything = rows_of(proposed(ranked(loader, view), view, N))
    assert sorted(everything) == sorted(set(range(4, N)) - {9})


# --- all at once ---------------------------------------------------------------------------------

NO_SAMPLES = {"explore_fraction": 0.0, "validation_size": 0}


def one_label_of(fields: dict[str, Any]) -> bool:
    """Whether the groups drawn exclude random samples."""
    return fields["groups"] is not None and fields["groups"].one_label


configs = st.fixed_dictionaries(
    {
        "mix": st.sampled_from([only("random"), only("max_entropy"), HALF]),
        "filter": st.sampled_from(["", "split == 'train'"]),
        "explore_fraction": st.sampled_from([0.0, 0.3, 1.0]),
        "validation_size": st.sampled_from([0, 0, 5, 60]),
        "votes_per_item": st.integers(1, 2),
        "seed": st.integers(0, 3),
        "groups": st.sampled_from(
            [
                None,
                GroupRule("video", 2),
                GroupRule("video", one_lease=True),
                GroupRule("video", one_lease=True, one_label=True),
            ]
        ),
        "batch": st.builds(
            BatchConfig,
            st.sampled_from([Choice(name) for name in BATCH_POLICIES]),
            st.sampled_from([None, 0.9]),
            st.sampled_from([(), (("positive", 0.5),)]),
        ),
    }
).map(lambda fields: fields | NO_SAMPLES if one_label_of(fields) else fields)


def open_rows(materials: Materials, view: View, annotator: str) -> set[int]:
    """Rows that the annotator may get, from the definitions."""
    rule, groups = view.config.groups, materials.groups

    def may_have(row: int) -> bool:
        if rule is None or groups is None or groups[row] < 0 or not rule.one_lease:
            return True
        leased = {at for at in view.leases if groups[at] == groups[row]}
        labelled = [at for at in view.votes if groups[at] == groups[row]]
        first = labelled[:1] if rule.one_label else []
        return {*leased, *first} <= {row}

    return {
        row
        for row in range(N)
        if (not view.config.filter or row % 4 != 3)
        and view.free_for(row, annotator)
        and may_have(row)
    }


@settings(max_examples=150, deadline=None)
@given(fields=configs, data=st.data())
def test_proposals_keep_every_promise(
    pool: Pool, loader: Loader, fields: dict[str, Any], data: st.DataObject
) -> None:
    view = a_view(pool, is_cold=data.draw(st.booleans()), **fields)
    some = st.sets(st.integers(0, N - 1), max_size=12)
    rows = st.integers(0, N - 1)
    label(view, dict.fromkeys(data.draw(some), YES), "yan")  # perhaps only positives
    label(view, dict.fromkeys(data.draw(st.one_of(st.just(set()), some)), NO), "yan")
    lease(view, data.draw(some))
    release(view, data.draw(some), "ann", Release.SKIP)
    release(view, data.draw(some), "ann", Release.CANNOT_LABEL)
    candidates = data.draw(st.one_of(st.none(), st.lists(rows, unique=True).map(sorted)))
    near = sorted(data.draw(some)) if candidates is not None else []
    wanted = data.draw(st.sampled_from([1, 5, 20, N]))
    ranking = ranked(loader, view, candidates)
    found = proposed(ranking, view, wanted, near=near)
    picked, free = rows_of(found), open_rows(ranking.materials, view, "ann")
    assert len(picked) == len(set(picked)) <= wanted
    assert set(picked) <= free
    assert bool(picked) == bool(free)
    config, groups = view.config, ranking.materials.groups
    if config.groups is None and config.batch.max_similarity is None:
        assert len(picked) == min(wanted, len(free))
    if config.groups is not None:
        assert groups is not None
        counts = Counter(int(groups[row]) for row in picked)
        del counts[-1]
        assert max(counts.values(), default=0) <= config.groups.max_per_batch
    if config.batch.max_similarity is not None:
        assert (similarities(pool, picked) < config.batch.max_similarity).all()
    order = [PickReason.UNDER_VOTED, PickReason.VALIDATION]
    first = [order.index(reason) if reason in order else 2 for reason in reasons_of(found)]
    assert first == sorted(first)
    for p in found:
        assert (p.reason is PickReason.UNDER_VOTED) == (p.row in view.votes)
        in_slice = p.row in ranking.materials.validation and p.row not in view.votes
        assert (p.reason is PickReason.VALIDATION) == in_slice
        if p.reason is PickReason.COLD_START:
            assert ranking.is_cold
        if p.reason is PickReason.EXPLOIT and candidates is not None:
            assert p.row in candidates
    assert str(proposed(ranking, view, wanted, near=near)) == str(found)


# --- beyond the candidates -----------------------------------------------------------------------


def test_few_leased_items_are_looked_around_the_same_ones_each_time(pool: Pool) -> None:
    view, again = a_view(pool), a_view(pool)
    lease(view, range(40, 50))
    assert sources(view).tolist() == [*range(40, 50)]
    lease(view, range(50, 250))
    lease(again, reversed(range(40, 250)))
    assert len(sources(view)) == MOST_SOURCES
    assert sources(view).tolist() == sorted(sources(again).tolist())
    assert set(sources(view)) <= set(range(40, 250))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_an_expansion_has_enough_and_nothing_blocked(
    pool: Pool, loader: Loader, data: st.DataObject
) -> None:
    some = st.sets(st.integers(0, N - 1), max_size=N)
    blocked, candidates, near = (sorted(data.draw(some)) for _ in range(3))
    wanted = data.draw(st.integers(1, N + 5))
    where = data.draw(st.sampled_from(["", "split == 'train'"]))
    view = a_view(
        pool,
        is_cold=data.draw(st.booleans()),
        candidates=Seals(3),
        seed=data.draw(st.integers(0, 9)),
        filter=where,
        validation_size=data.draw(st.sampled_from([0, 6])),
        mix=data.draw(st.sampled_from([only("max_entropy"), only("random"), HALF])),
    )
    ranking = ranked(loader, view, candidates)
    rows = ranked_rows(ranking)
    found = expansion(ranking, np.array(near, np.int32), np.array(blocked, np.int32), wanted)
    eligible = {row for row in range(N) if not where or row % 4 != 3}
    left = eligible - set(blocked) - set(rows) - set(ranking.materials.validation.tolist())
    assert len(found) == min(wanted, len(left))
    picked = rows_of(found)
    assert len(set(picked)) == len(picked)
    assert set(picked) <= left
    close = left & set(near)
    expanded = [p for p in found if p.reason is PickReason.EXPAND]
    assert len(expanded) == min(wanted, len(close))
    assert {p.row for p in expanded} <= close
    scores = [p.score for p in expanded if not math.isnan(p.score)]
    assert scores == sorted(scores, reverse=True)
    filled = rows_of(found[len(expanded) :])
    order = random_order(ranking.snapshot.config.seed, "fill", N, N).tolist()
    expected = [row for row in order if row in left - close]
    assert filled == expected[: wanted - len(expanded)]


@pytest.mark.parametrize(
    "fields",
    [
        {"groups": GroupRule("video", 1)},
        {"batch": BatchConfig(Choice("gist"))},
        {"batch": BatchConfig(max_similarity=0.9, class_shares=(("positive", 0.5),))},
        {"mix": HALF, "explore_fraction": 0.3, "groups": GroupRule("video", 2)},
    ],
)
def test_batches_do_not_depend_on_how_deep_others_looked(
    pool: Pool, loader: Loader, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordering, "FIRST_DEPTH", 6)
    view = a_view(pool, candidates=Seals(30), **fields)
    shallow = ranked(loader, view, range(4, 50))
    assert not shallow.complete
    deep = shallow
    while not deep.complete:
        deep = deeper(deep)
    for wanted in (1, 4, 11, 40):
        one, other = proposed(shallow, view, wanted), proposed(deep, view, wanted)
        assert (rows_of(one), reasons_of(one)) == (rows_of(other), reasons_of(other))


@pytest.mark.parametrize("policy", list(BATCH_POLICIES))
@pytest.mark.parametrize(
    "fields", [{}, {"mix": HALF}, {"groups": GroupRule("video", one_lease=True)}]
)
def test_second_looks_end_with_every_policy(
    pool: Pool, loader: Loader, policy: str, fields: dict[str, Any]
) -> None:
    view = a_view(pool, batch=BatchConfig(Choice(policy), max_similarity=0.9), **fields)
    label(view, {row: (NO, YES)[row % 2] for row in range(4, 24)}, "bob")
    whole = ranked(loader, view)
    head = whole.state.head
    assert head is not None
    found = proposed(review(whole, head), view, 10, "cyd")
    assert len(found) == 10
    assert {p.reason for p in found} == {PickReason.REVIEW}
    assert set(rows_of(found)) <= view.votes.keys()


def test_shortlists_grow_with_what_a_batch_needs(pool: Pool) -> None:
    sizes = {
        name: proposals.shortlist_size(replace(a_view(pool).config, **fields), 100)
        for name, fields in {
            "plain": {},
            "limited": {"batch": BatchConfig(max_similarity=0.9)},
            "grouped": {"groups": GroupRule("video")},
        }.items()
    }
    assert sizes == {"plain": 100, "limited": 1_000, "grouped": 1_000}
    assert proposals.is_plain(a_view(pool).config)
    limited = a_view(pool, batch=BatchConfig(max_similarity=0.9)).config
    assert not proposals.is_plain(limited)
    assert proposals.shortlist_size(limited, 10_000) == proposals.MAX_SHORTLIST


def test_pools_are_found_by_name_and_version(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("lineage")
    X = np.random.default_rng(1).standard_normal((20, 4)).astype(np.float32)
    old = make_pool(folder, X[:12], name="things")
    new = extend_pool(folder, X[12:], [f"new-{i}" for i in range(8)])
    other = make_pool(tmp_path_factory.mktemp("other"), X, name="others")
    pools = Pools([new, other, old])
    assert [pool.manifest.version for pool in pools] == [
        other.manifest.version,
        old.manifest.version,
        new.manifest.version,
    ]
    assert pools.find("things") is new
    assert pools.find("things", old.manifest.version) is old
    assert pools.of_session("things", old.manifest.version) is old
    with pytest.raises(CoresiftError, match="served are others, things") as caught:
        pools.find("thing")
    assert (caught.value.reason, caught.value.field) == (Reason.POOL_NOT_FOUND, "pool")
    with pytest.raises(CoresiftError) as caught:
        pools.find("things", "0" * 32, "config.pool", "config.pool_version")
    assert caught.value.reason is Reason.POOL_NOT_FOUND
    assert caught.value.field == "config.pool_version"
    with pytest.raises(CoresiftError) as caught:
        pools.of_session("things", other.manifest.version)
    assert caught.value.reason is Reason.POOL_VERSION_NOT_LOADED
    assert caught.value.retry_after_s
    with pytest.raises(StartError, match="given twice"):
        Pools([old, Pool.open(folder / "pool")])
