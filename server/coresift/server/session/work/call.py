"""The call that a task works for, as gates and workers see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol


class Permit(Protocol):
    """A call's place among those that work."""

    def pause(self) -> None:
        """Give the place back until `resume`."""

    def resume(self) -> None:
        """Go on after a pause."""

    def end(self) -> None:
        """Give the place back for good; more than once does nothing more."""


@dataclass(slots=True, eq=False)
class Call:
    """A call under way.

    Attributes:
        kind: what it does, a name out of a few: times are expected by it.
        refusable: whether it may be refused where it first needs a worker; it has changed nothing
            by then.
        permit: what it holds while it works, given back while it merely waits.
        names_annotators: whether its session is known, and keeps names instead of pseudonyms.
    """

    kind: str
    tenant: str = ""
    session: str = ""
    refusable: bool = False
    permit: Permit | None = None
    names_annotators: bool = False


BACKGROUND = Call("background")
"""Work that no call waits for."""

CALL: ContextVar[Call] = ContextVar("call", default=BACKGROUND)
"""The call that the running task works for; tasks that it starts inherit it."""


@contextmanager
def resting() -> Iterator[None]:
    """The running task's call waits for other work, and gives its permit to others meanwhile."""
    permit = CALL.get().permit
    if permit is not None:
        permit.pause()
    try:
        yield
    finally:
        if permit is not None:
            permit.resume()


@asynccontextmanager
async def in_turn(lock: asyncio.Lock) -> AsyncIterator[None]:
    """Hold a lock; the running task's call is `resting` until it has it."""
    with resting():
        await lock.acquire()
    try:
        yield
    finally:
        lock.release()
