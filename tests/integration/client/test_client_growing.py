"""Strategies, groups, reviews, imports and moves, through the client, on a real server."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tests.fixtures.pools import write_inputs
from tests.fixtures.servers import ServerProcess
from typer.testing import CliRunner

from coresift.client import (
    RETRACT,
    UNSURE,
    All,
    AlreadyExists,
    Anchors,
    AsyncClient,
    BatchPolicy,
    Client,
    Groups,
    InvalidInput,
    ItemConsensus,
    ItemsMissing,
    Label,
    Mix,
    Outcome,
    Phase,
    PickReason,
    RandomSubset,
    Reason,
    Seals,
    Session,
    StopRule,
    Strategy,
)
from coresift.client.cli import build
from coresift.server.pool.builder import BuildOptions, build_pool

ITEMS = 600
MANY = 100_000


@dataclass(frozen=True)
class Service:
    target: str
    item_ids: list[str]
    truth: dict[str, str]
    """Binary: item number n is positive if n is a multiple of 6."""


def vectors(items: int, dimension: int, seed: int) -> npt.NDArray[np.float32]:
    """Rows around two directions; number n is at the second if n is a multiple of 6."""
    rng = np.random.default_rng(seed)
    positive = np.arange(items) % 6 == 0
    X = rng.normal(size=(items, dimension)) + 3 * np.eye(dimension)[positive.astype(int)]
    return np.asarray(X, dtype=np.float32)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Pools: old; new (other embeddings of the same items); less (a part of them); many."""
    folder = tmp_path_factory.mktemp("growing")
    ids = [f"item-{n}" for n in range(ITEMS)]
    lines = [
        {"id": item_id, "split": ("train", "test")[n % 2], "video": f"v{n // 20}"}
        for n, item_id in enumerate(ids)
    ]
    shapes = {"old": (ITEMS, 8), "new": (ITEMS, 12), "less": (ITEMS - 100, 12), "many": (MANY, 4)}
    options: list[str | Path] = ["--data-dir", folder / "state"]
    for seed, (name, (items, dimension)) in enumerate(shapes.items()):
        inputs = write_inputs(folder / name, vectors(items, dimension, seed))
        if name != "many":
            text = "".join(f"{json.dumps(line)}\n" for line in lines[:items])
            (folder / name / "in.jsonl").write_text(text)
            inputs = replace(inputs, metadata=folder / name / "in.jsonl")
        build_pool(BuildOptions(inputs, folder / name / "pool", name=name))
        options += ["--pool", folder / name / "pool"]
    truth = {i: ("negative", "positive")[n % 6 == 0] for n, i in enumerate(ids)}
    with ServerProcess(*options) as server:
        yield Service(server.listen, ids, truth)


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.target) as client:
        yield client


def teach(client: Client, session: Session, service: Service, step: int = 20) -> None:
    """Label every ``step``-th item as it is."""
    some = service.item_ids[::step]
    client.add_labels(session, {item_id: service.truth[item_id] for item_id in some}, "teacher")


def test_a_session_is_read_as_it_was_made(client: Client) -> None:
    client.put_signals("old", "loss", [f"item-{n}" for n in range(ITEMS)], np.zeros(ITEMS))
    given = {
        "strategy": Mix({"max_entropy": 2, Strategy("signal", name="loss"): 1}),
        "candidates": RandomSubset(50),
        "filter": 'split == "train"',
        "batch": BatchPolicy("top", max_similarity=0.99, class_shares={"positive": 0.5}),
        "groups": Groups("video", one_lease=True),
        "explore_fraction": 0.25,
        "validation_size": 10,
        "stop": StopRule(0.9, confidence=0.9),
        "label_budget": 100,
    }
    session = client.create_session("old", **given)  # type: ignore[arg-type]
    assert {name: getattr(session, name) for name in given} == given
    assert client.get_session(session) == session
    implied = client.create_session("old", groups=Groups("video", one_label=True))
    assert implied.groups == Groups("video", one_lease=True, one_label=True)
    changed = client.update_session(
        session, strategy="margin", groups=None, stop=None, batch="top", explore_fraction=0
    )
    assert (changed.strategy, changed.groups, changed.stop) == (Strategy("margin"), None, None)
    assert (changed.batch, changed.explore_fraction) == (BatchPolicy(), 0)
    assert (changed.candidates, changed.filter) == (session.candidates, session.filter)
    changed = client.update_session(session, candidates=Anchors(9), filter="")
    assert (changed.candidates, changed.filter) == (Anchors(9), "")


def test_refusals_name_what_is_valid(client: Client) -> None:
    with pytest.raises(InvalidInput) as caught:
        client.create_session("old", strategy=Strategy("signal", nme="x"))
    assert caught.value.reason is Reason.INVALID_FIELD
    with pytest.raises(InvalidInput) as caught:
        client.create_session("old", strategy=Mix({"margin": 1, "nonsense": 1}))
    assert caught.value.reason is Reason.UNKNOWN_METHOD
    with pytest.raises(InvalidInput, match="filter"):
        client.create_session("old", filter="split ==")


def test_a_batch_follows_its_configuration(client: Client, service: Service) -> None:
    session = client.create_session(
        "old",
        candidates=All(),
        filter='split == "train"',
        groups=Groups("video"),
        explore_fraction=0.5,
        validation_size=4,
    )
    first = client.next_batch(session, "ann", 4)
    assert {pick.reason for pick in first} == {PickReason.VALIDATION}
    answers = {item_id: service.truth[item_id] for item_id in first.item_ids}
    client.add_labels(session, answers, "ann", batch=first)
    teach(client, session, service)
    batch = client.next_batch(session, "ann", 10)
    assert batch.phase is Phase.SELECTING
    assert batch.strategy == "max_entropy"
    assert {pick.metadata["split"] for pick in batch} == {"train"}
    assert len({pick.metadata["video"] for pick in batch}) == len(batch)
    assert {PickReason.EXPLORE, PickReason.EXPLOIT} <= {pick.reason for pick in batch}
    progress = client.progress(session)
    assert progress.labelled_items == 4 + 30 - len(set(answers) & set(service.item_ids[::20]))


def test_a_session_starts_from_another_ones_head(client: Client, service: Service) -> None:
    first = client.create_session("old", candidates=All())
    teach(client, first, service)
    head = client.head(first)
    second = client.create_session("old", candidates=All(), prior_head=head)
    third = client.create_session("old", candidates=All(), prior_head=(head.weights, head.bias))
    assert second.prior_head == third.prior_head != ""
    assert client.next_batch(second, "ann", 5).phase is Phase.SELECTING


def test_an_import_of_100_000_labels(client: Client) -> None:
    session = client.create_session("many", candidates=All())
    heard: list[int] = []
    labels = ((f"item-{n}", ("negative", "positive")[n % 6 == 0]) for n in range(MANY))
    result = client.import_labels(session, labels, "import", on_progress=heard.append)
    assert heard == list(range(1_000, MANY + 1, 1_000))
    assert result.counts == {Outcome.NEW: MANY}
    assert client.progress(session).labelled_items == MANY


def history(client: Client, session: Session | str) -> list[tuple[str, str, object]]:
    return [(r.annotator, r.item_id, r.value) for r in client.list_labels(session)]


@pytest.fixture
def worked_on(client: Client, service: Service) -> Session:
    """A session with two annotators, corrections, retractions and unsure labels."""
    session = client.create_session(
        "old",
        strategy="margin",
        candidates=Seals(20),
        filter='split == "train" or split == "test"',
        votes_per_item=2,
        seed=5,
        label_budget=500,
    )
    teach(client, session, service)
    a, b, c, d = service.item_ids[1:5]
    client.add_labels(session, {a: "positive", b: "negative"}, "ann")
    client.add_labels(session, [Label(a, "negative"), Label(c, UNSURE)], "ann")
    client.add_labels(session, [Label(b, RETRACT), Label(d, "negative")], "ann")
    client.add_labels(session, {a: "positive"}, "bob")
    client.add_labels(session, {b: "positive"}, "ann")
    return session


def test_a_session_moves(client: Client, service: Service, worked_on: Session) -> None:
    moved = client.move_session(worked_on, "new", session_id="moved")
    assert (moved.session_id, moved.pool) == ("moved", "new")
    for name in ("task", "classes", "strategy", "candidates", "filter", "seed", "label_budget"):
        assert getattr(moved, name) == getattr(worked_on, name)
    assert history(client, moved) == history(client, worked_on)
    ours, theirs = client.progress(moved), client.progress(worked_on)
    assert (ours.votes, ours.unsure_votes, ours.classes) == (
        theirs.votes,
        theirs.unsure_votes,
        theirs.classes,
    )
    assert client.move_session(worked_on, "new", session_id="moved") == moved, "nothing is new"
    client.add_labels(worked_on, {service.item_ids[7]: "negative"}, "ann")
    again = client.move_session(worked_on, "new", session_id="moved")
    assert again.basis.revision > moved.basis.revision
    assert set(history(client, again)) == set(history(client, worked_on))
    assert client.progress(again).votes == client.progress(worked_on).votes
    with pytest.raises(AlreadyExists):
        client.move_session(worked_on, "old", session_id="moved")


def test_a_move_names_what_the_pool_lacks(
    client: Client, service: Service, worked_on: Session
) -> None:
    sessions = [session.session_id for session in client.list_sessions()]
    with pytest.raises(ItemsMissing) as caught:
        client.move_session(worked_on, "less")
    assert caught.value.item_ids == tuple(service.item_ids[500::20])
    assert [session.session_id for session in client.list_sessions()] == sessions
    moved = client.move_session(worked_on, "less", skip_missing=True)
    kept = [r for r in history(client, worked_on) if r[1] not in caught.value.item_ids]
    assert history(client, moved) == kept


def test_reviews_and_consensus(client: Client, service: Service) -> None:
    session = client.create_session("old", candidates=All())
    teach(client, session, service, step=4)
    wrong = {"item-6": "negative", "item-7": "positive", "item-8": "negative"}
    client.add_labels(session, wrong, "hasty")
    batch = client.next_batch(session, "ann", 5, purpose="review")
    assert {pick.reason for pick in batch} == {PickReason.REVIEW}
    assert {"item-6", "item-7"} <= set(batch.item_ids)
    answers = {item_id: service.truth[item_id] for item_id in batch.item_ids}
    client.add_labels(session, answers, "ann", batch=batch)
    found = client.list_consensus(session, only_conflicts=True)
    conflicts = {item.item_id: item for item in found}
    assert conflicts["item-7"] == ItemConsensus("item-7", 2, 0, None, 0.5, True)
    everything = list(client.list_consensus(session, page_size=7))
    places = [service.item_ids.index(item.item_id) for item in everything]
    assert places == sorted(places)
    assert len(places) == client.progress(session).labelled_items
    annotators = {one.annotator: one for one in client.annotator_agreement(session)}
    assert list(annotators) == ["ann", "hasty", "teacher"]
    assert annotators["hasty"].agreed < annotators["hasty"].compared


def test_scores_of_vectors(client: Client, service: Service) -> None:
    session = client.create_session("old", candidates=All())
    teach(client, session, service)
    X = vectors(40, 8, 99)
    found = client.score_vectors(session, X, novelty=True, best_of=10, gradients=True)
    assert found.strategy == "max_entropy"
    assert found.gradients is not None
    assert found.gradients.shape == X.shape
    assert found.in_best is not None
    assert found.in_best.sum() <= 10
    assert found.labelled_similarity is not None
    assert found.pool_similarity is not None
    assert (found.labelled_similarity <= found.pool_similarity + 1e-6).all()


def test_progress_knows_how_it_stands(client: Client, service: Service) -> None:
    session = client.create_session(
        "old", candidates=All(), filter='split == "train"', validation_size=20, explore_fraction=1
    )
    teach(client, session, service)
    for _ in range(8):
        batch = client.next_batch(session, "ann", 20)
        answers = {item_id: service.truth[item_id] for item_id in batch.item_ids}
        client.add_labels(session, answers, "ann", batch=batch)
    found = client.progress(session)
    assert found.eligible_items == ITEMS // 2
    assert found.labels_per_hour > 0
    assert found.stop_reason
    assert found.validation is not None
    assert found.validation.items == 20
    assert found.validation.accuracy is not None
    assert found.validation.accuracy.low <= found.validation.accuracy.value
    assert len(found.head_agreement) > 0
    sample = found.random_sample
    assert sample is not None
    assert sample.prevalence is not None
    assert sample.prevalence.low <= sample.prevalence.value <= sample.prevalence.high
    assert "validation" in invoke(
        "session", "progress", session.session_id, "--server", service.target
    )


async def test_the_asynchronous_client_moves_and_imports(service: Service) -> None:
    async with AsyncClient(service.target) as client:
        session = await client.create_session("old")
        await client.import_labels(session, service.truth, "import")
        moved = await client.move_session(session, "new")
        assert (await client.progress(moved)).labelled_items == ITEMS


def invoke(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(build(), words, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def test_the_command_line(service: Service, tmp_path: Path) -> None:
    server = ("--server", service.target)
    words = ["session", "create", "old", "--id", "cli", "--mix", "margin=3", "--mix", "random=1"]
    words += ["--candidates", "random_subset:300", "--filter", 'split == "train"']
    words += ["--batch", "top", "--max-similarity", "0.999", "--group-column", "video"]
    words += ["--max-per-group", "2", "--explore", "0.1", "--validation", "3"]
    words += ["--target-recall", "0.9", "--budget", "400"]
    created = invoke(*words, *server)
    for fact in ("3 margin + 1 random", "random_subset:300", "by video: at most 2 a batch"):
        assert fact in created
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("item_id", "label"))
        rows.writerows((i, service.truth[i]) for i in service.item_ids[::3])
    words = ["label", "cli", "-a", "ann", "--file", str(tmp_path / "labels.csv")]
    assert "200 new" in invoke(*words, *server)
    assert "by mix" in invoke("next", "cli", "-a", "ann", *server)
    assert "labelled" in invoke("session", "progress", "cli", *server)
    words = ["session", "move", "cli", "--pool", "new", "--id", "cli-2", "--json"]
    moved = json.loads(invoke(*words, *server))
    assert moved["progress"]["labelled_items"] == 200
    assert moved["session"]["pool"] == "new"
    assert moved["session"]["filter"] == 'split == "train"'
