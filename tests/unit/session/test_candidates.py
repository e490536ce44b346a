"""Candidates that are drawn anew at each revision, against their definitions row by row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.pools import brute_force, make_pool

from coresift.server.artifacts import Artifacts
from coresift.server.head import Task
from coresift.server.pool.pool import Pool
from coresift.server.selection.candidates import Anchors
from coresift.server.selection.priority import priorities
from coresift.server.selection.scoring import Columns
from coresift.server.session.ranking import candidates as module
from coresift.server.session.ranking.candidates import (
    Candidates,
    anchors,
    around,
    counts,
    distinct,
    random_subset,
)
from coresift.server.session.setup.config import SessionConfig
from coresift.server.session.setup.materials import Loader
from coresift.server.session.setup.pools import Pools
from coresift.server.session.view.labels import (
    UNSURE,
    ClassSets,
    pack_class,
    pack_sets,
    training_targets,
    unpack,
)
from coresift.server.session.view.snapshot import Snapshot
from coresift.server.session.view.view import View
from coresift.server.state.entries import LabelsEntry
from coresift.server.state.values import RETRACTION

N, CLASSES = 50, 3
VALUES = {
    Task.BINARY: [pack_class(0), pack_class(1), UNSURE, RETRACTION],
    Task.MULTICLASS: [*map(pack_class, range(CLASSES)), UNSURE, RETRACTION],
    Task.MULTILABEL: [
        *(pack_sets(ClassSets(*sets)) for sets in [((0,), (1,)), ((1, 2), ()), ((), (0, 2))]),
        UNSURE,
        RETRACTION,
    ],
}


@pytest.fixture(scope="module", params=["cosine", "l2"])
def pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    X = np.random.default_rng(2).standard_normal((N, 4)).astype(np.float32)
    X[40:] = X[:10]
    metadata = [{"split": ("train", "test")[row % 4 == 3]} for row in range(N)]
    folder = tmp_path_factory.mktemp("pool")
    return make_pool(folder, X, metadata=metadata, metric=request.param)


@pytest.fixture(scope="module")
def loader(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Loader:
    return Loader(Pools([pool]), Artifacts(str(tmp_path_factory.mktemp("artifacts"))))


@st.composite
def labelled_sessions(draw: st.DrawFn) -> tuple[dict[str, Any], list[tuple[str, int, bytes]]]:
    """Fields of a configuration, and votes."""
    task = draw(st.sampled_from(Task))
    vote = st.tuples(
        st.sampled_from(["ann", "bob"]), st.integers(0, N - 1), st.sampled_from(VALUES[task])
    )
    fields = {
        "task": task,
        "classes": ("a", "b", "c")[: 2 if task is Task.BINARY else 3],
        "filter": draw(st.sampled_from(["", "split == 'train'"])),
        "seed": draw(st.integers(0, 3)),
    }
    return fields, draw(st.lists(vote, max_size=30))


def snapshot_of(pool: Pool, session: tuple[dict[str, Any], list[Any]]) -> Snapshot:
    fields, votes = session
    manifest = pool.manifest
    view = View(SessionConfig(manifest.name, manifest.version, **fields), 1)
    for at, (annotator, row, value) in enumerate(votes, 1):
        ids = (f"item-{row}",)
        view.apply([LabelsEntry(at, 0, "q", b"n", annotator, (row,), ids, (value,), (1,))])
    return Snapshot.of(view)


def admitted(snapshot: Snapshot) -> set[int]:
    return {row for row in range(N) if not snapshot.config.filter or row % 4 != 3}


def priority_of(snapshot: Snapshot, purpose: str, row: int) -> float:
    name = f"{purpose}:{snapshot.revision}"
    return float(priorities(snapshot.config.seed, name, np.array([row], np.int32))[0])


@settings(max_examples=100, deadline=None)
@given(session=labelled_sessions(), size=st.integers(1, N + 5))
def test_a_random_subset_has_the_largest_hashes_of_the_revision(
    pool: Pool, loader: Loader, session: Any, size: int
) -> None:
    snapshot = snapshot_of(pool, session)
    found = random_subset(loader.load(snapshot.config), snapshot, size).rows
    left = admitted(snapshot) - set(snapshot.votes)
    order = sorted(left, key=lambda row: (-priority_of(snapshot, "random_subset", row), row))
    assert found.dtype == np.int32
    assert found.tolist() == sorted(order[:size])


def test_random_subsets_differ_from_revision_to_revision(pool: Pool, loader: Loader) -> None:
    fields = {"task": Task.BINARY, "classes": ("no", "yes")}
    votes = [("ann", row, VALUES[Task.BINARY][row % 2]) for row in range(8)]
    subsets = [
        tuple(random_subset(loader.load(snapshot.config), snapshot, 10).rows.tolist())
        for count in range(1, 9)
        for snapshot in [snapshot_of(pool, (fields, votes[:count]))]
    ]
    assert len(set(subsets)) == len(subsets)


def classes_of(snapshot: Snapshot, row: int) -> set[int]:
    """Classes that some vote on the row names present."""
    named: set[int] = set()
    for value in map(unpack, snapshot.votes[row].values()):
        if isinstance(value, ClassSets):
            named |= set(value.present)
        elif value is not None:
            named.add(value)
    return named


@settings(max_examples=150, deadline=None)
@given(session=labelled_sessions(), per_class=st.integers(1, 4))
def test_anchors_are_labelled_items_of_every_class(
    pool: Pool, session: Any, per_class: int
) -> None:
    snapshot = snapshot_of(pool, session)
    found = anchors(Anchors(per_class=per_class), snapshot)
    expected: set[int] = set()
    for number in range(CLASSES):
        members = [row for row in snapshot.votes if number in classes_of(snapshot, row)]
        order = sorted(members, key=lambda row: (-priority_of(snapshot, "anchors", row), row))
        expected |= set(order[:per_class])
    assert found.dtype == np.int32
    assert found.tolist() == sorted(expected)


@settings(max_examples=100, deadline=None)
@given(
    session=labelled_sessions(),
    policy=st.builds(Anchors, st.integers(1, 20), st.integers(1, 3), st.integers(1, 8)),
)
def test_candidates_lie_nearest_to_the_anchors_that_name_them(
    pool: Pool, loader: Loader, session: Any, policy: Anchors
) -> None:
    snapshot = snapshot_of(pool, session)
    starts = anchors(policy, snapshot)
    if not len(starts):
        return
    found = pool.neighbours(starts, policy.neighbours)
    rows = around(policy, loader.load(snapshot.config), snapshot, starts, found).rows
    nearest, similarity = brute_force(pool, pool.fetch(np.arange(N)), N)
    named: dict[int, list[float]] = {}
    for start, near in zip(starts.tolist(), found.tolist(), strict=True):
        at = dict(zip(nearest[start].tolist(), similarity[start].tolist(), strict=True))
        for row in near:
            named.setdefault(row, []).append(at[row])
    free = admitted(snapshot) - set(snapshot.votes)
    mean = {row: sum(own) / len(own) for row, own in named.items() if row in free}
    assert rows.dtype == np.int32
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert set(rows.tolist()) <= set(mean)
    assert len(rows) == min(policy.size, len(mean))
    least = min((mean[row] for row in rows.tolist()), default=np.inf)
    left = [mean[row] for row in mean.keys() - set(rows.tolist())]
    assert max(left, default=-np.inf) <= least + 1e-9


def test_equal_similarities_go_to_the_smaller_row(pool: Pool, loader: Loader) -> None:
    """Rows 40 to 49 are copies of rows 0 to 9."""
    fields = {"task": Task.BINARY, "classes": ("no", "yes")}
    snapshot = snapshot_of(pool, (fields, [("ann", 20, pack_class(1))]))
    starts, found = np.array([20], np.int32), np.array([[45, 5, 41, 1]], np.int32)
    policy = Anchors(size=1, per_class=1, neighbours=4)
    one = around(policy, loader.load(snapshot.config), snapshot, starts, found)
    assert one.rows.tolist() in ([1], [5])
    two = around(replace(policy, size=2), loader.load(snapshot.config), snapshot, starts, found)
    assert two.rows.tolist() in ([1, 41], [5, 45])


@given(st.lists(st.lists(st.integers(0, 99), min_size=3, max_size=3), max_size=30))
def test_distinct_rows_are_the_set(found: list[list[int]]) -> None:
    rows = distinct(np.array(found, np.int32).reshape(-1, 3))
    assert rows.dtype == np.int32
    assert rows.tolist() == sorted({row for near in found for row in near})


@settings(max_examples=50, deadline=None)
@given(session=labelled_sessions(), rows=st.sets(st.integers(0, N - 1)))
def test_counts_are_those_of_sets(pool: Pool, loader: Loader, session: Any, rows: set[int]) -> None:
    snapshot = snapshot_of(pool, session)
    candidates = Candidates(np.array(sorted(rows), np.int32))
    unlabelled, share = counts(loader.load(snapshot.config), candidates, snapshot)
    free = rows & admitted(snapshot)
    assert unlabelled == len(free - set(snapshot.votes))
    assert share == len(free | set(snapshot.ever.tolist())) / N


@settings(max_examples=50, deadline=None)
@given(rows=st.sets(st.integers(0, N - 1)), width=st.sampled_from([0, 1, 3]))
def test_candidates_are_the_same_kept_gathered_or_scanned(
    pool: Pool, rows: set[int], width: int
) -> None:
    """Few are gathered, many found by a pass over the pool, and copies are looked at by blocks."""
    weights = np.random.default_rng(0).standard_normal((4, width)).astype(np.float32)
    columns = Columns(weights if width else None, np.ones(width, np.float32), min(width, 2))
    chosen = np.array(sorted(rows), np.int32)
    kept = Candidates(chosen[:0]).grown(pool, chosen, 1 << 30)
    for candidates in (kept, Candidates(chosen)):
        parts = list(candidates.parts_of(pool, columns))
        seen = np.concatenate([chosen[:0], *(part.rows for part in parts)])
        order = np.argsort(seen)
        assert seen[order].tolist() == chosen.tolist()
        for name, expected in (("logits", slice(2)), ("projected", slice(2, None))):
            shape = (0, len(columns.offset[expected]))
            values = np.concatenate([np.empty(shape), *(getattr(part, name) for part in parts)])
            truth = (pool.fetch(chosen) @ weights + 1)[:, expected]
            np.testing.assert_allclose(values[order], truth, rtol=1e-5, atol=1e-5)


def test_no_copies_are_made_of_a_large_share_of_the_pool(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless they are small anyway, as in this pool."""
    few, many = np.arange(N // 4, dtype=np.int32), np.arange(N // 4 + 1, dtype=np.int32)
    none = Candidates(few[:0])
    assert none.grown(pool, many, 1 << 30).parts is not None
    monkeypatch.setattr(module, "SMALL_BYTES", 0)
    kept = none.grown(pool, few, 1 << 30)
    assert kept.parts is not None
    grown = kept.grown(pool, many, 1 << 30)
    assert grown.parts is None
    assert grown.rows.tolist() == many.tolist()


@settings(max_examples=100, deadline=None)
@given(session=labelled_sessions(), data=st.data())
def test_targets_are_those_of_each_row_alone(pool: Pool, session: Any, data: st.DataObject) -> None:
    snapshot = snapshot_of(pool, session)
    labelled = snapshot.labelled().tolist()
    asked = data.draw(st.lists(st.sampled_from(labelled), unique=True)) if labelled else []
    rows, targets, opposed = snapshot.targets_of(np.array(asked, np.int32))
    config = snapshot.config
    alone = [
        (row, *training_targets(config.task, len(config.classes), [tuple(votes.values())]))
        for row in asked
        for votes in [snapshot.votes[row]]
    ]
    trained = [each for each in alone if len(each[1])]
    assert rows.dtype == np.int32
    assert rows.tolist() == [row for row, *_ in trained]
    assert targets.tolist() == [present[0].tolist() for *_, present, _ in trained]
    assert opposed.tolist() == [absent[0].tolist() for *_, absent in trained]
