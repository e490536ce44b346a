"""An erased annotator's name stands nowhere any more; everything else stays what it was."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from tests.fixtures.private_redis import private_redis, where
from tests.fixtures.servers import Pools, ServerProcess, is_spam

from coresift.client import (
    Client,
    Groups,
    InvalidInput,
    Outcome,
    Reason,
    ReleaseReason,
    Session,
    Unavailable,
)

NAME = "Anna Önder-Kovács"


@dataclass(frozen=True)
class Alone:
    """A server with a Redis and files that nobody else uses."""

    client: Client
    other: Client
    """Of a second server on the same Redis."""
    redis_url: str
    folder: Path
    pool: Path


@pytest.fixture(scope="module")
def alone(pools: Pools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    folder = tmp_path_factory.mktemp("erasure")
    with private_redis(folder / "state") as url:
        options = ["--pool", pools.things.directory, "--state", url]
        options += ["--artifacts", folder / "artifacts", "--data-dir", folder / "data"]
        with (
            ServerProcess(*options) as one,
            ServerProcess(*options) as two,
            Client(one.listen) as client,
            Client(two.listen) as other,
        ):
            yield Alone(client, other, url, folder, pools.things.directory)


def coresift(*words: str | Path) -> str:
    """What the command line prints."""
    command = [sys.executable, "-m", "coresift.client", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def labelled(client: Client, session: Session, turns: int = 4) -> None:
    """Labels, leases, releases, skips by two people."""
    for _ in range(turns):
        for who in (NAME, "bob"):
            batch = client.next_batch(session, who, 8)
            kept = batch.item_ids[:4]
            client.add_labels(session, {i: is_spam(i) for i in kept}, who, batch=batch)
            client.release_leases(session, who, batch.item_ids[4:5], ReleaseReason.SKIP)
            client.release_leases(session, who, batch.item_ids[5:6])
    client.renew_leases(session, NAME)


def test_the_name_is_nowhere_and_the_rest_is_the_same(alone: Alone) -> None:
    client = alone.client
    session = client.create_session("things", votes_per_item=2, seed=3)
    labelled(client, session)
    records, leases = list(client.list_labels(session)), list(client.list_leases(session))
    head, progress = client.head(session), client.progress(session)
    assert where(alone.redis_url, NAME)
    alone.other.list_consensus(session)
    alone.other.next_batch(session, "carol", 1)  # the other server has a view, too

    erased = client.erase_annotator(session, NAME, request_id="erase-her")
    assert erased.replacement.startswith("erased-")
    assert len(erased.replacement) == len("erased-") + 16
    assert where(alone.redis_url, NAME) == []
    for file in (alone.folder / "artifacts").rglob("*"):
        assert file.is_dir() or NAME.encode() not in file.read_bytes()

    def renamed(name: str) -> str:
        return erased.replacement if name == NAME else name

    for side in (client, alone.other):
        now = list(side.list_labels(session))
        assert [(r.revision, r.item_id, r.value, r.outcome, r.time) for r in now] == [
            (r.revision, r.item_id, r.value, r.outcome, r.time) for r in records
        ]
        assert [r.annotator for r in now] == [renamed(r.annotator) for r in records]
        held = {(lease.item_id, lease.annotator) for lease in side.list_leases(session)}
        assert {(lease.item_id, renamed(lease.annotator)) for lease in leases} <= held
        assert (side.head(session).weights == head.weights).all()
        assert side.progress(session).votes == progress.votes
        people = {a.annotator for a in side.annotator_agreement(session)}
        assert people == {erased.replacement, "bob"}
    said = coresift("replay", session.session_id, "--state", alone.redis_url, "--pool", alone.pool)
    assert said.endswith("no difference\n")
    # The same request again, and another for a name that is not there.
    assert client.erase_annotator(session, NAME, request_id="erase-her") == erased
    assert client.erase_annotator(session, NAME).entries == 0
    with pytest.raises(InvalidInput) as reused:
        client.erase_annotator(session, "bob", request_id="erase-her")
    assert reused.value.reason is Reason.REQUEST_ID_REUSED
    # The person may begin anew.
    again = client.next_batch(session, NAME, 3)
    assert client.add_labels(session, {again.item_ids[0]: "positive"}, NAME).revision
    assert alone.other.next_batch(session, "bob", 3)


def test_leases_tokens_and_repeated_requests_outlive_an_erasure(alone: Alone) -> None:
    client = alone.client
    session = client.create_session("things", groups=Groups("uri", one_label=True))
    labelled(client, session, turns=2)
    batch = client.next_batch(session, "bob", 4, request_id="bobs-batch")
    first = {batch.item_ids[0]: is_spam(batch.item_ids[0])}
    result = client.add_labels(session, first, "bob", batch=batch, request_id="bobs-labels")
    client.erase_annotator(session, NAME)
    again = client.next_batch(session, "bob", 4, request_id="bobs-batch")
    assert again.item_ids == batch.item_ids
    assert client.add_labels(session, first, "bob", batch=batch, request_id="bobs-labels") == result
    rest = {item_id: is_spam(item_id) for item_id in batch.item_ids[1:]}
    done = client.add_labels(session, rest, "bob", batch=batch)
    assert set(done.outcomes) == {Outcome.NEW}
    taken = {record.item_id for record in client.list_labels(session)}
    assert not taken & set(client.next_batch(session, "carol", 50).item_ids)


def test_an_erasure_under_load_loses_and_doubles_nothing(alone: Alone) -> None:
    session = alone.client.create_session("things", votes_per_item=3, seed=9).session_id
    labelled(alone.client, alone.client.get_session(session), turns=2)
    stop = threading.Event()

    def work(number: int) -> list[tuple[str, str]]:
        who, acknowledged = f"worker-{number}", []
        side = (alone.client, alone.other)[number % 2]
        while not stop.is_set():
            batch = side.next_batch(session, who, 3)
            if not batch.item_ids:
                break
            side.add_labels(session, {i: is_spam(i) for i in batch.item_ids}, who, batch=batch)
            acknowledged += [(who, item_id) for item_id in batch.item_ids]
        return acknowledged

    with ThreadPoolExecutor(4) as threads:
        workers = [threads.submit(work, number) for number in range(4)]
        try:
            erased = [
                alone.other.erase_annotator(session, name) for name in (NAME, "bob", "worker-99")
            ]
        finally:
            stop.set()
        acknowledged = [label for worker in workers for label in worker.result()]
    assert [e.entries > 0 for e in erased] == [True, True, False]
    records = [(r.annotator, r.item_id) for r in alone.client.list_labels(session)]
    assert len(records) == len(set(records))
    mine = [record for record in records if record[0].startswith("worker-")]
    assert sorted(mine) == sorted(acknowledged)
    names = {annotator for annotator, _ in records}
    assert NAME not in names
    assert "bob" not in names


def test_a_pseudonymous_session_never_holds_a_name(alone: Alone) -> None:
    client, name = alone.client, "Bartholomäus"
    session = client.create_session("things", pseudonymous=True)
    assert session.pseudonymous
    assert client.get_session(session).pseudonymous
    batch = client.next_batch(session, name, 6)
    client.add_labels(session, {i: is_spam(i) for i in batch.item_ids[:3]}, name, batch=batch)
    leases = list(client.list_leases(session, name))
    assert {lease.item_id for lease in leases} == set(batch.item_ids[3:])
    (pseudonym,) = {lease.annotator for lease in leases}
    assert pseudonym.startswith("p-")
    assert len(pseudonym) == len("p-") + 16
    assert {r.annotator for r in client.list_labels(session)} == {pseudonym}
    assert [a.annotator for a in client.annotator_agreement(session)] == [pseudonym]
    client.renew_leases(session, name)
    # Tokens of the pseudonymous list are good for the person.
    value = {leases[0].item_id: is_spam(leases[0].item_id)}
    assert client.add_labels(session, value, name, batch=leases).outcomes == (Outcome.NEW,)
    assert client.release_leases(session, name, [leases[1].item_id])
    assert where(alone.redis_url, name) == []
    elsewhere = client.create_session("things", pseudonymous=True)
    client.add_labels(elsewhere, {"item-1": "positive"}, name)
    assert {r.annotator for r in client.list_labels(elsewhere)} != {pseudonym}
    assert client.erase_annotator(session, pseudonym).entries > 0
    assert where(alone.redis_url, pseudonym) == []


def test_a_session_being_swapped_is_refused_for_a_moment_only(alone: Alone) -> None:
    """The refusal of a frozen session is one that clients repeat."""
    session = alone.client.create_session("things")
    labelled(alone.client, session, turns=1)
    with redis.Redis.from_url(alone.redis_url) as bare:
        (meta,) = [
            key
            for key in bare.scan_iter("*meta")
            if bare.hget(key, "id") == session.session_id.encode()
        ]
        seconds, _ = bare.time()
        bare.hset(meta, mapping={"frozen": (seconds + 60) * 1000, "freezer": "someone"})
        with Client(alone.client.target, max_attempts=1) as once:
            with pytest.raises(Unavailable) as refused:
                once.add_labels(session, {"item-1": "positive"}, "bob")
            assert refused.value.reason is Reason.STATE_UNAVAILABLE
            assert refused.value.retry_after is not None
        bare.hset(meta, "frozen", (seconds - 1) * 1000)  # who froze it has died
    assert alone.client.add_labels(session, {"item-1": "positive"}, "bob").revision
