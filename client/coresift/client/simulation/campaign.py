"""One campaign: an annotator who knows all answers labels a concept over gRPC."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from coresift.client.calls.config import All, HeadConfig
from coresift.client.calls.leases import Pick
from coresift.client.calls.session import Session
from coresift.client.client import Client
from coresift.client.enums import Phase
from coresift.client.errors import PreconditionFailed, Reason
from coresift.client.simulation.dataset import Dataset, Ints
from coresift.client.simulation.methods import Method, method
from coresift.client.simulation.protocol import (
    HEAD_C,
    Concept,
    average_precision,
    seed_set,
    session_seed,
)

CLASSES = ("other", "concept")
ANNOTATOR = "simulation"


@dataclass(frozen=True)
class Plan:
    """What a campaign does; runs of the protocol differ in concept, method, seed and draw."""

    concept: Concept
    method: Method
    seed: int
    draw: int
    budget: int
    batch: int
    cold: bool = False
    """Without a seed set: the method chooses the first labels too."""


@dataclass
class Run:
    """What a campaign measured, a value for each refit; and how long calls took, in seconds."""

    plan: Plan
    n: list[int] = field(default_factory=list)
    ap: list[float] = field(default_factory=list)
    recall: list[float] = field(default_factory=list)
    considered: list[float] = field(default_factory=list)
    next_batch_s: list[float] = field(default_factory=list)
    add_labels_s: list[float] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The run as it stands in curves.json."""
        return {
            "n": self.n,
            "ap": [round(value, 5) for value in self.ap],
            "recall": [round(value, 5) for value in self.recall],
            "considered": [round(value, 5) for value in self.considered],
            "concept": self.plan.concept.name,
            "seed": self.plan.seed,
            "method": self.plan.method.name,
            "draw": self.plan.draw,
        }


class Oracle:
    """Labels a session as the data set says, and knows what it has labelled."""

    def __init__(
        self,
        client: Client,
        data: Dataset,
        session: Session,
        label: int,
        place: dict[str, int],
    ) -> None:
        self._client = client
        self._data = data
        self._session = session
        self._place = place
        self.positive: npt.NDArray[np.bool_] = data.labels == label
        self._test_positive: npt.NDArray[np.bool_] = data.test_labels == label
        self.labelled = np.zeros(len(data.labels), dtype=bool)

    def label(self, positions: Ints, picks: list[Pick] | None = None) -> None:
        """Label pool positions, with the tokens of ``picks`` if they were leased."""
        answers = {
            self._data.item_ids[place]: CLASSES[int(self.positive[place])]
            for place in positions.tolist()
        }
        self._client.add_labels(self._session, answers, ANNOTATOR, batch=picks or ())
        self.labelled[positions] = True

    def next(self, size: int) -> list[Pick]:
        """Lease ``size`` items; fewer only when the pool is exhausted."""
        picks: list[Pick] = []
        while len(picks) < size:
            batch = self._client.next_batch(
                self._session, ANNOTATOR, size - len(picks), include_metadata=False
            )
            picks.extend(batch)
            if not len(batch) or batch.phase is Phase.EXHAUSTED:
                break
        return picks

    def positions(self, picks: list[Pick]) -> Ints:
        """Pool positions of leased items."""
        return np.array([self._place[pick.item_id] for pick in picks], dtype=np.int64)

    def ap(self) -> float:
        """Average precision of the session's head on the test split; without a head, that of
        equal scores."""
        try:
            scores = self._client.head(self._session).logits(self._data.test_vectors)[:, 0]
        except PreconditionFailed as error:
            if error.reason is not Reason.HEAD_NOT_FITTED:
                raise
            scores = np.zeros(len(self._test_positive))
        return average_precision(self._test_positive, scores)

    def recall(self) -> float:
        """Positives labelled, of all in the pool."""
        return float((self.labelled & self.positive).sum() / self.positive.sum())

    def considered(self) -> float:
        """Share of the pool that is labelled or a candidate."""
        if isinstance(self._session.candidates, All):
            return 1.0
        return self._client.progress(self._session).considered_share


@contextmanager
def oracle(
    client: Client,
    data: Dataset,
    pool: str,
    label: int,
    place: dict[str, int],
    *,
    method: Method,
    seed: int,
    budget: int | None = None,
) -> Iterator[Oracle]:
    """A fresh session for a concept, deleted afterwards."""
    session = client.create_session(
        pool,
        "binary",
        CLASSES,
        strategy=method.strategy,
        candidates=method.candidates,
        batch=method.batch,
        head=HeadConfig(c=HEAD_C),
        seed=seed,
        label_budget=budget,
        lease_duration=3600,
    )
    try:
        yield Oracle(client, data, session, label, place)
    finally:
        client.delete_session(session)


def run(
    client: Client,
    data: Dataset,
    pool: str,
    place: dict[str, int],
    plan: Plan,
    *,
    on_labels: Callable[[int], None],
) -> Run:
    """Run a campaign; ``place`` maps item ids to positions, ``on_labels`` hears of labels."""
    out = Run(plan)
    concept, seed = plan.concept, session_seed(plan.concept.number, plan.seed, plan.draw)
    with oracle(
        client,
        data,
        pool,
        concept.label,
        place,
        method=plan.method,
        seed=seed,
        budget=plan.budget,
    ) as annotator:
        picks: list[Pick] | None = None
        if plan.cold:
            with _timed(out.next_batch_s):
                picks = annotator.next(min(plan.batch, plan.budget))
            positions = annotator.positions(picks)
        else:
            positions = seed_set(annotator.positive, plan.seed, concept.number)
        while True:
            with _timed(out.add_labels_s):
                annotator.label(positions, picks)
            on_labels(len(positions))
            out.n.append(int(annotator.labelled.sum()))
            out.recall.append(annotator.recall())
            out.considered.append(annotator.considered())
            left = plan.budget - out.n[-1]
            if left > 0:
                # Before the head is asked for: the time of NextBatch includes the fit.
                with _timed(out.next_batch_s):
                    picks = annotator.next(min(plan.batch, left))
            out.ap.append(annotator.ap())
            if left <= 0 or not picks:
                return out
            positions = annotator.positions(picks)


def full_supervision(
    client: Client, data: Dataset, pool: str, place: dict[str, int], concept: Concept
) -> float:
    """Average precision of the head fitted on the labels of the whole pool."""
    by = method("max_entropy@all")
    with oracle(client, data, pool, concept.label, place, method=by, seed=0) as annotator:
        annotator.label(np.arange(len(data.labels)))
        return annotator.ap()


@contextmanager
def _timed(seconds: list[float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - start)
