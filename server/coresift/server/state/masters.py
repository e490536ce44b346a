"""Who takes the writes: one interface over a single server, a watched master and a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError

from coresift.server.state.address import Address
from coresift.server.state.breaker import Breaker
from coresift.server.state.server import AWAY, Command, Server, ServerAwayError

WATCH_S = 1.0

Make = Callable[[Address], Server]
Find = Callable[[], Awaitable[Address]]

log = structlog.get_logger()


class Masters(Protocol):
    """The masters that keep the state, by key.

    Every method but `check` and `close` raises `ServerAwayError` when a server does not answer, and
    `CoresiftError` STATE_UNAVAILABLE at once while that is known.
    """

    async def exchange(self, key: str | bytes | None, commands: Sequence[Command]) -> list[Any]:
        """Send commands back to back on one connection to the key's master.

        Returns their replies, refusals as values. Without a key, any master does.
        """
        ...

    async def batch(self, pairs: Sequence[tuple[str | bytes, Command]]) -> list[Any]:
        """Run commands of several keys, each by its master; refusals come as values."""
        ...

    async def check(self) -> None:
        """Find every master and check it on a new connection. Raises what the servers raise."""
        ...

    def servers(self) -> list[tuple[Server, str]]:
        """The masters known after `check`, each with a piece of a key: ``{piece}`` lies there."""
        ...

    def available(self) -> bool:
        """False while a master is known not to answer."""
        ...

    async def disconnect(self) -> None:
        """Close the connections that nobody uses now."""
        ...

    async def close(self) -> None:
        """End all probes and close all connections."""
        ...


class OneMaster:
    """One master for all keys.

    Args:
        find: says where it is.
        make: makes the server there.
        is_watched: another server may become the master; else it is always the same.
    """

    def __init__(self, find: Find, make: Make, *, is_watched: bool) -> None:
        self._find = find
        self._make = make
        self._is_watched = is_watched
        self._breaker = Breaker(self.check)
        self._server: Server | None = None
        self._looking = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None

    async def exchange(self, key: str | bytes | None, commands: Sequence[Command]) -> list[Any]:
        """See `Masters.exchange`."""
        self._breaker.admit()
        try:
            if self._server is None:
                await self.check()
            assert self._server is not None  # noqa: S101 - for the type checker
            replies = await self._server.exchange(commands)
        except AWAY as error:
            raise ServerAwayError(error, self._breaker) from error
        if self._is_watched:
            for reply in replies:
                # It was the master; its successor is found by the breaker's probe. Inside a script
                # the code stands within the text.
                if isinstance(reply, ReadOnlyError) or (
                    isinstance(reply, ResponseError) and "READONLY" in str(reply)
                ):
                    raise ServerAwayError(reply, self._breaker)
        return replies

    async def batch(self, pairs: Sequence[tuple[str | bytes, Command]]) -> list[Any]:
        """See `Masters.batch`."""
        return await self.exchange(None, [command for _, command in pairs]) if pairs else []

    async def check(self) -> None:
        """See `Masters.check`."""
        async with self._looking:
            address = await self._find()
            server = self._server
            if server is None or server.address != address:
                server = self._make(address)
            await server.vet()
            if server is not self._server:
                old, self._server = self._server, server
                if old is not None:
                    await old.leave()
            if self._is_watched and self._watch is None:
                self._watch = asyncio.create_task(self._keep_watch())

    async def _keep_watch(self) -> None:
        """Leave a master that others have taken over from, though it still answers."""
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                server = self._server
                if self._breaker.is_closed and server and await self._find() != server.address:
                    # Nothing more is written to it, also while its successor cannot be used yet.
                    self._breaker.open(RedisConnectionError(f"{server.address} is replaced"))
            except AWAY:  # sentinels may be away while the master is not
                continue
            except Exception:  # whatever it is: the next look may succeed
                log.exception("the sentinels cannot be asked for the master")

    def servers(self) -> list[tuple[Server, str]]:
        """See `Masters.servers`."""
        return [(self._server, "0")] if self._server else []

    def available(self) -> bool:
        """See `Masters.available`."""
        return self._breaker.is_closed

    async def disconnect(self) -> None:
        """See `Masters.disconnect`."""
        if self._server is not None:
            await self._server.disconnect()

    async def close(self) -> None:
        """See `Masters.close`."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._breaker.close()
        if self._server is not None:
            await self._server.leave()
