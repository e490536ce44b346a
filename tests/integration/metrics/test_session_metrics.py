"""What is counted of sessions: exact numbers, from calls on real replicas with one Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from tests.fixtures.pools import make_pool
from tests.fixtures.replicas import Pair, Replica, now, rows_of
from tests.fixtures.sessions import a_request

from coresift.server.head import Task
from coresift.server.pool.pool import Pool
from coresift.server.selection.candidates import All, Seals
from coresift.server.session.view.labels import UNSURE, ClassSets, pack_class, pack_sets
from coresift.server.state.values import RETRACTION, LabelWrite, Release

NO, YES = pack_class(0), pack_class(1)
ITEMS, NEAR = 200, 10


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    X = np.random.default_rng(4).standard_normal((ITEMS, 8)).astype(np.float32)
    return make_pool(tmp_path_factory.mktemp("pool"), X)


@pytest_asyncio.fixture
async def pair(redis_url: str, pool: Pool) -> AsyncIterator[Pair]:
    one, two = await Replica.start(redis_url, [pool]), await Replica.start(redis_url, [pool])
    yield one, two
    await one.stop()
    await two.stop()


def leases(replica: Replica, event: str) -> float:
    [pool] = replica.metrics.pools
    return replica.sample("coresift_leases_total", pool=pool, event=event)


def labels(replica: Replica, outcome: str, answer: str) -> float:
    [pool] = replica.metrics.pools
    return replica.sample("coresift_labels_total", pool=pool, outcome=outcome, answer=answer)


def of_pool(replica: Replica, name: str, **more: str) -> float:
    [pool] = replica.metrics.pools
    return replica.sample(name, pool=pool, **more)


async def test_labels_by_outcome_and_answer(pair: Pair, pool: Pool) -> None:
    one, _ = pair
    session = await one.create(pool)
    await one.label(session, {0: YES, 1: NO, 2: UNSURE, 3: YES})
    assert labels(one, "new", "positive") == 2
    assert labels(one, "new", "negative") == labels(one, "new", "unsure") == 1
    await one.label(session, {0: NO, 1: NO, 2: RETRACTION, 9: RETRACTION})
    assert labels(one, "corrected", "negative") == 1
    assert labels(one, "unchanged", "negative") == 1
    assert labels(one, "retracted", "retraction") == 1
    assert labels(one, "unchanged", "retraction") == 1
    await one.label(session, {0: YES}, "another")
    assert labels(one, "surplus", "positive") == 1
    await one.label(session, {8: YES}, "third", leased=True)  # it held no lease any more
    assert labels(one, "late", "positive") == 1


@pytest.mark.parametrize(
    ("task", "value", "answer"),
    [
        (Task.MULTICLASS, pack_class(1), "class"),
        (Task.MULTICLASS, pack_class(0), "class"),
        (Task.MULTILABEL, pack_sets(ClassSets((0,), (1,))), "classes"),
    ],
)
async def test_labels_of_other_tasks(
    pair: Pair, pool: Pool, task: Task, value: bytes, answer: str
) -> None:
    one, _ = pair
    session = await one.create(pool, task=task, classes=("sea", "land", "air"))
    await one.label(session, {0: value, 1: UNSURE})
    assert labels(one, "new", answer) == labels(one, "new", "unsure") == 1


async def test_a_repeated_request_counts_once(pair: Pair, pool: Pool) -> None:
    one, two = pair
    session, request = await one.create(pool), a_request()
    for replica in (one, one, two):
        live = await replica.live(session)
        write = LabelWrite(0, "item-0", YES, leased=False)
        await replica.labeling.add_labels(live, request, "ann", [write])
        await replica.next_batch(session, request=a_request(request_id=f"{session}/batch"))
    assert labels(one, "new", "positive") == 1
    assert labels(two, "new", "positive") == 0
    assert (leases(one, "granted"), leases(two, "granted")) == (5, 0)
    assert of_pool(one, "coresift_head_age_seconds_count") == 1


async def test_leases_by_what_became_of_them(pair: Pair, pool: Pool) -> None:
    one, _ = pair
    session = await one.create(pool)
    rows = rows_of(await one.next_batch(session, size=4))
    live = await one.live(session)
    await one.labeling.renew(live, a_request(), "ann", rows[:3], None)
    await one.labeling.release(live, a_request(), "ann", rows[:2], Release.RETURN)
    found = {event: leases(one, event) for event in ("granted", "renewed", "released", "expired")}
    assert found == {"granted": 4, "renewed": 3, "released": 2, "expired": 0}


async def test_replicas_count_an_expiry_once_and_a_cold_one_none_of_the_past(
    pair: Pair, pool: Pool, redis_url: str
) -> None:
    one, two = pair
    session = await one.create(pool)
    await one.next_batch(session, size=3, lease_ms=1)
    await asyncio.sleep(0.01)  # time itself is what is waited for
    await two.next_batch(session, "other", size=1)  # writes the expiry down
    for replica in pair:
        await (await replica.live(session)).sync(now())
    assert (leases(one, "expired"), leases(two, "expired")) == (0, 3)
    two.sessions.drop(session)  # it reads the whole log again
    await (await two.live(session)).sync(now())
    cold = await Replica.start(redis_url, [pool])
    try:
        await (await cold.live(session)).sync(now())
        assert (leases(cold, "expired"), leases(two, "expired")) == (0, 3)
    finally:
        await cold.stop()


async def test_phases(pair: Pair, pool: Pool) -> None:
    one, _ = pair

    def phase(name: str) -> float:
        return of_pool(one, "coresift_batches_total", phase=name)

    session = await one.create(pool)
    await one.next_batch(session, size=2)
    await one.label(session, {0: YES, 1: NO})
    await one.next_batch(session, size=ITEMS)
    await one.next_batch(session, "other", size=1)
    assert (phase("cold_start"), phase("selecting"), phase("waiting")) == (1, 1, 1)
    await one.label(session, dict.fromkeys(range(ITEMS), YES))
    await one.next_batch(session, size=1)
    assert phase("exhausted") == 1


async def test_share_of_the_pool_considered(pair: Pair, pool: Pool) -> None:
    one, _ = pair
    whole, near = (
        await one.create(pool, candidates=All()),
        await one.create(pool, candidates=Seals(NEAR)),
    )
    for session in (whole, near):
        await one.label(session, {0: YES, 1: NO})
        await one.next_batch(session, size=1)
    found = len(np.unique(pool.neighbours(np.array([0, 1], np.int32), NEAR)))
    assert of_pool(one, "coresift_candidates_items_count") == 2
    assert of_pool(one, "coresift_candidates_items_sum") == ITEMS + found
    ratios = of_pool(one, "coresift_considered_ratio_sum")
    assert ratios == pytest.approx(1 + found / ITEMS)


async def test_age_of_what_the_head_lacks(pair: Pair, pool: Pool) -> None:
    one, two = pair
    session = await one.create(pool)
    await one.label(session, {0: YES, 1: NO})
    await one.next_batch(session, size=1)
    assert of_pool(one, "coresift_head_age_seconds_bucket", le="0.0") == 1
    await two.label(session, {2: YES})
    await asyncio.sleep(0.12)  # the age itself is what is waited for
    await two.label(session, {3: YES})
    first = (await one.live(session)).ranking
    assert first is not None
    await one.next_batch(session, size=1, min_revision=first.snapshot.revision)
    assert of_pool(one, "coresift_head_age_seconds_bucket", le="0.0") == 1
    assert of_pool(one, "coresift_head_age_seconds_count") == 2
    assert 0.12 <= of_pool(one, "coresift_head_age_seconds_sum") < 60
    await one.next_batch(session, size=1)
    assert of_pool(one, "coresift_head_age_seconds_bucket", le="0.0") == 2


async def test_neighbours_by_how_they_were_got(
    pair: Pair, pool: Pool, tmp_path: Path, redis_url: str
) -> None:
    one, two = pair

    def got(replica: Replica) -> tuple[float, ...]:
        name = "coresift_neighbour_lookups_total"
        sources = ("table", "prefetched", "on_demand")
        return tuple(replica.sample(name, source=source) for source in sources)

    session = await one.create(pool, candidates=Seals(NEAR))
    near = (await one.live(session)).neighbourhood
    assert near is not None
    rows = np.array([3, 4, 5], np.int32)
    near.prefetch(rows.tolist())
    await near.of(rows)
    assert got(one) == (0, 3, 0)
    await near.of(np.array([5, 6, 6], np.int32))
    assert got(one) == (0, 3, 1)
    await one.workers.drain(5)  # the store has them now
    elsewhere = (await two.live(session)).neighbourhood
    assert elsewhere is not None
    await elsewhere.of(np.array([3, 6, 7], np.int32))
    assert got(two) == (0, 2, 1)

    X = np.random.default_rng(5).standard_normal((50, 8)).astype(np.float32)
    table = make_pool(tmp_path, X, neighbours=NEAR)
    third = await Replica.start(redis_url, [table])
    try:
        found = (await third.live(await third.create(table, candidates=Seals(5)))).neighbourhood
        assert found is not None
        await found.of(rows)
        assert got(third) == (3, 0, 0)
    finally:
        await third.stop()


async def test_advice(pair: Pair, pool: Pool) -> None:
    one, _ = pair
    session = await one.create(pool, label_budget=3)
    await one.progress(session)
    await one.label(session, {0: YES, 1: NO, 2: NO})
    await one.progress(session)
    await one.progress(session)
    name = "coresift_progress_advice_total"
    assert of_pool(one, name, advice="continue") == 1
    assert of_pool(one, name, advice="budget_spent") == 2


async def test_fits_and_stages(pair: Pair, pool: Pool) -> None:
    one, _ = pair
    session = await one.create(pool)
    await one.label(session, {0: YES, 1: NO})
    await one.next_batch(session, size=1)
    await one.next_batch(session, size=1)
    assert one.fits() == 1
    assert one.stage_count("claim") == 2
    await one.next_batch(session, "other", size=1, review=True)
    assert one.stage_count("review") == 1
