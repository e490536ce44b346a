"""What is proposed to an annotator, and what is found when candidates run short."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.pools import extend_pool, make_pool

from coresift.server.errors import CoresiftError, Reason, StartError
from coresift.server.head import Task
from coresift.server.pool.pool import Pool
from coresift.server.selection.priority import random_order
from coresift.server.session.config import SessionConfig, complete
from coresift.server.session.labels import pack_class
from coresift.server.session.pools import Pools
from coresift.server.session.proposals import expansion, proposals
from coresift.server.session.ranking import HeadState, PickReason, Ranking, Snapshot, fit_head, rank
from coresift.server.session.view import View

NO, YES = pack_class(0), pack_class(1)
N = 60


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    X = np.random.default_rng(0).standard_normal((N, 5)).astype(np.float32)
    return make_pool(tmp_path_factory.mktemp("pool"), X)


def a_view(pool: Pool, **fields: object) -> View:
    config = SessionConfig(pool.manifest.name, pool.manifest.version, Task.BINARY, ())
    view = View(complete(replace(config, **fields)), 1)
    view.votes = {row: {"zoe": YES if row % 2 else NO} for row in range(4)}
    view.ever = dict.fromkeys(range(4))
    return view


def ranked(pool: Pool, view: View, candidates: np.ndarray | None = None) -> Ranking:
    snapshot = Snapshot.of(view)
    state = HeadState(snapshot, fit_head(pool, snapshot))
    ranking = rank(pool, state, None, N)
    if candidates is None:
        return ranking
    keep = np.isin(ranking.scored.rows, candidates)
    scored = replace(
        ranking.scored,
        rows=ranking.scored.rows[keep],
        scores=ranking.scored.scores[keep],
        predicted=ranking.scored.predicted[keep],
    )
    return replace(ranking, scored=scored)


def test_proposals_are_the_free_rows_in_order(pool: Pool) -> None:
    view = a_view(pool)
    ranking = ranked(pool, view)
    order = ranking.scored.rows.tolist()
    view.leases = {order[0]: frozenset({"bob"})}
    view.skips = {(order[1], "ann"), (order[2], "bob")}
    view.hidden = {order[3]}
    view.votes[order[4]] = {"bob": YES}
    found = proposals(ranking, view, "ann", 10)
    assert [p.row for p in found] == [order[2], *order[5:14]]
    assert all(p.reason is PickReason.EXPLOIT for p in found)
    places = [order.index(p.row) for p in found]
    assert [p.score for p in found] == ranking.scored.scores[places].tolist()
    assert [p.predicted for p in found] == ranking.scored.predicted[places].tolist()
    assert len(proposals(ranking, view, "ann", 1_000)) == len(order) - 4


def test_items_that_lack_votes_come_first(pool: Pool) -> None:
    view = a_view(pool, votes_per_item=3)
    view.votes[2] = {"zoe": NO, "bob": NO}
    view.votes[3] = {"zoe": YES, "ann": YES}
    view.under_voted = set(view.votes)
    view.leases = {1: frozenset({"bob", "cyd"})}
    ranking = ranked(pool, view)
    found = proposals(ranking, view, "ann", 6)
    assert [p.row for p in found][:2] == [2, 0]
    assert [p.reason for p in found] == [PickReason.UNDER_VOTED] * 2 + [PickReason.EXPLOIT] * 4
    assert math.isnan(found[0].score)
    assert [p.row for p in proposals(ranking, view, "ann", 1)] == [2]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_an_expansion_has_enough_and_nothing_blocked(pool: Pool, data: st.DataObject) -> None:
    some = st.sets(st.integers(0, N - 1), max_size=N)
    blocked, candidates, near = (sorted(data.draw(some)) for _ in range(3))
    wanted = data.draw(st.integers(1, N + 5))
    view = a_view(pool, seals_k=3, seed=data.draw(st.integers(0, 9)))
    if data.draw(st.booleans()):
        view.votes = {}  # no head
    ranking = ranked(pool, view, np.array(candidates, np.int64))
    rows = ranking.scored.rows.tolist()
    found = expansion(pool, ranking, np.array(near, np.int32), np.array(blocked, np.int32), wanted)
    left = set(range(N)) - set(blocked) - set(rows)
    assert len(found) == min(wanted, len(left))
    picked = [p.row for p in found]
    assert len(set(picked)) == len(picked)
    assert set(picked) <= left
    close = left & set(near)
    expanded = [p for p in found if p.reason is PickReason.EXPAND]
    assert len(expanded) == min(wanted, len(close))
    assert {p.row for p in expanded} <= close
    scores = [p.score for p in expanded if not math.isnan(p.score)]
    assert scores == sorted(scores, reverse=True)
    filled = [p.row for p in found[len(expanded) :]]
    order = random_order(ranking.snapshot.config.seed, "fill", N, N).tolist()
    expected = [row for row in order if row in left - close]
    assert filled == expected[: wanted - len(expanded)]


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
