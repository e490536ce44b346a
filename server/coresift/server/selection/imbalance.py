"""Rare classes: ask where the sides part, not where the head draws its line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from coresift.server.arrays import Bools, Float64s, Int64s
from coresift.server.head import Task
from coresift.server.head.cross_fitting import cross_fitted_logits
from coresift.server.selection.parameters import parameter
from coresift.server.selection.priority import priorities
from coresift.server.selection.strategy import Scorer, Setting, Situation
from coresift.server.selection.uncertainty import LogitScorer


@dataclass(frozen=True, slots=True)
class Direct:
    """DIRECT (Nuggehalli et al., 2025): items nearest to the threshold that best parts the sides.

    The score is ``-|logit - t|``, where t minimises the class-balanced error of the labelled
    items, half the share of positives below it plus half the share of negatives above. Under
    imbalance the head's own line, t = 0, gives away the rare side.

    Departures: binary only. The paper parts each class of several from the rest and gives every
    class the same budget, which no score of a single item can do, and cross-fitted softmax heads
    would take seconds. It minimises the number of errors, among labels that it has balanced
    itself; those of a session need not be. It searches scores of the items that trained the
    model, which say nothing for a linear head that separates its labels: here the logits are
    cross-fitted over ``folds`` parts of the labels.
    Its first half of a batch, random labels between the thresholds still possible, needs answers
    within the batch and is left out.

    Where a side has fewer than two labels, or no threshold does better than calling everything
    one side, t = 0.
    """

    folds: int = parameter(5, "parts of the labels for cross-fitting", low=2, high=20)
    needs_head: ClassVar[bool] = True
    tasks: ClassVar[frozenset[Task]] = frozenset({Task.BINARY})

    def objection(self, setting: Setting) -> str | None:
        return None

    def prepare(self, situation: Situation) -> Scorer:
        training = situation.training
        present, absent = training.targets[:, 0], training.opposed[:, 0]
        folds = stratified_folds(situation, present > absent, self.folds)
        config = situation.head_config
        logits = cross_fitted_logits(Task.BINARY, config, training, folds)[:, 0]
        known = ~np.isnan(logits)
        threshold = separation(logits[known], present[known], absent[known])
        return LogitScorer(
            lambda logits: -np.abs(logits[:, 0] - threshold),
            lambda classes: 1.0,
            lambda logits: -np.sign(logits - threshold),
        )


def stratified_folds(situation: Situation, positive: Bools, folds: int) -> Int64s:
    """The fold of each training row, int64 [n]: each side is dealt out in hash order."""
    rows, _, _ = situation.lessons
    priority = priorities(situation.seed, f"folds:{situation.revision}", rows)
    dealt = np.empty(len(positive), np.int64)
    for side in (positive, ~positive):
        order = np.flatnonzero(side)[np.argsort(-priority[side], kind="stable")]
        dealt[order] = np.arange(len(order)) % folds
    return dealt


def separation(logits: Float64s, present: Float64s, absent: Float64s) -> float:
    """The threshold on logits [n] with the least class-balanced error.

    Candidates lie midway between neighbouring logits; of several equal ones the nearest to 0,
    the head's own. 0 where no threshold is better than none.

    Args:
        present, absent: weights of an item's two sides, float64 [n].
    """
    positives, negatives = present.sum(), absent.sum()
    if positives == 0 or negatives == 0:
        return 0.0
    values, place = np.unique(logits, return_inverse=True)
    missed = np.cumsum(np.bincount(place, present))[:-1] / positives
    false = 1 - np.cumsum(np.bincount(place, absent))[:-1] / negatives
    middle = (values[:-1] + values[1:]) / 2
    error = (missed + false) / 2
    # Sums in another order may differ in the last digit: such errors are equal.
    if not len(error) or error.min() > 0.5 - 1e-9:
        return 0.0
    best = middle[error <= error.min() + 1e-9]
    return float(best[np.abs(best).argmin()])
