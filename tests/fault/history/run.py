"""One run: build the plant, call, break, mend, read what is left, judge."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fault.history.checker import Verdict, check
from tests.fault.history.frontend import Budget, Frontend
from tests.fault.history.nemesis import KINDS, Kind, Nemesis
from tests.fault.history.plant import Plant
from tests.fault.history.record import History
from tests.fault.history.remains import read_remains, replay_all
from tests.fault.history.workload import work

FRONTENDS = 4


@dataclass(frozen=True, slots=True)
class Run:
    """A run that was made, and its verdict."""

    history: History
    verdict: Verdict
    check_s: float
    """Spent on replay and laws."""

    @property
    def command(self) -> str:
        """Makes the same calls and faults again, as far as time allows."""
        history = self.history
        return (
            f"python -m tests.fault.history --fault {history.fault} --seed {history.seed} "
            f"--calls {history.calls}"
        )


def make_run(
    folder: Path,
    fault: str,
    *,
    seed: int,
    calls: int,
    servers: int = 2,
    mutation: str = "",
    with_replay: bool = True,
) -> Run:
    """Call about ``calls`` times while ``fault`` rages, then judge the history.

    Args:
        folder: empty; everything is written there, the history too (``history.msgpack``).
        fault: name of a kind of run (`KINDS`).
        mutation: defect to plant in every server.
    """
    kind = KINDS[fault]
    history = History(seed, fault, calls)
    clocks = [kind.clocks_ahead_s[n % len(kind.clocks_ahead_s)] for n in range(servers)]
    planted = [_planted(mutation, ahead_s) for ahead_s in clocks]
    plant = Plant(
        folder,
        servers=servers,
        planted=planted,
        with_sentinels=kind.with_sentinels,
        state_proxied=kind.state_proxied,
        calls_proxied=kind.calls_proxied,
    )
    with plant:
        asyncio.run(_call_and_read(plant, kind, history))
    history.save(folder / "history.msgpack")
    began = time.perf_counter()
    replayed = (
        replay_all(history, plant.pool_directory, folder / "artifacts") if with_replay else {}
    )
    verdict = check(history, replayed, failed_over=kind.with_sentinels)
    return Run(history, verdict, time.perf_counter() - began)


async def _call_and_read(plant: Plant, kind: Kind, history: History) -> None:
    budget = Budget(history.calls)
    clocks = kind.clocks_ahead_s
    frontends = [
        Frontend(n, plant.addresses, history, budget, 1000 * clocks[(n + 1) % len(clocks)])
        for n in range(FRONTENDS)
    ]
    nemesis = Nemesis(kind, plant, history.seed, lambda name: history.injected.update([name]))
    began = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(nemesis.rage(budget.ended))
            tasks.create_task(work(frontends))
    finally:
        await asyncio.gather(*(frontend.close() for frontend in frontends))
    history.seconds = time.perf_counter() - began
    await read_remains(history, plant.state_url, plant.master().url)


def _planted(mutation: str, ahead_s: float) -> Sequence[str]:
    planted = ["--mutation", mutation] if mutation else []
    return [*planted, "--clock-ahead-s", str(ahead_s)] if ahead_s else planted
