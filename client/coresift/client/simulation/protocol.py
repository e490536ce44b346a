"""The rules of a simulated campaign: concepts, seed sets, measures.

Active learning on rare concepts: one concept against the rest, five positives and 95 negatives
to begin with, then batches chosen by a method, the head's average precision on a fixed test
split measured after each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coresift.client.simulation.dataset import Dataset, Ints

SEED_POSITIVES, SEED_NEGATIVES = 5, 95
HEAD_C = 100.0
MOST_CONCEPTS = 10
LONG_TAIL_CONCEPTS = 5
LEAST_MEMBERS = 25
RARE_SHARE = 0.01
NO_CONCEPTS = frozenset({"other", "oos", "neutral", "none"})


@dataclass(frozen=True)
class Concept:
    """A class to be found; ``number`` is its place in the protocol's order."""

    name: str
    label: int
    number: int


def concepts(data: Dataset) -> list[Concept]:
    """The rare classes of a data set, in alphabetical order.

    Classes with at most 1 % of all rows and at least 25 members in the pool. Of more than 10,
    `default_rng(0)` chooses 10; where there are fewer than 10, the 10 rarest classes are taken
    (of a long-tailed subset, that is with ``use``, 5).
    """
    names = len(data.label_names)
    members = np.bincount(data.labels, minlength=names)
    total = members + np.bincount(data.test_labels, minlength=names)
    allowed = [
        (int(total[label]), name)
        for label, name in enumerate(data.label_names)
        if members[label] >= LEAST_MEMBERS
        and not name.startswith("_")
        and name.lower() not in NO_CONCEPTS
    ]
    chosen = sorted(name for count, name in allowed if count <= RARE_SHARE * data.size)
    if len(chosen) > MOST_CONCEPTS:
        r = np.random.default_rng(0)
        chosen = sorted(map(str, r.choice(chosen, MOST_CONCEPTS, replace=False)))
    elif len(chosen) < MOST_CONCEPTS:
        most = LONG_TAIL_CONCEPTS if data.use else MOST_CONCEPTS
        chosen = sorted(name for _, name in sorted(allowed)[:most])
    return [
        Concept(name, data.label_names.index(name), number) for number, name in enumerate(chosen)
    ]


def seed_set(positive: npt.NDArray[np.bool_], seed: int, concept_number: int) -> Ints:
    """Positions, ascending, of the 5 positives and 95 negatives that all methods start with."""
    r = np.random.default_rng([seed, concept_number])
    of_concept, others = np.flatnonzero(positive), np.flatnonzero(~positive)
    chosen = r.choice(of_concept, SEED_POSITIVES, replace=False)
    return np.sort(np.concatenate([chosen, r.choice(others, SEED_NEGATIVES, replace=False)]))


def session_seed(concept_number: int, seed: int, draw: int) -> int:
    """The session's seed: another one for every campaign of a method."""
    return (seed * 1_000 + concept_number) * 10 + draw


def average_precision(positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]) -> float:
    """Sum over the thresholds of (recall gained) x (precision); equal scores are one threshold.

    The definition of scikit-learn's ``average_precision_score``.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    last_of_tie = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    found = hits[last_of_tie]
    precision = found / (last_of_tie + 1)
    gained = np.diff(found, prepend=0)
    return float((gained * precision).sum() / hits[-1])
