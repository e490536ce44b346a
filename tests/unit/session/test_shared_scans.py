"""Passes that several callers share: who goes together, who drops out, and whose work it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import pytest_asyncio
from tests.fixtures.pools import make_pool

from coresift.server.pool.pool import Pool
from coresift.server.selection.leaders import Leaders
from coresift.server.selection.strategy import Errors, Floats, Part, Projection
from coresift.server.session import shared_scans
from coresift.server.session.call import CALL, Call
from coresift.server.session.gate import Gate, GateLimits
from coresift.server.session.scan_steps import Scan, Steps
from coresift.server.session.shared_scans import SharedScans
from coresift.server.session.workers import Workers

N, D = 200, 4
BLOCKS = 4


@dataclass
class ByRow:
    """A scorer by row number that may be held back, and notes what it saw."""

    may_go: Event | None = None
    fails: bool = False
    begun: Event = field(default_factory=Event)
    seen: int = 0
    needs_head: bool = False
    needs_rows: bool = True
    projection: Projection | None = field(
        default_factory=lambda: Projection(np.ones((1, D)), np.zeros(1))
    )

    def score(self, part: Part) -> Floats:
        self.begun.set()
        if self.may_go is not None:
            self.may_go.wait()
        self.seen += 1
        if self.fails:
            raise ArithmeticError("no score")
        return np.asarray(-part.rows.astype(np.float64))

    def error(self, errors: Errors) -> float:
        return 0.0


class Scans:
    """Shared scans over small pools that note each pass: how many columns it had, and for whom."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workers = Workers(2)
        self.shared = SharedScans(self.workers)
        self.passes: list[int] = []
        self.pools = [self._pool(folder / name) for name in ("one", "other")]
        self.calls: list[Call] = []
        begin = self.workers.begin

        def noted(work: object, call: Call) -> object:
            self.calls.append(call)
            return begin(work, call)  # type: ignore[arg-type]

        monkeypatch.setattr(self.workers, "begin", noted)

        def show_pool(pool: Pool, leaders: list[Leaders]) -> None:
            self.passes.append(len(leaders))
            show(pool, leaders)

        show = shared_scans.show_pool
        monkeypatch.setattr(shared_scans, "show_pool", show_pool)

    def _pool(self, folder: Path) -> Pool:
        X = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)
        pool = make_pool(folder, X)
        pool._vectors.computes[0].block_bytes = 1  # 64 rows
        return pool

    def ask(
        self, scorer: ByRow, call: Call | None = None, pool: int = 0
    ) -> asyncio.Task[list[int]]:
        """A caller that wants the first three rows."""

        def steps() -> Steps[list[int]]:
            leaders = Leaders(scorer, None, np.zeros(N, np.bool_), 3, 1.0)
            yield Scan(self.pools[pool], (leaders,))
            return leaders.best(self.pools[pool].fetch).rows.tolist()

        async def run() -> list[int]:
            CALL.set(Call("a") if call is None else call)
            return await self.shared.run(steps())

        return asyncio.create_task(run())

    def waiting(self, pool: int = 0) -> int:
        shared = self.shared._next.get(self.pools[pool])
        return 0 if shared is None else shared.waiters


async def until(count: int, scans: Scans) -> None:
    """Until so many wait for the next pass."""
    while scans.waiting() != count:  # noqa: ASYNC110
        await asyncio.sleep(0)


@pytest_asyncio.fixture
async def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scans]:
    made = Scans(tmp_path, monkeypatch)
    yield made
    await made.workers.drain(5)
    await asyncio.sleep(0)  # the loop hears of threads that have ended
    assert not made.shared._next
    assert (made.workers.gate.working, made.workers.gate.waiting) == (0, 0)


@pytest.fixture
def held() -> Iterator[ByRow]:
    """A scorer that is held back until the test lets it go."""
    scorer = ByRow(may_go=Event())
    yield scorer
    assert scorer.may_go is not None
    scorer.may_go.set()


def let_go(scorer: ByRow) -> None:
    assert scorer.may_go is not None
    scorer.may_go.set()


async def begun(scorer: ByRow) -> None:
    await asyncio.to_thread(scorer.begun.wait)


async def test_a_lone_caller_has_a_pass_at_once(scans: Scans) -> None:
    for _ in range(3):
        assert await scans.ask(ByRow()) == [0, 1, 2]
    assert scans.passes == [1, 1, 1]


async def test_those_who_come_during_a_pass_go_together_in_the_next(
    scans: Scans, held: ByRow
) -> None:
    first = scans.ask(held)
    await begun(held)
    others = [scans.ask(ByRow()) for _ in range(5)]
    await until(5, scans)
    assert scans.passes == [1]
    let_go(held)
    assert await asyncio.gather(first, *others) == [[0, 1, 2]] * 6
    assert scans.passes == [1, 5]


async def test_a_pass_takes_those_who_came_while_it_waited_for_a_thread(scans: Scans) -> None:
    release = Event()
    busy = [asyncio.create_task(scans.workers.run(release.wait)) for _ in range(2)]
    while scans.workers.gate.working < 2:  # noqa: ASYNC110 - until both have a thread
        await asyncio.sleep(0)
    leaders = [Leaders(ByRow(), None, np.zeros(N, np.bool_), 3, 1.0) for _ in range(4)]
    calls = [asyncio.create_task(scans.shared.show(scans.pools[0], [each])) for each in leaders]
    while scans.workers.gate.waiting < 1:  # noqa: ASYNC110 - until the pass is in the queue
        await asyncio.sleep(0)
    last = Leaders(ByRow(), None, np.zeros(N, np.bool_), 3, 1.0)
    calls.append(asyncio.create_task(scans.shared.show(scans.pools[0], [last])))
    await until(5, scans)
    release.set()
    await asyncio.gather(*busy, *calls)
    assert scans.passes == [5]
    assert last.best(scans.pools[0].fetch).rows.tolist() == [0, 1, 2]


async def test_passes_over_other_pools_do_not_wait(scans: Scans, held: ByRow) -> None:
    first = scans.ask(held)
    await begun(held)
    other = scans.ask(ByRow(), pool=1)
    while len(scans.passes) < 2:  # noqa: ASYNC110 - until both are under way
        await asyncio.sleep(0)
    let_go(held)
    assert await asyncio.gather(first, other) == [[0, 1, 2]] * 2


async def test_the_columns_of_a_pass_are_bounded(
    scans: Scans, held: ByRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_scans, "MOST_COLUMNS", 3)
    first = scans.ask(held)
    await begun(held)
    wide = ByRow(projection=Projection(np.ones((5, D)), np.zeros(5)))
    # One thread is left: they come to their passes in this order.
    others = [scans.ask(s) for s in (ByRow(), ByRow(), ByRow(), ByRow(), wide, ByRow())]
    while len(scans.calls) < 5:  # noqa: ASYNC110 - until each has its pass
        await asyncio.sleep(0)
    let_go(held)
    assert await asyncio.gather(first, *others) == [[0, 1, 2]] * 7
    assert scans.passes == [1, 3, 1, 1, 1]


async def test_who_goes_away_while_waiting_drops_out(scans: Scans, held: ByRow) -> None:
    first = scans.ask(held)
    await begun(held)
    stays, goes = ByRow(), ByRow()
    calls = [scans.ask(stays), scans.ask(goes)]
    await until(2, scans)
    calls[1].cancel()
    await asyncio.wait([calls[1]])
    let_go(held)
    assert await asyncio.gather(first, calls[0]) == [[0, 1, 2]] * 2
    assert stays.seen >= BLOCKS
    assert goes.seen == 0


async def test_who_goes_away_during_the_pass_does_not_hurt_the_others(
    scans: Scans, held: ByRow
) -> None:
    async with scans.shared._turns.setdefault(scans.pools[0], asyncio.Lock()):
        calls = [scans.ask(held), scans.ask(ByRow())]
        await until(2, scans)
    await begun(held)
    calls[0].cancel()
    await asyncio.wait([calls[0]])
    let_go(held)
    assert await calls[1] == [0, 1, 2]
    assert held.seen < BLOCKS
    assert scans.passes == [2]


async def test_a_pass_that_nobody_waits_for_is_dropped_or_ends(scans: Scans, held: ByRow) -> None:
    first = scans.ask(held)
    await begun(held)
    late = [scans.ask(ByRow()) for _ in range(3)]
    await until(3, scans)
    for call in (*late, first):
        call.cancel()
    await asyncio.wait([*late, first])
    let_go(held)
    assert await scans.ask(ByRow()) == [0, 1, 2]
    assert scans.passes == [1, 1]
    assert held.seen < BLOCKS


async def test_a_failure_is_its_own_callers(scans: Scans, held: ByRow) -> None:
    first = scans.ask(held)
    await begun(held)
    bad, good = scans.ask(ByRow(fails=True)), scans.ask(ByRow())
    await until(2, scans)
    let_go(held)
    assert [await first, await good] == [[0, 1, 2]] * 2
    with pytest.raises(ArithmeticError, match="no score"):
        await bad
    assert scans.passes == [1, 2]


async def test_a_pass_that_fails_as_a_whole_is_told_to_all_and_is_over(
    scans: Scans, held: ByRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scans.ask(held)
    await begun(held)
    calls = [scans.ask(ByRow()) for _ in range(3)]
    await until(3, scans)

    def broken(pool: Pool, leaders: list[Leaders]) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(shared_scans, "show_pool", broken)
        let_go(held)
        results = await asyncio.gather(first, *calls, return_exceptions=True)
    assert results[0] == [0, 1, 2]
    assert [type(result) for result in results[1:]] == [MemoryError] * 3
    assert await scans.ask(ByRow()) == [0, 1, 2]


async def test_a_pass_bears_no_session_and_a_tenant_only_where_there_is_one(
    scans: Scans, held: ByRow
) -> None:
    first = scans.ask(held, Call("a", tenant="t", session="s", refusable=True))
    await begun(held)
    others = [scans.ask(ByRow(), Call("b", tenant=tenant)) for tenant in ("t", "t")]
    await until(2, scans)
    kept = scans.calls[-1].tenant
    others.append(scans.ask(ByRow(), Call("b", tenant="u")))
    await until(3, scans)
    let_go(held)
    await asyncio.gather(first, *others)
    assert [(c.kind, c.session, c.tenant, c.refusable) for c in scans.calls] == [
        ("a", "", "t", False),
        ("b", "", "", False),
    ]
    assert kept == "t"


async def test_those_who_wait_for_a_pass_hold_no_permit(scans: Scans, held: ByRow) -> None:
    gate = Gate("calls", GateLimits(1, 9))
    mine = Call("a")
    mine.permit = await gate.enter(mine)
    call = scans.ask(held, mine)
    await begun(held)
    assert gate.working == 0
    let_go(held)
    await call
    assert gate.working == 1
    mine.permit.end()


async def test_steps_run_on_worker_threads_and_may_fail(scans: Scans) -> None:
    def steps() -> Steps[None]:
        leaders = Leaders(ByRow(), None, np.zeros(N, np.bool_), 3, 1.0)
        yield Scan(scans.pools[0], (leaders,))
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await scans.shared.run(steps())

    def none(passes: int) -> Steps[int]:
        for _ in range(passes):
            yield Scan(scans.pools[0], ())
        return 7

    assert await scans.shared.run(none(0)) == 7
