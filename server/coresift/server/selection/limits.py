"""What a batch keeps to whatever its policy: no near-duplicates, groups, shares of classes."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coresift.server.arrays import Bools, Int64s, Rows
from coresift.server.pool.groups import NO_GROUP
from coresift.server.selection.batch import Shortlist
from coresift.server.selection.spacing import BLOCK, Spacing, cosines


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one batch; none by default.

    Attributes:
        max_similarity: no two rows have a cosine this large or larger (0..1; 1 keeps out
            copies); the cosine also on pools of other metrics, where a zero vector has cosine 0
            with all.
        class_shares: predicted classes and their shares of the batch, positive, at most 1
            together; all other classes share what remains of 1.
        max_per_group: rows of one group, at least 1.
    """

    max_similarity: float | None = None
    class_shares: tuple[tuple[int, float], ...] = ()
    max_per_group: int | None = None


def within(
    limits: Limits,
    shortlist: Shortlist,
    order: Int64s,
    count: int,
    predicted: npt.NDArray[np.int16],
    groups: Rows | None = None,
) -> Int64s:
    """The first places of an arrangement that may stand in one batch.

    Greedy: each class gives its rows in the order of the arrangement, and one is left out if it
    is too much like a row kept before, or its group is full. Classes take turns by the highest
    averages of Sainte-Laguë (1910): after every row, what they have is as near to their shares
    as it can be (least sum of (kept - share * size)^2 / share), ties to the class named first;
    where a class has no more rows, the others go on in the same proportions. Without shares the
    order is kept. A smaller count gives the beginning of a larger one's answer.

    Args:
        order: int64 [m], distinct places in the shortlist.
        count: rows wanted.
        predicted: int16 [n], predicted class of each row of the shortlist; -1 without a head.
        groups: int32 [n], group of each, or `NO_GROUP`. Needed for ``max_per_group``.

    Returns:
        int64, at most ``count`` places: fewer where the arrangement has no more that fit.
    """
    rules: list[_Spaced | _Grouped] = []
    if limits.max_per_group is not None:
        if groups is None:
            raise ValueError("max_per_group needs groups")
        rules.append(_Grouped(groups, limits.max_per_group))
    if limits.max_similarity is not None:
        rules.append(_Spaced(shortlist, limits.max_similarity))

    def allowed(places: Int64s) -> Int64s:
        for rule in rules:
            places = places[rule.free(places)]
        return places

    waiting = [
        (_turn(share, 0), number, share, _Queue(places))
        for number, (share, places) in enumerate(_by_class(limits.class_shares, order, predicted))
    ]
    heapq.heapify(waiting)
    kept: list[int] = []
    while len(kept) < count and waiting:
        _, number, share, queue = waiting[0]
        place = queue.next(allowed)
        if place is None:
            heapq.heappop(waiting)
            continue
        kept.append(place)
        for rule in rules:
            rule.take(place)
        heapq.heapreplace(waiting, (_turn(share, queue.given), number, share, queue))
    return np.array(kept, np.int64)


def _turn(share: float, given: int) -> float:
    """When a class gives its next row: the middle of the stretch of the batch that is its."""
    return (given + 0.5) / share if share > 0 else math.inf


def _by_class(
    shares: tuple[tuple[int, float], ...], order: Int64s, predicted: npt.NDArray[np.int16]
) -> list[tuple[float, Int64s]]:
    """Shares and the places of their classes in order; last, all classes that are not named."""
    named = {own: number for number, (own, _) in enumerate(shares)}
    classes, inverse = np.unique(predicted[order], return_inverse=True)
    numbers = np.array([named.get(int(own), len(shares)) for own in classes], np.int64)[inverse]
    by_number = np.argsort(numbers, kind="stable")
    ends = np.cumsum(np.bincount(numbers, minlength=len(shares) + 1))[:-1]
    rest = max(0.0, 1 - math.fsum(share for _, share in shares))
    parts = np.split(order[by_number], ends)
    return list(zip([*(share for _, share in shares), rest], parts, strict=True))


class _Queue:
    """Places of one share in their order, looked at in blocks as their turn comes."""

    def __init__(self, places: Int64s) -> None:
        self._waiting, self._open = places, places[:0]
        self.given = 0

    def next(self, allowed: Callable[[Int64s], Int64s]) -> int | None:
        """The next place that is allowed; those that are not are gone for good."""
        while True:
            self._open = allowed(self._open)
            if len(self._open):
                place, self._open = int(self._open[0]), self._open[1:]
                self.given += 1
                return place
            if not len(self._waiting):
                return None
            self._open, self._waiting = self._waiting[:BLOCK], self._waiting[BLOCK:]


class _Spaced:
    """Refuses rows that are too similar to a kept one."""

    def __init__(self, shortlist: Shortlist, max_similarity: float) -> None:
        self._spacing = Spacing(cosines(shortlist.vectors), len(shortlist.rows), max_similarity)

    def free(self, places: Int64s) -> Bools:
        return self._spacing.free(places)

    def take(self, place: int) -> None:
        self._spacing.take(place)


class _Grouped:
    """Refuses rows of groups that are full."""

    def __init__(self, groups: Rows, most: int) -> None:
        numbers, self._group = np.unique(groups, return_inverse=True)
        self._left = np.full(len(numbers), most, np.int64)
        self._left[numbers == NO_GROUP] = len(groups)

    def free(self, places: Int64s) -> Bools:
        return np.asarray(self._left[self._group[places]] > 0)

    def take(self, place: int) -> None:
        self._left[self._group[place]] -= 1
