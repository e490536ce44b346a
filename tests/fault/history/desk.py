"""The sessions that are worked on: a few of every kind at a time, all of them short."""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import dataclass
from typing import Any

from tests.fault.history.frontend import Frontend
from tests.fault.history.operations import CLASSES
from tests.fault.history.plant import POOL

from coresift.v1 import selection_pb2 as pb

ACTIVE = 4
"""Sessions at a time."""
LIFE = 260
"""Calls that a session gets before another takes its place."""
THREE = ("ham", "eggs", "spam")


def _config(task: int, **fields: Any) -> pb.SessionConfig:
    config = pb.SessionConfig(pool=POOL, task=pb.Task.ValueType(task), **fields)
    config.lease_duration.FromMilliseconds(1_500)
    return config


def _kinds() -> list[pb.SessionConfig]:
    plain = _config(pb.TASK_BINARY)
    plain.candidates.all.SetInParent()
    pairs = _config(pb.TASK_BINARY, votes_per_item=2)
    pairs.candidates.seals.k = 8
    limited = _config(pb.TASK_MULTICLASS, classes=THREE, label_budget=45)
    limited.candidates.random_subset.size = 60
    limited.strategy.name = "margin"
    reviewed = _config(pb.TASK_MULTICLASS, classes=THREE, votes_per_item=2)
    reviewed.candidates.anchors.SetInParent()
    mixed = _config(pb.TASK_BINARY, explore_fraction=0.3, seed=7)
    mixed.candidates.seals.k = 12
    mixed.strategy.name = "most_likely_positive"
    return [plain, pairs, limited, reviewed, mixed]


KINDS = _kinds()


@dataclass(slots=True)
class Session:
    """A session as all frontends know it."""

    session_id: str
    config: pb.SessionConfig
    calls: int = 0
    revision: int = 0
    """The highest that was acknowledged."""
    config_version: int = 1

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.config.classes) or CLASSES


class Desk:
    """The sessions that are worked on; a finished one is replaced."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._kinds = itertools.cycle(KINDS)
        self.open: list[Session | None] = [None] * ACTIVE
        self._making = [asyncio.Lock() for _ in range(ACTIVE)]

    async def session(self, frontend: Frontend, rng: random.Random) -> Session | None:
        """One of the open sessions."""
        place = rng.randrange(ACTIVE)
        async with self._making[place]:
            session = self.open[place]
            if session is None or session.calls >= LIFE:
                session = self.open[place] = await self._new(frontend)
        if session is not None:
            session.calls += 1
        return session

    async def _new(self, frontend: Frontend) -> Session | None:
        session = Session(f"session-{next(self._numbers)}", next(self._kinds))
        request = pb.CreateSessionRequest(
            request_id=f"create-{session.session_id}",
            session_id=session.session_id,
            config=session.config,
        )
        answer = await frontend.call("CreateSession", session.session_id, request)
        return None if answer is None else session
