"""Laws of every strategy with every batch policy on every candidate policy and task."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.fixtures.pools import make_pool
from tests.fixtures.proposing import proposed

from coresift.server.head import HeadConfig, Task
from coresift.server.pool.pool import Pool
from coresift.server.selection.candidates import (
    All,
    Anchors,
    CandidatePolicy,
    RandomSubset,
    Seals,
    neighbours_of,
)
from coresift.server.selection.registry import BATCH_POLICIES, STRATEGIES, Choice, strategy_of
from coresift.server.selection.strategy import Setting
from coresift.server.session.ranking import candidates as candidate_module
from coresift.server.session.ranking.candidates import Candidates, candidates_of, seeds_of
from coresift.server.session.ranking.ordering import rank
from coresift.server.session.ranking.ranking import PickReason, Ranking
from coresift.server.session.setup.config import BatchConfig, Component, SessionConfig
from coresift.server.session.setup.materials import HashOrder, Materials
from coresift.server.session.view.labels import ClassSets, pack_class, pack_sets
from coresift.server.session.view.snapshot import Snapshot, head_state
from coresift.server.session.view.view import View
from coresift.server.state.entries import GrantEntry, LabelsEntry, ReleaseEntry
from coresift.server.state.values import Release

N, D, LABELS = 420, 8, 60
CLASSES = ("a", "b", "c")
PARAMS: dict[str, dict[str, Any]] = {
    "signal": {"name": "model"},
    "ens": {"neighbours": 10},
    "probcover": {"sample": 200},
    "epig": {"targets": 16},
}
POLICIES: dict[str, CandidatePolicy] = {
    "all": All(),
    "seals": Seals(4),
    "random_subset": RandomSubset(90),
    "anchors": Anchors(60, 4, 12),
}
CASES = [(name, task) for name, kind in STRATEGIES.items() for task in Task if task in kind.tasks]
SAME_ORDER = {
    Task.BINARY: {"max_entropy", "margin", "least_confidence"},
    Task.MULTICLASS: set[str](),
    Task.MULTILABEL: {"margin", "least_confidence"},
}
"""All strategies that are another one by a second name."""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Three classes around six centres, a tenth copies; a filter hides a third."""
    chance = np.random.default_rng(5)
    centres = 2 * chance.standard_normal((6, D))
    X = centres[np.arange(N) % 6] + chance.standard_normal((N, D))
    X[-N // 10 :] = X[: N // 10]
    split = ["train" if row % 3 else "test" for row in range(N)]
    return make_pool(
        tmp_path_factory.mktemp("matrix"),
        X.astype(np.float32),
        metadata=[{"split": side} for side in split],
        neighbours=12,
    )


def choice(name: str) -> Choice:
    return Choice(name, tuple(sorted(PARAMS.get(name, {}).items())))


def a_config(pool: Pool, name: str, task: Task, policy: CandidatePolicy, **more: Any) -> Any:
    classes = ("negative", "positive") if task is Task.BINARY else CLASSES
    fields = {"mix": (Component(choice(name)),), "seed": 3, "filter": 'split == "train"'} | more
    version = pool.manifest.version
    return SessionConfig("matrix", version, task, classes, candidates=policy, **fields)


def label_of(task: Task, row: int) -> bytes:
    number = row % 6 // 2
    if task is Task.BINARY:
        return pack_class(int(number == 1))
    if task is Task.MULTICLASS:
        return pack_class(number)
    rest = tuple(other for other in range(3) if other != number)
    return pack_sets(ClassSets((number,), rest[: 1 + row % 2]))


def a_view(config: SessionConfig, labels: int = LABELS) -> View:
    """Labels by one annotator, leases of another, a skip and an item nobody can label."""
    view = View(config, 1)
    chance = np.random.default_rng(9)
    rows = [int(row) for row in chance.permutation(N)[: labels + 30]]
    labelled, leased, skipped, hidden = rows[:labels], rows[labels:-2], rows[-2], rows[-1]
    names = tuple(f"item-{row}" for row in labelled)
    values = tuple(label_of(config.task, row) for row in labelled)
    if labelled:
        view.apply(
            [
                LabelsEntry(
                    1, 0, "r1", b"n", "x", tuple(labelled), names, values, (1,) * len(labelled)
                )
            ]
        )
    offset = view.offset
    view.apply(
        [
            GrantEntry(offset + 1, 0, "r2", "y", tuple(leased), 28, 10**15, offset, offset, 1, b""),
            ReleaseEntry(offset + 2, 0, "r3", "me", (skipped,), Release.SKIP),
            ReleaseEntry(offset + 3, 0, "r4", "x", (hidden,), Release.CANNOT_LABEL),
        ]
    )
    return view


def materials_of(pool: Pool, config: SessionConfig) -> Materials:
    eligible = pool.where(config.filter) if config.filter else None
    order = HashOrder(config.seed, "explore", N, eligible)
    validation = HashOrder(config.seed, "validation", N, eligible).first(config.validation_size)
    signal = np.random.default_rng(1).random(N).astype(np.float32)
    return Materials(pool, eligible, None, 0, None, order, validation, {"model/": signal}, None)


def ranked(pool: Pool, config: SessionConfig, view: View) -> Ranking:
    materials, snapshot = materials_of(pool, config), Snapshot.of(view)
    k = min(neighbours_of(config.candidates), N - 1)
    seeds = seeds_of(snapshot)
    near = np.empty((0, 0), np.int32) if seeds is None else pool.neighbours(seeds, k)
    found = candidates_of(materials, snapshot, seeds, near)
    return rank(materials, head_state(materials, snapshot), found)


def batch(ranking: Ranking, view: View, size: int) -> list[int]:
    found = proposed(ranking, view, size, "me")
    assert len(found) == len({p.row for p in found})
    return [p.row for p in found if p.reason is PickReason.EXPLOIT]


def fits(pool: Pool, name: str, task: Task) -> bool:
    setting = Setting(task, 1 if task is Task.BINARY else 3, pool)
    return strategy_of(choice(name)).objection(setting) is None


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("name", "task"), CASES)
def test_every_order_keeps_to_its_candidates(
    pool: Pool, name: str, task: Task, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fits(pool, name, task)
    config = a_config(pool, name, task, POLICIES[policy])
    view = a_view(config)
    ranking = ranked(pool, config, view)
    (order,) = ranking.orders
    rows, scores = order.scored.rows, order.scored.scores
    eligible = set(np.flatnonzero(ranking.materials.eligible).tolist())  # type: ignore[arg-type]
    allowed = eligible - view.votes.keys()
    if ranking.candidates is not None:
        allowed &= set(ranking.candidates.rows.tolist())
    assert len(set(rows.tolist())) == len(rows)
    assert set(rows.tolist()) <= allowed
    assert order.scored.complete == (len(rows) == len(allowed))
    assert len(rows) >= min(len(allowed), 200)
    assert np.isfinite(scores).all()

    again = ranked(pool, config, view)
    assert np.array_equal(again.orders[0].scored.rows, rows)
    assert np.array_equal(again.orders[0].scored.scores, scores)

    monkeypatch.setattr(candidate_module, "BLOCK", 17)
    for compute in pool._vectors.computes:  # 64 rows, the least a scan takes
        monkeypatch.setattr(compute, "block_bytes", 1)
    found = ranking.candidates
    if found is not None:  # the same rows in runs of their own, as a live session has them
        grown = Candidates(np.empty(0, np.int32))
        for piece in np.array_split(np.random.default_rng(0).permutation(found.rows), 5):
            grown = grown.grown(pool, piece, 1 << 30)
        found = grown
    blocked = rank(ranking.materials, ranking.state, found)
    assert np.array_equal(blocked.orders[0].scored.rows, rows)
    assert np.array_equal(blocked.orders[0].scored.scores, scores)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("name", "task"), CASES)
def test_every_batch_offers_what_is_free(pool: Pool, name: str, task: Task, policy: str) -> None:
    config = a_config(pool, name, task, POLICIES[policy])
    view = a_view(config)
    ranking = ranked(pool, config, view)
    for batch_policy in BATCH_POLICIES:
        used = replace(config, batch=BatchConfig(Choice(batch_policy)))
        state = replace(ranking.state, snapshot=replace(ranking.snapshot, config=used))
        own = replace(ranking, state=state)
        for size in (1, 20, 400):
            rows = batch(own, view, size)
            free = [
                row
                for row in ranking.orders[0].scored.rows.tolist()
                if row not in view.votes and view.free_for(row, "me")
            ]
            assert len(set(rows)) == len(rows)
            assert all(row not in view.votes and view.free_for(row, "me") for row in rows)
            assert len(rows) <= size
            if ranking.complete:
                assert len(rows) == min(size, len(free))
                assert set(rows) <= set(free)
        assert batch(own, view, 20) == batch(own, view, 20)


@pytest.mark.parametrize(("name", "task"), CASES)
def test_scores_stay_finite_where_the_head_is_saturated(pool: Pool, name: str, task: Task) -> None:
    config = a_config(pool, name, task, All(), head=HeadConfig(c=1e6))
    ranking = ranked(pool, config, a_view(config))
    head = ranking.state.head
    assert head is not None
    sharp = replace(head, weights=1e4 * head.weights, bias=1e4 * head.bias)
    again = rank(ranking.materials, replace(ranking.state, head=sharp), None)
    assert np.isfinite(again.orders[0].scored.scores).all()


@pytest.mark.parametrize("task", list(Task))
def test_distinct_strategies_pick_differently(pool: Pool, task: Task) -> None:
    names = [name for name, own in CASES if own is task]
    picks: dict[str, npt.NDArray[np.int32]] = {}
    for name in names:
        config = a_config(pool, name, task, All())
        picks[name] = ranked(pool, config, a_view(config)).orders[0].scored.rows[:40]
    for one, other in combinations(names, 2):
        same = bool(np.array_equal(picks[one], picks[other]))
        alias = {one, other} <= SAME_ORDER[task]
        assert same == alias, (one, other)


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("name", [n for n, kind in STRATEGIES.items() if not kind.needs_head])
def test_strategies_without_a_head_choose_from_the_start(pool: Pool, name: str, task: Task) -> None:
    if task not in STRATEGIES[name].tasks:
        return
    config = a_config(pool, name, task, Seals(4))
    view = a_view(config, labels=0)
    ranking = ranked(pool, config, view)
    assert not ranking.is_cold
    assert len(batch(ranking, view, 30)) == 30
