"""ScoreVectors over gRPC: values, gradients, novelty and the best of pool and vectors together,
each against a slow twin written from the formula."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import expit, softmax
from tests.fixtures.pools import make_pool
from tests.fixtures.replicas import Replica, only
from tests.fixtures.servers import Refusal, ServerProcess, refusal_of

from coresift.client import (
    All,
    Classes,
    Client,
    Head,
    InvalidInput,
    Mix,
    PreconditionFailed,
    Reason,
    Scores,
    Seals,
    Session,
    Strategy,
    Task,
)
from coresift.server import head as heads
from coresift.server.head.cross_fitting import cross_fitted_logits
from coresift.server.pool.pool import Pool
from coresift.server.selection.candidates import All as AllRows
from coresift.server.selection.imbalance import stratified_folds
from coresift.server.selection.laplace import posterior_draws
from coresift.server.selection.priority import random_order
from coresift.server.selection.strategy import Situation
from coresift.server.session.vector_scores import VectorsAsked, VectorScoring
from coresift.server.session.view.labels import pack_class
from coresift.v1 import selection_pb2 as pb
from coresift.v1.selection_pb2_grpc import SelectionServiceStub

N, D, K = 240, 9, 3
LABELLED = 60
KINDS = ("ham", "eggs", "spam")
Floats = npt.NDArray[np.float64]
Twin = Callable[["Case", Floats], Floats]


def raw_rows(metric: str) -> npt.NDArray[np.float32]:
    """Rows in overlapping clusters by turns; the last thirty are copies of others."""
    chance = np.random.default_rng(3)
    X = chance.standard_normal((N, D)) + 1.5 * np.eye(D)[np.arange(N) % K]
    X[N - 30 :] = X[100:130]
    X *= {"cosine": 4.0, "ip": 1.0, "l2": 1.0}[metric]
    return np.asarray(X + (2 if metric == "l2" else 0), np.float32)


@dataclass(frozen=True)
class Served:
    """A server with a pool of each metric, and one that is larger than a first order."""

    client: Client
    stub: SelectionServiceStub
    pools: dict[str, Pool]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("vectors")
    pools = {
        metric: make_pool(
            folder / metric, raw_rows(metric), metric=metric, name=metric, neighbours=50
        )
        for metric in ("cosine", "ip", "l2")
    }
    many = np.random.default_rng(1).standard_normal((3_000, D)).astype(np.float32)
    pools["many"] = make_pool(folder / "many", many, metric="ip", name="many")
    options: list[str | Path] = ["--state", redis_url, "--artifacts", folder / "artifacts"]
    for name in pools:
        options += ["--pool", folder / name / "pool"]
    with (
        ServerProcess(*options) as server,
        Client(server.listen) as client,
        grpc.insecure_channel(server.listen) as channel,
    ):
        yield Served(client, SelectionServiceStub(channel), pools)


def value_of(task: Task, row: int) -> str | Classes:
    """A label with some noise, so that heads do not separate."""
    kind = (row + (row % 7 == 0)) % K
    if task is Task.BINARY:
        return "positive" if kind == 0 else "negative"
    if task is Task.MULTICLASS:
        return KINDS[kind]
    present = [name for place, name in enumerate(KINDS) if place != kind]
    return Classes(present, [KINDS[kind]])


@dataclass
class Case:
    """A session with labels on the first rows, and what its twin needs to know."""

    served: Served
    metric: str
    task: Task
    strategy: Strategy | Mix = field(default_factory=lambda: Strategy("max_entropy"))
    candidates: All | Seals = field(default_factory=All)
    labelled: int = LABELLED
    """Rows."""

    def __post_init__(self) -> None:
        self.session: Session = self.served.client.create_session(
            self.metric,
            self.task,
            () if self.task is Task.BINARY else KINDS,
            strategy=self.strategy,
            candidates=self.candidates,
            seed=5,
        )
        if self.labelled:
            values = {f"item-{row}": value_of(self.task, row) for row in range(self.labelled)}
            self.served.client.add_labels(self.session, values, "ann")

    @property
    def pool(self) -> Pool:
        return self.served.pools[self.metric]

    @property
    def rows(self) -> npt.NDArray[np.float32]:
        """All vectors of the pool, in its form."""
        return self.pool.fetch(np.arange(self.pool.manifest.items))

    def score(self, vectors: npt.ArrayLike, **asked: Any) -> Scores:
        return self.served.client.score_vectors(self.session, vectors, **asked)

    def head(self) -> Head:
        return self.served.client.head(self.session)

    def logits(self, vectors: Floats) -> Floats:
        head = self.head()
        return vectors @ head.weights.T + head.bias

    def formed(self, vectors: npt.ArrayLike) -> Floats:
        """As the pool's metric demands them, rounded to float32."""
        wide = np.asarray(vectors, np.float64)
        if self.metric == "cosine":
            wide = wide / np.linalg.norm(wide, axis=1, keepdims=True)
        return wide.astype(np.float32).astype(np.float64)

    def situation(self) -> Situation:
        """What the server's strategies know, put together here."""
        head = self.head()
        task = TASKS[self.task]
        rows = np.arange(LABELLED, dtype=np.int32)
        values = [value_of(self.task, row) for row in range(LABELLED)]
        if self.task is Task.BINARY:
            targets = np.array([[value == "positive"] for value in values], np.float64)
        elif self.task is Task.MULTICLASS:
            targets = np.array([[value == name for name in KINDS] for value in values], np.float64)
        else:
            sets = [value for value in values if isinstance(value, Classes)]
            targets = np.array([[n in s.present for n in KINDS] for s in sets], np.float64)
        fitted = heads.Head(task, head.weights, head.bias, np.ones(len(head.bias), np.bool_))
        config, revision = heads.HeadConfig(), head.basis.revision
        opposed = np.zeros_like(targets) if self.task is Task.MULTICLASS else 1 - targets
        learned = rows, targets, opposed
        return Situation(self.pool, task, 5, revision, fitted, config, rows, lambda: learned)


TASKS = {
    Task.BINARY: heads.Task.BINARY,
    Task.MULTICLASS: heads.Task.MULTICLASS,
    Task.MULTILABEL: heads.Task.MULTILABEL,
}


def outside(metric: str, count: int = 25, seed: int = 8) -> npt.NDArray[np.float32]:
    """Vectors that no pool holds; of any length."""
    chance = np.random.default_rng(seed)
    X = chance.standard_normal((count, D)) + np.eye(D)[np.arange(count) % K]
    X *= np.geomspace(0.2, 5, count)[:, None] if metric == "cosine" else 1.0
    return np.asarray(X + (2 if metric == "l2" else 0), np.float32)


# --- Twins ------------------------------------------------------------------------------------


def entropies(p: Floats, axis: int) -> Floats:
    return np.asarray(-(p * np.log(p)).sum(axis=axis))


def columns(case: Case, vectors: Floats) -> Floats:
    """Two sides of each column, [n, K, 2]."""
    p = expit(case.logits(vectors))
    return np.stack([p, 1 - p], axis=2)


def doubt(case: Case, vectors: Floats) -> Floats:
    return np.asarray(-np.abs(case.logits(vectors)[:, 0]))


def log_odds(case: Case, vectors: Floats) -> Floats:
    return np.asarray(case.logits(vectors)[:, 0])


def entropy(case: Case, vectors: Floats) -> Floats:
    if case.task is Task.MULTICLASS:
        return entropies(softmax(case.logits(vectors), axis=1), 1)
    return np.asarray(entropies(columns(case, vectors), 2).mean(axis=1))


def largest_entropy(case: Case, vectors: Floats) -> Floats:
    return np.asarray(entropies(columns(case, vectors), 2).max(axis=1))


def margin(case: Case, vectors: Floats) -> Floats:
    if case.task is Task.MULTICLASS:
        p = np.sort(softmax(case.logits(vectors), axis=1), axis=1)
        return np.asarray(p[:, -2] - p[:, -1])
    return np.asarray(-np.abs(np.diff(columns(case, vectors), axis=2)[:, :, 0]).mean(axis=1))


def least(case: Case, vectors: Floats) -> Floats:
    if case.task is Task.MULTICLASS:
        return np.asarray(1 - softmax(case.logits(vectors), axis=1).max(axis=1))
    return np.asarray((1 - columns(case, vectors).max(axis=2)).mean(axis=1))


def density(case: Case, vectors: Floats) -> Floats:
    """The mean similarity, one item of the pool at a time."""
    similarity = np.mean([vectors @ x for x in case.rows.astype(np.float64)], axis=0)
    return np.asarray(entropy(case, vectors) * np.maximum(similarity, 1e-6) ** 2)


def drawn(case: Case, vectors: Floats, samples: int) -> Floats:
    """Logits of the heads drawn, [n, K', samples]."""
    draws = posterior_draws(case.situation(), samples)
    logits = vectors @ draws.weights.T + draws.offset
    return np.asarray(logits.reshape(len(vectors), -1, samples))


def information(case: Case, vectors: Floats) -> Floats:
    Z = drawn(case, vectors, 16)
    if case.task is Task.MULTICLASS:
        p = softmax(Z, axis=1)
        return np.asarray(entropies(p.mean(axis=2), 1) - entropies(p, 1).mean(axis=1))
    p = np.stack([expit(Z), expit(-Z)], axis=3)
    gain = entropies(p.mean(axis=2), 2) - entropies(p, 3).mean(axis=2)
    return np.asarray(gain.mean(axis=1))


def predictive_information(case: Case, vectors: Floats) -> Floats:
    """Sums over pairs of sides, one target at a time."""
    rows = random_order(5, "epig", case.pool.manifest.items, 12)
    targets = drawn(case, case.pool.fetch(rows).astype(np.float64), 16)[:, 0]
    own = drawn(case, vectors, 16)[:, 0]
    total = np.zeros(len(vectors))
    for other in targets:
        for p in (expit(own), expit(-own)):
            for q in (expit(other), expit(-other)):
                joint = (p * q).mean(axis=1)
                total += joint * np.log(joint / (p.mean(axis=1) * q.mean()))
    return total / len(targets)


def near_the_threshold(case: Case, vectors: Floats) -> Floats:
    """Each threshold midway between two cross-fitted logits is tried."""
    situation = case.situation()
    positive = situation.training.targets[:, 0] > 0
    folds = stratified_folds(situation, positive, 5)
    task, config, training = situation.task, situation.head_config, situation.training
    logits = cross_fitted_logits(task, config, training, folds)[:, 0]
    assert np.isfinite(logits).all()
    values = sorted(logits.tolist())
    tried = [(a + b) / 2 for a, b in pairwise(values)]
    error = {
        t: np.mean(logits[positive] < t) / 2 + np.mean(logits[~positive] > t) / 2 for t in tried
    }
    lowest = min(error.values())
    assert lowest < 0.5
    threshold = min((t for t in tried if error[t] <= lowest + 1e-9), key=abs)
    return np.asarray(-np.abs(case.logits(vectors)[:, 0] - threshold))


BINARY, MULTICLASS, MULTILABEL = Task.BINARY, Task.MULTICLASS, Task.MULTILABEL
BALD = Strategy("bald", samples=16)
EPIG = Strategy("epig", samples=16, targets=12)
DENSITY = Strategy("information_density", beta=2)
LARGEST = Strategy("max_entropy", over="max")
TWINS: list[tuple[Task, Strategy, Twin]] = [
    (BINARY, Strategy("max_entropy"), doubt),
    (BINARY, Strategy("margin"), doubt),
    (BINARY, Strategy("most_likely_positive"), log_odds),
    (BINARY, DENSITY, density),
    (BINARY, BALD, information),
    (BINARY, EPIG, predictive_information),
    (BINARY, Strategy("direct"), near_the_threshold),
    (MULTICLASS, Strategy("max_entropy"), entropy),
    (MULTICLASS, Strategy("margin"), margin),
    (MULTICLASS, Strategy("least_confidence"), least),
    (MULTICLASS, DENSITY, density),
    (MULTICLASS, BALD, information),
    (MULTILABEL, Strategy("max_entropy"), entropy),
    (MULTILABEL, LARGEST, largest_entropy),
    (MULTILABEL, Strategy("margin"), margin),
    (MULTILABEL, Strategy("least_confidence"), least),
    (MULTILABEL, DENSITY, density),
    (MULTILABEL, BALD, information),
]
EVERY_METRIC = [
    (metric, *case)
    for metric in ("cosine", "ip", "l2")
    for case in TWINS
    if metric == "cosine" or case[1].name in {"bald", "epig", "max_entropy"}
]


def name_of(value: object) -> str:
    return (
        value.name
        if isinstance(value, (Strategy, Task))
        else str(getattr(value, "__name__", value))
    )


# --- Values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "task", "strategy", "twin"), EVERY_METRIC, ids=name_of)
def test_scores_are_those_of_the_twin(
    served: Served, metric: str, task: Task, strategy: Strategy, twin: Twin
) -> None:
    case = Case(served, metric, task, strategy)
    vectors = outside(metric)
    found = case.score(vectors)
    wide = case.formed(vectors)
    np.testing.assert_allclose(found.scores, twin(case, wide), rtol=1e-8, atol=1e-11)
    logits = case.logits(wide)
    p = softmax(logits, axis=1) if task is MULTICLASS else expit(logits)
    np.testing.assert_allclose(found.probabilities, p, atol=1e-7)
    assert found.classes == (("positive",) if task is BINARY else KINDS)
    assert found.strategy == strategy.name
    assert found.basis == case.head().basis


@pytest.mark.parametrize(("metric", "task", "strategy", "twin"), EVERY_METRIC, ids=name_of)
def test_an_items_own_vector_scores_as_its_pick(
    served: Served, metric: str, task: Task, strategy: Strategy, twin: Twin
) -> None:
    case = Case(served, metric, task, strategy)
    batch = served.client.next_batch(case.session, "ann", 50)
    rows = [int(pick.item_id.rpartition("-")[2]) for pick in batch]
    found = case.score(raw_rows(metric)[rows])
    assert found.scores.tolist() == [pick.score for pick in batch]
    assert found.basis == batch.basis


# --- Gradients --------------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "task", "strategy", "twin"), EVERY_METRIC, ids=name_of)
def test_gradients_are_differences_of_served_scores(
    served: Served, metric: str, task: Task, strategy: Strategy, twin: Twin
) -> None:
    case = Case(served, metric, task, strategy)
    vectors = outside(metric, 6, seed=12)  # none lies at a kink
    found = case.score(vectors, gradients=True)
    assert found.gradients is not None
    assert (np.abs(found.gradients).max(axis=1) > 0).all()
    lengths = np.linalg.norm(vectors, axis=1) if metric == "cosine" else np.ones(len(vectors))
    moved = []
    for vector, length in zip(vectors, lengths, strict=True):
        moved += [vector + s * 3e-3 * length * e for e in np.eye(D) for s in (1, -1)]
    sent = np.array(moved, np.float32)
    values = case.score(sent).scores.reshape(len(vectors), D, 2)
    paths = sent.astype(np.float64).reshape(len(vectors), D, 2, D)
    steps = np.linalg.norm(paths[:, :, 0] - paths[:, :, 1], axis=2)
    differences = (values[:, :, 0] - values[:, :, 1]) / steps
    scale = np.abs(differences).max(axis=1, keepdims=True)
    np.testing.assert_allclose(found.gradients / scale, differences / scale, atol=5e-3)


@pytest.mark.parametrize("strategy", [Strategy("max_entropy"), DENSITY, BALD], ids=name_of)
@pytest.mark.parametrize("task", [MULTICLASS, MULTILABEL], ids=name_of)
def test_a_class_without_labels_changes_nothing(
    served: Served, task: Task, strategy: Strategy
) -> None:
    case, client = Case(served, "cosine", task, strategy), served.client
    session = client.create_session(
        "cosine", task, (*KINDS, "toast"), strategy=strategy, candidates=All(), seed=5
    )
    client.add_labels(session, {f"item-{r}": value_of(task, r) for r in range(LABELLED)}, "ann")
    found = client.score_vectors(session, outside("cosine"), gradients=True)
    expected = case.score(outside("cosine"), gradients=True)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)
    assert found.gradients is not None
    np.testing.assert_allclose(found.gradients, expected.gradients, rtol=1e-4, atol=1e-6)
    assert found.classes == (*KINDS, "toast")
    np.testing.assert_allclose(found.probabilities[:, :3], expected.probabilities, atol=1e-6)
    assert (found.probabilities[:, 3] == (0 if task is MULTICLASS else 0.5)).all()


def test_gradients_on_cosine_pools_do_not_lengthen(served: Served) -> None:
    case = Case(served, "cosine", BINARY)
    vectors = outside("cosine")
    short = case.score(vectors, gradients=True).gradients
    long = case.score(8 * vectors, gradients=True).gradients
    assert short is not None
    assert long is not None
    np.testing.assert_allclose(short, 8 * long, rtol=1e-4, atol=1e-5)
    along = np.abs((short * vectors).sum(axis=1))
    assert (along < 1e-5 * np.linalg.norm(short, axis=1) * np.linalg.norm(vectors, axis=1)).all()
    tiny = case.score(np.full((1, D), 1e-43), gradients=True).gradients
    assert tiny is not None
    assert np.isfinite(tiny).all()


MEANINGLESS: list[Strategy | Mix] = [
    Strategy("random"),
    Strategy("signal", name="loss"),
    Strategy("typiclust"),
    Strategy("k_center"),
    Strategy("probcover"),
    Strategy("ens"),
    Mix({"max_entropy": 1, "random": 1}),
]


@pytest.mark.parametrize("strategy", MEANINGLESS, ids=lambda s: getattr(s, "name", "mix"))
def test_without_a_value_of_a_vector(served: Served, strategy: Strategy | Mix) -> None:
    ids = [f"item-{row}" for row in range(N)]
    served.client.put_signals("cosine", "loss", ids, np.arange(N), request_id="loss")
    case = Case(served, "cosine", BINARY, strategy)
    found = case.score(outside("cosine", 4), novelty=True, best_of=10_000)
    name = getattr(strategy, "name", "mix")
    assert found.strategy == name
    assert np.isnan(found.scores).all()
    assert found.in_best is not None
    assert not found.in_best.any()
    assert np.isfinite(found.probabilities).all()
    assert found.pool_similarity is not None
    assert np.isfinite(found.pool_similarity).all()
    with pytest.raises(InvalidInput, match=f"means nothing for '{name}'") as refused:
        case.score(outside("cosine", 4), gradients=True)
    assert refused.value.reason is Reason.INVALID_FIELD
    assert [wrong.field for wrong in refused.value.field_violations] == ["include_gradients"]


# --- Novelty ----------------------------------------------------------------------------------


def similarities(metric: str, vectors: Floats, rows: Floats) -> Floats:
    if metric == "l2":
        return np.array([[-((q - x) ** 2).sum() for x in rows] for q in vectors])
    return np.array([[(q * x).sum() for x in rows] for q in vectors])


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_novelty_is_that_of_all_pairs(served: Served, metric: str) -> None:
    case = Case(served, metric, BINARY)
    vectors = outside(metric)
    found = case.score(vectors, novelty=True)
    all_pairs = similarities(metric, case.formed(vectors), case.rows.astype(np.float64))
    assert found.labelled_similarity is not None
    nearest = all_pairs[:, :LABELLED].max(axis=1)
    assert found.pool_similarity is not None
    np.testing.assert_allclose(found.labelled_similarity, nearest, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.pool_similarity, all_pairs.max(axis=1), rtol=1e-9, atol=1e-9)


def test_nothing_labelled_is_near_a_prior(served: Served) -> None:
    prior = Case(served, "ip", BINARY).head()
    session = served.client.create_session("ip", prior_head=prior)
    found = served.client.score_vectors(session, outside("ip"), novelty=True, best_of=7)
    assert found.labelled_similarity is not None
    assert np.isnan(found.labelled_similarity).all()
    assert found.pool_similarity is not None
    assert np.isfinite(found.pool_similarity).all()
    logits = outside("ip").astype(np.float64) @ prior.weights[0] + prior.bias[0]
    np.testing.assert_allclose(found.scores, -np.abs(logits), rtol=1e-5)
    assert found.in_best is not None


# --- The best of pool and vectors together -----------------------------------------------------


def merged(scores: Floats, ranked: Floats, count: int) -> list[int]:
    """Places of the vectors among the best; ties go to the pool, then to the first."""
    both = [(-s, 0, place) for place, s in enumerate(ranked.tolist())]
    both += [(-s, 1, place) for place, s in enumerate(scores.tolist())]
    return sorted(place for _, kind, place in sorted(both)[:count] if kind)


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("candidates", [All(), Seals(3)], ids=["all", "seals"])
def test_the_best_are_those_of_a_merge(
    served: Served, metric: str, candidates: All | Seals
) -> None:
    """Copies of pool items among the vectors, and vectors twice."""
    case = Case(served, metric, BINARY, candidates=candidates)
    free = np.arange(LABELLED, N)
    if isinstance(candidates, Seals):
        pairs = similarities(metric, case.rows.astype(np.float64), case.rows.astype(np.float64))
        np.fill_diagonal(pairs, -np.inf)
        near = np.argsort(-pairs[:LABELLED], axis=1, kind="stable")[:, : candidates.k]
        free = np.setdiff1d(near, np.arange(LABELLED))
        assert 10 < len(free) < N - LABELLED - 10
    raw = raw_rows(metric)
    vectors = np.concatenate([outside(metric), raw[free[:20]], outside(metric, 5), raw[70:90]])
    scores, ranked = case.score(vectors).scores, case.score(raw[free]).scores
    seen = set()
    for count in (1, 2, 3, 5, 10, 20, 40, 80, 150, 300, 10_000):
        found = case.score(vectors, best_of=count)
        assert found.in_best is not None
        assert found.scores.tolist() == scores.tolist()
        assert np.flatnonzero(found.in_best).tolist() == merged(scores, ranked, count)
        seen.add(int(found.in_best.sum()))
    assert len(vectors) in seen
    assert len(seen) > 5


def test_a_filter_and_labels_narrow_what_vectors_compete_with(served: Served) -> None:
    """A labelled item is no candidate: its own vector is not held back by it."""
    case = Case(served, "ip", BINARY)
    raw = raw_rows("ip")
    ranked = case.score(raw[LABELLED:]).scores
    scores = case.score(raw[:LABELLED]).scores
    found = case.score(raw[:LABELLED], best_of=30)
    assert found.in_best is not None
    assert np.flatnonzero(found.in_best).tolist() == merged(scores, ranked, 30)


def test_more_of_the_best_than_a_first_order_holds(served: Served) -> None:
    case = Case(served, "many", BINARY, labelled=30)
    free = case.rows[30:]
    vectors = np.random.default_rng(9).standard_normal((500, D)).astype(np.float32)
    scores, ranked = case.score(vectors).scores, case.score(free).scores
    for count in (1_900, 2_600, 3_470, 5_000):
        found = case.score(vectors, best_of=count).in_best
        assert found is not None
        assert np.flatnonzero(found).tolist() == merged(scores, ranked, count)


# --- What is refused, and what is not computed -------------------------------------------------


def request(session: Session, vectors: npt.ArrayLike, **asked: Any) -> pb.ScoreVectorsRequest:
    rows = np.asarray(vectors, "<f4")
    sent = pb.Vectors(dimension=rows.shape[1], data=rows.tobytes())
    return pb.ScoreVectorsRequest(session_id=session.session_id, vectors=sent, **asked)


def test_before_there_is_a_head(served: Served) -> None:
    for strategy in ("max_entropy", "random"):
        case = Case(served, "cosine", BINARY, Strategy(strategy), labelled=0)
        for asked in ({}, {"novelty": True}, {"best_of": 10}):
            with pytest.raises(PreconditionFailed) as refused:
                case.score(outside("cosine"), **asked)
            assert refused.value.reason is Reason.HEAD_NOT_FITTED


def test_limits(served: Served) -> None:
    session = Case(served, "cosine", BINARY).session

    def refused(vectors: npt.ArrayLike, **asked: Any) -> Refusal:
        return refusal_of(lambda: served.stub.ScoreVectors(request(session, vectors, **asked)))

    ok = np.ones((1, D))
    served.stub.ScoreVectors(request(session, np.ones((10_000, D)), best_of=10_000))
    wrong = refused(ok, best_of=10_001)
    assert (wrong.reason, wrong.fields) == ("INVALID_FIELD", ("best_of",))
    assert "0..10000" in wrong.message
    cases: list[tuple[npt.ArrayLike, str]] = [
        (np.ones((10_001, D)), "vectors.data"),
        (np.ones((0, D)), "vectors.data"),
        (np.ones((1, D + 1)), "vectors.dimension"),
        ([[*[1.0] * (D - 1), np.nan]], "vectors[0]"),
        ([*[[1.0] * D] * 2, [0.0] * D], "vectors[2]"),
    ]
    for vectors, path in cases:
        wrong = refused(vectors)
        assert (wrong.reason, wrong.fields) == ("INVALID_VECTOR", (path,))
    gone = pb.ScoreVectorsRequest(session_id="nobody", vectors=request(session, ok).vectors)
    assert refusal_of(lambda: served.stub.ScoreVectors(gone)).reason == "SESSION_NOT_FOUND"


def test_only_what_was_asked_is_answered(served: Served) -> None:
    session = Case(served, "cosine", BINARY).session
    asked = {
        "include_novelty": {"labelled_similarity", "pool_similarity"},
        "best_of": {"in_best"},
        "include_gradients": {"gradients"},
    }
    always = {"basis", "scores", "classes", "probabilities", "strategy"}
    for names in ([], ["include_novelty"], ["best_of"], ["include_gradients"], list(asked)):
        answer = served.stub.ScoreVectors(
            request(session, outside("cosine"), **dict.fromkeys(names, 1))
        )
        there = {descriptor.name for descriptor, _ in answer.ListFields()}
        assert there == always.union(*(asked[name] for name in names))


async def test_nothing_is_computed_that_was_not_asked(
    served: Served, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, searched = served.pools["many"], []
    search = Pool.search

    def counted(self: Pool, *args: Any, **options: Any) -> Any:
        searched.append(self)
        return search(self, *args, **options)

    monkeypatch.setattr(Pool, "search", counted)
    replica = await Replica.start(redis_url, [pool])
    try:
        scoring = VectorScoring(replica.workers)

        async def rankings(strategy: str, **asked: Any) -> int:
            """How many were made of 3,000 candidates."""
            session_id = await replica.create(pool, candidates=AllRows(), mix=only(strategy))
            await replica.label(session_id, {row: pack_class(row % 2) for row in range(10)})
            vectors = pool.fetch(np.arange(3))
            wanted = {"novelty": False, "best_of": 0, "gradients": False} | asked
            before = replica.stage_count("score")
            live = await replica.live(session_id)
            await scoring.score(live, VectorsAsked(vectors, np.ones(3), **wanted))
            return replica.stage_count("score") - before

        assert await rankings("max_entropy") == 0
        assert await rankings("max_entropy", gradients=True) == 0
        assert await rankings("max_entropy", best_of=10) == 1
        assert await rankings("max_entropy", best_of=2_900) == 2
        # An order by each other says nothing of a vector, however deep it is.
        assert await rankings("k_center", best_of=2_900) == 1
        assert not searched
        assert await rankings("max_entropy", novelty=True) == 0
        assert len(searched) == 1
    finally:
        await replica.stop()
