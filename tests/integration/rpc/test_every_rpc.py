"""Each RPC does what its comment in selection.proto says."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.fixtures.servers import Pools, is_spam, kind_of

from coresift.client import (
    KEEP,
    RETRACT,
    UNSURE,
    All,
    Anchors,
    BatchPolicy,
    Client,
    Groups,
    HeadConfig,
    Label,
    Metric,
    Mix,
    NotFound,
    Outcome,
    Phase,
    Reason,
    ReleaseReason,
    Seals,
    StopAdvice,
    StopRule,
    Strategy,
    Task,
)
from coresift.v1 import selection_pb2 as pb
from coresift.v1.selection_pb2_grpc import SelectionServiceStub


def near(moment: datetime | None, seconds: float) -> bool:
    """Whether a moment lies about so many seconds from now."""
    assert moment is not None
    return abs((moment - datetime.now(UTC)).total_seconds() - seconds) < 30


def test_every_rpc_has_its_test() -> None:
    methods = pb.DESCRIPTOR.services_by_name["SelectionService"].methods
    names = {re.sub(r"(?<!^)([A-Z])", r"_\1", method.name).lower() for method in methods}
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert names == tests - {"every_rpc_has_its_test"}


def test_create_session(client: Client) -> None:
    chosen = f"mine:{uuid4()}"
    session = client.create_session(
        "things",
        Task.MULTICLASS,
        ["ham", "eggs"],
        strategy="margin",
        candidates=Seals(7),
        head=HeadConfig(2.5, "balanced"),  # type: ignore[arg-type]
        seed=2**64 - 1,
        votes_per_item=3,
        label_budget=0,
        lease_duration=90.5,
        session_id=chosen,
    )
    assert session.session_id == chosen
    assert (session.task, session.classes) == (Task.MULTICLASS, ("ham", "eggs"))
    assert (session.strategy, session.candidates) == (Strategy("margin"), Seals(7))
    assert (session.head, session.seed) == (HeadConfig(2.5, "balanced"), 2**64 - 1)  # type: ignore[arg-type]
    assert (session.votes_per_item, session.label_budget) == (3, 0)
    assert session.lease_duration == timedelta(seconds=90.5)
    assert near(session.create_time, 0)
    assert (session.basis.config_version, session.basis.revision) == (1, 0)
    plain = client.create_session("growing")
    assert plain.classes == ("negative", "positive")
    assert (plain.strategy, plain.candidates) == (Strategy("max_entropy"), Seals(100))
    assert (plain.head, plain.votes_per_item, plain.label_budget) == (HeadConfig(), 1, None)
    assert plain.lease_duration == timedelta(minutes=15)
    assert plain.pool_version == client.get_pool("growing").version
    assert (plain.filter, plain.batch, plain.groups) == ("", BatchPolicy("top"), None)
    assert (plain.explore_fraction, plain.validation_size, plain.prior_head) == (0.0, 0, "")
    mix = Mix([(Strategy("information_density", beta=2.5), 3.0), (Strategy("random"), 1.0)])
    batch = BatchPolicy("power", beta=2.0, max_similarity=0.9, class_shares={"eggs": 0.5})
    full = client.create_session(
        "things",
        Task.MULTICLASS,
        ["ham", "eggs"],
        strategy=mix,
        candidates=Anchors(50, per_class=3, neighbours=7),
        filter="text != 'a spam'",
        batch=batch,
        groups=Groups("uri", one_lease=True),
        explore_fraction=0.25,
        validation_size=12,
        stop=StopRule(0.9, confidence=0.8, class_name="eggs"),
    )
    assert (full.strategy, full.batch, full.filter) == (mix, batch, "text != 'a spam'")
    assert full.candidates == Anchors(50, per_class=3, neighbours=7)
    assert full.groups == Groups("uri", one_lease=True)
    assert (full.explore_fraction, full.validation_size) == (0.25, 12)
    assert full.stop == StopRule(0.9, confidence=0.8, class_name="eggs")
    assert client.get_session(full) == full


def test_get_session(client: Client) -> None:
    session = client.create_session("things")
    assert client.get_session(session) == session
    result = client.add_labels(session, {"item-1": "positive"}, "ann")
    assert client.get_session(session).basis.revision == result.revision > 0


def test_list_sessions(client: Client) -> None:
    prefix = f"list/{uuid4()}"
    ids = [client.create_session("things", session_id=f"{prefix}/{n}").session_id for n in range(5)]
    for size in (2, 0, 10_000):
        listed = [session.session_id for session in client.list_sessions(page_size=size)]
        assert [i for i in listed if i.startswith(prefix)] == ids
        assert listed == sorted(listed, key=str.encode)


def test_update_session(client: Client) -> None:
    session = client.create_session("things", label_budget=5, candidates=Seals(9))
    changed = client.update_session(
        session,
        strategy="random",
        candidates=All(),
        filter="",
        head=HeadConfig(7.0),
        votes_per_item=2,
        label_budget=None,
        lease_duration=30,
        expected_config_version=1,
    )
    assert (changed.strategy, changed.candidates) == (Strategy("random"), All())
    assert (changed.head.c, changed.votes_per_item, changed.label_budget) == (7.0, 2, None)
    assert changed.lease_duration == timedelta(seconds=30)
    assert changed.basis.config_version == 2
    assert (changed.seed, changed.task, changed.pool_version) == (
        session.seed,
        session.task,
        session.pool_version,
    )
    kept = client.update_session(session, strategy="margin", label_budget=KEEP)
    assert (kept.strategy, kept.candidates, kept.votes_per_item) == (Strategy("margin"), All(), 2)
    assert client.get_session(session) == kept


def test_delete_session(client: Client) -> None:
    session = client.create_session("things")
    client.next_batch(session, "ann", 2)
    assert near(client.delete_session(session), 24 * 3_600)
    for call in (client.get_session, client.progress, client.head):
        with pytest.raises(NotFound) as caught:
            call(session)
        assert caught.value.reason is Reason.SESSION_NOT_FOUND
    with pytest.raises(NotFound):
        client.next_batch(session, "ann", 2)
    with pytest.raises(NotFound):
        client.add_labels(session, {"item-1": "positive"}, "ann")
    assert session.session_id not in [s.session_id for s in client.list_sessions(page_size=1_000)]
    with pytest.raises(Exception, match="taken") as taken:
        client.create_session("things", session_id=session.session_id)
    assert taken.value.reason is Reason.SESSION_EXISTS  # type: ignore[attr-defined]


def test_undelete_session(client: Client) -> None:
    session = client.create_session("things")
    client.add_labels(session, {"item-1": "positive"}, "ann")
    before = client.get_session(session)
    client.delete_session(session)
    assert client.undelete_session(session) == before == client.get_session(session)
    with pytest.raises(NotFound):
        client.undelete_session(session)


def test_export_session(client: Client, tmp_path: Path) -> None:
    session = client.create_session("things")
    client.add_labels(session, {"item-1": "positive"}, "ann")
    size = client.export_session(session, tmp_path / "file")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").stat().st_size == size > 0


def test_import_session(client: Client, tmp_path: Path) -> None:
    session = client.create_session("things")
    client.add_labels(session, {"item-1": "positive"}, "ann")
    client.export_session(session, tmp_path / "file")
    other = client.import_session(tmp_path / "file", session_id=f"other-{uuid4()}")
    assert list(client.list_labels(other)) == list(client.list_labels(session))
    assert other.basis == client.get_session(session).basis


def test_erase_annotator(client: Client) -> None:
    session = client.create_session("things")
    client.add_labels(session, {"item-1": "positive"}, "ann")
    erased = client.erase_annotator(session, "ann")
    assert erased.entries == 1
    assert [label.annotator for label in client.list_labels(session)] == [erased.replacement]


def test_get_session_progress(client: Client, stub: SelectionServiceStub) -> None:
    session = client.create_session("things", candidates=All(), label_budget=12)
    empty = client.progress(session)
    assert (empty.pool_items, empty.labelled_items, empty.votes) == (600, 0, 0)
    assert (empty.candidates, empty.considered_share) == (600, 1.0)
    assert empty.unfitted_classes == ("positive",)
    assert empty.stop_advice is StopAdvice.CONTINUE
    labels = [Label(f"item-{n}", is_spam(f"item-{n}")) for n in range(9)]
    client.add_labels(session, [*labels, Label("item-9", UNSURE)], "ann")
    client.add_labels(session, {"item-0": "positive"}, "bob")
    client.add_labels(session, [Label("item-1", RETRACT)], "ann")
    client.next_batch(session, "ann", 2)
    client.release_leases(session, "ann", ["item-50"], ReleaseReason.CANNOT_LABEL)
    now = client.progress(session)
    assert (now.labelled_items, now.votes, now.unsure_votes) == (9, 10, 1)
    assert [(c.class_name, c.positive) for c in now.classes] == [("negative", 5), ("positive", 4)]
    assert (now.live_leases, now.hidden_items, now.candidates) == (2, 1, 591)
    assert now.unfitted_classes == ()
    assert now.basis.head_version == client.head(session).basis.head_version != ""
    client.add_labels(session, {"item-60": "negative", "item-61": "negative"}, "ann")
    assert client.progress(session).stop_advice is StopAdvice.BUDGET_SPENT
    answer = stub.GetSessionProgress(pb.GetSessionProgressRequest(session_id=session.session_id))
    assert answer.stop_reason == "the label budget of 12 is spent"
    assert (answer.eligible_items, answer.labels_per_hour) == (600, 13)
    assert not answer.HasField("validation")
    assert list(answer.head_agreement) == []
    assert answer.random_sample.class_name == "positive"


def test_next_batch(client: Client) -> None:
    session = client.create_session("things", seed=5)
    batch = client.next_batch(session, "ann", 10, lease_duration=60)
    assert len(set(batch.item_ids)) == 10
    assert near(batch.lease_deadline, 60)
    assert batch.next_available_time is None
    assert (batch.basis.seed, batch.basis.revision, batch.basis.head_version) == (5, 0, "")
    for pick in batch:
        assert dict(pick.metadata) == {
            "text": f"a {kind_of(pick.item_id)}",
            "uri": f"s3://{pick.item_id}",
        }
        assert np.isnan(pick.score)
        assert pick.predicted_class == ""
    assert client.next_batch(session, "bob", 1, include_metadata=False)[0].metadata == {}
    client.add_labels(session, {i: is_spam(i) for i in batch.item_ids}, "ann", batch=batch)
    later = client.next_batch(session, "ann", 1_000)
    assert len(later) == 1_000 - 411  # all but the labelled and bob's
    assert later.phase is Phase.SELECTING
    assert not set(later.item_ids) & set(batch.item_ids)
    head = client.head(session)
    assert later.basis == head.basis
    assert {pick.predicted_class for pick in later} <= {"", "negative", "positive"}


def test_add_labels(client: Client) -> None:
    session = client.create_session("things")
    batch = client.next_batch(session, "ann", 3)
    a, b, c = batch.item_ids
    first = client.add_labels(session, {a: "positive", b: "negative"}, "ann", batch=batch)
    assert first.outcomes == (Outcome.NEW, Outcome.NEW)
    assert [lease.item_id for lease in client.list_leases(session)] == [c]
    second = client.add_labels(session, {a: "negative", b: "negative"}, "ann")
    assert second.outcomes == (Outcome.CORRECTED, Outcome.UNCHANGED)
    assert second.revision > first.revision
    retraction = client.add_labels(session, [Label(a, RETRACT), Label(a, RETRACT)], "ann")
    assert retraction.outcomes == (Outcome.RETRACTED, Outcome.UNCHANGED)
    surplus = client.add_labels(session, {b: "negative"}, "bob")
    assert surplus.outcomes == (Outcome.SURPLUS,)
    client.release_leases(session, "ann", [c])
    late = client.add_labels(session, {c: "positive"}, "ann", batch=batch)
    assert late.outcomes == (Outcome.LATE,)
    twice = client.add_labels(session, [Label("item-5", UNSURE)] * 2, "ann")
    assert twice.outcomes == (Outcome.NEW, Outcome.UNCHANGED)


def test_renew_leases(client: Client) -> None:
    session = client.create_session("things", lease_duration=60)
    items = client.next_batch(session, "ann", 3).item_ids
    others = client.next_batch(session, "bob", 1).item_ids
    renewal = client.renew_leases(session, "ann", [items[0], others[0]], lease_duration=600)
    assert (renewal.renewed, renewal.lost) == ((items[0],), (others[0],))
    assert near(renewal.lease_deadline, 600)
    deadlines = {lease.item_id: lease.deadline for lease in client.list_leases(session)}
    assert deadlines[items[0]] == renewal.lease_deadline
    assert near(deadlines[items[1]], 60)
    whole = client.renew_leases(session, "ann")
    assert (set(whole.renewed), whole.lost) == (set(items), ())
    assert near(whole.lease_deadline, 60)
    nothing = client.renew_leases(session, "eve")
    assert (nothing.renewed, nothing.lost) == ((), ())


def test_release_leases(client: Client) -> None:
    session = client.create_session("things")
    a, b, c = client.next_batch(session, "ann", 3).item_ids
    assert client.release_leases(session, "ann", [a, "item-599"]) == [a]
    assert client.release_leases(session, "ann", [b], ReleaseReason.SKIP) == [b]
    assert client.release_leases(session, "ann", [c], ReleaseReason.CANNOT_LABEL) == [c]
    assert list(client.list_leases(session)) == []
    mine = set(client.next_batch(session, "ann", 1_000).item_ids)
    mine |= set(client.next_batch(session, "ann", 1_000).item_ids)
    assert a in mine
    assert not {b, c} & mine
    client.release_leases(session, "ann", list(mine))
    theirs = set(client.next_batch(session, "bob", 1_000).item_ids)
    theirs |= set(client.next_batch(session, "bob", 1_000).item_ids)
    assert {a, b} <= theirs
    assert c not in theirs


def test_list_leases(client: Client) -> None:
    session = client.create_session("things", votes_per_item=2)
    ann, bob = (client.next_batch(session, name, 5) for name in ("ann", "bob"))
    everyone = list(client.list_leases(session, page_size=3))
    held = [(int(lease.item_id.removeprefix("item-")), lease.annotator) for lease in everyone]
    assert held == sorted(held)
    assert len(held) == 10
    assert all(lease.lease_token == b"" for lease in everyone)
    mine = list(client.list_leases(session, "ann", page_size=2))
    assert {lease.item_id for lease in mine} == set(ann.item_ids)
    assert {lease.deadline for lease in mine} == {ann.lease_deadline}
    assert mine[0].metadata["uri"] == f"s3://{mine[0].item_id}"
    # A page that was loaded anew labels with the tokens that it finds here.
    labels = {lease.item_id: "positive" for lease in mine}
    assert set(client.add_labels(session, labels, "ann", batch=mine).outcomes) == {Outcome.NEW}
    assert {lease.annotator for lease in client.list_leases(session)} == {"bob"}
    assert len(bob) == 5


def test_list_consensus(client: Client, stub: SelectionServiceStub) -> None:
    session = client.create_session("things", votes_per_item=2)
    client.add_labels(session, {"item-9": "positive", "item-2": "negative"}, "bob")
    client.add_labels(session, {"item-9": "positive", "item-2": "positive"}, "ann")
    request = pb.ListConsensusRequest(session_id=session.session_id)
    answer = stub.ListConsensus(request)
    assert answer.basis.revision == client.progress(session).basis.revision
    assert [(i.item_id, i.class_name, i.agreement) for i in answer.items] == [
        ("item-2", "", 0.5),
        ("item-9", "positive", 1.0),
    ]
    assert [item.is_conflict for item in answer.items] == [True, False]
    shares = [(a.annotator, a.votes, a.compared, a.agreed) for a in answer.annotators]
    assert shares == [("ann", 2, 2, 1), ("bob", 2, 2, 1)]
    request.only_conflicts = True
    assert list(stub.ListConsensus(request).items) == [answer.items[0]]


def test_list_labels(client: Client, stub: SelectionServiceStub) -> None:
    session = client.create_session("things")
    assert list(client.list_labels(session)) == []
    results = [client.add_labels(session, {f"item-{n}": "positive"}, "ann") for n in range(3)]
    client.next_batch(session, "ann", 2)
    results.append(client.add_labels(session, [Label("item-1", RETRACT)], "bob"))
    many = {f"item-{n}": "negative" for n in range(10, 600)}
    results += [client.add_labels(session, many, name) for name in ("cat", "dan")]
    records = list(client.list_labels(session))
    assert len(records) == 4 + 2 * 590
    assert [r.item_id for r in records[:4]] == ["item-0", "item-1", "item-2", "item-1"]
    assert [r.annotator for r in records[:4]] == ["ann", "ann", "ann", "bob"]
    assert [r.value for r in records[:4]] == ["positive"] * 3 + [RETRACT]
    assert records[3].outcome is Outcome.UNCHANGED
    assert near(records[0].time, 0)
    revisions = [result.revision for result in results]
    assert sorted({record.revision for record in records}) == revisions
    part = client.list_labels(session, revisions[1], revisions[3])
    assert [record.revision for record in part] == revisions[1:3]
    assert list(client.list_labels(session, revisions[-1] + 1)) == []
    # Large messages, not one a call: 594 labels, then 590.
    messages = list(stub.ListLabels(pb.ListLabelsRequest(session_id=session.session_id)))
    assert [len(message.labels) for message in messages] == [594, 590]
    assert [message.basis.revision for message in messages] == revisions[-2:]


def fitted(client: Client, pool: str = "things") -> str:
    session = client.create_session(pool)
    client.add_labels(session, {f"item-{n}": is_spam(f"item-{n}") for n in range(20)}, "ann")
    return session.session_id


def test_predict(client: Client, stub: SelectionServiceStub, pools: Pools) -> None:
    session = fitted(client, "large")
    # 30,000 rows travel in some messages of at most a mebibyte.
    top = pb.PredictRequest(session_id=session, top=pb.PoolTop(count=30_000))
    messages = list(stub.Predict(top))
    assert 1 < len(messages) < 10
    assert sum(message.count for message in messages) == 30_000
    assert all(message.ByteSize() < 2**20 for message in messages)
    whole = client.predict(session, top=30_000)
    items = client.predict(session, items=pools.large.item_ids)
    by_id = dict(zip(items.item_ids, items.probabilities[:, 0], strict=True))
    assert [by_id[i] for i in whole.item_ids] == whole.probabilities[:, 0].tolist()
    assert whole.basis == items.basis == client.head(session).basis


def test_score_vectors(client: Client, pools: Pools) -> None:
    session = fitted(client)
    batch = client.next_batch(session, "ann", 5)
    vectors = np.stack([pools.things.vector(i) for i in batch.item_ids])
    answer = client.score_vectors(session, vectors)
    np.testing.assert_allclose(answer.scores, [pick.score for pick in batch], atol=1e-6)
    assert answer.basis == batch.basis


def test_search_pool(client: Client, pools: Pools) -> None:
    vectors = pools.things.vectors.astype(np.float64)
    similarity = vectors @ vectors[7]
    order = np.lexsort((np.arange(600), -similarity))
    found = client.search_pool("things", item_id="item-7", count=20)
    assert [n.item_id for n in found] == [f"item-{row}" for row in order[1:21]]
    np.testing.assert_allclose([n.similarity for n in found], similarity[order[1:21]], atol=1e-6)
    assert found[0].metadata == {
        "text": f"a {kind_of(found[0].item_id)}",
        "uri": f"s3://{found[0].item_id}",
    }
    by_vector = client.search_pool("things", vector=9 * vectors[7], count=21)
    assert [n.item_id for n in by_vector] == [f"item-{row}" for row in order[:21]]
    assert len(client.search_pool("things", item_id="item-7", count=1_000)) == 599
    first = pools.growing.item_ids[0]
    old = client.list_pools()
    version = next(pool.version for pool in old if pool.name == "growing")
    assert len(client.search_pool("growing", item_id=first, count=1_000)) == 239
    assert (
        len(client.search_pool("growing", item_id=first, count=1_000, pool_version=version)) == 199
    )


def test_get_head(client: Client, pools: Pools) -> None:
    session = fitted(client)
    head = client.head(session)
    assert (head.weights.shape, head.bias.shape) == ((1, 16), (1,))
    assert head.classes == ("positive",)
    labelled = [f"item-{n}" for n in range(20)]
    X = np.stack([pools.things.vector(i) for i in labelled]).astype(np.float64)
    y = np.array([is_spam(i) == "positive" for i in labelled])
    # At the optimum of 0.5 |w|^2 + C sum(log-loss), the gradient vanishes.
    p = 1 / (1 + np.exp(-head.logits(X)[:, 0]))
    gradient = head.weights[0] + 100 * X.T @ (p - y)
    assert np.linalg.norm(gradient) < 1e-3
    assert abs(100 * (p - y).sum()) < 1e-3
    client.add_labels(session, {"item-30": "positive"}, "ann")
    assert client.head(session).basis.head_version != head.basis.head_version


def test_put_signals(client: Client, pools: Pools) -> None:
    rng = np.random.default_rng(0)
    shuffled = rng.permutation(240)
    ids = [pools.grown.item_ids[row] for row in shuffled]
    two = rng.normal(size=(240, 2)).astype(np.float32)
    numbers = client.put_signals("growing", "put.numbers", ids, two, columns=["loss", "forgetting"])
    assert (numbers.count, numbers.columns) == (240, ("loss", "forgetting"))
    assert near(numbers.create_time, 0)
    table = pq.read_table(numbers.uri.removeprefix("file://"))
    values = np.stack([table["loss"].to_numpy(), table["forgetting"].to_numpy()], axis=1)
    np.testing.assert_array_equal(values[shuffled], two)
    first = next(pool.version for pool in client.list_pools() if pool.name == "growing")
    classes = client.put_signals(
        "growing",
        "put.class",
        pools.growing.item_ids,
        np.arange(200) % 3,
        kind="class",
        pool_version=first,
    )
    assert (classes.count, classes.pool_version) == (200, first)


def test_list_signals(client: Client, pools: Pools) -> None:
    names = [f"list-{n}" for n in range(4)]
    signals = [
        client.put_signals("growing", name, pools.grown.item_ids, np.ones(240)) for name in names
    ]
    for size in (1, 3, 0):
        listed = list(client.list_signals("growing", page_size=size))
        assert [s for s in listed if s.name in names] == signals
        assert [s.name for s in listed] == sorted(s.name for s in listed)
    assert not {s.name for s in client.list_signals("things")} & set(names)


def test_delete_signals(client: Client, pools: Pools) -> None:
    client.put_signals("growing", "doomed", pools.grown.item_ids, np.ones(240))
    client.delete_signals("growing", "doomed")
    assert "doomed" not in [signal.name for signal in client.list_signals("growing")]
    with pytest.raises(NotFound) as caught:
        client.delete_signals("growing", "doomed")
    assert caught.value.reason is Reason.SIGNAL_NOT_FOUND


def test_score_coreset(client: Client) -> None:
    by_random = client.score_coreset("random", 50, pool="things", seed=1)
    assert len(set(by_random.item_ids)) == 50
    assert by_random.weights is None
    assert by_random.summary.covering_radius is not None
    assert by_random.summary.measured_items == by_random.plan.pool_items
    assert client.score_coreset("random", 50, pool="things", seed=2).item_ids != by_random.item_ids
    session = fitted(client)
    proxy = client.score_coreset("max_entropy", 600, session=session)
    p = client.predict(session, items=list(proxy.item_ids)).probabilities[:, 0].astype(np.float64)
    entropy = -(p * np.log(p) + (1 - p) * np.log1p(-p))
    np.testing.assert_allclose(proxy.scores, entropy, atol=1e-5)
    assert (np.diff(proxy.scores) <= 0).all()
    assert proxy.plan.basis == client.head(session).basis


def test_cancel_coreset(client: Client) -> None:
    job = client.score_coreset("random", 5, pool="things").plan.job_id
    assert client.cancel_coreset(job) is False


def test_get_pool(client: Client, pools: Pools) -> None:
    pool = client.get_pool("things")
    assert (pool.items, pool.dimension, pool.dtype) == (600, 16, "float32")
    assert (pool.metric, pool.index_kind, pool.neighbours) == (Metric.COSINE, "flat", 0)
    assert pool.neighbours_recall == 0
    assert pool.metadata_columns == ("text", "uri")
    assert (pool.max_batch_size, pool.max_labels_per_call) == (1_000, 1_000)
    assert pool.max_vectors_per_call == 10_000
    assert pool.parent_version == ""
    newest = client.get_pool("growing")
    assert newest.items == 240
    oldest = client.get_pool("growing", newest.parent_version)
    assert (oldest.items, oldest.parent_version) == (200, "")


def test_get_items(client: Client, pools: Pools) -> None:
    three, zero = pools.things.item_ids[3], pools.things.item_ids[0]
    found = client.get_items("things", [three, "nothing", zero])
    assert list(found.metadata) == [three, zero]
    assert found.metadata[three]["text"] == "a ham"
    assert found.missing == ("nothing",)
    oldest = client.get_pool("growing").parent_version
    newer = pools.grown.item_ids[-1]
    assert client.get_items("growing", [newer], pool_version=oldest).missing == (newer,)
    assert not client.get_items("growing", [newer]).missing


def test_list_pools(client: Client) -> None:
    for size in (1, 2, 3, 0):
        pools = list(client.list_pools(page_size=size))
        assert [(p.name, p.items) for p in pools] == [
            ("growing", 200),
            ("growing", 240),
            ("large", 30_000),
            ("things", 600),
        ]
