"""Generative active learning as a user would run it, on real data: what it gains and what not.

The pool holds 3,000 requests of clinc150, eight of each concept looked for. A simple generator
makes vectors around the positives that a session has found (mixtures of two, and noise); steered,
it climbs the gradient that ScoreVectors answers. The vectors kept enter the pool by an append, the
session moves to the new version, and an oracle that never saw the session labels them. At the same
number of labels the head is compared with that of a session that labelled pool items only.

`GENERATIVE.md` beside the session layer tells the loop and the figures that the long forms print.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from tests.fixtures.pools import write_inputs
from tests.fixtures.servers import ServerProcess

from coresift.client import All, Client, Outcome, Session
from coresift.server.pool.builder import AppendOptions, BuildOptions, append_pool, build_pool
from coresift.server.pool.input_files import InputFiles

Vectors = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Oracle = Callable[[Vectors], Bools]

POOL_ITEMS, POOL_POSITIVES = 3_000, 8
"""Of each concept so many of its 120 requests; the rest are of other intents."""
ARMS = ("pool", "unsteered", "steered")
KNOWN = 2
"""Positives that somebody knew before the first label."""
START, BEFORE, AFTER = 20, 60, 120
"""Labels at the start, at the time of generating, and at the end."""
GENERATED = 30
"""Of the labels after generating."""
BATCH = 20
MADE = 300
"""Candidates of the generator, and how many best of pool and made are asked for."""
STEPS = 12
FIRST_STEP = 0.3
MOST_ALIKE = 0.98
"""Similarity of two vectors kept."""
MEASURES = ("start", "end", "in_best", "value", "similarity", "positives")
FILTER = 'origin == "pool"'


@dataclass(frozen=True)
class World:
    """What is true: of the pool, of the rest that nobody sees, of the test split."""

    X: Vectors
    labels: npt.NDArray[np.int32]
    names: list[str]
    concepts: list[str]
    """Names of those that are looked for."""
    ids: list[str]
    """Of all rows of ``X``."""
    pool: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]
    oracles: dict[str, Oracle]
    """Of each concept what calls vectors positive. It saw neither a session nor the test split."""

    def is_positive(self, concept: str, rows: npt.NDArray[np.int64]) -> Bools:
        return np.asarray(self.labels[rows] == self.names.index(concept))


@dataclass
class Run:
    """One session of the comparison.

    Attributes:
        kept: vectors that it will have labelled, [GENERATED, d].
        in_best: of those made, how many are among the best of pool and made together.
        similarity: of a kept vector to the nearest item of the pool, in the mean.
        value: the session's, of a kept vector, in the mean.
        positives: of those kept, by the oracle.
        start, end: average precision on the test split before generating, and at the end.
    """

    concept: str
    seed: int
    arm: str
    session: Session
    kept: Vectors = field(default_factory=lambda: np.empty((0, 0), np.float32))
    in_best: int = 0
    similarity: float = np.nan
    value: float = np.nan
    positives: int = 0
    start: float = np.nan
    end: float = np.nan

    @property
    def item_ids(self) -> list[str]:
        return [f"made-{self.concept}-{self.seed}-{self.arm}-{n}" for n in range(len(self.kept))]


def linear(X: Vectors, truth: Bools) -> Oracle:
    """A logistic regression on all that is known: a teacher of the head's own kind."""
    model = LogisticRegression(C=100, solver="newton-cholesky").fit(X, truth)
    return lambda vectors: np.asarray(model.predict(vectors))


def nearest(X: Vectors, truth: Bools) -> Oracle:
    """The label of the nearest request that is known."""
    return lambda vectors: np.asarray(truth[(vectors @ X.T).argmax(axis=1)])


def load(folder: Path, every: int, oracle: Callable[[Vectors, Bools], Oracle]) -> World:
    """The data with a pool for every so many of the concepts."""
    X = np.load(folder / "embeddings.npy").astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    labels = np.load(folder / "labels.npy")
    test = np.load(folder / "test_index.npy").astype(np.int64)
    known = np.setdiff1d(np.arange(len(X)), test)
    names = json.loads((folder / "label_names.json").read_text())
    rng = np.random.default_rng(0)
    concepts = range(1, len(names), every)
    rare = [rng.choice(known[labels[known] == c], POOL_POSITIVES, replace=False) for c in concepts]
    others = known[~np.isin(labels[known], concepts)]
    rest = rng.choice(others, POOL_ITEMS - len(rare) * POOL_POSITIVES, replace=False)
    pool = np.sort(np.concatenate([*rare, rest]))
    ids = [f"request-{row}" for row in range(len(X))]
    oracles = {names[c]: oracle(X[known], labels[known] == c) for c in concepts}
    return World(X, labels, names, list(oracles), ids, pool, test, oracles)


def inputs(folder: Path, vectors: Vectors, ids: list[str], origin: str) -> InputFiles:
    files = write_inputs(folder, vectors, ids, origin)
    lines = [json.dumps({"id": item_id, "origin": origin}) for item_id in ids]
    (folder / f"{origin}.jsonl").write_text("\n".join(lines))
    return InputFiles(files.embeddings, files.ids, metadata=folder / f"{origin}.jsonl")


def say(world: World, run: Run, client: Client, item_ids: list[str]) -> None:
    """Label pool items as they truly are."""
    rows = np.array([int(item_id.rpartition("-")[2]) for item_id in item_ids])
    truth = world.is_positive(run.concept, rows)
    client.add_labels(run.session, named(item_ids, truth), "ann")


def named(item_ids: Sequence[str], truth: Bools) -> dict[str, str]:
    values = np.where(truth, "positive", "negative").tolist()
    return dict(zip(item_ids, values, strict=True))


def label_more(world: World, run: Run, client: Client, labels: int) -> None:
    """Label what the session offers."""
    for size in [BATCH] * (labels // BATCH) + [labels % BATCH] * (labels % BATCH > 0):
        batch = client.next_batch(run.session, "ann", size)
        assert len(batch) == size
        say(world, run, client, batch.item_ids)


def begin(world: World, client: Client, concept: str, seed: int, arm: str) -> Run:
    """A session with its first labels: positives that somebody knew, and random items."""
    session = client.create_session("requests", candidates=All(), filter=FILTER, seed=seed)
    run = Run(concept, seed, arm, session)
    rng = np.random.default_rng(seed)
    truth = world.is_positive(concept, world.pool)
    first = [rng.choice(world.pool[truth], KNOWN, replace=False)]
    first.append(rng.choice(world.pool[~truth], START - KNOWN, replace=False))
    say(world, run, client, [world.ids[row] for row in np.concatenate(first)])
    return run


def positives_of(world: World, run: Run, client: Client) -> Vectors:
    found = [r.item_id for r in client.list_labels(run.session) if r.value == "positive"]
    return world.X[[int(item_id.rpartition("-")[2]) for item_id in found]]


def make(positives: Vectors, seed: int) -> Vectors:
    """Mixtures of two positives, with noise of half their length."""
    rng = np.random.default_rng(seed)
    pairs = rng.integers(len(positives), size=(MADE, 2))
    share = rng.random((MADE, 1))
    mixed = share * positives[pairs[:, 0]] + (1 - share) * positives[pairs[:, 1]]
    noise = rng.standard_normal(mixed.shape) / np.sqrt(mixed.shape[1])
    return unit(unit(mixed) + 0.5 * noise)


def unit(vectors: npt.NDArray[np.floating]) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def steer(client: Client, run: Run, vectors: Vectors) -> Vectors:
    """Climb the gradient of the session's value; a step that does not gain is halved."""
    step = np.full((len(vectors), 1), FIRST_STEP)
    here = client.score_vectors(run.session, vectors, gradients=True)
    scores, slopes = here.scores, here.gradients
    for _ in range(STEPS):
        assert slopes is not None
        trial = unit(vectors + step * unit(slopes))
        there = client.score_vectors(run.session, trial, gradients=True)
        assert there.gradients is not None
        assert there.basis == here.basis
        gains = (there.scores > scores)[:, None]
        vectors, slopes = np.where(gains, trial, vectors), np.where(gains, there.gradients, slopes)
        scores, step = np.maximum(scores, there.scores), np.where(gains, step, step / 2)
    reached = client.score_vectors(run.session, vectors)
    assert reached.scores.tolist() == scores.tolist()
    return vectors


def spaced(vectors: Vectors, scores: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """The best that are not alike, best first."""
    kept: list[int] = []
    for place in np.argsort(-scores, kind="stable").tolist():
        if len(kept) < count and (vectors[kept] @ vectors[place] < MOST_ALIKE).all():
            kept.append(place)
    return np.array(kept)


def generate(world: World, client: Client, run: Run) -> None:
    """What a user's generator does with the session: make, steer, ask what is worth a label."""
    made = make(positives_of(world, run, client), run.seed)
    before = client.score_vectors(run.session, made)
    if run.arm == "steered":
        made = steer(client, run, made)
    after = client.score_vectors(run.session, made, novelty=True, best_of=MADE)
    assert after.basis == before.basis
    assert (after.scores >= before.scores).all()
    assert after.in_best is not None
    assert after.pool_similarity is not None
    best = spaced(made, after.scores, GENERATED)
    run.kept, run.in_best = made[best], int(after.in_best.sum())
    run.similarity = float(after.pool_similarity[best].mean())
    run.value = float(after.scores[best].mean())


def adopt(world: World, client: Client, run: Run, version: str) -> None:
    """Move the session to the pool with the kept vectors, and have them labelled."""
    before = client.head(run.session)
    moved = client.update_session(run.session, pool_version=version)
    assert moved.basis.config_version == before.basis.config_version + 1
    assert (client.head(run.session).weights == before.weights).all()
    truth = world.oracles[run.concept](run.kept)
    run.positives = int(truth.sum())
    added = client.add_labels(run.session, named(run.item_ids, truth), "oracle")
    assert added.counts == {Outcome.NEW: GENERATED}
    assert added.revision > before.basis.revision
    own = client.score_vectors(run.session, run.kept, novelty=True)
    assert (own.basis.pool_version, own.basis.revision) == (version, added.revision)
    assert own.labelled_similarity is not None
    assert own.pool_similarity is not None
    np.testing.assert_allclose(own.labelled_similarity, 1, atol=1e-6)
    np.testing.assert_allclose(own.pool_similarity, 1, atol=1e-6)
    by_id = client.predict(run.session, items=run.item_ids).probabilities
    np.testing.assert_allclose(own.probabilities, by_id, atol=1e-6)


def average_precision(world: World, client: Client, run: Run) -> float:
    """Of the head on the test split."""
    logits = client.head(run.session).logits(world.X[world.test])[:, 0]
    return float(average_precision_score(world.is_positive(run.concept, world.test), logits))


def compare(world: World, folder: Path, redis_url: str, seeds: Sequence[int]) -> list[Run]:
    """The whole comparison: label, generate, append, move, label on."""
    options = ("--state", redis_url, "--artifacts", folder / "artifacts")
    vectors, ids = world.X[world.pool], [world.ids[row] for row in world.pool]
    base = inputs(folder, vectors, ids, "pool")
    build_pool(BuildOptions(base, folder / "one", name="requests"))
    with ServerProcess("--pool", folder / "one", *options) as server, Client(server.listen) as here:
        runs = [
            begin(world, here, c, seed, arm)
            for c in world.concepts
            for seed in seeds
            for arm in ARMS
        ]
        for run in runs:
            label_more(world, run, here, BEFORE - START)
            run.start = average_precision(world, here, run)
            if run.arm != "pool":
                generate(world, here, run)
    made = np.concatenate([run.kept for run in runs if len(run.kept)])
    new = inputs(folder, made, [i for run in runs for i in run.item_ids], "made")
    append_pool(AppendOptions(folder / "one", new, folder / "two"))
    pools = ("--pool", folder / "one", "--pool", folder / "two")
    with ServerProcess(*pools, *options) as server, Client(server.listen) as here:
        version = here.get_pool("requests").version
        for run in runs:
            if run.arm != "pool":
                adopt(world, here, run, version)
            label_more(world, run, here, AFTER - BEFORE - len(run.kept))
            run.end = average_precision(world, here, run)
            progress = here.progress(run.session)
            assert progress.labelled_items == AFTER
            assert (progress.basis.pool_version == version) == (run.arm != "pool")
            offered = [r.item_id for r in here.list_labels(run.session) if r.annotator == "ann"]
            assert not any(item_id.startswith("made-") for item_id in offered)
    return runs


def table(world: World, runs: Sequence[Run]) -> str:
    """The comparison as GENERATIVE.md shows it; errors are standard errors over the concepts."""
    concepts = len(world.concepts)
    lines = [f"{concepts} concepts, {len(runs) // len(ARMS) // concepts} seeds"]
    base = np.array([run.end for run in runs if run.arm == "pool"])
    for arm in ARMS:
        own = [run for run in runs if run.arm == arm]
        gain = (np.array([run.end for run in own]) - base).reshape(concepts, -1).mean(axis=1)
        error = gain.std(ddof=1) / np.sqrt(concepts)
        mean = {name: np.mean([getattr(run, name) for run in own]) for name in MEASURES}
        told = "  ".join(f"{name} {value:.3f}" for name, value in mean.items())
        lines.append(f"{arm:10} {told}  gain {gain.mean():+.3f} +- {error:.3f}")
    recall, precision = faithfulness(world)
    lines.append(f"oracle on the test split: recall {recall:.2f}, precision {precision:.2f}")
    return "\n".join(lines)


def faithfulness(world: World) -> tuple[float, float]:
    """Recall and precision of the oracle on the test split, over the concepts."""
    said = np.array([oracle(world.X[world.test]) for oracle in world.oracles.values()])
    true = np.array([world.is_positive(c, world.test) for c in world.concepts])
    return float((said & true).sum() / true.sum()), float((said & true).sum() / said.sum())


@pytest.mark.parametrize(
    ("every", "seeds", "oracle"),
    [
        (38, 2, linear),
        pytest.param(8, 3, linear, marks=pytest.mark.long),
        pytest.param(8, 3, nearest, marks=pytest.mark.long),
    ],
)
def test_generating_around_rare_concepts(
    every: int,
    seeds: int,
    oracle: Callable[[Vectors, Bools], Oracle],
    clinc150: Path,
    tmp_path: Path,
    redis_url: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = load(clinc150, every, oracle)
    runs = compare(world, tmp_path, redis_url, range(seeds))
    with capsys.disabled():
        print(f"\n{table(world, runs)}")
    check(world, runs)


def check(world: World, runs: Sequence[Run]) -> None:
    """What holds whatever the data: arms start alike, and steering climbs."""
    assert min(faithfulness(world)) > 0.8
    for pool, unsteered, steered in zip(runs[::3], runs[1::3], runs[2::3], strict=True):
        assert pool.start == unsteered.start == steered.start
        assert steered.value > unsteered.value
        assert steered.in_best >= unsteered.in_best
