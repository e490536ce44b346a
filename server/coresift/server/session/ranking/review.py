"""purpose = REVIEW: labelled items worth a second look, the most doubtful first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from coresift.server.arrays import Float64s, Rows
from coresift.server.estimates.activelab import second_opinions
from coresift.server.estimates.consensus import Votes
from coresift.server.estimates.second_look import class_probabilities, fold_of, losses_of
from coresift.server.head import Head, Task, TrainingSet
from coresift.server.head.cross_fitting import cross_fitted_logits
from coresift.server.selection.scoring import Scored, predicted_classes
from coresift.server.session.ranking.ordering import FIRST_RANKED
from coresift.server.session.ranking.ranking import Order, PickReason, Ranking
from coresift.server.session.view.snapshot import training_rows
from coresift.server.session.view.votes import Decisions, decide


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
    folds = fold_of(rows, config.seed)
    logits = cross_fitted_logits(config.task, config.head, training, folds)
    held_out = np.intersect1d(materials.validation, snapshot.labelled()).astype(np.int32)
    held_out, more_targets, more_opposed = snapshot.targets_of(held_out)
    held_out_logits = np.where(head.fitted, head.logits(pool.fetch(held_out)), np.nan)
    rows = np.concatenate([rows, held_out])
    logits = np.concatenate([logits, held_out_logits])
    targets = np.concatenate([targets, more_targets])
    opposed = np.concatenate([opposed, more_opposed])
    details: dict[str, float] = {}
    decisions = None if config.task is Task.MULTILABEL else decide(snapshot)
    if decisions is not None and len(decisions.said.items) > len(decisions.items):
        votes, annotators = votes_of(decisions, rows)
        new_rows = np.concatenate([order.scored.rows[:FIRST_RANKED] for order in ranking.orders])
        new = _full_probabilities(head, head.logits(pool.fetch(new_rows)))
        scores = second_opinions(class_probabilities(logits), votes, annotators, new)
        worth = scores.labelled
        if len(new_rows):
            details["best_new_item"] = float(scores.unlabelled.max())
    else:
        worth = losses_of(config.task, logits, targets, opposed)
    if materials.eligible is not None:  # the filter holds for second looks, too
        worth[~materials.eligible[rows]] = np.nan
    order = np.lexsort((rows, -worth))
    order = order[~np.isnan(worth[order])]
    predicted = predicted_classes(head, np.nan_to_num(logits, nan=-np.inf)[order])
    scored = Scored(rows[order].astype(np.int32), worth[order], predicted, True)
    return replace(
        ranking,
        orders=(Order(PickReason.REVIEW, 1.0, scored, details),),
        candidates=None,
        explore=None,
        is_review=True,
    )


def votes_of(decisions: Decisions, rows: Rows) -> tuple[Votes, int]:
    """The votes for a class (binary, multiclass), and how many annotators have one.

    Args:
        rows: int32 [n], all rows with such a vote, in any order; votes name items by place in it.
    """
    said, place = decisions.said, np.argsort(rows)
    names, annotators = np.unique(decisions.annotators[said.annotators], return_inverse=True)
    return Votes(place[said.items], annotators, said.classes), len(names)


def _full_probabilities(head: Head, logits: Float64s) -> Float64s:
    """Probabilities of all classes, float64 [n, K], K >= 2."""
    probabilities = head.probabilities(logits)
    if probabilities.shape[1] == 1:
        return np.hstack([1 - probabilities, probabilities])
    return probabilities
