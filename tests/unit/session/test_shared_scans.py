"""Scans that several callers share: who joins where, who drops out, and whose work it is."""

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

from coresift.server.arrays import Float32s
from coresift.server.errors import CoresiftError, Reason
from coresift.server.pool.parallel import CORES
from coresift.server.pool.pool import Pool
from coresift.server.selection import circular_scan
from coresift.server.selection.leaders import Leaders
from coresift.server.selection.strategy import Errors, Floats, Part, Projection
from coresift.server.session.work.call import CALL, Call
from coresift.server.session.work.gate import Gate, GateLimits
from coresift.server.session.work.scan_steps import Scan, Steps
from coresift.server.session.work.shared_scans import RIDERS, SharedScans
from coresift.server.session.work.workers import Workers

BLOCKS = 8 * (CORES + 1)
"""Many more than are handed out ahead."""
N, D = 64 * BLOCKS, 4


@dataclass
class ByRow:
    """A scorer by row number that may be held back, and notes what it saw."""

    may_go: Event | None = None
    fails: bool = False
    begun: Event = field(default_factory=Event)
    seen: list[int] = field(default_factory=list)
    needs_head: bool = False
    needs_rows: bool = True
    projection: Projection | None = field(
        default_factory=lambda: Projection(np.ones((1, D)), np.zeros(1))
    )

    def score(self, part: Part) -> Floats:
        self.begun.set()
        if self.may_go is not None:
            self.may_go.wait()
        if len(part.rows) == 64:  # else it is scored again
            self.seen += part.rows.tolist()
        if self.fails:
            raise ArithmeticError("no score")
        return np.asarray(-part.rows.astype(np.float64))

    def error(self, errors: Errors) -> float:
        return 0.0

    def saw_each_row_once(self) -> bool:
        return sorted(self.seen) == list(range(N))


class Scans:
    """Shared scans over small pools that note of each product how many columns it had, and of each
    scan for whom it is."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, threads: int = 2) -> None:
        self.workers = Workers(threads)
        self.shared = SharedScans(self.workers)
        self.columns: list[int] = []
        self.pools = [self._pool(folder / name, monkeypatch) for name in ("one", "other")]
        self.calls: list[Call] = []
        begin = self.workers.begin

        def noted(work: object, call: Call) -> object:
            self.calls.append(call)
            return begin(work, call)  # type: ignore[arg-type]

        monkeypatch.setattr(self.workers, "begin", noted)

    def _pool(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Pool:
        X = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)
        pool = make_pool(folder, X)
        compute = pool._vectors.computes[0]
        compute.block_bytes = 1  # 64 rows
        multiply = compute.product

        def product(start: int, stop: int, matrix: Float32s) -> Float32s:
            self.columns.append(matrix.shape[1])
            return multiply(start, stop, matrix)

        monkeypatch.setattr(compute, "product", product)
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

    def taking_part(self, pool: int = 0) -> int:
        shared = self.shared._scans.get(self.pools[pool])
        return 0 if shared is None else len(shared.ends)


async def until(count: int, scans: Scans) -> None:
    """Until so many take part in the scan of the first pool."""
    while scans.taking_part() != count:  # noqa: ASYNC110
        await asyncio.sleep(0)


@pytest_asyncio.fixture
async def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scans]:
    made = Scans(tmp_path, monkeypatch)
    yield made
    await made.workers.drain(5)
    await asyncio.sleep(0)  # the loop hears of threads that have ended
    assert not made.shared._scans
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


async def test_a_lone_caller_has_a_scan_at_once(scans: Scans) -> None:
    for count in (1, 2, 3):
        scorer = ByRow()
        assert await scans.ask(scorer) == [0, 1, 2]
        assert scorer.saw_each_row_once()
        assert scans.columns == [1] * BLOCKS * count


async def test_those_who_come_during_a_scan_join_it_where_it_is(scans: Scans, held: ByRow) -> None:
    first = scans.ask(held)
    await begun(held)
    later = [ByRow() for _ in range(5)]
    others = [scans.ask(scorer) for scorer in later]
    await until(6, scans)
    let_go(held)
    assert await asyncio.gather(first, *others) == [[0, 1, 2]] * 6
    assert all(scorer.saw_each_row_once() for scorer in (held, *later))
    missed = len(scans.columns) - BLOCKS
    assert missed <= 2 * CORES + 1  # those that were handed out before they came
    # The first left before the end: no order is promised, as blocks are worked on side by side.
    assert sorted(scans.columns) == [1] * missed + [5] * missed + [6] * (BLOCKS - missed)


async def test_one_session_has_half_of_the_places_and_the_queue_an_end(
    scans: Scans, held: ByRow
) -> None:
    first = scans.ask(held, Call("a", session="one"))
    await begun(held)
    places, queue = RIDERS.session_places, RIDERS.queue
    rest = [scans.ask(ByRow(), Call("a", session="one")) for _ in range(places - 1 + queue)]
    await until(places, scans)
    while scans.shared._gate.waiting < queue:  # noqa: ASYNC110
        await asyncio.sleep(0)
    other = scans.ask(ByRow(), Call("a", session="other"))
    await until(places + 1, scans)
    with pytest.raises(CoresiftError) as refused:
        await scans.ask(ByRow(), Call("a", session="one"))
    assert refused.value.reason is Reason.OVERLOADED
    CALL.set(Call("a", session="one"))
    with pytest.raises(CoresiftError, match="all the scans that it takes"):
        scans.shared.check()  # without a step, as at the door
    CALL.set(Call("a", session="another"))
    scans.shared.check()
    let_go(held)
    assert await asyncio.gather(first, other, *rest) == [[0, 1, 2]] * (2 + len(rest))
    assert (scans.shared._gate.working, scans.shared._gate.waiting) == (0, 0)


async def test_a_scan_takes_those_who_came_while_it_waited_for_a_thread(scans: Scans) -> None:
    release = Event()
    busy = [asyncio.create_task(scans.workers.run(release.wait)) for _ in range(2)]
    while scans.workers.gate.working < 2:  # noqa: ASYNC110 - until both have a thread
        await asyncio.sleep(0)
    leaders = [Leaders(ByRow(), None, np.zeros(N, np.bool_), 3, 1.0) for _ in range(5)]
    calls = [asyncio.create_task(scans.shared.show(scans.pools[0], [each])) for each in leaders]
    await until(5, scans)
    release.set()
    await asyncio.gather(*busy, *calls)
    assert scans.columns == [5] * BLOCKS
    for each in leaders:
        assert each.best(scans.pools[0].fetch).rows.tolist() == [0, 1, 2]


async def test_scans_of_other_pools_do_not_wait(scans: Scans, held: ByRow) -> None:
    first = scans.ask(held)
    await begun(held)
    other = scans.ask(ByRow(), pool=1)
    while not scans.taking_part(pool=1):  # noqa: ASYNC110
        await asyncio.sleep(0)
    let_go(held)
    assert await asyncio.gather(first, other) == [[0, 1, 2]] * 2


async def test_the_columns_of_a_product_are_bounded(
    scans: Scans, held: ByRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circular_scan, "MOST_COLUMNS", 3)
    first = scans.ask(held)
    await begun(held)
    wide = ByRow(projection=Projection(np.ones((5, D)), np.zeros(5)))
    later = [ByRow(), ByRow(), ByRow(), ByRow(), wide, ByRow()]
    others = [scans.ask(scorer) for scorer in later]
    await until(7, scans)
    let_go(held)
    assert await asyncio.gather(first, *others) == [[0, 1, 2]] * 7
    assert all(scorer.saw_each_row_once() for scorer in later)
    assert set(scans.columns) <= {1, 2, 3, 5}
    assert scans.columns.count(5) == BLOCKS


async def test_the_thread_is_given_back_after_each_time_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: ByRow
) -> None:
    scans, ended = Scans(tmp_path, monkeypatch, threads=1), []

    async def noted(name: str, work: asyncio.Task[object]) -> None:
        await work
        ended.append(name)

    leaders = [Leaders(scorer, None, np.zeros(N, np.bool_), 3, 1.0) for scorer in (held, ByRow())]
    shows = [scans.shared.show(scans.pools[0], [each]) for each in leaders]
    first = asyncio.create_task(noted("first", asyncio.create_task(shows[0])))
    await begun(held)
    other = asyncio.create_task(scans.workers.run(lambda: None))
    while not scans.workers.gate.waiting:  # noqa: ASYNC110
        await asyncio.sleep(0)
    second = asyncio.create_task(noted("second", asyncio.create_task(shows[1])))
    await until(2, scans)
    let_go(held)
    await asyncio.gather(first, noted("other", other), second)
    assert ended == ["first", "other", "second"]
    await scans.workers.drain(5)


async def test_who_goes_away_before_the_next_block_is_shown_nothing(
    scans: Scans, held: ByRow
) -> None:
    first = scans.ask(held)
    await begun(held)
    stays, goes = ByRow(), ByRow()
    calls = [scans.ask(stays), scans.ask(goes)]
    await until(3, scans)
    calls[1].cancel()
    await asyncio.wait([calls[1]])
    let_go(held)
    assert await asyncio.gather(first, calls[0]) == [[0, 1, 2]] * 2
    assert stays.saw_each_row_once()
    assert not goes.seen


async def test_who_goes_away_during_the_scan_does_not_hurt_the_others(
    scans: Scans, held: ByRow
) -> None:
    stays = ByRow()
    calls = [scans.ask(held), scans.ask(stays)]
    await until(2, scans)
    await begun(held)
    calls[0].cancel()
    await asyncio.wait([calls[0]])
    let_go(held)
    assert await calls[1] == [0, 1, 2]
    assert stays.saw_each_row_once()
    assert len(held.seen) < N


async def test_a_scan_that_nobody_waits_for_ends(scans: Scans, held: ByRow) -> None:
    first = scans.ask(held)
    await begun(held)
    late = [scans.ask(ByRow()) for _ in range(3)]
    await until(4, scans)
    for call in (*late, first):
        call.cancel()
    await asyncio.wait([*late, first])
    let_go(held)
    assert await scans.ask(ByRow()) == [0, 1, 2]
    assert len(held.seen) < N
    assert len(scans.columns) < 2 * BLOCKS


async def test_a_failure_is_its_own_callers(scans: Scans, held: ByRow) -> None:
    first = scans.ask(held)
    await begun(held)
    bad, good = scans.ask(ByRow(fails=True)), scans.ask(ByRow())
    await until(3, scans)
    let_go(held)
    assert [await first, await good] == [[0, 1, 2]] * 2
    with pytest.raises(ArithmeticError, match="no score"):
        await bad


async def test_a_scan_that_fails_as_a_whole_is_told_to_all_and_is_over(
    scans: Scans, held: ByRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scans.ask(held)
    await begun(held)
    calls = [scans.ask(ByRow()) for _ in range(3)]
    await until(4, scans)

    def broken(start: int, stop: int, matrix: Float32s) -> Float32s:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(scans.pools[0]._vectors.computes[0], "product", broken)
        let_go(held)
        results = await asyncio.gather(first, *calls, return_exceptions=True)
    assert [type(result) for result in results] == [MemoryError] * 4
    assert await scans.ask(ByRow()) == [0, 1, 2]


async def test_a_scan_bears_no_session_and_a_tenant_only_where_there_is_one(
    scans: Scans, held: ByRow
) -> None:
    first = scans.ask(held, Call("a", tenant="t", session="s", refusable=True))
    await begun(held)
    others = [scans.ask(ByRow(), Call("b", tenant="t"))]
    await until(2, scans)
    kept = scans.calls[-1].tenant
    others.append(scans.ask(ByRow(), Call("b", tenant="u")))
    await until(3, scans)
    let_go(held)
    await asyncio.gather(first, *others)
    assert kept == "t"
    (call,) = scans.calls
    assert (call.kind, call.session, call.tenant, call.refusable) == ("a", "", "", False)


async def test_those_who_wait_for_a_scan_hold_no_permit(scans: Scans, held: ByRow) -> None:
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

    def none(scans_taken: int) -> Steps[int]:
        for _ in range(scans_taken):
            yield Scan(scans.pools[0], ())
        return 7

    assert await scans.shared.run(none(0)) == 7
