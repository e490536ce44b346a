"""One Redis server: its connections, and commands sent over one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from coresift.server.state.address import Address, StateUrl
from coresift.server.state.breaker import Breaker
from coresift.server.state.connect import Mode, info_fields, trust
from coresift.server.state.deadline import answered_within

CALL_TIMEOUT_S = 1.0
"""The most that one operation of the store takes."""
ANSWER_TIMEOUT_S = 0.9
"""The most that one exchange takes: less, so that it is known which server did not answer."""
ASK_TIMEOUT_S = 0.6
"""For questions about the topology, asked of several servers."""
MAX_CONNECTIONS = 32
"""To one server; further calls wait, in turn."""

Word = str | bytes | int
Command = Sequence[Word]
ASKING: Command = ("ASKING",)
AWAY = (RedisConnectionError, RedisTimeoutError, OSError, TimeoutError)


class ServerAwayError(RedisConnectionError):
    """A server does not answer, or must not be used.

    Attributes:
        breaker: guards it, to be opened unless a second attempt succeeds.
    """

    def __init__(self, cause: BaseException, breaker: Breaker) -> None:
        super().__init__(str(cause) or f"no answer within {ANSWER_TIMEOUT_S:g} s")
        self.cause = cause
        self.breaker = breaker


class Server:
    """A Redis server. Every new connection checks first that it can be trusted.

    Args:
        address: where it listens.
        url: how to connect.
        volatile: see `trust`.

    Attributes:
        info: the newest ``INFO`` seen.
    """

    def __init__(self, address: Address, url: StateUrl, *, volatile: bool) -> None:
        self.address = address
        self.info: dict[str, str] = {}
        self._volatile = volatile
        self._mode: Mode = "cluster" if url.kind == "cluster" else "standalone"
        self._connection_class: Any = url.connection_class
        self._options = connection_options(address, url.options)
        # Ours, not redis-py's pool: that one lets busy callers overtake those that wait.
        self._permits = asyncio.Semaphore(MAX_CONNECTIONS)
        self._idle: list[Any] = []
        self._is_left = False

    async def exchange(self, commands: Sequence[Command], *, asking: bool = False) -> list[Any]:
        """Send commands back to back on one connection; the replies, refusals as values.

        Args:
            asking: the server is about to get the keys' slot of a cluster.
        Raises:
            RedisConnectionError, RedisTimeoutError, OSError, TimeoutError: it does not answer.
        """
        sent = list(commands)
        if asking:
            sent = [each for command in commands for each in (ASKING, command)]
        async with self._permits, answered_within(ANSWER_TIMEOUT_S):
            connection = await self._connected()
            try:
                self._check_in_use()
                await connection.send_packed_command(list(map(_packed, sent)))
                replies = [await _reply(connection) for _ in sent]
            except BaseException:
                # Replies may still come: nobody else must read them.
                await connection.disconnect(nowait=True)
                raise
            if self._is_left:
                await connection.disconnect(nowait=True)
            else:
                self._idle.append(connection)
        return replies[1::2] if asking else replies

    def _check_in_use(self) -> None:
        """Whoever waited for a connection may have come too late."""
        if self._is_left:
            raise RedisConnectionError(f"{self.address} is no longer the master")

    async def _connected(self) -> Any:
        while self._idle:
            connection = self._idle.pop()
            # Redis says nothing unasked: what can be read is the end of the connection.
            if connection.is_connected and not await connection.can_read():
                return connection
            await connection.disconnect(nowait=True)
        connection = self._new_connection()
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    def _new_connection(self) -> Any:
        return self._connection_class(**self._options, redis_connect_func=self._checked)

    async def vet(self) -> None:
        """Check the server on a new connection. Raises what `exchange` raises, `RedisError`."""
        connection = self._new_connection()
        try:
            async with answered_within(ANSWER_TIMEOUT_S):
                await connection.connect()
        finally:
            await connection.disconnect(nowait=True)

    async def disconnect(self) -> None:
        """Close the connections that nobody uses now."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.disconnect(nowait=True)

    async def leave(self) -> None:
        """Close all connections, those in use at the end of their exchange."""
        self._is_left = True
        await self.disconnect()

    async def _checked(self, connection: AbstractConnection) -> None:
        await connection.on_connect()
        await connection.send_command("INFO")
        self.info = info_fields(await connection.read_response())
        if self.info.get("loading") == "1":
            raise BusyLoadingError("Redis is loading its data")
        trust(self.info, volatile=self._volatile, mode=self._mode)


def connection_options(address: Address, options: dict[str, Any]) -> dict[str, Any]:
    """What redis-py needs to connect there: never retries, answers with bytes."""
    at: dict[str, Any] = (
        {"host": address.host, "port": address.port} if address.port else {"path": address.host}
    )
    return {
        **at,
        **options,
        "protocol": 2,
        "decode_responses": False,
        "driver_info": None,
        "socket_timeout": None,  # who asks sets one for the whole exchange
        "socket_connect_timeout": CALL_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        "retry_on_error": [],
    }


async def ask(address: Address, url: StateUrl, options: dict[str, Any], *command: Word) -> Any:
    """One command on a connection of its own to a server that need not be a master.

    Raises what `Server.exchange` raises, and `RedisError` for a refusal.
    """
    make: Any = url.connection_class
    connection = make(**connection_options(address, options))
    try:
        async with answered_within(ASK_TIMEOUT_S):
            await connection.connect()
            await connection.send_command(*command)
            return await connection.read_response()
    except TimeoutError as error:
        raise RedisTimeoutError(f"{address} does not answer") from error
    finally:
        await connection.disconnect(nowait=True)


def first_refusal(replies: Sequence[Any]) -> RedisError | None:
    """The first refusal among replies."""
    return next((reply for reply in replies if isinstance(reply, RedisError)), None)


def _packed(command: Command) -> bytes:
    """The command as it is sent; a name of two words is two words."""
    name, *words = command
    whole: Any = (*str(name).split(), *words)  # hiredis's types know tuples of one
    return bytes(hiredis.pack_command(whole))


async def _reply(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response(disconnect_on_error=False)
    except ResponseError as error:
        return error
