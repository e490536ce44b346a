"""How many sessions and leases there are, looked at from time to time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import lru_cache

import structlog

from coresift.server.errors import CoresiftError
from coresift.server.metrics import Metrics, StateReading
from coresift.server.session.setup.config import SessionConfig
from coresift.server.state.store import Store
from coresift.server.state.values import Settings

log = structlog.get_logger()

LOOK_S = 5.0
REST = 100
"""Times as long as a look took nobody looks again: with very many sessions it takes a while."""


async def watch_usage(store: Store, metrics: Metrics, tenants: Callable[[], Iterable[str]]) -> None:
    """Publish what the store holds until cancelled; nothing while it cannot be read."""
    told = ""
    while True:
        began = time.monotonic()
        try:
            await publish_usage(store, metrics, tenants())
        except CoresiftError:
            metrics.state.publish(None)
        except Exception as error:  # whatever it is: the next look may succeed
            metrics.state.publish(None)
            if repr(error) != told:
                log.warning("the state store cannot be measured", error=repr(error))
            told = repr(error)
        await asyncio.sleep(max(LOOK_S, REST * (time.monotonic() - began)))


async def publish_usage(store: Store, metrics: Metrics, tenants: Iterable[str]) -> None:
    """Publish what the store holds of these tenants. STATE_UNAVAILABLE."""
    usage = await store.usage(tenants, _pool_of)
    reading = StateReading(
        usage.sessions, usage.leases, usage.memory_bytes, usage.memory_limit_bytes
    )
    metrics.state.publish(reading, metrics.pools)


@lru_cache(4096)
def _pool_of(settings: Settings) -> str:
    """Empty for a configuration that only a newer release can read."""
    try:
        return SessionConfig.from_settings(settings).pool
    except CoresiftError:
        return ""
