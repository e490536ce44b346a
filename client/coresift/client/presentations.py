"""A mini-batch of any array library, checked, and what it says of each of its items."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from coresift.client.convert import Float64

Int64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Presentations:
    """What a model made of n labelled items.

    Attributes:
        correct: bool [n]: the first of the largest logits is the label's.
        el2n: float64 [n]: length of the softmax minus the one-hot label.
        label_margin: float64 [n]: the label's logit minus the largest other.
        entropy: float64 [n]: of the softmax, nats.
        margin: float64 [n]: difference of the two largest probabilities.
        confidence: float64 [n]: the largest probability.
    """

    correct: Bools
    el2n: Float64
    label_margin: Float64
    entropy: Float64
    margin: Float64
    confidence: Float64


def presentations(logits: Float64, labels: Int64) -> Presentations:
    """Measure logits [n, classes] by labels [n]."""
    rows = np.arange(len(logits))
    best = logits.argmax(axis=1)
    first = logits[rows, best]
    shifted = logits - first[:, None]
    shifted[rows, best] = -np.inf
    behind = shifted.max(axis=1)
    shifted[rows, best] = 0
    correct = best == labels
    errors = np.exp(shifted)
    total = errors.sum(axis=1)
    entropy = np.log(total) - np.einsum("ij,ij->i", errors, shifted) / total
    errors /= total[:, None]
    # The label's error is the sum of the others: 1 - p would lose it to rounding where it is small.
    errors[rows, labels] = 0
    errors[rows, labels] = errors.sum(axis=1)
    return Presentations(
        correct=correct,
        el2n=np.sqrt(np.einsum("ij,ij->i", errors, errors)),
        label_margin=np.where(correct, -behind, shifted[rows, labels]),
        entropy=entropy,
        margin=-np.expm1(behind) / total,
        confidence=1 / total,
    )


def logits_of(given: Any) -> Float64:
    """Logits as float64 [n, classes].

    One logit an item ([n] or [n, 1]) is that of class 1 against class 0. ValueError.
    """
    values = _array(given)
    # Extension types, such as the bfloat16 of JAX, are of no kind that NumPy knows.
    if values.dtype.kind not in "fiuV":
        raise ValueError(f"logits must be numbers, got dtype {values.dtype}")
    logits = values.astype(np.float64, order="C")
    if logits.ndim == 1:
        logits = logits[:, None]
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(f"logits must be [n, classes], [n] or [n, 1], got {values.shape}")
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    return logits


def labels_of(given: Any, count: int, classes: int) -> Int64:
    """Labels as int64 [count], each a class number. ValueError."""
    values = _array(given)
    if values.shape == (count, 1):
        values = values[:, 0]
    if values.shape != (count,):
        raise ValueError(
            f"labels must be class numbers [n] for logits of {count} items, got {values.shape}"
        )
    if values.dtype.kind not in "fiub":
        raise ValueError(f"labels must be class numbers, got dtype {values.dtype}")
    wrong = ~((values >= 0) & (values < classes) & (values % 1 == 0))
    if wrong.any():
        place = int(wrong.argmax())
        raise ValueError(
            f"labels must be class numbers 0..{classes - 1}, "
            f"got {values[place].item()} in place {place}"
        )
    return values.astype(np.int64)


def places_of(given: Any, count: int) -> Int64:
    """Places 0..count-1 as int64 [n]. ValueError."""
    values = _array(given)
    if values.size == 0:
        values = values.astype(np.int64)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise ValueError(
            f"items must be ids [n] or places [n], got dtype {values.dtype} and {values.shape}"
        )
    wrong = (values < 0) | (values >= count)
    if wrong.any():
        raise ValueError(f"there are items 0..{count - 1}, got {values[wrong.argmax()]}")
    return values.astype(np.int64)


def rounds(places: Int64) -> Iterator[Int64]:
    """Indices of a batch in rounds in which no place comes twice: first occurrences, second
    ones, and so on."""
    order = np.argsort(places, kind="stable")
    ascending = places[order]
    new = np.ones(len(places), np.bool_)
    new[1:] = ascending[1:] != ascending[:-1]
    if new.all():
        yield np.arange(len(places))
        return
    starts = np.flatnonzero(new)
    occurrence = np.arange(len(places)) - np.repeat(starts, np.diff(starts, append=len(places)))
    for number in range(int(occurrence.max()) + 1):
        yield order[occurrence == number]


def _array(given: Any) -> npt.NDArray[Any]:
    """An array of any library as NumPy's."""
    if hasattr(given, "detach"):
        given = given.detach().cpu()
        # Torch has floating-point types that NumPy lacks.
        given = (given.double() if given.is_floating_point() else given).numpy()
    return np.asarray(given)
