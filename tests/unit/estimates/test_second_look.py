"""Cross-fitted losses against a loop, and what they do where labels are few."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, softmax

from coresift.server.arrays import Float64s, Rows
from coresift.server.estimates.second_look import class_probabilities, fold_of, losses_of
from coresift.server.head import HeadConfig, Task, TrainingSet, fit
from coresift.server.head.cross_fitting import cross_fitted_logits
from coresift.server.selection.priority import priorities

CONFIG = HeadConfig(c=10.0)


def cross_fitted_losses(
    task: Task, config: HeadConfig, training: TrainingSet, rows: Rows, seed: int, folds: int = 5
) -> Float64s:
    logits = cross_fitted_logits(task, config, training, fold_of(rows, seed, folds))
    return losses_of(task, logits, training.targets, training.opposed)


def training_set(seed: int, task: Task, items: int, classes: int) -> TrainingSet:
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((max(classes, 2), 12))
    labels = generator.integers(0, len(centres), items)
    X = (centres[labels] + generator.standard_normal((items, 12))).astype(np.float32)
    if task is Task.MULTICLASS:
        targets = np.eye(classes)[labels]
        targets[:5] = 1 / classes
        return TrainingSet(X, targets, np.zeros((items, classes)))
    present = labels[:, None] == np.arange(1, classes + 1)
    known = generator.random((items, classes)) < (1 if task is Task.BINARY else 0.7)
    targets, opposed = (known & present).astype(float), (known & ~present).astype(float)
    targets[:5], opposed[:5] = 0.5, 0.5
    return TrainingSet(X, targets, opposed)


@pytest.mark.parametrize(
    ("task", "classes"), [(Task.BINARY, 1), (Task.MULTICLASS, 4), (Task.MULTILABEL, 3)]
)
def test_losses_are_those_of_the_held_out_heads(task: Task, classes: int) -> None:
    training = training_set(1, task, 90, classes)
    rows = np.arange(500, 590, dtype=np.int32)
    losses = cross_fitted_losses(task, CONFIG, training, rows, seed=3, folds=4)
    fold = np.floor(priorities(3, "cross-fit", rows) * 4)
    assert len(np.unique(fold)) == 4
    for item in range(0, 90, 7):
        rest = fold != fold[item]
        others = TrainingSet(training.vectors[rest], training.targets[rest], training.opposed[rest])
        head = fit(task, CONFIG, others)
        assert head is not None
        logits = head.logits(training.vectors[item : item + 1])[0]
        target, opposed = training.targets[item], training.opposed[item]
        if task is Task.MULTICLASS:
            expected = -np.sum(target * np.log(softmax(logits)))
        else:
            known = target + opposed > 0
            terms = -target * np.log(expit(logits)) - opposed * np.log(expit(-logits))
            expected = terms[known].mean() if known.any() else 0.0
        assert losses[item] == pytest.approx(expected, abs=1e-9)


def test_a_wrong_label_comes_first() -> None:
    training = training_set(2, Task.MULTICLASS, 200, 4)
    targets = training.targets.copy()
    targets[40] = np.roll(targets[40], 1)
    wrong = TrainingSet(training.vectors, targets, training.opposed)
    rows = np.arange(200, dtype=np.int32)
    config = HeadConfig(c=0.1)
    losses = cross_fitted_losses(Task.MULTICLASS, config, wrong, rows, seed=0)
    before = cross_fitted_losses(Task.MULTICLASS, config, training, rows, seed=0)
    assert losses[40] > 2 > before[40]
    assert (losses > losses[40]).sum() < 10


def test_an_item_keeps_its_fold_whatever_else_is_labelled() -> None:
    training = training_set(3, Task.BINARY, 60, 1)
    rows = np.arange(60, dtype=np.int32)
    order = np.random.default_rng(0).permutation(60)
    shuffled = TrainingSet(
        training.vectors[order], training.targets[order], training.opposed[order]
    )
    losses = cross_fitted_losses(Task.BINARY, CONFIG, training, rows, seed=3)
    again = cross_fitted_losses(Task.BINARY, CONFIG, shuffled, rows[order], seed=3)
    np.testing.assert_allclose(again, losses[order], rtol=1e-6)


@pytest.mark.parametrize("task", list(Task))
def test_what_no_head_can_tell_counts_nothing(task: Task) -> None:
    X = np.eye(4, dtype=np.float32)
    rows = np.arange(4, dtype=np.int32)
    classes = 1 if task is Task.BINARY else 3
    targets = np.zeros((4, classes))
    targets[:, 0] = 1
    training = TrainingSet(X, targets, np.zeros((4, classes)))
    assert cross_fitted_losses(task, CONFIG, training, rows, seed=0).tolist() == [0] * 4
    logits = cross_fitted_logits(task, CONFIG, training, fold_of(rows, seed=0))
    assert np.isnan(logits).all()
    if task is not Task.MULTILABEL:
        assert np.allclose(class_probabilities(logits), 1 / max(classes, 2))


def test_the_only_item_of_a_class_has_no_infinite_loss() -> None:
    training = training_set(5, Task.MULTICLASS, 60, 3)
    targets = np.hstack([training.targets, np.zeros((60, 1))])
    targets[10] = [0, 0, 0, 1]
    alone = TrainingSet(training.vectors, targets, np.zeros((60, 4)))
    rows = np.arange(60, dtype=np.int32)
    losses = cross_fitted_losses(Task.MULTICLASS, CONFIG, alone, rows, seed=1)
    assert np.isfinite(losses).all()
    assert losses[10] == 0
    logits = cross_fitted_logits(Task.MULTICLASS, CONFIG, alone, fold_of(rows, seed=1))
    probabilities = class_probabilities(logits)
    assert probabilities[10, 3] == 0
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_losses_do_not_saturate() -> None:
    X = np.array([[1.0], [2.0], [-1.0], [-2.0]] * 10, np.float32) * 1e4
    present = (X > 0).astype(float)
    present[0] = 0
    training = TrainingSet(X, present, 1 - present)
    rows = np.arange(40, dtype=np.int32)
    losses = cross_fitted_losses(Task.BINARY, HeadConfig(c=1e4), training, rows, seed=2)
    assert np.isfinite(losses).all()
    assert losses[0] > 0
