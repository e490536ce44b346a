"""The standard health service: statuses by name, asked for or watched.

Anybody may watch, also who never reads: no watcher holds up another one, a change or the drain.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Response = health_pb2.HealthCheckResponse
SERVING, NOT_SERVING = int(Response.SERVING), int(Response.NOT_SERVING)
UNKNOWN = int(Response.SERVICE_UNKNOWN)

WATCHERS = 4_096
"""Watches that are open at a time."""
WATCHERS_OF_A_PEER = 32
"""The same on one connection: a client needs one for each service that it calls."""
NAME_LENGTH = 256
"""Of a name that may be watched though nothing has it yet."""


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it has no types
    """Serves ``grpc.health.v1.Health``. For the event loop only."""

    def __init__(
        self, watchers: int = WATCHERS, watchers_of_a_peer: int = WATCHERS_OF_A_PEER
    ) -> None:
        self._limit, self._limit_of_a_peer = watchers, watchers_of_a_peer
        self._statuses: dict[str, int] = {}
        self._changes: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._peers: Counter[str] = Counter()
        self._is_leaving = False

    def set(self, name: str, status: int) -> None:
        """Publish a status under a name; nothing once the server leaves."""
        if not self._is_leaving:
            self._publish(name, status)

    def is_serving(self, name: str) -> bool:
        """Whether SERVING is published under a name."""
        return self._statuses.get(name) == SERVING

    def leave(self) -> None:
        """Say for good that nothing is served any more."""
        self._is_leaving = True
        for name in self._statuses:
            self._publish(name, NOT_SERVING)

    def _publish(self, name: str, status: int) -> None:
        if self._statuses.get(name) != status:
            self._statuses[name] = status
            for changed in self._changes.get(name, ()):
                changed.set()

    async def Check(self, request: Any, context: Any) -> Any:
        """The status of a name. NOT_FOUND for one that there is not."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return Response(status=status)

    async def List(self, request: Any, context: Any) -> Any:
        """All names with their statuses."""
        statuses = {name: Response(status=status) for name, status in self._statuses.items()}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(self, request: Any, context: Any) -> None:
        """The status of a name, also of one that there is not yet, and every newer one.

        A watcher that reads slowly gets the newest. One too many is told UNIMPLEMENTED, upon
        which clients go on without watching; after any other status they would not call at all.
        """
        name, peer = request.service, context.peer()
        if len(name) > NAME_LENGTH:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no service has so long a name")
        if self._peers.total() >= self._limit or self._peers[peer] >= self._limit_of_a_peer:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "too many watch already")
        changed = asyncio.Event()
        self._peers[peer] += 1
        self._changes[name].add(changed)
        try:
            await self._tell(name, changed, context)
        finally:
            self._peers[peer] -= 1
            if not self._peers[peer]:
                del self._peers[peer]
            self._changes[name].discard(changed)
            if not self._changes[name]:
                del self._changes[name]

    async def _tell(self, name: str, changed: asyncio.Event, context: Any) -> None:
        """Write the status whenever it is another one, until the caller goes away."""
        told = None
        while True:
            changed.clear()
            status = self._statuses.get(name, UNKNOWN)
            if status != told:
                await context.write(Response(status=status))
            told = status
            await changed.wait()
