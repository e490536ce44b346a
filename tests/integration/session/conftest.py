"""What several tests of the session layer start from."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from tests.fixtures.replicas import Pair, Replica

from coresift.server.pool.pool import Pool


@pytest_asyncio.fixture
async def pair(redis_url: str, pool: Pool) -> AsyncIterator[Pair]:
    """Two replicas that serve the module's ``pool``."""
    one, two = await Replica.start(redis_url, [pool]), await Replica.start(redis_url, [pool])
    yield one, two
    await one.stop()
    await two.stop()
