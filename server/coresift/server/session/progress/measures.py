"""How good a session's head is, whether it has settled, and what its random sample says.

Functions of a snapshot, its head and the materials: dear, and the same for all who ask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from coresift.server.arrays import Bools, Int64s, Rows
from coresift.server.estimates.recall import RecallEstimate, estimate_recall
from coresift.server.estimates.stability import kappa
from coresift.server.estimates.validation import Measured, accuracy, mean_average_precision
from coresift.server.head import Head, Task, TrainingSet, fit
from coresift.server.selection.scoring import predicted_classes
from coresift.server.session.setup.config import SessionConfig
from coresift.server.session.setup.materials import Materials
from coresift.server.session.view.snapshot import HeadState, Snapshot, training_rows
from coresift.server.session.view.votes import Decisions, decide

PROBE_ITEMS = 1_000
LEAST_TRAINED = 50
"""Training items from which successive heads are compared."""
HEADS = 4


@dataclass(frozen=True, slots=True)
class Validation:
    """The head on validation items; see ValidationScore on the wire."""

    items: int
    accuracy: Measured | None
    average_precision: Measured | None


@dataclass(frozen=True, slots=True)
class Sample:
    """The random sample of a class; see RandomSample on the wire."""

    class_name: str
    positives: int
    confidence: float
    estimate: RecallEstimate
    lift: float | None


@dataclass(frozen=True, slots=True)
class Measures:
    """What a snapshot says about its session.

    Numbers and names, not the snapshot and its head: reports of many sessions are kept, also of
    those that were dropped to free their labels.

    Attributes:
        head_version, unfitted_classes: as `HeadState` has them.
        labelled_items: those with a vote.
        votes, unsure_votes: over all items.
        classes: name, votes present, votes absent (multilabel).
        validation: None: there are no labelled validation items.
        kappas: of successive heads, oldest first; None where the agreement is undefined. Empty:
            too few training items.
        sample: None: no class is named.
    """

    config: SessionConfig
    config_version: int
    revision: int
    head_version: str
    unfitted_classes: tuple[str, ...]
    labelled_items: int
    votes: int
    unsure_votes: int
    classes: tuple[tuple[str, int, int], ...]
    validation: Validation | None
    kappas: tuple[float | None, ...]
    sample: Sample | None


def measure(materials: Materials, state: HeadState, hidden: Mapping[int, int]) -> Measures:
    """All measures of a snapshot.

    Args:
        hidden: rows that nobody can label, with the offset of the log entry that says so.
    """
    snapshot = state.snapshot
    decisions = decide(snapshot)
    return Measures(
        config=snapshot.config,
        config_version=snapshot.config_version,
        revision=snapshot.revision,
        head_version=state.version,
        unfitted_classes=state.unfitted_classes,
        labelled_items=len(snapshot.votes),
        votes=len(decisions.voted),
        unsure_votes=int(decisions.unsure.sum()),
        classes=_class_counts(decisions),
        validation=_validation(materials, state, decisions),
        kappas=_kappas(materials, state),
        sample=_sample(materials, snapshot, decisions, hidden),
    )


def _class_counts(decisions: Decisions) -> tuple[tuple[str, int, int], ...]:
    names, said = decisions.config.classes, decisions.said
    positive, negative = said.classes, np.empty(0, np.int64)
    if decisions.config.task is Task.MULTILABEL:
        columns = decisions.columns[said.items]
        positive, negative = columns[said.classes == 1], columns[said.classes == 0]
    counts = [np.bincount(side, minlength=len(names)).tolist() for side in (positive, negative)]
    return tuple(zip(names, *counts, strict=True))


def _validation(materials: Materials, state: HeadState, decisions: Decisions) -> Validation | None:
    """Scores on the validation items whose votes decide something."""
    places = np.flatnonzero(np.isin(decisions.rows, materials.validation))
    decided = np.isin(decisions.items, places) & (decisions.winners >= 0)
    places, item = np.unique(decisions.items[decided], return_inverse=True)
    if not len(places):
        return None
    head, config = state.head, decisions.config
    if head is None:
        return Validation(len(places), None, None)
    winners = decisions.winners[decided]
    logits = head.logits(materials.pool.fetch(decisions.rows[places]))
    right = None
    if config.task is not Task.MULTILABEL:
        right = accuracy(predicted_classes(head, logits).astype(np.int64), winners)
    precision = None
    if config.task is not Task.MULTICLASS:
        column = decisions.columns[decided]
        truth, known = (np.zeros(logits.shape, np.bool_) for _ in range(2))
        known[item, column] = True
        truth[item, column] = winners == 1
        precision = mean_average_precision(logits, truth, known, config.seed)
    return Validation(len(places), right, precision)


def _kappas(materials: Materials, state: HeadState) -> tuple[float | None, ...]:
    """Agreement of heads of the first 7, 8, 9 and 10 tenths of the training items."""
    snapshot = state.snapshot
    rows, targets, opposed = training_rows(materials, snapshot)
    if len(rows) < LEAST_TRAINED:
        return ()
    config, pool = snapshot.config, materials.pool
    probe = pool.fetch(materials.random(config.seed, "probe").first(PROBE_ITEMS))

    def predictions(head: Head | None) -> Int64s | None:
        if head is None:
            return None
        logits = head.logits(probe)
        if config.task is Task.MULTILABEL:
            return (logits > 0).astype(np.int64).ravel()
        return predicted_classes(head, logits).astype(np.int64)

    vectors = pool.fetch(rows)
    by_age = np.argsort(_first_labels(snapshot, rows))
    predicted = []
    for tenths in range(10 - HEADS + 1, 10):
        kept = np.sort(by_age[: len(rows) * tenths // 10])
        training = TrainingSet(vectors[kept], targets[kept], opposed[kept])
        predicted.append(predictions(fit(config.task, config.head, training)))
    predicted.append(None if state.is_prior else predictions(state.head))
    return tuple(
        None if before is None or after is None else kappa(before, after)
        for before, after in pairwise(predicted)
    )


def _sample(
    materials: Materials, snapshot: Snapshot, decisions: Decisions, hidden: Mapping[int, int]
) -> Sample | None:
    """What the fully labelled prefix of the hash order says of a class.

    Lift compares the shares of positives beyond the prefix and in it.
    """
    config = snapshot.config
    name = config.stop.class_name or (config.classes[1] if config.task is Task.BINARY else "")
    if not name:
        return None
    labelled, positive, offsets = _known(snapshot, decisions, config.classes.index(name), hidden)
    order = materials.order.first(materials.order.length)
    found = estimate_recall(
        order,
        labelled,
        positive,
        offsets,
        alpha=1 - config.stop.confidence,
        target=config.stop.target_recall,
    )
    inside = np.isin(labelled, order[: found.sampled])
    beyond = ~inside & np.isin(labelled, order)
    positives = int(np.count_nonzero(positive & inside))
    lift = None
    if found.prevalence and beyond.any():
        lift = float(positive[beyond].mean()) / found.prevalence
    return Sample(name, positives, config.stop.confidence, found, lift)


def _known(
    snapshot: Snapshot, decisions: Decisions, number: int, hidden: Mapping[int, int]
) -> tuple[Rows, Bools, Int64s]:
    """Rows of which it is known whether they are of a class, in the order of their first label.

    Positive is what a majority of the votes calls so: a tie is not, nor is what nobody can tell
    (unsure, hidden). A multilabel item whose votes say nothing about the class is left out; its
    own first label still dates it once a later vote does, for since then it was not offered.

    Returns:
        int32 [n], bool [n], and int64 [n]: the log offsets of the first labels, or of the word
        that nobody can label the row if that came first. Ascending.
    """
    positive = np.zeros(len(decisions.rows), np.bool_)
    known = np.ones(len(decisions.rows), np.bool_)
    winner, on_class = number, decisions.columns == 0
    if snapshot.config.task is Task.MULTILABEL:
        winner, on_class = 1, decisions.columns == number
        known[decisions.items] = False  # something is said, but perhaps not about this class
        known[decisions.items[on_class]] = True
    positive[decisions.items[on_class & (decisions.winners == winner)]] = True
    rows = decisions.rows[known]
    gone = np.fromiter(hidden, np.int32, len(hidden))
    together = np.concatenate([rows, gone])
    offsets = np.concatenate(
        [
            snapshot.first_offsets[_first_labels(snapshot, rows)],
            np.fromiter(hidden.values(), np.int64, len(hidden)),
        ]
    )
    is_positive = np.concatenate([positive[known], np.zeros(len(gone), np.bool_)])
    unique, place = np.unique(together, return_inverse=True)
    first, found = np.full(len(unique), np.iinfo(np.int64).max), np.zeros(len(unique), np.bool_)
    np.minimum.at(first, place, offsets)
    np.logical_or.at(found, place, is_positive)
    order = np.argsort(first, kind="stable")
    return unique[order], found[order], first[order]


def _first_labels(snapshot: Snapshot, rows: Rows) -> Int64s:
    """Places of rows that have a label in the order of first labels, int64 [n]."""
    by_row = np.argsort(snapshot.ever, kind="stable")
    return by_row[np.searchsorted(snapshot.ever[by_row], rows)]
