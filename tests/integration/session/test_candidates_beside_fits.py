"""The candidates of a ranking are gathered beside the fit of its head."""

from __future__ import annotations

from threading import Event
from typing import Any

import numpy as np
import pytest
from tests.fixtures.pools import make_pool
from tests.fixtures.replicas import Pair

from coresift.server.errors import CoresiftError, Reason
from coresift.server.pool.pool import Pool
from coresift.server.selection.candidates import Seals
from coresift.server.session.live import fitting
from coresift.server.session.ranking.candidates import Candidates
from coresift.server.session.replay import read_log, replay
from coresift.server.session.view.labels import pack_class

NO, YES = pack_class(0), pack_class(1)
ITEMS, K = 300, 5
SIDES = {0: YES, 1: NO, 2: YES, 3: NO}
LONGEST_S = 30.0


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    X = np.random.default_rng(6).standard_normal((ITEMS, 8)).astype(np.float32)
    return make_pool(tmp_path_factory.mktemp("pool"), X)


class Growths:
    """How often candidates grew; they fail while they are ``broken``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.broken, self.done = 0, 0, Event()
        grown = Candidates.grown

        def watched(*arguments: Any) -> Candidates:
            self.count += 1
            try:
                if self.broken:
                    self.broken -= 1
                    raise CoresiftError(Reason.INTERNAL, "planted")
                return grown(*arguments)
            finally:
                self.done.set()

        monkeypatch.setattr(Candidates, "grown", watched)


async def test_a_fit_need_not_end_before_the_candidates_grow(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    growths, fit = Growths(monkeypatch), fitting.head_state

    def waits(*arguments: Any) -> Any:
        assert growths.done.wait(LONGEST_S)
        return fit(*arguments)

    monkeypatch.setattr(fitting, "head_state", waits)
    session = await one.create(pool, candidates=Seals(K))
    for turn in range(3):
        await one.label(session, SIDES if not turn else {10 * turn: NO, 10 * turn + 1: YES})
        growths.done.clear()
        assert (await one.next_batch(session, f"annotator {turn}")).picks
        assert growths.count == turn + 1  # once each
    assert not replay(two.loader, await read_log(two.store, session)).differences


async def test_what_fails_beside_the_fit_is_tried_again_when_it_is_needed(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    growths = Growths(monkeypatch)
    session = await one.create(pool, candidates=Seals(K))
    await one.label(session, SIDES)
    growths.broken = 2
    with pytest.raises(CoresiftError, match="planted"):
        await one.next_batch(session)
    assert growths.count == 2
    await one.label(session, {10: NO})
    growths.broken = 1
    assert (await one.next_batch(session)).picks
    assert growths.count == 4
    assert not replay(two.loader, await read_log(two.store, session)).differences


async def test_a_failed_fit_leaves_the_candidates_to_the_next_call(
    pair: Pair, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = pair
    growths, fit = Growths(monkeypatch), fitting.head_state
    session = await one.create(pool, candidates=Seals(K))
    await one.label(session, SIDES)

    def fails(*arguments: Any) -> Any:
        raise CoresiftError(Reason.INTERNAL, "planted")

    monkeypatch.setattr(fitting, "head_state", fails)
    with pytest.raises(CoresiftError, match="planted"):
        await one.next_batch(session)
    monkeypatch.setattr(fitting, "head_state", fit)
    assert (await one.next_batch(session)).picks
    assert growths.count == 1
