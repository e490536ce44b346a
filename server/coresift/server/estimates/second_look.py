"""How much each label surprises heads that were not fitted on it.

An item whose given label a cross-fitted head finds unlikely is a hard example or a wrong label:
both are worth a second look. A head fitted on the item itself would have learnt its label.
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax, softmax

from coresift.server.arrays import Float64s, Int64s, Rows
from coresift.server.head import Task
from coresift.server.selection.priority import priorities


def fold_of(rows: Rows, seed: int, folds: int = 5) -> Int64s:
    """The fold of each of ``rows`` for cross-fitting, int64 [n] below ``folds`` (2 or more).

    A keyed hash of the row decides, so an item stays in its fold as labels come in.
    """
    return (priorities(seed, "cross-fit", rows) * folds).astype(np.int64)


def losses_of(task: Task, logits: Float64s, targets: Float64s, opposed: Float64s) -> Float64s:
    """Mean negative log-probability, in nats, of targets as in `TrainingSet`; float64 [n].

    From logits [n, K], so that no loss saturates. For multiclass the sum over the classes of
    target times -log p; otherwise the mean over the columns that the item knows. What no head was
    fitted for (nan) counts 0: a loss nobody can tell makes no case for a second look, and an item
    that is the only one of its class would otherwise have an infinite one.
    """
    unfitted = np.isnan(logits)
    if task is Task.MULTICLASS:
        known = _without_unfitted(logits)
        loss = np.where(unfitted, 0.0, -log_softmax(known, axis=1))
        return np.asarray(np.sum(targets * loss, axis=1))
    present = np.where(unfitted, 0.0, targets)
    absent = np.where(unfitted, 0.0, opposed)
    logits = np.nan_to_num(logits)
    loss = present * np.logaddexp(0, -logits) + absent * np.logaddexp(0, logits)
    total = (present + absent).sum(axis=1)
    mean = np.divide(loss.sum(axis=1), total, out=np.zeros(len(total)), where=total > 0)
    return np.asarray(mean)


def class_probabilities(logits: Float64s) -> Float64s:
    """Class probabilities of cross-fitted logits [n, K], binary or multiclass.

    For binary (K = 1) float64 [n, 2], absent first. A class without a head has probability 0, an
    item without any head 1 / K each.
    """
    if logits.shape[1] == 1:
        logits = np.hstack([np.where(np.isnan(logits), np.nan, 0.0), logits])
    return np.asarray(softmax(_without_unfitted(logits), axis=1))


def _without_unfitted(logits: Float64s) -> Float64s:
    """Logits whose softmax gives classes without a head 0, and rows without any 1 / K each."""
    unfitted = np.isnan(logits)
    known = np.where(unfitted, -np.inf, logits)
    known[unfitted.all(axis=1)] = 0
    return known
