"""Two server processes on one Redis answer as if they were one."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgpack
import pytest
from redis import Redis
from tests.fixtures.servers import Pools, Replicas, ServerProcess, is_spam

from coresift.client import All, Client, Outcome, Phase, Seals
from coresift.server.artifacts import Artifacts
from coresift.server.pool.pool import Pool
from coresift.server.session.replay import read_log, replay
from coresift.server.session.setup.materials import Loader
from coresift.server.session.setup.pools import Pools as LoadedPools
from coresift.server.state.entries import GrantEntry, LabelsEntry
from coresift.server.state.keys import SessionKeys
from coresift.server.state.redis_store import RedisStore


@pytest.fixture(scope="module")
def both(replicas: Replicas) -> Iterator[tuple[Client, Client]]:
    """A client of each server."""
    with Client(replicas.first.listen) as a, Client(replicas.second.listen) as b:
        yield a, b


def test_call_by_call(both: tuple[Client, Client]) -> None:
    a, b = both
    turns = itertools.cycle(both)
    alternating = a.create_session("things", candidates=Seals(20), seed=2).session_id
    alone = a.create_session("things", candidates=Seals(20), seed=2).session_id
    for size in (9, 20, 1, 30, 50):
        batches = [
            next(turns).next_batch(alternating, "ann", size),
            a.next_batch(alone, "ann", size),
        ]
        assert batches[0].item_ids == batches[1].item_ids
        assert [p.score for p in batches[0]] == pytest.approx(
            [p.score for p in batches[1]], nan_ok=True
        )
        truth = {i: is_spam(i) for i in batches[0].item_ids}
        result = next(turns).add_labels(alternating, truth, "ann", batch=batches[0])
        assert set(result.outcomes) == {Outcome.NEW}
        a.add_labels(alone, truth, "ann", batch=batches[1])
        assert next(turns).get_session(alternating).basis.revision == result.revision
    assert a.head(alternating).basis == b.head(alternating).basis
    assert a.head(alternating).weights.tobytes() == b.head(alternating).weights.tobytes()
    assert a.progress(alternating) == b.progress(alternating)
    assert list(a.list_labels(alternating)) == list(b.list_labels(alternating))


@pytest.mark.parametrize("quota", [1, 2])
def test_sixteen_annotators_at_once(
    both: tuple[Client, Client], redis_url: str, quota: int
) -> None:
    session = (
        both[0].create_session("things", votes_per_item=quota, candidates=Seals(10)).session_id
    )

    def work(number: int) -> list[str]:
        """Label all that one gets, through both servers in turn, until nothing is left."""
        name, turns = f"annotator-{number}", itertools.cycle(both)
        mine: list[str] = []
        while True:
            batch = next(turns).next_batch(session, name, 17)
            if batch.phase is Phase.EXHAUSTED:
                return mine
            truth = {pick.item_id: is_spam(pick.item_id) for pick in batch}
            if truth:
                result = next(turns).add_labels(session, truth, name, batch=batch)
                assert set(result.outcomes) == {Outcome.NEW}
            mine += truth

    with ThreadPoolExecutor(16) as threads:
        labelled = list(threads.map(work, range(16)))
    for mine in labelled:
        assert len(mine) == len(set(mine))
    votes = Counter(itertools.chain.from_iterable(labelled))
    assert votes == {f"item-{n}": quota for n in range(600)}
    records = list(both[1].list_labels(session))
    assert Counter(record.item_id for record in records) == votes
    assert {record.outcome for record in records} == {Outcome.NEW}
    assert Counter((r.annotator, r.item_id) for r in records) == Counter(
        (f"annotator-{number}", item) for number, mine in enumerate(labelled) for item in mine
    )
    progress = both[0].progress(session)
    assert (progress.votes, progress.live_leases) == (600 * quota, 0)


def run(*words: str) -> str:
    """What the command line prints."""
    command = [sys.executable, "-m", "coresift.client", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


async def test_the_log_replayed_elsewhere_gives_the_same_picks(
    both: tuple[Client, Client], redis_url: str, pools: Pools, tmp_path: Path
) -> None:
    session = (
        both[0].create_session("things", votes_per_item=2, candidates=Seals(10), seed=6).session_id
    )

    def work(number: int) -> None:
        turns = itertools.cycle(both)
        for _ in range(6):
            batch = next(turns).next_batch(session, f"annotator-{number}", 7)
            kept = batch.item_ids[:-1]
            both[1].add_labels(session, {i: is_spam(i) for i in kept}, f"annotator-{number}")
            both[0].release_leases(session, f"annotator-{number}", batch.item_ids[-1:])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    both[1].update_session(session, strategy="random", candidates=All(), filter="")
    work(9)
    store = await RedisStore.connect(redis_url)
    log = await read_log(store, session)
    await store.close()
    pool = Pool.open(pools.things.directory)
    report = replay(Loader(LoadedPools([pool]), Artifacts(str(tmp_path))), log)
    pool.close()
    assert report.differences == ()
    grants = [entry for entry in log if isinstance(entry, GrantEntry)]
    assert (report.batches, report.picks) == (len(grants), sum(len(g.rows) for g in grants))
    assert report.batches == 9 * 6
    assert sum(isinstance(entry, LabelsEntry) for entry in log) == 9 * 6
    said = run("replay", session, "--state", redis_url, "--pool", str(pools.things.directory))
    assert said == f"54 batches, {report.picks} picks replayed\nno difference\n"


async def test_a_log_that_was_changed_is_told_by_the_entry(
    both: tuple[Client, Client], redis_url: str, pools: Pools
) -> None:
    session = both[0].create_session("things", candidates=Seals(10)).session_id
    for client in (*both, *both):
        batch = client.next_batch(session, "ann", 3)
        client.add_labels(session, {i: is_spam(i) for i in batch.item_ids}, "ann", batch=batch)
    store = await RedisStore.connect(redis_url)
    uid, log = (await store.read(session)).uid, await read_log(store, session)
    await store.close()
    grant = [entry for entry in log if isinstance(entry, GrantEntry)][2]
    first, second, third = grant.rows
    with Redis.from_url(redis_url, protocol=2) as redis:
        swap(redis, SessionKeys(uid).of_script()[1], grant.offset)
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run("replay", session, "--state", redis_url, "--pool", str(pools.things.directory))
    assert caught.value.returncode == 1
    assert caught.value.stdout == "4 batches, 12 picks replayed\n"
    (line,) = caught.value.stderr.splitlines()
    assert line.startswith(
        f"log entry {grant.offset}: granted rows {(second, first, third)}, "
        f"replayed ({first}, {second}, {third}"
    )


def swap(redis: Redis, log: str, offset: int) -> None:
    """Change the order of the first two picks of a grant, in the log as it lies in Redis."""
    entries: Any = redis.xrange(log)
    redis.delete(log)
    fields = entries[offset - 1][1]
    grant = msgpack.unpackb(fields[b"e"], raw=True)
    grant[b"r"][:2] = reversed(grant[b"r"][:2])
    fields[b"e"] = msgpack.packb(grant, use_bin_type=False)
    for entry_id, own in entries:
        redis.xadd(log, own, entry_id)


def test_what_is_labelled_here_is_never_offered_there(both: tuple[Client, Client]) -> None:
    session = both[0].create_session("things", candidates=All()).session_id
    labelled: set[str] = set()
    items = iter(f"item-{n}" for n in range(600))
    for turn in range(40):
        here, there = both if turn % 2 else both[::-1]
        some = list(itertools.islice(items, 5))
        result = here.add_labels(session, {i: is_spam(i) for i in some}, "ann")
        labelled |= set(some)
        batch = there.next_batch(session, "bob", 5)
        assert batch.basis.revision >= result.revision
        assert not set(batch.item_ids) & labelled
        here.release_leases(session, "bob", batch.item_ids)


def test_a_session_moves_to_the_next_pool_version(both: tuple[Client, Client]) -> None:
    """One server changes the session; the other, which knew it before, goes along."""
    a, b = both
    old = a.get_pool("growing", a.get_pool("growing").parent_version)
    new = a.get_pool("growing")
    session = a.create_session("growing", pool_version=old.version, candidates=All()).session_id
    for each in both:
        assert each.progress(session).pool_items == 200
        batch = each.next_batch(session, "ann", 20)
        each.add_labels(session, {i: is_spam(i) for i in batch.item_ids}, "ann", batch=batch)
    moved = a.update_session(session, pool_version="")
    assert moved.pool_version == new.version
    more = [f"item-{n}" for n in range(200, 240)]
    # A label, a renewal and a list of new items through the server that did not change it.
    result = b.add_labels(session, {more[0]: is_spam(more[0])}, "ann")
    assert result.outcomes == (Outcome.NEW,)
    assert result.basis.pool_version == new.version
    taken = a.next_batch(session, "ann", 1_000, request_id="all-of-it").item_ids
    assert b.next_batch(session, "ann", 1_000, request_id="all-of-it").item_ids == taken
    assert set(more[1:]) <= set(taken)
    assert {lease.item_id for lease in b.list_leases(session)} == set(taken)
    assert set(b.renew_leases(session, "ann").renewed) == set(taken)
    assert set(b.release_leases(session, "ann", taken)) == set(taken)
    for each in both:
        assert each.progress(session).pool_items == 240
        assert each.progress(session).labelled_items == 41
    with pytest.raises(Exception, match="does not extend") as caught:
        b.update_session(session, pool_version=old.version)
    assert caught.value.reason == "IMMUTABLE_FIELD"  # type: ignore[attr-defined]


def test_a_server_without_the_pool_version_says_so(
    both: tuple[Client, Client],
    pools: Pools,
    redis_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    session = both[0].create_session("growing").session_id
    options = ("--state", redis_url, "--pool", pools.growing.directory)
    with (
        ServerProcess(*options, "--artifacts", tmp_path_factory.mktemp("a")) as server,
        Client(server.listen, max_attempts=1) as old,
        pytest.raises(Exception, match="does not hold version") as caught,
    ):
        old.next_batch(session, "ann", 1)
    assert caught.value.reason == "POOL_VERSION_NOT_LOADED"  # type: ignore[attr-defined]
    assert caught.value.retry_after is not None  # type: ignore[attr-defined]


def test_a_deleted_session_is_gone_everywhere(both: tuple[Client, Client]) -> None:
    session = both[0].create_session("things").session_id
    for each in both:
        each.next_batch(session, "ann", 1)
    both[0].delete_session(session)
    for each in both:
        for call in (each.get_session, each.progress, each.head):
            with pytest.raises(Exception, match="no such session") as caught:
                call(session)
            assert caught.value.reason == "SESSION_NOT_FOUND"  # type: ignore[attr-defined]
