"""The one way in which the store calls Redis: timeout, retry, breaker, errors, measurement."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import structlog
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    NoScriptError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from coresift.server.errors import CoresiftError, Reason, StartError
from coresift.server.state.address import Address, StateUrl, parse_state_url
from coresift.server.state.breaker import RETRY_AFTER_S, away, read_only, unavailable
from coresift.server.state.client import Client, key_of
from coresift.server.state.cluster import Cluster
from coresift.server.state.connect import DistrustError
from coresift.server.state.deadline import answered_within
from coresift.server.state.keys import wait_key
from coresift.server.state.masters import Masters, OneMaster
from coresift.server.state.own_writes import OwnWrites
from coresift.server.state.scripts import Argument, Script
from coresift.server.state.sentinel import find_master
from coresift.server.state.server import (
    AWAY,
    CALL_TIMEOUT_S,
    Command,
    Server,
    ServerAwayError,
    first_refusal,
)
from coresift.server.state.trial import forbidden, is_forbidden

T = TypeVar("T")
Observe = Callable[[str, float, bool], None]

log = structlog.get_logger()

START_TIMEOUT_S = 5.0
"""For finding all masters; some of the servers named may be away."""
WAIT_MS = 300
"""How long replicas may take: twice it (a script that Redis did not know) is within a call."""
WAIT_KEY_MS = 60_000

_PASSING = (
    *("BUSY", "TRYAGAIN", "MOVED ", "ASK ", "CLUSTERDOWN", "MASTERDOWN", "LOADING"),
    "UNBLOCKED",
)
_NOT_DONE = (Reason.STATE_UNAVAILABLE, Reason.STATE_READ_ONLY, Reason.STATE_NOT_REPLICATED)
_NOT_TWICE = (BusyLoadingError, DistrustError, ResponseError, TimeoutError, RedisTimeoutError)
"""Failures of which a second attempt at once is certain to fail, or too late."""


class Link:
    """Calls Redis.

    Args:
        url: see `parse_state_url`.
        volatile: accept servers without append-only file.
        min_replicas: how many replicas must have a write before it is acknowledged.
        observe: called after each call with its name, its seconds, and whether Redis did it.
        count_shortfall: called when fewer replicas had it in time.
    """

    def __init__(
        self,
        url: str,
        *,
        volatile: bool,
        min_replicas: int = 0,
        observe: Observe | None = None,
        count_shortfall: Callable[[], None] | None = None,
    ) -> None:
        self._masters = _masters(parse_state_url(url), volatile=volatile)
        self._min_replicas = min_replicas
        # redis-py's types mix bytes with str and answers with awaitables.
        self.client: Any = Client(self._masters)
        self._observe = observe or (lambda operation, seconds, ok: None)
        self._count_shortfall = count_shortfall or (lambda: None)
        self._commits: set[asyncio.Task[None]] = set()
        self.own_writes = OwnWrites()

    async def call(
        self, operation: str, call: Callable[[], Awaitable[T]], *, repeatable: bool = True
    ) -> T:
        """Run ``call`` within `CALL_TIMEOUT_S`.

        Args:
            repeatable: doing it twice does no harm; then a broken connection is tried once more.
        Raises:
            CoresiftError: STATE_UNAVAILABLE, STATE_FULL, STATE_READ_ONLY, STATE_NOT_REPLICATED.
        """
        began = time.perf_counter()
        ok = False
        try:
            async with answered_within(CALL_TIMEOUT_S, depth=2):
                result = await self._attempts(call, repeatable)
            ok = True
            return result
        except ServerAwayError as error:
            error.breaker.open(error.cause)
            raise away(error.cause, str(error)) from error
        except AWAY as error:
            raise unavailable(_why(error)) from error
        except RedisError as error:
            raise _translated(error) from error
        except CoresiftError as error:
            ok = error.reason not in _NOT_DONE
            raise
        finally:
            self._observe(operation, time.perf_counter() - began, ok)

    async def commit(
        self, operation: str, call: Callable[[], Awaitable[T]], *, repeatable: bool = True
    ) -> T:
        """As `call`, but goes on to its end when the caller is cancelled."""
        # As asyncio.shield, which takes one more turn of the loop: a caller that is cancelled
        # cancels its future, not the task.
        reply: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        work = self.call(operation, call, repeatable=repeatable)
        task = asyncio.ensure_future(_settle(reply, work))
        self._commits.add(task)
        task.add_done_callback(self._commits.discard)
        return await reply

    async def run(
        self, script: Script, names: Sequence[str], arguments: Sequence[Argument] = ()
    ) -> Any:
        """Run a script on these keys; the header of its file says what it replies."""
        return await script.run(self.client, names, arguments)

    async def written(
        self, script: Script, names: Sequence[str], arguments: Sequence[Argument] = ()
    ) -> Any:
        """As `run`, for what is acknowledged to people: `min_replicas` replicas have it then.

        Raises:
            CoresiftError: STATE_NOT_REPLICATED; it was done, and done again it is acknowledged
                once the replicas have it.
        """
        if not self._min_replicas:
            return await self.run(script, names, arguments)
        call = script.call(names, arguments)
        try:
            return await self.written_plain("EVALSHA", *call)
        except NoScriptError:
            return await self.written_plain("EVAL", script.source, *call[1:])

    async def written_plain(self, *command: Argument) -> Any:
        """One command, as `written`; its reply as Redis gives it."""
        key = key_of(command)
        commands: list[Command] = [command]
        if self._min_replicas:
            # WAIT is about the connection's own writes. A repeated call may write nothing, and
            # some versions of Redis then acknowledge at once what another connection wrote.
            commands.append(("SET", wait_key(str(key)), "", "PX", WAIT_KEY_MS))
            commands.append(("WAIT", self._min_replicas, WAIT_MS))
        reply, *others = await self._masters.exchange(key, commands)
        if isinstance(reply, RedisError):
            raise reply
        if others and not (isinstance(reply, list) and reply[:1] == [b"refused"]):
            self._check_replicated(*others)
        return reply

    def _check_replicated(self, mark: Any, acknowledged: Any) -> None:
        error = first_refusal([mark, acknowledged])
        if error is not None:
            raise error
        if acknowledged < self._min_replicas:
            self._count_shortfall()
            raise CoresiftError(
                Reason.STATE_NOT_REPLICATED,
                f"{acknowledged} of {self._min_replicas} replicas of the state store had the "
                f"write within {WAIT_MS} ms: repeat it with the same request_id",
                retry_after_s=RETRY_AFTER_S,
                acknowledged=str(acknowledged),
                wanted=str(self._min_replicas),
            )

    async def batch(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands of several keys; the replies as Redis gives them, refusals as values."""
        return await self._masters.batch([(key_of(each) or "", each) for each in commands])

    async def everywhere(self, command: Command) -> list[Any]:
        """The replies of all masters to a command without a key, refusals as values."""
        servers = [server for server, _ in self._masters.servers()]
        return [reply for server in servers for reply in await server.exchange([command])]

    async def check(self) -> None:
        """Ask every master; raise `StartError` where one does not answer or cannot be trusted."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._masters.check()
            for server, piece in self._masters.servers():
                refused = await forbidden(server, piece)
                if refused:
                    raise StartError(f"The state store's user may not do what is needed: {refused}")
                self._warn_of_few_replicas(server)
        except AuthenticationError as error:
            raise StartError(f"The state store refuses the password: {error}") from error
        except NoPermissionError as error:
            raise StartError(
                f"The state store's user may not do what is needed: {error}"
            ) from error
        except DistrustError as error:
            raise StartError(f"The state store cannot be trusted with labels: {error}") from error
        except (*AWAY, RedisError) as error:
            raise StartError(f"The state store does not answer: {_why(error)}") from error

    def _warn_of_few_replicas(self, server: Server) -> None:
        replicas = int(server.info.get("connected_slaves", 0))
        if replicas < self._min_replicas:
            log.warning(
                "fewer replicas of the state store than its writes wait for: they will fail",
                server=str(server.address),
                replicas=replicas,
                state_min_replicas=self._min_replicas,
            )

    def available(self) -> bool:
        """False while a master is known not to answer."""
        return self._masters.available()

    async def disconnect(self) -> None:
        """Close idle connections: the next call makes a new one."""
        await self._masters.disconnect()

    async def close(self) -> None:
        """Wait for commits under way, then close the connections."""
        await asyncio.gather(*self._commits, return_exceptions=True)
        await self._masters.close()

    async def _attempts(self, call: Callable[[], Awaitable[T]], repeatable: bool) -> T:
        try:
            return await call()
        except ServerAwayError as error:
            if not repeatable or isinstance(error.cause, _NOT_TWICE):
                raise
            # Idle connections of a Redis that restarted are broken too.
            await self._masters.disconnect()
            return await call()


async def _settle(reply: asyncio.Future[T], work: Awaitable[T]) -> None:
    """Give what comes of the work to whoever waits for the reply, if somebody still does."""
    try:
        result = await work
    except asyncio.CancelledError:
        reply.cancel()
        raise
    except Exception as error:
        if not reply.done():
            reply.set_exception(error)
    else:
        if not reply.done():
            reply.set_result(result)


def _masters(url: StateUrl, *, volatile: bool) -> Masters:
    def make(address: Address) -> Server:
        return Server(address, url, volatile=volatile)

    async def where() -> Address:
        return await find_master(url) if is_watched else url.addresses[0]

    is_watched = url.kind == "sentinel"
    if url.kind == "cluster":
        return Cluster(url, make)
    return OneMaster(where, make, is_watched=is_watched)


def _why(error: BaseException) -> str:
    return str(error) or f"no answer within {CALL_TIMEOUT_S:g} s"


def _translated(error: RedisError) -> Exception:
    text = str(error)
    code = getattr(error, "status_code", None) or ""
    # Inside a script the code stands within the text.
    words = f"{code} {text}"
    if "OOM" in words:
        return CoresiftError(
            Reason.STATE_FULL,
            f"The state store is out of memory: {text}",
            retry_after_s=10 * RETRY_AFTER_S,
        )
    if any(word in words for word in ("READONLY", "MISCONF", "NOREPLICAS")):
        return read_only(text)
    if any(word in words for word in _PASSING) or is_forbidden(words):
        return unavailable(text)
    return error
