"""Logits of labelled items by heads that were not fitted on them."""

from __future__ import annotations

import numpy as np

from coresift.server.arrays import Float64s, Int64s
from coresift.server.head.regression import HeadConfig, Task, TrainingSet, fit


def cross_fitted_logits(
    task: Task, config: HeadConfig, training: TrainingSet, folds: Int64s
) -> Float64s:
    """Logits of each training item under a head fitted on the other folds.

    Args:
        folds: int64 [n], the fold of each training item.

    Returns:
        float64 [n, K], nan where the other folds determine no column: too few labels, or a class
        that only this fold has.
    """
    logits = np.full(training.targets.shape, np.nan)
    for fold in np.unique(folds):
        rest, inside = folds != fold, folds == fold
        others = TrainingSet(training.vectors[rest], training.targets[rest], training.opposed[rest])
        head = fit(task, config, others)
        if head is not None:
            found = head.logits(training.vectors[inside])
            logits[inside] = np.where(head.fitted, found, np.nan)
    return logits
