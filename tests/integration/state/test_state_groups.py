"""Groups of rows: one lease at a time, and by choice one labelled row."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.fixtures.sessions import a_claim, a_request, a_session, a_view, labels

from coresift.server.state.keys import SessionKeys
from coresift.server.state.redis_store import RedisStore
from coresift.server.state.values import (
    MAX_GROUP,
    NO_GROUP,
    RETRACTION,
    Granted,
    Proposal,
    Release,
    SessionRecord,
)

GROUPS = {1: 5, 2: 5, 3: 5, 4: MAX_GROUP, 5: MAX_GROUP, 6: NO_GROUP, 7: NO_GROUP}
EVERY = tuple(GROUPS)


class Labeling:
    """A session whose claims and labels carry the groups."""

    def __init__(self, store: RedisStore, session: SessionRecord) -> None:
        self.store, self.session, self.uid = store, session, session.uid

    async def claim(
        self,
        annotator: str,
        rows: Sequence[int] = EVERY,
        *,
        size: int = 1_000,
        one_label: bool = False,
        lease_ms: int = 600_000,
        review: bool = False,
    ) -> tuple[int, ...]:
        view = await a_view(self.store, self.session)
        claim = replace(
            a_claim([], annotator, size=size, view=view, lease_ms=lease_ms),
            proposals=[Proposal(row, b"", GROUPS[row]) for row in rows],
            one_label=one_label,
            review=review,
        )
        granted = await self.store.claim(self.uid, claim)
        assert isinstance(granted, Granted)
        return granted.rows

    async def label(self, annotator: str, *rows: int, value: bytes = b"yes") -> None:
        writes = [replace(write, group=GROUPS[write.row]) for write in labels(rows, value)]
        await self.store.add_labels(self.uid, a_request(), annotator, writes)


async def a_labeling(store: RedisStore, quota: int = 1) -> Labeling:
    return Labeling(store, await a_session(store, quota=quota))


async def test_a_group_has_one_lease(store: RedisStore) -> None:
    labeling = await a_labeling(store)
    assert await labeling.claim("ann") == (1, 4, 6, 7)
    assert await labeling.claim("ann") == ()
    assert await labeling.claim("bob") == ()
    # Without the rule it is only the quota that counts.
    claim = a_claim(EVERY, "cyd", view=await a_view(store, labeling.session))
    granted = await store.claim(labeling.uid, claim)
    assert isinstance(granted, Granted)
    assert granted.rows == (2, 3, 5)


async def test_the_best_free_row_of_a_group_is_taken(store: RedisStore) -> None:
    labeling = await a_labeling(store)
    await labeling.label("ann", 3)
    assert await labeling.claim("bob", [3, 2, 1, 7], size=2) == (2, 7)


@pytest.mark.parametrize("ends", ["label", "release", "skip", "expiry"])
async def test_the_end_of_a_lease_frees_the_group(store: RedisStore, ends: str) -> None:
    labeling = await a_labeling(store)
    assert await labeling.claim("ann", [2], lease_ms=1 if ends == "expiry" else 600_000) == (2,)
    match ends:
        case "label":
            await labeling.label("ann", 2)
        case "release":
            await store.release(labeling.uid, a_request(), "ann", [2], Release.RETURN)
        case "skip":
            await store.release(labeling.uid, a_request(), "ann", [2], Release.SKIP)
    while await store.count_leases(labeling.uid):  # noqa: ASYNC110 - the clock of Redis ends it
        await asyncio.sleep(0)
    assert await labeling.claim("bob", [3, 2]) == (3,)
    assert await labeling.claim("cyd", [2, 1]) == ()


async def test_several_annotators_share_the_row_that_is_leased(store: RedisStore) -> None:
    labeling = await a_labeling(store, quota=2)
    assert await labeling.claim("ann", [2]) == (2,)
    assert await labeling.claim("bob") == (2, 4, 6, 7)
    assert await labeling.claim("cyd", [1, 2, 3]) == ()
    await labeling.label("ann", 2)
    assert await labeling.claim("cyd", [1, 2, 3]) == ()
    await labeling.label("bob", 2)
    assert await labeling.claim("cyd", [1, 2, 3]) == (1,)


async def test_a_group_has_one_labelled_row(store: RedisStore) -> None:
    labeling = await a_labeling(store, quota=2)
    await labeling.label("ann", 2)
    assert await labeling.claim("bob", [1, 3, 4, 7], one_label=True) == (4, 7)
    assert await labeling.claim("cyd", [1, 2, 3], one_label=True) == (2,)
    await labeling.label("cyd", 2)
    assert await labeling.claim("dee", [1, 2, 3], one_label=True) == ()
    assert await labeling.claim("dee", [1, 2, 3]) == (1,)


async def test_a_labelled_group_is_closed_to_rows_without_votes(store: RedisStore) -> None:
    labeling = await a_labeling(store, quota=3)
    await labeling.label("ann", 3, 1)
    await labeling.label("bob", 3)

    async def free(*rows: int) -> tuple[int, ...]:
        granted = await labeling.claim("cyd", [*rows], one_label=True)
        await store.release(labeling.uid, a_request(), "cyd", granted or [1], Release.RETURN)
        return granted

    assert await free(2) == ()
    # Of rows with votes the caller proposes the first: the store may not know the others.
    assert await free(1) == (1,)
    assert await free(3) == (3,)
    assert await free(2, 3, 1) == (3,)
    for annotator in ("ann", "bob"):
        await labeling.label(annotator, 3, value=RETRACTION)
    assert await free(2, 3) == ()
    await labeling.label("ann", 1, value=RETRACTION)
    assert await free(2) == (2,)
    await labeling.label("bob", 3)
    assert await free(2, 1) == ()


async def test_a_retraction_without_its_group_frees_it_too(store: RedisStore) -> None:
    labeling = await a_labeling(store)
    await labeling.label("ann", 1)
    await store.add_labels(labeling.uid, a_request(), "ann", labels([1], RETRACTION))
    assert await labeling.claim("bob", [2, 4], one_label=True) == (2, 4)
    await labeling.label("bob", 2)
    await labeling.label("ann", 1)  # a row that comes back comes last
    assert await labeling.claim("cyd", [1], one_label=True) == ()


async def test_labels_given_before_the_rule_count_once_they_are_repeated(
    store: RedisStore,
) -> None:
    labeling = await a_labeling(store)
    await store.add_labels(labeling.uid, a_request(), "ann", labels([1]))
    assert await labeling.claim("bob", [2], one_label=True, size=1) == (2,)
    await store.release(labeling.uid, a_request(), "bob", [2], Release.RETURN)
    await labeling.label("ann", 1)
    assert await labeling.claim("bob", [2], one_label=True) == ()


async def test_a_second_look_takes_its_group(store: RedisStore) -> None:
    labeling = await a_labeling(store)
    await labeling.label("ann", 1, 2)
    assert await labeling.claim("bob", [2, 1], review=True, one_label=True) == (2,)
    assert await labeling.claim("cyd", [1, 3], review=True) == ()
    assert await labeling.claim("cyd", [3]) == ()


async def test_sessions_without_groups_have_no_such_key(store: RedisStore) -> None:
    session = await a_session(store)
    claim = a_claim([1, 2], view=await a_view(store, session))
    await store.claim(session.uid, claim)
    await store.add_labels(session.uid, a_request(), "ann", labels([1]))
    assert await store._link.client.exists(*SessionKeys(session.uid).of_script()[8:]) == 0


async def test_groups_out_of_range_are_refused(store: RedisStore) -> None:
    session = await a_session(store)
    for group in (-2, MAX_GROUP + 1):
        claim = replace(a_claim([]), proposals=[Proposal(1, b"", group)])
        with pytest.raises(ValueError, match="groups must be"):
            await store.claim(session.uid, claim)
    assert await store.read(session.session_id) == session


async def test_many_labelled_rows_of_one_group(store: RedisStore) -> None:
    session = await a_session(store)
    for start in (0, 1_000):
        writes = [replace(write, group=9) for write in labels(range(start, start + 1_000))]
        await store.add_labels(session.uid, a_request(), "ann", writes)
    back = [replace(write, group=9) for write in labels(range(999), RETRACTION)]
    await store.add_labels(session.uid, a_request(), "ann", back)

    async def free(row: int) -> bool:
        view = await a_view(store, session)
        claim = replace(
            a_claim([], "bob", view=view), proposals=[Proposal(row, b"", 9)], one_label=True
        )
        granted = await store.claim(session.uid, claim)
        assert isinstance(granted, Granted)
        return granted.rows == (row,)

    assert not await free(0)
    last = [replace(write, group=9) for write in labels([999], RETRACTION)]
    await store.add_labels(session.uid, a_request(), "ann", last)
    assert await free(0)  # what follows the first 1,000 is not remembered
