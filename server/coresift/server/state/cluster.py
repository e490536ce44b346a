"""A Redis Cluster: which master serves a key, and who serves it after a change."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError

from coresift.server.state.address import Address, StateUrl
from coresift.server.state.breaker import Breaker, unavailable
from coresift.server.state.masters import Make
from coresift.server.state.server import AWAY, Command, Server, ServerAwayError, ask

PATIENCE_S = 0.7
"""How long a slot that is being moved is waited for."""
PAUSE_S = 0.02

Slots = list[Address | None]


@dataclass(slots=True)
class Member:
    """A node that is or was a master. Each has its breaker: one lost shard stops no other."""

    server: Server
    breaker: Breaker = field(init=False)


class Cluster:
    """The masters of a cluster, each for its slots.

    Args:
        url: names some nodes; the others are learned from them.
        make: makes the server at an address.
    """

    def __init__(self, url: StateUrl, make: Make) -> None:
        self._url = url
        self._make = make
        self._slots: Slots = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._members: dict[Address, Member] = {}
        self._learning: asyncio.Task[None] | None = None

    async def exchange(self, key: str | bytes | None, commands: Sequence[Command]) -> list[Any]:
        """See `Masters.exchange`. Follows a key whose slot moves, for `PATIENCE_S`."""
        member, asking = await self._member_of(key), False
        give_up = time.monotonic() + PATIENCE_S
        while True:
            replies = await self._exchange(member, commands, asking=asking)
            # The commands of one key share its fate. What follows a first that was done is not
            # redirected: the first would be done twice.
            redirect = replies[0]
            if not isinstance(redirect, AskError | TryAgainError):
                return replies
            if time.monotonic() > give_up:
                raise unavailable(f"the key's slot is being moved: {redirect}")
            if isinstance(redirect, TryAgainError):
                await asyncio.sleep(PAUSE_S)
                member, asking = await self._member_of(key), False
                continue
            address = Address(redirect.host or member.server.address.host, redirect.port)
            asking = not isinstance(redirect, MovedError)
            if not asking:
                self._slots[redirect.slot_id] = address
                self._learn()
            member = self._member_at(address)

    async def batch(self, pairs: Sequence[tuple[str | bytes, Command]]) -> list[Any]:
        """See `Masters.batch`."""
        shares: dict[Address, list[int]] = {}
        for index, (key, _) in enumerate(pairs):
            member = await self._member_of(key)
            shares.setdefault(member.server.address, []).append(index)
        replies: list[Any] = [None] * len(pairs)

        async def ask_one(address: Address, indices: list[int]) -> None:
            commands = [pairs[index][1] for index in indices]
            answers = await self._exchange(self._members[address], commands)
            for index, answer in zip(indices, answers, strict=True):
                replies[index] = answer
                if isinstance(answer, AskError | TryAgainError):
                    (replies[index],) = await self.exchange(pairs[index][0], [pairs[index][1]])

        await asyncio.gather(*(ask_one(*share) for share in shares.items()))
        return replies

    async def check(self) -> None:
        """See `Masters.check`."""
        await self._learned()
        await asyncio.gather(*(self._vet(member) for member in self._owners()))

    def servers(self) -> list[tuple[Server, str]]:
        """See `Masters.servers`."""
        pieces: dict[Address, str] = {}
        number = 0
        while len(pieces) < len(self._owners()):
            owner = self._slots[key_slot(str(number).encode())]
            if owner is not None:
                pieces.setdefault(owner, str(number))
            number += 1
        return [(self._members[address].server, piece) for address, piece in pieces.items()]

    def available(self) -> bool:
        """See `Masters.available`."""
        return all(member.breaker.is_closed for member in self._owners())

    async def disconnect(self) -> None:
        """See `Masters.disconnect`."""
        for member in self._members.values():
            await member.server.disconnect()

    async def close(self) -> None:
        """See `Masters.close`."""
        if self._learning is not None:
            self._learning.cancel()
            await asyncio.gather(self._learning, return_exceptions=True)
        for member in self._members.values():
            await member.breaker.close()
            await member.server.leave()

    async def _exchange(
        self, member: Member, commands: Sequence[Command], *, asking: bool = False
    ) -> list[Any]:
        member.breaker.admit()
        try:
            replies = await member.server.exchange(commands, asking=asking)
        except AWAY as error:
            raise ServerAwayError(error, member.breaker) from error
        if isinstance(replies[0], ClusterDownError):
            raise ServerAwayError(replies[0], member.breaker)
        return replies

    async def _member_of(self, key: str | bytes | None) -> Member:
        if key is None:
            if not (owners := self._owners()):
                await self._learned()
                owners = self._owners()
            return next((member for member in owners if member.breaker.is_closed), owners[0])
        slot = key_slot(key.encode() if isinstance(key, str) else key)
        address = self._slots[slot]
        if address is None:
            await self._learned()
            address = self._slots[slot]
            if address is None:
                raise unavailable(f"no master of the cluster serves slot {slot}")
        return self._member_at(address)

    def _member_at(self, address: Address) -> Member:
        member = self._members.get(address)
        if member is None:
            member = self._members[address] = Member(self._make(address))
            member.breaker = Breaker(lambda: self._look(member))
        return member

    def _owners(self) -> list[Member]:
        """The members that serve slots now."""
        return [self._member_at(address) for address in dict.fromkeys(self._slots) if address]

    async def _look(self, member: Member) -> None:
        """Whether calls may go on to a member's slots, to it or to its successor."""
        await self._learned()
        if any(owner is member for owner in self._owners()):
            await self._vet(member)
        else:
            await member.server.disconnect()

    async def _vet(self, member: Member) -> None:
        await member.server.vet()
        state = await ask(member.server.address, self._url, self._url.options, "CLUSTER", "INFO")
        if b"cluster_state:ok" not in state:
            raise RedisConnectionError(f"{member.server.address} says that the cluster is down")

    def _learn(self) -> asyncio.Task[None]:
        if self._learning is None or self._learning.done():
            self._learning = asyncio.create_task(self._ask_for_slots())
            # Nobody may be waiting: then the next who needs the map asks again.
            self._learning.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._learning

    async def _learned(self) -> None:
        await asyncio.shield(self._learn())

    async def _ask_for_slots(self) -> None:
        healthy = [address for address, m in self._members.items() if m.breaker.is_closed]
        random.shuffle(healthy)  # a node that was cut off may hold an old map
        why: Exception | None = None
        for address in dict.fromkeys([*healthy, *self._url.addresses]):
            try:
                reply = await ask(address, self._url, self._url.options, "CLUSTER", "SLOTS")
            except (*AWAY, RedisError) as error:
                why = why or error
                continue
            if reply:
                self._slots = _slots_of(reply, address)
                return
        raise why or RedisConnectionError("no node of the cluster serves a slot")


def _slots_of(reply: Any, asked: Address) -> Slots:
    slots: Slots = [None] * REDIS_CLUSTER_HASH_SLOTS
    for first, last, (host, port, *_), *_ in reply:
        address = Address(host.decode() if host else asked.host, int(port))
        slots[first : last + 1] = [address] * (last + 1 - first)
    return slots
