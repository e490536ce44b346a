"""redis-py's commands, each sent to the master of its key."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.client import NEVER_DECODE
from redis.commands import AsyncCoreCommands
from redis.event import EventDispatcher

from coresift.server.state.masters import Masters
from coresift.server.state.server import Command

KEYLESS = frozenset(
    ("CLIENT", "CONFIG", "INFO", "PING", "REPLICAOF", "SCAN", "SCRIPT", "SLAVEOF", "TIME")
)
SCRIPTS = frozenset(("EVAL", "EVALSHA"))

_READ_REPLY = Redis(protocol=2).response_callbacks


def key_of(command: Command) -> str | bytes | None:
    """The key that says which master serves a command; None: any."""
    name, *words = command
    first = str(name).upper().split(" ")[0]
    if first in KEYLESS or not words:
        return None
    key = words[2] if first in SCRIPTS else words[0]
    return key if isinstance(key, str | bytes) else str(key)


class Client(AsyncCoreCommands):
    """Runs single commands; their keys must share a hash tag where they name several."""

    _event_dispatcher = EventDispatcher()  # the commands' protocol demands one

    def __init__(self, masters: Masters) -> None:
        self._masters = masters

    async def execute_command(self, *command: Any, **options: Any) -> Any:
        """Run a command, as redis-py's clients do.

        Raises:
            RedisError: it was refused, or the server is away.
            CoresiftError: the server is known to be away.
        """
        (reply,) = await self._masters.exchange(key_of(command), [command])
        if isinstance(reply, Exception):
            raise reply
        options.pop(NEVER_DECODE, None)
        options.pop("keys", None)
        read = _READ_REPLY.get(command[0])
        return reply if read is None else read(reply, **options)
