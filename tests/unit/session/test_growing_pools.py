"""Served pools that change while calls read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.pools import extend_pool, make_pool

from coresift.server.errors import CoresiftError, Reason
from coresift.server.pool.pool import Pool
from coresift.server.session.setup.pools import Pools

X = np.random.default_rng(2).standard_normal((20, 4)).astype(np.float32)
UNKNOWN = "0" * 32


@pytest.fixture(scope="module")
def lineage(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pool, Pool]:
    """Two versions of one pool."""
    folder: Path = tmp_path_factory.mktemp("lineage")
    old = make_pool(folder, X[:12], name="things")
    return old, extend_pool(folder, X[12:], [f"new-{i}" for i in range(8)])


def key(pool: Pool) -> tuple[str, str]:
    return pool.manifest.name, pool.manifest.version


def test_new_sessions_take_the_newest_that_is_offered(lineage: tuple[Pool, Pool]) -> None:
    old, new = lineage
    pools = Pools([old])
    assert not pools.holds(*key(new))
    pools.add(new)
    assert pools.holds(*key(new))
    assert pools.find("things") is new
    pools.offer_only({key(old)})
    assert pools.find("things") is old
    assert pools.find("things", new.manifest.version) is new
    assert pools.of_session(*key(new)) is new
    pools.offer_only(set())
    assert pools.find("things") is new


def test_a_version_that_may_come_is_asked_for(lineage: tuple[Pool, Pool]) -> None:
    old, _ = lineage
    pools, asked = Pools([old]), []
    with pytest.raises(CoresiftError) as caught:
        pools.find("things", UNKNOWN)
    assert caught.value.reason is Reason.POOL_NOT_FOUND
    pools.expect_more({"things"}, lambda: asked.append(1))
    for call in (pools.find, pools.of_session):
        with pytest.raises(CoresiftError) as caught:
            call("things", UNKNOWN)
        assert caught.value.reason is Reason.POOL_VERSION_NOT_LOADED
        assert caught.value.retry_after_s == 2.0
    assert len(asked) == 2
    for name, version in (("things", "latest"), ("others", UNKNOWN)):
        with pytest.raises(CoresiftError) as caught:
            pools.find(name, version)
        assert caught.value.reason is Reason.POOL_NOT_FOUND
    assert len(asked) == 2
