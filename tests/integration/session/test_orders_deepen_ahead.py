"""Orders get more rows before calls wait for them."""

from __future__ import annotations

import gc
import weakref
from threading import Event
from typing import Any

import numpy as np
import pytest
from tests.fixtures.pools import make_pool
from tests.fixtures.replicas import Pair, Replica

from coresift.server.arrays import Float32s, Rows
from coresift.server.errors import CoresiftError, Reason
from coresift.server.pool.pool import Pool
from coresift.server.selection.candidates import All, Seals
from coresift.server.session.live import live
from coresift.server.session.live.live import LiveSession
from coresift.server.session.ranking import ordering
from coresift.server.session.ranking.ranking import Ranking
from coresift.server.session.replay import read_log, replay
from coresift.server.session.view.labels import pack_class

SIDES = {0: pack_class(1), 1: pack_class(0)}
ITEMS, DEPTH = 4_000, 400
SIZE = 10
HALF = DEPTH // 2 // SIZE + 2
"""Batches after which more than half of the first order is behind."""
LONGEST_S = 30.0


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    X = np.random.default_rng(8).standard_normal((ITEMS, 8)).astype(np.float32)
    return make_pool(tmp_path_factory.mktemp("pool"), X)


class Deepening:
    """How often an order got more rows ahead and for calls that waited.

    What is ahead waits until it ``may_run``, and fails while it is ``broken``.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead, self.needed, self.broken = 0, 0, False
        self.begun, self.may_run = Event(), Event()
        deeper, in_steps = live.deeper, live.deepen_in_steps

        def ahead(ranking: Ranking, wanted: int) -> Ranking:
            self.ahead += 1
            self.begun.set()
            assert self.may_run.wait(LONGEST_S)
            if self.broken:
                raise CoresiftError(Reason.INTERNAL, "planted")
            return deeper(ranking, wanted)

        def needed(*arguments: Any) -> Any:
            self.needed += 1
            return in_steps(*arguments)

        monkeypatch.setattr(ordering, "FIRST_DEPTH", DEPTH)
        monkeypatch.setattr(live, "deeper", ahead)
        monkeypatch.setattr(live, "deepen_in_steps", needed)


async def asked(replica: Replica, session: str, times: int) -> list[int]:
    """The rows of so many batches; all are leased."""
    return [
        pick.row
        for _ in range(times)
        for pick in (await replica.next_batch(session, size=SIZE)).picks
    ]


async def test_nobody_waits_for_more_rows(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    deepening = Deepening(monkeypatch)
    session = await one.create(pool, candidates=All())
    await one.label(session, SIDES)
    rows = await asked(one, session, HALF - 1)
    assert (deepening.ahead, deepening.needed) == (0, 0)
    rows += await asked(one, session, 3)  # goes on while more rows are made
    assert deepening.begun.wait(LONGEST_S)
    assert (deepening.ahead, deepening.needed) == (1, 0)
    deepening.may_run.set()
    await one.workers.run_behind(lambda: None)  # one after the other
    rows += await asked(one, session, 8 * HALF)
    await one.workers.run_behind(lambda: None)
    assert (deepening.ahead, deepening.needed) == (2, 0)
    assert len(set(rows)) == len(rows) == (9 * HALF + 2) * SIZE
    assert not replay(two.loader, await read_log(two.store, session)).differences


async def test_what_fails_ahead_is_made_when_it_is_needed(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    deepening = Deepening(monkeypatch)
    deepening.broken = True
    deepening.may_run.set()
    session = await one.create(pool, candidates=All())
    await one.label(session, SIDES)
    rows = await asked(one, session, 2 * HALF)
    await one.workers.run_behind(lambda: None)
    assert (deepening.ahead, deepening.needed) == (1, 1)
    assert len(set(rows)) == 2 * HALF * SIZE
    assert not replay(two.loader, await read_log(two.store, session)).differences


async def test_labels_leave_what_is_made_ahead_behind(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes of an older ranking does not take the place of a newer one."""
    one, two = pair
    deepening = Deepening(monkeypatch)
    session = await one.create(pool, candidates=All())
    await one.label(session, SIDES)
    rows = await asked(one, session, HALF)
    assert deepening.begun.wait(LONGEST_S)
    await one.label(session, {rows[0]: pack_class(1)})
    assert await asked(one, session, 1)
    shown = await one.live(session)
    newest = shown.ranking
    assert newest is not None
    deepening.may_run.set()
    await one.workers.run_behind(lambda: None)
    assert shown.ranking is not None
    assert shown.ranking.snapshot is newest.snapshot
    assert not replay(two.loader, await read_log(two.store, session)).differences


@pytest.mark.parametrize("broken", [False, True])
async def test_what_was_made_ahead_keeps_no_vectors(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """Those of the candidates, once the session's memory is wanted back."""
    one, _ = pair
    deepening = Deepening(monkeypatch)
    deepening.broken = broken
    deepening.may_run.set()
    session = await one.create(pool, candidates=Seals(2 * DEPTH))
    await one.label(session, SIDES)
    await asked(one, session, HALF)
    await one.workers.run_behind(lambda: None)
    assert deepening.begun.is_set()
    shown = await one.live(session)
    kept = [weakref.ref(vectors) for _, vectors in parts_of(shown)]
    assert kept
    shown.shed()
    gc.collect()  # a planted error holds the frames that it came through
    assert not any(vectors() is not None for vectors in kept)


def parts_of(shown: LiveSession) -> tuple[tuple[Rows, Float32s], ...]:
    """The candidates' vectors that a ranking streams through."""
    assert shown.ranking is not None
    assert shown.ranking.candidates is not None
    return shown.ranking.candidates.parts or ()
