"""The one way in which the store calls Redis: timeout, retry, breaker, errors, measurement."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from redis.exceptions import AuthenticationError, BusyLoadingError, ClusterDownError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from coresift.server.errors import CoresiftError, Reason, StartError
from coresift.server.state.breaker import RETRY_AFTER_S, Breaker, unavailable
from coresift.server.state.connect import CALL_TIMEOUT_S, DistrustError, make_client
from coresift.server.state.scripts import Argument, Script

T = TypeVar("T")
Observe = Callable[[str, float, bool], None]

_AWAY = (RedisConnectionError, RedisTimeoutError, ClusterDownError, OSError, TimeoutError)


class Link:
    """Calls Redis.

    Args:
        url, volatile: see `make_client`.
        observe: called after each call with its name, its seconds, and whether Redis did it.
    """

    def __init__(self, url: str, *, volatile: bool, observe: Observe | None) -> None:
        # redis-py's types mix bytes with str and answers with awaitables.
        self.client: Any = make_client(url, volatile=volatile)
        # Of its own, so that a probe never waits behind the calls that hang.
        self._scout: Any = make_client(url, volatile=volatile, max_connections=1)
        self._breaker = Breaker(self._ask)
        self._observe = observe or (lambda operation, seconds, ok: None)
        self._commits: set[asyncio.Task[object]] = set()

    async def call(
        self, operation: str, call: Callable[[], Awaitable[T]], *, repeatable: bool = True
    ) -> T:
        """Run ``call`` within `CALL_TIMEOUT_S`.

        Args:
            repeatable: doing it twice does no harm; then a broken connection is tried once more.
        Raises:
            CoresiftError: STATE_UNAVAILABLE, STATE_FULL, STATE_READ_ONLY.
        """
        began = time.perf_counter()
        ok = False
        try:
            self._breaker.admit()
            async with asyncio.timeout(CALL_TIMEOUT_S):
                result = await self._attempts(call, repeatable)
            ok = True
            return result
        except _AWAY as error:
            why = str(error) or f"no answer within {CALL_TIMEOUT_S:g} s"
            self._breaker.open(why)
            raise unavailable(why) from error
        except RedisError as error:
            raise _translated(error) from error
        except CoresiftError as error:
            ok = error.reason is not Reason.STATE_UNAVAILABLE
            raise
        finally:
            self._observe(operation, time.perf_counter() - began, ok)

    async def commit(
        self, operation: str, call: Callable[[], Awaitable[T]], *, repeatable: bool = True
    ) -> T:
        """As `call`, but goes on to its end when the caller is cancelled."""
        task = asyncio.ensure_future(self.call(operation, call, repeatable=repeatable))
        self._commits.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    async def run(
        self, script: Script, names: Sequence[str], arguments: Sequence[Argument] = ()
    ) -> Any:
        """Run a script on these keys; the header of its file says what it replies."""
        return await script.run(self.client, names, arguments)

    async def written(
        self, script: Script, names: Sequence[str], arguments: Sequence[Argument] = ()
    ) -> Any:
        """As `run`, for what is acknowledged to people."""
        return await self.run(script, names, arguments)

    async def check(self) -> None:
        """Ask Redis once; raise `StartError` where it does not answer or cannot be trusted."""
        try:
            await self._ask()
        except AuthenticationError as error:
            raise StartError(f"The state store refuses the password: {error}") from error
        except DistrustError as error:
            raise StartError(f"The state store cannot be trusted with labels: {error}") from error
        except (*_AWAY, RedisError) as error:
            why = str(error) or f"no answer within {CALL_TIMEOUT_S:g} s"
            raise StartError(f"The state store does not answer: {why}") from error

    def available(self) -> bool:
        """False while the breaker is open."""
        return self._breaker.is_closed

    async def close(self) -> None:
        """Wait for commits under way, then close the connections."""
        await asyncio.gather(*self._commits, return_exceptions=True)
        await self._breaker.close()
        await self.client.aclose()
        await self.client.connection_pool.disconnect()
        await self._scout.aclose()
        await self._scout.connection_pool.disconnect()

    async def _attempts(self, call: Callable[[], Awaitable[T]], repeatable: bool) -> T:
        try:
            return await call()
        except RedisConnectionError as error:
            if not repeatable or isinstance(error, BusyLoadingError | DistrustError):
                raise
            # Idle connections of a Redis that restarted are broken too.
            await self.client.connection_pool.disconnect(inuse_connections=False)
            return await call()

    async def _ask(self) -> None:
        # On a new connection, which checks the server again (`make_client`).
        await self._scout.connection_pool.disconnect()
        async with asyncio.timeout(CALL_TIMEOUT_S):
            await self._scout.execute_command("PING")

    def _forget(self, task: asyncio.Task[object]) -> None:
        self._commits.discard(task)
        if not task.cancelled():
            task.exception()  # seen by the caller, or the caller is gone


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
        return CoresiftError(
            Reason.STATE_READ_ONLY,
            f"The state store refuses writes: {text}",
            retry_after_s=10 * RETRY_AFTER_S,
        )
    if any(word in words for word in ("BUSY", "TRYAGAIN", "MASTERDOWN", "LOADING", "UNBLOCKED")):
        return unavailable(text)
    return error
