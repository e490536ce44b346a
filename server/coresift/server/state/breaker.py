"""A circuit breaker: while Redis is away, calls fail at once and one probe asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from coresift.server.errors import CoresiftError, Reason
from coresift.server.state.connect import ReplicaError

RETRY_AFTER_S = 0.5
FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.5


def unavailable(why: str) -> CoresiftError:
    return CoresiftError(
        Reason.STATE_UNAVAILABLE,
        f"The state store does not answer: {why}",
        retry_after_s=RETRY_AFTER_S,
    )


def read_only(why: str) -> CoresiftError:
    return CoresiftError(
        Reason.STATE_READ_ONLY,
        f"The state store refuses writes: {why}",
        retry_after_s=10 * RETRY_AFTER_S,
    )


def away(cause: BaseException, why: str) -> CoresiftError:
    """What a call says whose server is away."""
    return read_only(why) if isinstance(cause, ReplicaError) else unavailable(why)


class Breaker:
    """Closed while Redis answers. Opened by a failed call, closed by a successful probe.

    Args:
        probe: asks Redis once; raises if it does not answer or cannot be trusted.
    """

    def __init__(self, probe: Callable[[], Awaitable[None]]) -> None:
        self._probe = probe
        self._cause: BaseException | None = None
        self._probing: asyncio.Task[None] | None = None

    @property
    def is_closed(self) -> bool:
        return self._cause is None

    def admit(self) -> None:
        """Raise STATE_UNAVAILABLE (STATE_READ_ONLY for a replica) while open."""
        if self._cause is not None:
            raise away(self._cause, str(self._cause))

    def open(self, cause: BaseException) -> None:
        """Refuse calls from now on, and probe until Redis is back."""
        self._cause = cause
        if self._probing is None:
            self._probing = asyncio.create_task(self._until_back())

    async def _until_back(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            try:
                await self._probe()
                break
            except Exception as error:  # whatever it is: Redis is not back
                self._cause = error
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
        self._cause = None
        self._probing = None

    async def close(self) -> None:
        """End the probe."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
            self._probing = None
