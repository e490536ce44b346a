"""Frontends: random calls for several annotators, every attempt recorded, failed ones repeated."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tests.fault.history.record import MESSAGES, Attempt, History, Outcome, now_ms

from coresift.v1 import selection_pb2 as pb
from coresift.v1 import selection_pb2_grpc

ATTEMPT_S = 2.0
"""Deadline of one attempt."""
ATTEMPTS = 12
PAUSE_S = 0.05
LONGEST_PAUSE_S = 0.4
AVOIDED_MS = 300.0
"""How long a server that failed is not asked, where there is another."""
DOUBTFUL = frozenset({"STATE_UNAVAILABLE", "STATE_NOT_REPLICATED"})
"""Refusals after which the call may have been done all the same."""
COME_BACK = frozenset({"OVERLOADED", "DRAINING", "STATE_FULL", "STATE_READ_ONLY"})
CHANNEL = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.enable_retries", 0),
)


@dataclass(slots=True)
class Sent:
    """A write that was answered, to be sent again."""

    kind: str
    session: str
    request: Any


@dataclass(slots=True)
class Budget:
    """Attempts that a run may still make."""

    left: int
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def spend(self) -> None:
        self.left -= 1
        if self.left <= 0:
            self.ended.set()

    @property
    def is_spent(self) -> bool:
        return self.left <= 0


class Frontend:
    """One process of a labeling platform, as the servers see it: connections of its own.

    Args:
        ahead_ms: how far its clock is ahead. It believes this clock where it compares a deadline.
    """

    def __init__(
        self,
        number: int,
        addresses: Sequence[str],
        history: History,
        budget: Budget,
        ahead_ms: float = 0.0,
    ) -> None:
        self.number, self.history, self.budget = number, history, budget
        self.rng = random.Random(f"{history.seed}-frontend-{number}")
        self._ahead_ms = ahead_ms
        self._channels = [grpc.aio.insecure_channel(to, options=CHANNEL) for to in addresses]
        self._stubs = [selection_pb2_grpc.SelectionServiceStub(c) for c in self._channels]
        self._avoided_until_ms = [0.0] * len(addresses)
        self._requests = 0
        self.answered: list[Sent] = []

    async def close(self) -> None:
        """Close its connections."""
        await asyncio.gather(*(channel.close() for channel in self._channels))

    def clock_ms(self) -> float:
        """What it takes for the time of day."""
        return now_ms() + self._ahead_ms

    def new_id(self) -> str:
        """A request_id."""
        self._requests += 1
        return f"f{self.number}-{self._requests}"

    async def call(self, kind: str, session: str, request: Any, intent: str = "") -> Any:
        """Make a call until it is answered or refused; None where it is not, or in doubt."""
        pause = PAUSE_S
        for _ in range(ATTEMPTS):
            server = self._server()
            outcome, reason, answer = await self._attempt(server, kind, session, request, intent)
            if outcome is Outcome.OK:
                if not intent and hasattr(request, "request_id"):
                    self._keep(Sent(kind, session, request))
                return answer
            if outcome is Outcome.REFUSED and reason not in COME_BACK:
                return None
            self._avoided_until_ms[server] = now_ms() + AVOIDED_MS
            pause = LONGEST_PAUSE_S if reason in COME_BACK else pause
            await asyncio.sleep(pause * self.rng.uniform(0.5, 1))
            pause = min(2 * pause, LONGEST_PAUSE_S)
        return None

    def _server(self) -> int:
        """Any server that did not fail just now, else the one that failed first."""
        now = now_ms()
        well = [n for n, until in enumerate(self._avoided_until_ms) if until < now]
        if well:
            return self.rng.choice(well)
        return min(range(len(self._stubs)), key=self._avoided_until_ms.__getitem__)

    def _keep(self, sent: Sent) -> None:
        if len(self.answered) < 40:
            self.answered.append(sent)
        else:
            self.answered[self.rng.randrange(40)] = sent

    async def _attempt(
        self, server: int, kind: str, session: str, request: Any, intent: str
    ) -> tuple[Outcome, str, Any]:
        stub = getattr(self._stubs[server], kind)
        invoked, answer, outcome, reason = now_ms(), None, Outcome.OK, ""
        try:
            if kind == "ListLabels":
                answer = pb.ListLabelsResponse()
                async for piece in stub(request, timeout=ATTEMPT_S):
                    answer.MergeFrom(piece)
            else:
                answer = await stub(request, timeout=ATTEMPT_S)
        except grpc.aio.AioRpcError as error:
            answer, (outcome, reason) = None, _judged(error)
        self.history.attempts.append(
            Attempt(
                len(self.history.attempts),
                self.number,
                server,
                kind,
                session,
                getattr(request, "request_id", ""),
                intent,
                request.SerializeToString(deterministic=True),
                invoked,
                now_ms(),
                outcome,
                reason,
                b"" if answer is None else answer.SerializeToString(deterministic=True),
            )
        )
        self.budget.spend()
        return outcome, reason, answer

    async def send_again(self) -> None:
        """Repeat an answered request, word for word."""
        if self.answered:
            sent = self.rng.choice(self.answered)
            await self.call(sent.kind, sent.session, sent.request)

    async def reuse_an_id(self) -> None:
        """Send an answered request's id with another body."""
        writes = [s for s in self.answered if s.kind in {"AddLabels", "ReleaseLeases"}]
        if writes:
            sent = self.rng.choice(writes)
            request = MESSAGES[sent.kind][0]()
            request.CopyFrom(sent.request)
            request.annotator += "-else"
            for label in getattr(request, "labels", ()):
                label.lease_token = b""
            await self.call(sent.kind, sent.session, request, "reuse")


def _judged(error: grpc.aio.AioRpcError) -> tuple[Outcome, str]:
    """What an error says of the effect."""
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status is not None else ():
        detail.Unpack(info)
    if not info.reason or info.reason in DOUBTFUL or info.reason == "INTERNAL":
        return Outcome.UNKNOWN, info.reason or error.code().name
    return Outcome.REFUSED, info.reason
