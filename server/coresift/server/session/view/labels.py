"""What a label says, packed as the log keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import msgpack
import numpy as np
import numpy.typing as npt

from coresift.server.head import Task
from coresift.server.state.values import RETRACTION

UNSURE = bytes(msgpack.packb(None))
"""A vote that trains nothing."""
POSITIVE = bytes(msgpack.packb(1))
"""Of a binary session."""
KEPT_CLASSES = 1_024


@dataclass(frozen=True, slots=True)
class ClassSets:
    """A multilabel value: class numbers known present and known absent, ascending."""

    present: tuple[int, ...]
    absent: tuple[int, ...]


@lru_cache(KEPT_CLASSES)
def pack_class(number: int) -> bytes:
    """A binary or multiclass label."""
    return bytes(msgpack.packb(number))


def pack_sets(sets: ClassSets) -> bytes:
    """A multilabel label."""
    return bytes(msgpack.packb([sets.present, sets.absent]))


def unpack(value: bytes) -> int | ClassSets | None:
    """A packed label that is no retraction; None is unsure."""
    content = msgpack.unpackb(value)
    if isinstance(content, list):
        return ClassSets(tuple(content[0]), tuple(content[1]))
    return content if content is None else int(content)


def answer_of(value: bytes, task: Task) -> str:
    """What a packed label says, in a word: positive, negative, class, classes (multilabel), unsure
    or retraction."""
    if value == RETRACTION:
        return "retraction"
    if value == UNSURE:
        return "unsure"
    if task is Task.BINARY:
        return "positive" if value == POSITIVE else "negative"
    return "classes" if task is Task.MULTILABEL else "class"


def training_targets(
    task: Task, classes: int, votes: Sequence[Sequence[bytes]]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Targets of items from their votes.

    Args:
        classes: number of classes of the session.
        votes: per item the packed labels of its annotators.

    Returns:
        Places int64 [n] of the items that train something, ``targets`` and ``opposed`` float64
        [n, K] as in `coresift.server.head.TrainingSet`. An item weighs 1 in each column it
        knows, shared evenly by its votes.
    """
    width = 1 if task is Task.BINARY else classes
    targets, opposed = np.zeros((len(votes), width)), np.zeros((len(votes), width))
    if task is Task.MULTILABEL:
        _count_sets(votes, targets, opposed)
    else:
        items, numbers = _class_votes(votes)
        if task is Task.BINARY:
            np.add.at(targets[:, 0], items[numbers == 1], 1)
            np.add.at(opposed[:, 0], items[numbers == 0], 1)
        else:
            np.add.at(targets, (items, numbers), 1)
    if task is Task.MULTICLASS:
        known = targets.sum(axis=1, keepdims=True)
    else:
        known = targets + opposed
    share = np.divide(1.0, known, out=np.zeros_like(known), where=known > 0)
    trained = np.flatnonzero((known > 0).any(axis=1))
    return trained, (targets * share)[trained], (opposed * share)[trained]


def _class_votes(
    votes: Sequence[Sequence[bytes]],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Item places and class numbers of all votes that name a class."""
    decoded = {value: unpack(value) for value in {v for item in votes for v in item}}
    pairs = (
        (place, number)
        for place, item in enumerate(votes)
        for value in item
        if (number := decoded[value]) is not None
    )
    # Not from a list: its conversion would keep the event loop's thread waiting.
    array = np.fromiter(chain.from_iterable(pairs), np.int64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _count_sets(
    votes: Sequence[Sequence[bytes]],
    targets: npt.NDArray[np.float64],
    opposed: npt.NDArray[np.float64],
) -> None:
    for place, item in enumerate(votes):
        for value in item:
            sets = unpack(value)
            if isinstance(sets, ClassSets):
                targets[place, list(sets.present)] += 1
                opposed[place, list(sets.absent)] += 1
