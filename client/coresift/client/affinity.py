"""Which replica gets a call: pure decisions, without any I/O.

The calls of one session go to one replica, where its view is warm and its fits are shared. The
replica is chosen by rendezvous hashing: every client picks the same one without talking to the
others, and when a replica comes or goes only its own sessions move.
"""

from __future__ import annotations

import copy
import itertools
import threading
import time
from collections.abc import Callable, Collection
from functools import partial
from hashlib import blake2b

from coresift.client.endpoints import look_up, parse

AVOIDED_S = 5.0
"""How long calls keep away from a replica that refused a connection or is draining."""
SILENT_S = 30.0
"""How long they keep away from one that let them wait: trying it again costs seconds."""
LOOK_UP_S = 30.0
LOOK_UP_AGAIN_S = 1.0
"""Between two look-ups of a name: usually, and when a replica has failed."""


def ranking(addresses: Collection[str], key: str) -> list[str]:
    """The addresses by their weight for a key, the heaviest first: rendezvous hashing."""

    def weight(address: str) -> bytes:
        return blake2b(f"{address}\n{key}".encode(), digest_size=8).digest()

    return sorted(addresses, key=weight, reverse=True)


class Routes:
    """The replicas of a target. Threads may share it.

    Args:
        target: as `Client` takes it.
        clock: seconds, never going back.
        resolve: the addresses that the target's name stands for; None: as the system says. It
            runs in a thread of its own; until it has answered, gRPC resolves the name itself.
    """

    def __init__(
        self,
        target: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        resolve: Callable[[], tuple[str, ...]] | None = None,
    ) -> None:
        parsed = parse(target)
        self.target = parsed.text
        self.is_local = parsed.is_local
        self._name = parsed.name
        self._addresses = parsed.addresses
        # gRPC may find ways to a name that the looked-up addresses lack: another family.
        self._last_resort: tuple[str, ...] = (parsed.text,) if parsed.name else ()
        self._clock = clock
        self._resolve = resolve or (parsed.name and partial(look_up, parsed.name))
        self._look_up_at = clock()
        self._looked_up_at = clock() - LOOK_UP_AGAIN_S
        self._looking = threading.Lock()
        self._turn = itertools.count()
        self._avoided: dict[str, float] = {}
        self._whole: Routes | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """The replicas; one entry, the target, where there is one or none is known by itself."""
        return self._addresses

    @property
    def known(self) -> frozenset[str]:
        """The replicas, and while all of them are avoided what is called in their place.

        Where one is pinned those that the whole target knows too: they share their channels.
        """
        if self._whole is not None:
            return self._whole.known.union(self._addresses)
        if any(map(self._is_live, self._addresses)):
            return frozenset(self._addresses)
        return frozenset((*self._addresses, *self._last_resort))

    def pinned(self, address: str) -> Routes:
        """Of the same target one replica alone, known by the same name."""
        other = copy.copy(self)
        other._addresses, other._last_resort, other._resolve = (address,), (), None
        other._whole = self
        return other

    def authority_of(self, address: str) -> str:
        """HOST:PORT that the replica at an address is known by: the name it was found under.

        Empty: the address itself.
        """
        if self._name is None or address == self.target:
            return ""
        return "{}:{}".format(*self._name)

    def pick(self, key: str, tried: Collection[str] = ()) -> str:
        """The replica for a key, another one than those tried if there is; any in turn without.

        Replicas that do not answer come last, after the name that they were found under.
        """
        if self._resolve is not None and self._clock() >= self._look_up_at:
            self._start_look_up()
        addresses = self._addresses
        if len(addresses) == 1:
            return addresses[0]
        ranked = [*ranking(addresses, key or str(next(self._turn))), *self._last_resort]
        untried = [address for address in ranked if address not in tried] or ranked
        return next(filter(self._is_live, untried), untried[0])

    def has_others(self, tried: Collection[str]) -> bool:
        """Whether there is another way besides those tried."""
        ways = (*self._addresses, *self._last_resort)
        return any(address not in tried for address in ways)

    def avoid(self, address: str, seconds: float = AVOIDED_S) -> None:
        """Keep calls away from a replica for a while."""
        now = self._clock()
        self._avoided[address] = max(now + seconds, self._avoided.get(address, now))
        self._look_up_at = min(self._look_up_at, self._looked_up_at + LOOK_UP_AGAIN_S)

    def _is_live(self, address: str) -> bool:
        until = self._avoided.get(address)
        return until is None or until <= self._clock()

    def _start_look_up(self) -> None:
        if self._looking.acquire(blocking=False):
            self._look_up_at, self._looked_up_at = self._clock() + LOOK_UP_S, self._clock()
            threading.Thread(target=self._look_up, name="coresift-look-up", daemon=True).start()

    def _look_up(self) -> None:
        try:
            found = self._resolve() if self._resolve is not None else ()
        except OSError:
            found = ()
        finally:
            self._looking.release()
        if found:  # else those that were known may still answer
            self._addresses = found if len(found) > 1 else (self.target,)
            known = {*self._addresses, self.target}
            self._avoided = {a: until for a, until in self._avoided.items() if a in known}
