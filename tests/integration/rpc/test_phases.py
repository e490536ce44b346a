"""How a session goes on: phases, quotas, budgets, and items that come back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from tests.fixtures.servers import Pools, is_spam

from coresift.client import (
    RETRACT,
    All,
    Client,
    Label,
    Mix,
    Outcome,
    Phase,
    Pick,
    PickReason,
    ReleaseReason,
    Session,
    StopAdvice,
)


def everything(client: Client, session: Session, annotator: str) -> list[Pick]:
    """All that the annotator can get."""
    picks: list[Pick] = []
    while batch := client.next_batch(session, annotator, 1_000):
        picks += batch
    return picks


def label(client: Client, session: Session, picks: Iterable[Pick], annotator: str) -> None:
    picks = list(picks)
    truth = {pick.item_id: is_spam(pick.item_id) for pick in picks}
    client.add_labels(session, truth, annotator, batch=picks)


def ids(picks: Iterable[Pick]) -> set[str]:
    return {pick.item_id for pick in picks}


def test_from_cold_start_to_exhausted(client: Client, pools: Pools) -> None:
    session = client.create_session("things", candidates=All())
    first = client.next_batch(session, "ann", 30)
    assert first.phase is Phase.COLD_START
    label(client, session, first, "ann")
    rest = client.next_batch(session, "ann", 1_000)
    assert rest.phase is Phase.SELECTING
    assert len(rest) == 570
    waiting = client.next_batch(session, "bob", 1_000)
    assert (waiting.phase, len(waiting)) == (Phase.WAITING, 0)
    assert waiting.next_available_time == rest.lease_deadline
    assert waiting.lease_deadline is None
    mine = client.next_batch(session, "ann", 1_000)
    assert (mine.phase, mine.next_available_time) == (Phase.EXHAUSTED, None)
    label(client, session, rest, "ann")
    for name in ("ann", "bob"):
        assert client.next_batch(session, name, 9).phase is Phase.EXHAUSTED
    progress = client.progress(session)
    assert progress.stop_advice is StopAdvice.POOL_EXHAUSTED
    assert (progress.labelled_items, progress.candidates) == (len(pools.things.item_ids), 0)


def test_cold_start_after_a_positive_looks_near_it(client: Client) -> None:
    session = client.create_session("things")
    client.add_labels(session, {"item-2": "positive"}, "ann")
    near = {n.item_id for n in client.search_pool("things", item_id="item-2", count=20)}
    batch = client.next_batch(session, "ann", 40)
    assert batch.phase is Phase.COLD_START
    assert len(near & set(batch.item_ids)) == 20


def test_waiting_ends_when_a_lease_does(client: Client) -> None:
    session = client.create_session("things")
    label(client, session, client.next_batch(session, "ann", 590), "ann")
    held = client.next_batch(session, "ann", 10, lease_duration=1)
    waiting = client.next_batch(session, "bob", 10)
    assert waiting.phase is Phase.WAITING
    assert waiting.next_available_time == held.lease_deadline
    assert waiting.next_available_time is not None
    while datetime.now(UTC) < waiting.next_available_time + timedelta(milliseconds=1):
        assert client.get_session(session) is not None
    again = client.next_batch(session, "bob", 10)
    assert set(again.item_ids) == set(held.item_ids)
    late = client.add_labels(session, {held.item_ids[0]: "positive"}, "ann", batch=held)
    assert late.outcomes == (Outcome.LATE,)
    assert client.renew_leases(session, "ann", held.item_ids).lost == tuple(held.item_ids)


def test_the_budget_counts_labels_and_leases(client: Client) -> None:
    session = client.create_session("things", label_budget=25)
    first = client.next_batch(session, "ann", 20)
    assert len(first) == 20
    second = client.next_batch(session, "bob", 20)
    assert len(second) == 5
    full = client.next_batch(session, "cat", 20)
    assert (full.phase, len(full)) == (Phase.WAITING, 0)
    assert full.next_available_time == first.lease_deadline
    client.release_leases(session, "bob", second.item_ids[:2])
    assert len(client.next_batch(session, "cat", 20)) == 2
    label(client, session, first, "ann")
    for lease in list(client.list_leases(session)):
        client.add_labels(session, {lease.item_id: is_spam(lease.item_id)}, lease.annotator)
    spent = client.next_batch(session, "ann", 1)
    assert (spent.phase, spent.next_available_time) == (Phase.EXHAUSTED, None)
    assert client.progress(session).stop_advice is StopAdvice.BUDGET_SPENT
    client.update_session(session, label_budget=26)
    assert len(client.next_batch(session, "ann", 10)) == 1


def test_two_votes_come_from_two_annotators(client: Client) -> None:
    session = client.create_session("things", votes_per_item=2)
    ann = client.next_batch(session, "ann", 12)
    label(client, session, ann, "ann")
    own = client.next_batch(session, "ann", 5)
    assert not set(own.item_ids) & set(ann.item_ids)
    bob = client.next_batch(session, "bob", 20)
    assert set(bob.item_ids[:12]) == set(ann.item_ids)  # those that lack votes come first
    assert {p.reason for p in list(bob)[:12]} == {PickReason.UNDER_VOTED}
    assert PickReason.UNDER_VOTED not in {p.reason for p in list(bob)[12:]}
    label(client, session, bob, "bob")
    client.release_leases(session, "ann", own.item_ids)
    cat = ids(everything(client, session, "cat"))
    assert not cat & set(ann.item_ids)
    assert set(bob.item_ids[12:]) <= cat
    surplus = client.add_labels(session, {ann.item_ids[0]: "positive"}, "cat")
    assert surplus.outcomes == (Outcome.SURPLUS,)


def test_skipped_items_stay_hidden_from_whom_they_should(client: Client) -> None:
    session = client.create_session("things")
    skipped, useless, returned = client.next_batch(session, "ann", 3).item_ids
    client.release_leases(session, "ann", [skipped], ReleaseReason.SKIP)
    client.release_leases(session, "ann", [useless], ReleaseReason.CANNOT_LABEL)
    client.release_leases(session, "ann", [returned], ReleaseReason.RETURN)
    ann = everything(client, session, "ann")
    assert len(ann) == 598
    assert returned in ids(ann)
    bob = everything(client, session, "bob")
    assert ids(bob) == {skipped}
    label(client, session, ann, "ann")
    label(client, session, bob, "bob")
    progress = client.progress(session)
    assert (progress.hidden_items, progress.stop_advice) == (1, StopAdvice.POOL_EXHAUSTED)
    assert client.next_batch(session, "ann", 9).phase is Phase.EXHAUSTED


def test_a_retracted_item_is_offered_again(client: Client) -> None:
    session = client.create_session("things", candidates=All())
    label(client, session, everything(client, session, "ann"), "ann")
    client.add_labels(session, [Label("item-77", RETRACT)], "ann")
    assert ids(everything(client, session, "ann")) == {"item-77"}


def test_min_revision_lets_an_older_head_choose(client: Client) -> None:
    session = client.create_session("things")
    items = [f"item-{n}" for n in range(40)]
    first = client.add_labels(session, {i: is_spam(i) for i in items[:20]}, "ann")
    assert client.next_batch(session, "ann", 1).basis.revision == first.revision
    second = client.add_labels(session, {i: is_spam(i) for i in items[20:]}, "ann")
    older = client.next_batch(session, "ann", 100, min_revision=first.revision)
    assert first.revision <= older.basis.revision <= second.revision
    assert not set(older.item_ids) & set(items)
    newer = client.next_batch(session, "ann", 100)
    assert newer.basis.revision == second.revision


def test_the_last_item_is_offered_again_once_it_is_returned(client: Client) -> None:
    session = client.create_session("things")
    label(client, session, client.next_batch(session, "ann", 599), "ann")
    [last] = client.next_batch(session, "ann", 5)
    for name in ("ann", "bob"):
        client.release_leases(session, "ann", [last.item_id])
        [again] = client.next_batch(session, name, 5)
        assert again.item_id == last.item_id


def test_picks_of_a_mix_name_their_strategy(client: Client) -> None:
    mix = Mix({"max_entropy": 3, "random": 1})
    session = client.create_session("things", strategy=mix, explore_fraction=0.2).session_id
    cold = client.next_batch(session, "ann", 5)
    assert cold.strategy == "mix"
    assert {pick.strategy for pick in cold} == {""}
    labels = {f"item-{n}": ("negative", "positive")[n % 2] for n in range(10)}
    client.add_labels(session, labels, "ann")
    batch = client.next_batch(session, "ann", 20)
    by = Counter((pick.reason, pick.strategy) for pick in batch)
    assert by == {
        (PickReason.EXPLOIT, "max_entropy"): 12,
        (PickReason.EXPLOIT, "random"): 4,
        (PickReason.EXPLORE, ""): 4,
    }
