"""Progress reports keep what they say of many sessions, not the labels that say it."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from tests.fixtures.pools import make_pool
from tests.fixtures.replicas import Pair

from coresift.server.pool.pool import Pool
from coresift.server.session.view.labels import pack_class
from coresift.server.session.view.snapshot import Snapshot


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    X = np.random.default_rng(4).standard_normal((120, 8)).astype(np.float32)
    return make_pool(tmp_path_factory.mktemp("pool"), X)


async def test_a_report_holds_no_labels_of_a_session_that_is_dropped(
    pair: Pair, pool: Pool
) -> None:
    """They would count nowhere: a million weigh 100 MB, and reports are kept of 1,000 sessions."""
    replica, _ = pair
    session_id = await replica.create(pool)
    await replica.label(session_id, {row: pack_class(row % 2) for row in range(60)})
    told = await replica.progress(session_id)
    nonce = (await replica.live(session_id)).view.nonce
    assert snapshots(nonce)
    replica.sessions.drop(session_id)
    assert not snapshots(nonce)
    assert (await replica.progress(session_id)).measures is told.measures


def snapshots(nonce: bytes) -> int:
    """How many with this nonce are in memory."""
    gc.collect()
    return sum(isinstance(it, Snapshot) and it.nonce == nonce for it in gc.get_objects())
