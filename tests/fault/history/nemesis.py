"""Kinds of runs, and the nemesis that breaks and mends by a seeded schedule."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.fault.history.faults import (
    OF_CALLS,
    OF_PROCESSES,
    OF_STATE,
    Fault,
    calls_replies_lost,
    connections_killed,
    failover,
    redis_killed,
    redis_stopped,
    scripts_flushed,
    server_killed,
    server_stopped,
    state_replies_lost,
)
from tests.fault.history.plant import Plant


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of run: what is built, what is broken, and how often.

    Attributes:
        faults: taken in turn, in an order that the seed decides.
        calm_s, broken_s: shortest and longest time between faults, and of one.
        clocks_ahead_s: of frontends and of servers, in turn; a clock may be behind.
    """

    faults: Mapping[str, Fault] = field(default_factory=dict)
    calm_s: tuple[float, float] = (0.4, 1.2)
    broken_s: tuple[float, float] = (0.2, 1.5)
    with_sentinels: bool = False
    state_proxied: bool = False
    calls_proxied: bool = False
    clocks_ahead_s: Sequence[float] = (0.0,)


def _one(fault: Fault, **options: object) -> Kind:
    return Kind({fault.__name__: fault}, **options)  # type: ignore[arg-type]


KINDS: dict[str, Kind] = {
    "none": Kind(),
    "server-kill": _one(server_killed),
    "server-stop": _one(server_stopped),
    "redis-kill": _one(redis_killed, calm_s=(0.8, 2.0)),
    "redis-stop": _one(redis_stopped, calm_s=(0.8, 2.0)),
    "connections": Kind(
        {f.__name__: f for f in (connections_killed, scripts_flushed)},
        calm_s=(0.1, 0.5),
        broken_s=(0.0, 0.05),
    ),
    "state-network": Kind({f.__name__: f for f in OF_STATE}, state_proxied=True),
    "state-replies": _one(
        state_replies_lost, state_proxied=True, calm_s=(0.3, 0.9), broken_s=(0.05, 0.4)
    ),
    "call-network": Kind({f.__name__: f for f in OF_CALLS}, calls_proxied=True),
    "call-replies": _one(
        calls_replies_lost, calls_proxied=True, calm_s=(0.2, 0.6), broken_s=(0.1, 0.6)
    ),
    "failover": _one(failover, with_sentinels=True, calm_s=(1.5, 4.0), broken_s=(0.0, 1.0)),
    "clocks": Kind(
        {server_stopped.__name__: server_stopped},
        clocks_ahead_s=(3_600.0, -3_600.0, 0.7, -0.7),
    ),
    "everything": Kind(
        {f.__name__: f for f in (*OF_PROCESSES, *OF_STATE, *OF_CALLS)},
        state_proxied=True,
        calls_proxied=True,
        calm_s=(0.2, 0.8),
        clocks_ahead_s=(0.0, 60.0, 0.0, -60.0),
    ),
}
"""Name of a run to its kind."""


class Nemesis:
    """Breaks and mends until told to stop."""

    def __init__(self, kind: Kind, plant: Plant, seed: int, count: Callable[[str], None]) -> None:
        self._kind, self._plant, self._count = kind, plant, count
        self._rng = random.Random(f"{seed}-nemesis")

    async def rage(self, ended: asyncio.Event) -> None:
        """One fault after the other; whatever is broken is mended before it returns."""
        if not self._kind.faults:
            await ended.wait()
            return
        while True:
            names = sorted(self._kind.faults)
            self._rng.shuffle(names)
            for name in names:
                if await _ends_within(ended, self._rng.uniform(*self._kind.calm_s)):
                    return
                await self._break(name, ended)

    async def _break(self, name: str, ended: asyncio.Event) -> None:
        fault = self._kind.faults[name](self._plant, self._rng)
        self._count(name)
        await asyncio.to_thread(fault.__enter__)
        try:
            await _ends_within(ended, self._rng.uniform(*self._kind.broken_s))
        finally:
            await asyncio.to_thread(fault.__exit__, None, None, None)


async def _ends_within(ended: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await ended.wait()
    except TimeoutError:
        return False
    return True
