"""One query of another library, in a process of its own: data in, "ready", then the seconds.

Run by `peers`, with an interpreter that need not have Coresift: imports only what it measures.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

BATCH = 100
Query = Callable[[], Any]


def scikit_activeml(strategy: str, **params: Any) -> Callable[..., Query]:
    """A pool-based strategy by its name; with the fit of the classifier where it takes one."""

    def prepare(X: Any, rows: Any, labels: Any) -> Query:
        from skactiveml import pool
        from skactiveml.classifier import SklearnClassifier

        y = np.full(len(X), np.nan)
        y[rows] = labels
        wants_model = strategy in ("UncertaintySampling", "Badge")
        model = SklearnClassifier(LogisticRegression(C=100), classes=[0, 1], random_state=0)
        more = {"clf": model} if wants_model else {}
        query = getattr(pool, strategy)(random_state=0, **params).query
        return lambda: query(X=X, y=y, batch_size=BATCH, **more)

    return prepare


def modal_entropy(X: Any, rows: Any, labels: Any) -> Query:
    """Entropy sampling over the unlabelled rows."""
    from modAL.models import ActiveLearner
    from modAL.uncertainty import entropy_sampling

    rest = np.delete(X, rows, axis=0)

    def query() -> Any:
        model = LogisticRegression(C=100)
        learner = ActiveLearner(model, entropy_sampling, X[rows], labels)
        return learner.query(rest, n_instances=BATCH)

    return query


def modal_ranked(X: Any, rows: Any, labels: Any) -> Query:
    """Ranked batch-mode sampling (Cardoso et al., 2017)."""
    from modAL.batch import uncertainty_batch_sampling
    from modAL.models import ActiveLearner

    rest = np.delete(X, rows, axis=0)

    def query() -> Any:
        model = LogisticRegression(C=100)
        learner = ActiveLearner(model, uncertainty_batch_sampling, X[rows], labels)
        return learner.query(rest, n_instances=BATCH)

    return query


def small_text_entropy(X: Any, rows: Any, labels: Any) -> Query:
    """Prediction entropy, on a classifier that is scikit-learn's."""
    from small_text import PredictionEntropy

    rest = np.delete(np.arange(len(X)), rows)

    def query() -> Any:
        model = LogisticRegression(C=100).fit(X[rows], labels)
        return PredictionEntropy().query(model, X, rest, rows, labels, n=BATCH)

    return query


def small_text_coreset(X: Any, rows: Any, labels: Any) -> Query:
    """Greedy core-set (k-center)."""
    from small_text import greedy_coreset

    rest = np.delete(np.arange(len(X)), rows)
    return lambda: greedy_coreset(X, rest, rows, BATCH, distance_metric="euclidean")


def apricot_facility_location(X: Any, rows: Any, labels: Any) -> Query:
    """Facility location on the cosine of all pairs, lazy greedy, 1,000 rows."""
    from apricot import FacilityLocationSelection

    return lambda: FacilityLocationSelection(1_000, "cosine", optimizer="lazy").fit(X)


CASES: Mapping[str, Callable[..., Query]] = {
    "scikit-activeml entropy": scikit_activeml("UncertaintySampling", method="entropy"),
    "modAL entropy": modal_entropy,
    "small-text entropy": small_text_entropy,
    "scikit-activeml BADGE": scikit_activeml("Badge"),
    "scikit-activeml TypiClust": scikit_activeml("TypiClust"),
    "scikit-activeml CoreSet": scikit_activeml("CoreSet"),
    "small-text greedy core-set": small_text_coreset,
    "scikit-activeml ProbCover": scikit_activeml("ProbCover"),
    "modAL ranked batch": modal_ranked,
    "apricot facility location": apricot_facility_location,
}


def main(name: str, data: Path, limit_bytes: int) -> None:
    """Load, say so, query, say how long it took."""
    warnings.simplefilter("ignore")
    X = np.load(data / "embeddings.npy")
    start = np.load(data / "peers.npz")
    try:
        query = CASES[name](X, start["rows"], start["labels"])
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), flush=True)
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
    print(json.dumps({"ready": True}), flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    try:
        query()
    except MemoryError as error:
        print(json.dumps({"memory": str(error)}), flush=True)
        return
    print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
