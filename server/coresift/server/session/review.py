"""purpose = REVIEW: labelled items worth a second look, the most doubtful first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from coresift.server.arrays import Float64s, Int64s, Rows
from coresift.server.estimates.activelab import second_opinions
from coresift.server.estimates.consensus import Votes
from coresift.server.estimates.second_look import (
    class_probabilities,
    cross_fitted_logits,
    losses_of,
)
from coresift.server.head import Head, Task, TrainingSet
from coresift.server.selection.shortlist import Scored, predicted_classes
from coresift.server.session.labels import unpack
from coresift.server.session.ranking import Order, PickReason, Ranking
from coresift.server.session.snapshot import Snapshot, training_rows


def review(ranking: Ranking, head: Head) -> Ranking:
    """The labelled items of a ranking's snapshot, those most worth a second look first.

    Where items have several votes (binary and multiclass): by the ActiveLab score of a second
    opinion (Goh and Mueller, 2023), in (0, 1); ``best_new_item`` among the details is the score on
    the same scale of the new item that most deserves a first label, among the best that the
    session's strategy has ranked. Otherwise by the loss in nats under heads fitted without the
    item (validation items: under the head). Items with unsure votes alone are not reviewed.
    """
    snapshot, materials = ranking.snapshot, ranking.materials
    config, pool = snapshot.config, materials.pool
    rows, targets, opposed = training_rows(materials, snapshot)
    training = TrainingSet(pool.fetch(rows), targets, opposed)
    logits = cross_fitted_logits(config.task, config.head, training, rows, config.seed)
    held_out = np.intersect1d(materials.validation, snapshot.labelled()).astype(np.int32)
    held_out, more_targets, more_opposed = snapshot.targets_of(held_out)
    held_out_logits = np.where(head.fitted, head.logits(pool.fetch(held_out)), np.nan)
    rows = np.concatenate([rows, held_out])
    logits = np.concatenate([logits, held_out_logits])
    targets = np.concatenate([targets, more_targets])
    opposed = np.concatenate([opposed, more_opposed])
    details = {}
    votes, annotators = votes_of(snapshot, rows)
    several = bool((np.bincount(votes.items, minlength=1) > 1).any())
    if several and config.task is not Task.MULTILABEL:
        new_rows = ranking.ranked_rows()
        new = _full_probabilities(head, head.logits(pool.fetch(new_rows)))
        scores = second_opinions(class_probabilities(logits), votes, annotators, new)
        worth = scores.labelled
        if len(new_rows):
            details["best_new_item"] = float(scores.unlabelled.max())
    else:
        worth = losses_of(config.task, logits, targets, opposed)
    order = np.lexsort((rows, -worth))
    predicted = predicted_classes(head, np.nan_to_num(logits, nan=-np.inf)[order])
    scored = Scored(rows[order].astype(np.int32), worth[order], predicted, True)
    return replace(
        ranking,
        orders=(Order(PickReason.REVIEW, 1.0, scored, details),),
        explore=None,
        is_review=True,
    )


def votes_of(snapshot: Snapshot, rows: Rows) -> tuple[Votes, int]:
    """The votes for a class on ``rows``, by place, and how many annotators there are; multilabel:
    votes of any content."""
    names: dict[str, int] = {}
    items: list[int] = []
    annotators: list[int] = []
    classes: list[int] = []
    decoded: dict[bytes, int | None] = {}
    for place, row in enumerate(rows.tolist()):
        for name, value in sorted(snapshot.votes[row].items()):
            if value not in decoded:
                label = unpack(value)
                decoded[value] = 0 if label is not None and not isinstance(label, int) else label
            if (number := decoded[value]) is not None:
                items.append(place)
                annotators.append(names.setdefault(name, len(names)))
                classes.append(number)
    columns: list[Int64s] = [np.array(part, np.int64) for part in (items, annotators, classes)]
    return Votes(*columns), max(1, len(names))


def _full_probabilities(head: Head, logits: Float64s) -> Float64s:
    """Probabilities of all classes, float64 [n, K], K >= 2."""
    probabilities = head.probabilities(logits)
    if probabilities.shape[1] == 1:
        return np.hstack([1 - probabilities, probabilities])
    return probabilities
