"""Both clients, the command line and the simulation against a real server on a real Redis."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from coresift.client import (
    RETRACT,
    UNSURE,
    All,
    AlreadyExists,
    AsyncClient,
    Client,
    Conflict,
    CoresetMethod,
    CoresetProgress,
    CoresiftError,
    InvalidInput,
    Label,
    Metric,
    NotFound,
    Outcome,
    Phase,
    PreconditionFailed,
    Reason,
    Sampler,
    Seals,
    SignalKind,
    Strategy,
    Targets,
    Task,
    TrainingDynamics,
)
from coresift.client.cli import build
from coresift.client.simulation.dataset import Dataset, load
from coresift.client.simulation.server import own_service

POOL = "tiny"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two classes of 400 and 100 items around two directions, in 16 dimensions."""
    folder = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [400, 100]).astype(np.int32)
    X = rng.normal(size=(500, 16)) + 2 * np.eye(16)[labels]
    np.save(folder / "embeddings.npy", X.astype(np.float32))
    np.save(folder / "labels.npy", labels)
    np.save(folder / "test_index.npy", np.arange(0, 500, 5))
    (folder / "label_names.json").write_text('["many", "few"]')
    ids = "".join(f"item-{n:03}\n" for n in range(500))
    (folder / "ids.txt.gz").write_bytes(gzip.compress(ids.encode()))
    return load(folder)


@pytest.fixture(scope="module")
def target(data: Dataset) -> Iterator[str]:
    with own_service(data, POOL) as target:
        yield target


@pytest.fixture
def client(target: str) -> Iterator[Client]:
    with Client(target) as client:
        yield client


def truth(data: Dataset, item_ids: list[str]) -> dict[str, str]:
    place = {item_id: n for n, item_id in enumerate(data.item_ids)}
    return {i: ("negative", "positive")[data.labels[place[i]]] for i in item_ids}


def test_the_readme_in_small(client: Client, data: Dataset) -> None:
    session = client.create_session(POOL, candidates=Seals(20), seed=7)
    hits = client.search_pool(POOL, item_id=data.item_ids[-1], count=20)
    assert data.item_ids[-1] not in {hit.item_id for hit in hits}
    similarities = [hit.similarity for hit in hits]
    assert similarities == sorted(similarities, reverse=True)
    client.add_labels(session, truth(data, [hit.item_id for hit in hits]), "ann")
    found = {hit.item_id for hit in hits}
    others = [item_id for item_id in data.item_ids if item_id not in found][:20]
    client.add_labels(session, truth(data, others), "ann")
    batch = client.next_batch(session, "ann", size=20)
    assert batch.phase is Phase.SELECTING
    assert len(batch) == 20
    result = client.add_labels(session, truth(data, batch.item_ids), "ann", batch=batch)
    assert result.counts == {Outcome.NEW: 20}
    progress = client.progress(session)
    assert progress.labelled_items == 60
    assert progress.live_leases == 0
    assert progress.basis.revision == result.revision
    assert 0 < progress.considered_share <= 1
    head = client.head(session)
    predictions = client.predict(session, vectors=data.test_vectors)
    expected = 1 / (1 + np.exp(-head.logits(data.test_vectors)))
    np.testing.assert_allclose(predictions.probabilities, expected, atol=1e-5)
    top = client.predict(session, top=5)
    again = client.predict(session, items=list(top.item_ids))
    np.testing.assert_allclose(again.probabilities, top.probabilities, atol=1e-6)
    scores = client.score_vectors(session, data.test_vectors)
    assert scores.scores.shape == (100,)
    coreset = client.score_coreset("max_entropy", 30, session=session)
    assert len(set(coreset.item_ids)) == 30


def test_session_life(client: Client) -> None:
    session = client.create_session(
        POOL,
        Task.MULTICLASS,
        ["a", "b", "c"],
        strategy="margin",
        candidates=All(),
        label_budget=5,
        session_id="mine/1",
        lease_duration=60,
    )
    assert session.session_id == "mine/1"
    assert session.label_budget == 5
    assert session.lease_duration.total_seconds() == 60
    assert client.get_session("mine/1") == session
    with pytest.raises(AlreadyExists) as caught:
        client.create_session(POOL, session_id="mine/1")
    assert caught.value.reason is Reason.SESSION_EXISTS
    updated = client.update_session(session, strategy="random", label_budget=None)
    assert (updated.strategy, updated.label_budget) == (Strategy("random"), None)
    assert updated.candidates == All()
    with pytest.raises(Conflict):
        client.update_session(session, strategy="margin", expected_config_version=1)
    assert "mine/1" in [found.session_id for found in client.list_sessions(page_size=1)]
    assert client.delete_session(session).timestamp() > time.time() + 23 * 3600
    with pytest.raises(NotFound):
        client.get_session(session)


def test_leases_and_labels(client: Client) -> None:
    session = client.create_session(POOL, seed=1)
    batch = client.next_batch(session, "ann", size=4)
    assert batch.phase is Phase.COLD_START
    a, b, c, d = batch.item_ids
    held = {lease.item_id: lease for lease in client.list_leases(session, "ann", page_size=1)}
    assert held.keys() == {a, b, c, d}
    assert all(lease.lease_token for lease in held.values())
    renewal = client.renew_leases(session, "ann", lease_duration=3600)
    assert set(renewal.renewed) == {a, b, c, d}
    assert client.release_leases(session, "ann", [a], "skip") == [a]
    labels = [Label(b, "positive"), Label(c, UNSURE), Label(d, "negative")]
    first = client.add_labels(session, labels, "ann", batch=held.values())
    client.add_labels(session, [Label(d, RETRACT)], "ann")
    assert client.add_labels(session, {b: "negative"}, "ann").outcomes == (Outcome.CORRECTED,)
    records = list(client.list_labels(session))
    assert [(r.item_id, r.value) for r in records[:3]] == [(x.item_id, x.value) for x in labels]
    assert [r.outcome for r in records[3:]] == [Outcome.RETRACTED, Outcome.CORRECTED]
    only_first = client.list_labels(session, first.revision, first.revision + 1)
    assert [r.item_id for r in only_first] == [b, c, d]
    with pytest.raises(PreconditionFailed) as caught:
        client.head(session)
    assert caught.value.reason is Reason.HEAD_NOT_FITTED


def test_refusals_name_the_field(client: Client) -> None:
    session = client.create_session(POOL)
    with pytest.raises(InvalidInput) as caught:
        client.next_batch(session, "ann", size=1001)
    assert caught.value.reason is Reason.INVALID_FIELD
    assert [violation.field for violation in caught.value.field_violations] == ["size"]
    with pytest.raises(InvalidInput) as caught:
        client.search_pool(POOL, vector=np.ones(3))
    assert caught.value.reason is Reason.INVALID_VECTOR
    with pytest.raises(NotFound) as missing:
        client.add_labels(session, {"nobody": "positive"}, "ann")
    assert missing.value.reason is Reason.ITEM_NOT_FOUND
    with pytest.raises(InvalidInput) as caught:
        client.add_labels(session, {}, "ann")


def test_writes_are_repeatable(client: Client) -> None:
    session = client.create_session(POOL)
    first = client.next_batch(session, "ann", 3, request_id="r1")
    second = client.next_batch(session, "ann", 3, request_id="r1")
    assert second.item_ids == first.item_ids
    assert second.lease_deadline == first.lease_deadline
    with pytest.raises(InvalidInput) as caught:
        client.next_batch(session, "ann", 4, request_id="r1")
    assert caught.value.reason is Reason.REQUEST_ID_REUSED


def test_pools(client: Client, data: Dataset) -> None:
    [pool] = client.list_pools()
    assert pool == client.get_pool(POOL)
    assert (pool.items, pool.dimension, pool.metric) == (400, 16, Metric.COSINE)
    found = client.search_pool(POOL, vector=data.vectors[3], count=1)
    assert found[0].item_id == data.item_ids[3]
    assert found[0].similarity == pytest.approx(1, abs=1e-5)


def test_signals(client: Client, data: Dataset) -> None:
    share = np.random.default_rng(0).random(400, dtype=np.float32)
    values = np.stack([share, 1 - share], axis=1)
    backwards = list(data.item_ids)[::-1]
    signal = client.put_signals(
        POOL, "two", backwards, values, kind="probabilities", columns=["a", "b"]
    )
    assert (signal.count, signal.columns) == (400, ("a", "b"))
    assert client.put_signals(POOL, "loss", data.item_ids, share).kind is SignalKind.NUMBER
    classes = client.put_signals(POOL, "class", data.item_ids, data.labels, kind="class")
    assert classes.kind is SignalKind.CLASS
    assert [found.name for found in client.list_signals(POOL)] == ["class", "loss", "two"]
    with pytest.raises(AlreadyExists):
        client.put_signals(POOL, "loss", data.item_ids, 1 - share)
    for name in ("two", "loss", "class"):
        client.delete_signals(POOL, name)
    assert list(client.list_signals(POOL)) == []
    with pytest.raises(InvalidInput):
        client.put_signals(POOL, "short", data.item_ids[:3], np.zeros(3))


def test_coresets(client: Client, data: Dataset) -> None:
    heard: list[CoresetProgress] = []
    result = client.score_coreset("k_center", 25, pool=POOL, seed=3, on_progress=heard.append)
    assert len(set(result.item_ids)) == 25
    assert result.ranks.tolist() == list(range(25))
    assert result.weights is not None
    assert result.weights.sum() == 400
    assert result.summary.covering_radius is not None
    assert result.scores[-1] >= result.summary.covering_radius
    assert result.plan.pool_items == 400
    assert result.plan.method.name == "k_center"
    assert (result.plan.sampler, result.buckets) == (None, None)
    assert result.summary.measured_items == 400
    assert result.summary.mean_max_similarity is not None
    assert heard[-1].plan == result.plan
    again = client.score_coreset("k_center", 25, pool=POOL, seed=3)
    assert again.item_ids == result.item_ids
    assert client.cancel_coreset(result.plan.job_id) is False
    with pytest.raises(InvalidInput) as caught:
        client.score_coreset("nonsense", 5, pool=POOL)
    assert caught.value.reason is Reason.UNKNOWN_METHOD
    with pytest.raises(CoresiftError):
        client.score_coreset("random", 401, pool=POOL)


def test_coresets_by_class(client: Client, data: Dataset) -> None:
    client.put_signals(POOL, "truth", data.item_ids, data.labels, kind="class")
    there = np.bincount(data.labels)
    result = client.score_coreset(
        "random", 40, pool=POOL, class_signal="truth", class_budgets="balanced", pacing_buckets=4
    )
    assert result.summary.class_counts == {0: 20, 1: 20}
    assert result.buckets is not None
    assert result.buckets.tolist() == [rank // 10 for rank in range(40)]
    assert any("truth" in note for note in result.plan.notes)
    counts = {0: 3, 1: int(there[1])}
    result = client.score_coreset(
        "random", sum(counts.values()), pool=POOL, class_signal="truth", class_budgets=counts
    )
    assert result.summary.class_counts == counts
    session = client.create_session(POOL, candidates=All())
    client.add_labels(session, truth(data, list(data.item_ids[::20])), "ann")
    result = client.score_coreset(
        "k_center",
        30,
        session=session,
        start_item_ids=[data.item_ids[1]],
        start_from_labels=True,
        predicted_classes=True,
        class_budgets="proportional",
    )
    assert len(result) == 30
    assert not {data.item_ids[1], *data.item_ids[::20]} & set(result.item_ids)
    with pytest.raises(InvalidInput, match="query"):
        client.score_coreset("random", 5, pool=POOL, query=data.item_ids[:2])
    client.delete_signals(POOL, "truth")


def test_targeted_coresets(client: Client, data: Dataset) -> None:
    few = np.flatnonzero(data.labels == 1)
    query = Targets([data.item_ids[n] for n in few[:5]], data.vectors[few[5:10]])
    result = client.score_coreset(
        "query", 20, pool=POOL, query=query, avoid=[data.item_ids[0], data.item_ids[1]]
    )
    place = {item_id: n for n, item_id in enumerate(data.item_ids)}
    chosen = data.labels[[place[item_id] for item_id in result.item_ids]]
    assert len(set(result.item_ids)) == 20
    assert not set(result.item_ids) & {*query.item_ids, data.item_ids[0], data.item_ids[1]}
    assert chosen.mean() > 2 * data.labels.mean()
    # The threshold decides how many are left.
    alike = client.score_coreset(CoresetMethod("semdedup", threshold=0.6), pool=POOL)
    assert alike.plan.budget is None
    assert 1 <= len(alike) == alike.summary.count < 400
    with pytest.raises(InvalidInput, match="budget"):
        client.score_coreset("k_center", pool=POOL)


def trained(data: Dataset, seed: int) -> TrainingDynamics:
    """Softmax regression by SGD from zero, with the recorder in its loop."""
    dynamics = TrainingDynamics(data.item_ids)
    chance = np.random.default_rng(seed)
    X, y = data.vectors.astype(np.float64), data.labels
    W = np.zeros((X.shape[1], 2))
    for _ in range(6):
        for index in np.array_split(chance.permutation(len(X)), 8):
            logits = X[index] @ W
            dynamics.record(index, logits, y[index])
            P = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            W -= 0.05 * X[index].T @ (P - np.eye(2)[y[index]])
    return dynamics


async def test_training_dynamics(target: str, client: Client, data: Dataset) -> None:
    dynamics = TrainingDynamics.merge([trained(data, seed) for seed in range(2)])
    scores = {name: values.astype(np.float32) for name, values in dynamics.columns().items()}
    assert np.isinf(scores["forgetting"]).any(), "the test wants items that are never learned"
    signal = dynamics.upload(client, POOL, "run")
    assert signal.columns == tuple(scores)
    async with AsyncClient(target) as other:
        assert (await dynamics.upload(other, POOL, "run")).content_hash == signal.content_hash
    place = {item_id: n for n, item_id in enumerate(data.item_ids)}
    for method, column, sign in (
        (CoresetMethod("forgetting", signal="run"), "forgetting", -1),
        (CoresetMethod("aum", signal="run"), "aum", 1),
    ):
        result = client.score_coreset(method, 60, pool=POOL)
        hardest = np.argsort(sign * scores[column], kind="stable")[:60]
        assert [place[item_id] for item_id in result.item_ids] == hardest.tolist()
        assert result.scores.tolist() == scores[column][hardest].tolist()
    strata = client.score_coreset(
        CoresetMethod("forgetting", signal="run"), 60, pool=POOL, sampler=Sampler("ccs", beta=0.1)
    )
    assert len(set(strata.item_ids)) == 60
    # Active learning via proxy: the user's own model decides.
    session = client.create_session(
        POOL, candidates=All(), strategy=Strategy("signal", name="run", column="entropy")
    )
    batch = client.next_batch(session, "ann", 5)
    order = np.argsort(-scores["entropy"], kind="stable").tolist()
    assert [place[item_id] for item_id in batch.item_ids] == order[:5]
    client.add_labels(session, truth(data, batch.item_ids), "ann", batch=batch)
    few = data.vectors[:, 1].astype(np.float64)
    P = 1 / (1 + np.exp(np.stack([few, -few], axis=1)))
    client.put_signals(POOL, "2", data.item_ids, P, kind="probabilities", columns=["many", "few"])
    client.update_session(session, strategy=Strategy("signal", name="2", column="few"))
    batch = client.next_batch(session, "ann", 5)
    free = [n for n in np.argsort(-P[:, 1], kind="stable").tolist() if n not in order[:5]]
    assert [place[item_id] for item_id in batch.item_ids] == free[:5]
    for name in ("run", "2"):
        client.delete_signals(POOL, name)
    short = TrainingDynamics(data.item_ids[:3])
    short.record([0, 1, 2], np.zeros((3, 2)), [0, 1, 0])
    with pytest.raises(InvalidInput, match="the pool has 400 items"):
        short.upload(client, POOL, "short")


async def test_the_asynchronous_client(target: str, data: Dataset) -> None:
    async with AsyncClient(target) as client:
        session = await client.create_session(POOL, candidates=All())
        await client.add_labels(session, truth(data, list(data.item_ids[::40])), "ann")
        batch = await client.next_batch(session, "ann", 5)
        assert batch.phase is Phase.SELECTING
        await client.add_labels(session, truth(data, batch.item_ids), "ann", batch=batch)
        records = [record async for record in client.list_labels(session)]
        assert len(records) == 15
        assert session.session_id in [s.session_id async for s in client.list_sessions()]
        coreset = await client.score_coreset("random", 7, pool=POOL)
        assert len(coreset) == 7
        assert (await client.predict(session, top=3)).probabilities.shape == (3, 1)


def invoke(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(build(), words, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def test_the_command_line(target: str, data: Dataset, tmp_path: Path) -> None:
    server = ("--server", target)
    words = ("session", "create", POOL, "--id", "cli", "--candidates", "seals:10", *server)
    assert "seals:10" in invoke(*words)
    found = json.loads(invoke("search", POOL, data.item_ids[0], "-n", "3", "--json", *server))
    assert len(found) == 3
    lines = tmp_path / "labels.txt"
    answers = truth(data, list(data.item_ids[::40]))
    lines.write_text("".join(f"{item}={label}\n" for item, label in answers.items()))
    words = ("label", "cli", "--annotator", "ann", "--file", str(lines), *server)
    assert "10 new" in invoke(*words)
    batch = json.loads(invoke("next", "cli", "-a", "ann", "-n", "2", "--json", *server))
    assert batch["phase"] == "selecting"
    first, second = (pick["item_id"] for pick in batch["picks"])
    words = ("label", "cli", f"{first}=positive", "--unsure", second, "-a", "ann", *server)
    assert "2 new" in invoke(*words)
    assert "selecting" in invoke("next", "cli", "-a", "ann", *server)
    shown = json.loads(invoke("session", "show", "cli", "--json", *server))
    assert shown["progress"]["labelled_items"] == 12
    assert "cli" in invoke("session", "list", *server)
    out = tmp_path / "core.parquet"
    invoke("coreset", "k_center", "9", "--pool", POOL, "--out", str(out), *server)
    table = pq.read_table(out)
    assert table.column_names == ["item_id", "rank", "score", "weight"]
    assert table["rank"].to_pylist() == list(range(9))
    assert set(table["item_id"].to_pylist()) <= set(data.item_ids)
    assert sum(table["weight"].to_pylist()) == 400
    start = tmp_path / "start.txt"
    start.write_text(f"{data.item_ids[0]}\n")
    shown = invoke(
        *("coreset", "k_center", "6", "--session", "cli", "--out", str(out)),
        *("--start-items", str(start), "--start-from-labels", "--predicted-classes"),
        *("--class-budgets", "proportional", "--pacing-buckets", "3", *server),
    )
    assert "6 of 400 items by k_center: about" in shown
    assert "classes are those that the session's head predicts" in " ".join(shown.split())
    assert "items by class" in shown
    assert pq.read_table(out)["bucket"].to_pylist() == [0, 0, 1, 1, 2, 2]
    np.save(tmp_path / "like.npy", data.vectors[:3])
    words = ("coreset", "query", "4", "--pool", POOL, "--query", str(tmp_path / "like.npy"))
    assert "objective" in invoke(*words, "--avoid", str(start), "--out", str(out), *server)
    words = ("coreset", "margin", "5", "--session", "cli", "--sampler", "top", "--json")
    words += ("--sampler-param", "first=easiest", "--out", str(out))
    found = json.loads(invoke(*words, *server))
    assert found["plan"]["sampler"] == {"name": "top", "params": {"first": "easiest"}}
    assert pq.read_table(out).column_names == ["item_id", "rank", "score"]
    assert "is deleted" in invoke("session", "delete", "cli", *server)


def test_signals_of_the_command_line(target: str, data: Dataset, tmp_path: Path) -> None:
    server = ("--server", target)
    trained(data, 0).save(tmp_path / "run.parquet")
    shown = invoke("signals", "put", POOL, "cli-run", str(tmp_path / "run.parquet"), *server)
    assert shown == (
        "cli-run: forgetting, el2n, aum, entropy, margin, confidence (number) of 400 items\n"
    )
    items = pa.table({"id": list(data.item_ids), "class": data.labels, "text": ["x"] * 400})
    pq.write_table(items, tmp_path / "items.parquet")
    words = ("signals", "put", POOL, "cli-class", str(tmp_path / "items.parquet"))
    words += ("--kind", "class", "--id-column", "id", "--columns", "class", "--json")
    assert json.loads(invoke(*words, *server))["kind"] == "class"
    listed = json.loads(invoke("signals", "list", POOL, "--json", *server))
    assert [signal["name"] for signal in listed] == ["cli-class", "cli-run"]
    out = tmp_path / "core.parquet"
    words = ("coreset", "aum", "20", "--pool", POOL, "-p", "signal=cli-run", "--out", str(out))
    words += ("--class-signal", "cli-class", "--class-budgets", "0=5,1=15")
    assert "1: 15, 0: 5" in invoke(*words, *server)
    for name in ("cli-class", "cli-run"):
        assert invoke("signals", "delete", POOL, name, *server) == f"{name} is deleted.\n"
    assert "created" in invoke("signals", "list", POOL, *server)


def test_simulation_of_shipped_picks(clinc150: Path, tmp_path: Path) -> None:
    entries: list[dict[str, Any]] = json.loads((clinc150 / "reference_picks.json").read_text())
    chosen = [entry for entry in entries if entry["concept"] == "are_you_a_bot"]
    (tmp_path / "picks.json").write_text(json.dumps(chosen))
    words = ("--picks", str(tmp_path / "picks.json"), "--out", str(tmp_path))
    invoke("simulate", str(clinc150), *words)
    found = json.loads((tmp_path / "picks_agreement.json").read_text())
    assert [(e["method"], e["n"]) for e in found] == [(e["method"], e["n"]) for e in chosen]
    assert min(entry["agree"] for entry in found) >= 99


def test_simulation_of_shipped_curves(clinc150: Path, tmp_path: Path) -> None:
    methods = "MaxEnt-All,MLP-All,MaxEnt-SEALS,MLP-SEALS,MaxEnt-SEALS@10"
    words = ("--concepts", "2", "--seeds", "2", "--budget", "400", "--methods", methods)
    output = invoke("simulate", str(clinc150), *words, "--no-full", "--out", str(tmp_path))
    result = json.loads((tmp_path / "curves.json").read_text())
    assert result["agreement"]["agrees"], output
    assert len(result["agreement"]["worst"]) == 5 * 3
    assert result["mean"]["MLP-SEALS"]["n"] == [100, 200, 300, 400]
    assert set(result["latency_ms"]["MLP-All"]) == {"NextBatch", "AddLabels"}
    assert (tmp_path / "curves.png").stat().st_size > 10_000
