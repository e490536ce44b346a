"""What the state store holds, as gauges that are all of one moment, or absent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from coresift.server.metrics.catalogue import Catalogue
from coresift.server.metrics.labeling import OTHER_POOLS, POOL


@dataclass(frozen=True, slots=True)
class StateReading:
    """What the state store held at one moment.

    Attributes:
        sessions, leases: live ones by pool.
        memory_bytes: what the fullest server uses.
        memory_limit_bytes: what it may use; 0: there is no limit.
    """

    sessions: Mapping[str, int]
    leases: Mapping[str, int]
    memory_bytes: int
    memory_limit_bytes: int


class StateGauges(Collector):
    """What all replicas see alike, read from the store from time to time.

    While the store cannot be read there is nothing to say: the gauges are absent then, and
    ``coresift_redis_up`` tells why.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        same = " The same on every replica, so take the maximum."
        self._sessions = catalogue.sampled(
            "coresift_sessions", f"Sessions that are not deleted.{same}", pool=POOL
        )
        self._leases = catalogue.sampled(
            "coresift_leases_active", f"Leases whose deadline is to come.{same}", pool=POOL
        )
        self._memory = catalogue.sampled(
            "coresift_redis_memory_bytes", f"Memory that the fullest Redis server uses.{same}"
        )
        self._limit = catalogue.sampled(
            "coresift_redis_memory_limit_bytes",
            f"Memory that the fullest Redis server may use; 0: no limit.{same}",
        )
        self._reading: StateReading | None = None
        catalogue.registry.register(self)

    def publish(self, reading: StateReading | None, pools: Iterable[str] = ()) -> None:
        """Show a reading; None: there is none now.

        Args:
            pools: the served ones. Other pools' sessions are shown together.
        """
        if reading is not None:
            served = frozenset(pools)
            sessions, leases = _bounded(reading.sessions, served), _bounded(reading.leases, served)
            reading = StateReading(
                sessions, leases, reading.memory_bytes, reading.memory_limit_bytes
            )
        self._reading = reading

    def collect(self) -> Iterator[Metric]:
        """See `Collector`; runs on the thread that answers scrapes."""
        now = self._reading
        yield self._sessions.of(_by_label(now.sessions) if now else {})
        yield self._leases.of(_by_label(now.leases) if now else {})
        yield self._memory.of({(): now.memory_bytes} if now else {})
        yield self._limit.of({(): now.memory_limit_bytes} if now else {})


def _bounded(counts: Mapping[str, int], served: frozenset[str]) -> dict[str, int]:
    """The counts by served pool, 0 for none; the others' together."""
    bounded = dict.fromkeys(served, 0)
    for pool, count in counts.items():
        label = pool if pool in served else OTHER_POOLS
        bounded[label] = bounded.get(label, 0) + count
    return bounded


def _by_label(counts: Mapping[str, int]) -> dict[tuple[str, ...], float]:
    return {(pool,): count for pool, count in counts.items()}
