"""No name is left once an erasure is answered, also one that broke off, or a purge is done."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from tests.fixtures.between import Between
from tests.fixtures.pools import make_pool
from tests.fixtures.replicas import Replica
from tests.fixtures.sessions import a_request, is_removed

from coresift.server.errors import CoresiftError, Reason
from coresift.server.pool.pool import Pool
from coresift.server.session.copies import erasure
from coresift.server.session.copies.erasure import Erasure
from coresift.server.session.setup.requests import Requests
from coresift.server.session.view.labels import pack_class
from coresift.server.state import keys, removal_operations, scripts
from coresift.server.state.breaker import unavailable
from coresift.server.state.scripts import Script
from coresift.server.state.values import (
    ANSWER_MS,
    Release,
    Request,
    SessionRecord,
)

NO, YES = pack_class(0), pack_class(1)

STEPS = pytest.mark.parametrize(
    ("step", "is_done"),
    [(scripts.MOVED, True), ("UNLINK", False), (scripts.BURY, False), (scripts.BURY, True)],
    ids=["reply of the swap", "hands", "log", "reply of the removal"],
)
"""Where Redis fails, and whether it has done yet what it was asked."""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    X = np.random.default_rng(4).standard_normal((100, 8)).astype(np.float32)
    return make_pool(tmp_path_factory.mktemp("pool"), X)


@pytest_asyncio.fixture
async def replica(
    redis_url: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Replica]:
    monkeypatch.setattr(removal_operations, "LOG_PIECE", 2)
    one = await Replica.start(redis_url, [pool])
    yield one
    await one.stop()


def erasing(replica: Replica) -> Erasure:
    return Erasure(
        replica.sessions, replica.loader, replica.store, Requests(replica.store), replica.workers
    )


async def labelled(replica: Replica, pool: Pool) -> SessionRecord:
    """Labels, releases and leases of ann and of bob."""
    session = await replica.create(pool)
    for name, rows in (("ann", (0, 1)), ("bob", (2, 3))):
        await replica.label(session, dict.fromkeys(rows, YES) | {rows[0]: NO}, name)
        batch = await replica.next_batch(session, name, 3)
        live = await replica.live(session)
        released = [batch.picks[0].row]
        await replica.labeling.release(live, a_request(), name, released, Release.RETURN)
    return await replica.store.read(session)


def breaks(between: Between, step: Script | str, *, is_done: bool) -> None:
    """Let Redis fail at a step, once."""

    async def blip() -> None:
        raise unavailable("a blip")

    (between.after if is_done else between.before)(step, blip)


async def broken_off(
    replica: Replica,
    session: SessionRecord,
    request: Request,
    monkeypatch: pytest.MonkeyPatch,
    step: Script | str,
    *,
    is_done: bool = False,
) -> None:
    """An erasure of ann that is given up where Redis fails."""
    with monkeypatch.context() as broken:
        broken.setattr(erasure, "TRIES", 1)
        between = Between(replica.store, broken)
        breaks(between, step, is_done=is_done)
        with pytest.raises(CoresiftError) as caught:
            await erasing(replica).erase(session.session_id, "ann", request)
        assert caught.value.reason is Reason.STATE_UNAVAILABLE
        assert between.is_over


async def left_of(replica: Replica, session: SessionRecord) -> list[bytes]:
    """The keys under the uid that a session had, but for the note that it was removed."""
    client: Any = replica.store._link.client
    found = set(await client.keys(f"coresift:{{{session.uid}}}:*"))
    return sorted(found - {keys.SessionKeys(session.uid).meta.encode()})


async def is_gone(replica: Replica, session: SessionRecord) -> bool:
    member = f"{session.uid} {session.session_id}"
    listed = await replica.store._link.client.zscore(keys.DELETED, member)
    return (
        await is_removed(replica.store, session.uid)
        and listed is None
        and not await left_of(replica, session)
    )


@STEPS
async def test_after_a_blip_nothing_is_left_when_it_answers(
    replica: Replica, pool: Pool, monkeypatch: pytest.MonkeyPatch, step: Script | str, is_done: bool
) -> None:
    session = await labelled(replica, pool)
    assert any(b":hands:ann" in key for key in await left_of(replica, session))
    between = Between(replica.store, monkeypatch)
    breaks(between, step, is_done=is_done)
    erased = await erasing(replica).erase(session.session_id, "ann", a_request())
    assert between.is_over
    assert erased.entries == 3
    assert await is_gone(replica, session)


@STEPS
@pytest.mark.parametrize("name", ["ann", "bob", "nobody"])
async def test_an_erasure_that_broke_off_is_finished_by_the_next(
    replica: Replica,
    pool: Pool,
    monkeypatch: pytest.MonkeyPatch,
    step: Script | str,
    is_done: bool,
    name: str,
) -> None:
    """By the same request, by another one, and by one that finds nothing to replace."""
    session, request = await labelled(replica, pool), a_request()
    await broken_off(replica, session, request, monkeypatch, step, is_done=is_done)
    again = request if name == "ann" else a_request()
    erased = await erasing(replica).erase(session.session_id, name, again)
    assert erased.entries == (0 if name == "nobody" else 3)
    assert await is_gone(replica, session)
    assert (await replica.store.read(session.session_id)).votes == 4


async def test_a_purge_leaves_no_name_of_an_erasure_that_broke_off(
    replica: Replica, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await labelled(replica, pool)
    await broken_off(replica, session, a_request(), monkeypatch, "UNLINK")
    assert await left_of(replica, session)
    member = f"{session.uid} {session.session_id}"
    await replica.store._link.client.zadd(keys.DELETED, {member: 1}, xx=True)
    await replica.store.purge()
    assert await is_gone(replica, session)


async def test_a_purge_leaves_no_name_of_a_deleted_session(replica: Replica, pool: Pool) -> None:
    session, deletion = await labelled(replica, pool), a_request()
    await replica.store.delete(session.session_id, deletion)
    assert await replica.store.purge() == 0
    assert any(b":hands:ann" in key for key in await left_of(replica, session))
    of_session = keys.SessionKeys(session.uid)
    client: Any = replica.store._link.client
    await client.hincrby(of_session.meta, "deleted", -ANSWER_MS)
    await client.zadd(keys.DELETED, {f"{session.uid} {session.session_id}": 0})
    assert await replica.store.purge() == 1
    assert await is_removed(replica.store, session.uid)
    # The log does not know the deletion, whose answer names nobody.
    (its_answer,) = of_session.answers([deletion.request_id])
    assert await left_of(replica, session) == [its_answer.encode()]


async def test_what_others_still_copy_or_have_hidden_is_left_alone(
    replica: Replica, pool: Pool
) -> None:
    """They stand in the same list as what was replaced."""
    store, session = replica.store, await labelled(replica, pool)
    other = await labelled(replica, pool)
    await store.delete(other.session_id, a_request())
    staged = await store.stage(session.session_id)
    piece = await store.copy_log(session.uid)
    await store.stage_log(staged, 0, piece.entries)
    await erasing(replica).erase(session.session_id, "ann", a_request())
    client: Any = store._link.client
    assert await client.exists(keys.SessionKeys(staged).of_script()[1])
    assert (await store.undelete(other.session_id, a_request(), lambda _: None)).votes == 4
    await store.discard(staged, session.session_id)
