"""What several annotators agree on, and who agrees with the others.

A tie has no consensus: nothing here breaks it, since every rule (the first, the lowest class, the
best annotator) would decide an item on grounds that its votes do not give. Unsure votes are no
votes here. For multilabel call it for one class at a time, with classes 0 and 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coresift.server.arrays import Bools, Float64s, Int64s

NO_CONSENSUS = -1


@dataclass(frozen=True, slots=True)
class Votes:
    """All votes of a session, one place an annotator and item.

    Attributes:
        items: int64 [v], place of the item, 0..n-1.
        annotators: int64 [v], place of the annotator, 0..a-1.
        classes: int64 [v], class number, 0 or more.
    """

    items: Int64s
    annotators: Int64s
    classes: Int64s


@dataclass(frozen=True, slots=True)
class Consensus:
    """Items' majorities.

    Attributes:
        classes: int64 [n], the class with the most votes, or `NO_CONSENSUS`: a tie, or no votes.
        agreement: float64 [n], share of the votes for the most frequent class; nan without votes.
    """

    classes: Int64s
    agreement: Float64s


@dataclass(frozen=True, slots=True)
class Agreement:
    """Annotators against the majority of the others.

    Attributes:
        compared: int64 [a], votes on items where the other annotators have a majority.
        agreed: int64 [a], those of them that name it.
    """

    compared: Int64s
    agreed: Int64s


@dataclass(frozen=True, slots=True)
class _Tally:
    """Distinct (item, class) pairs in order, and the leaders of each item that has votes.

    Attributes:
        items, classes, counts: int64 [p], a pair and its votes.
        place: int64 [v], the pair of each vote.
        most, leaders: int64 [n], votes of the item's first class, and how many classes have them.
        next_most, followers: int64 [n], the same among the classes behind them.
    """

    items: Int64s
    classes: Int64s
    counts: Int64s
    place: Int64s
    most: Int64s
    leaders: Int64s
    next_most: Int64s
    followers: Int64s


def consensus(votes: Votes, items: int) -> Consensus:
    """Majority class and agreement of ``items`` items; O(v log v)."""
    tally = _tally(votes, items)
    leads = tally.counts == tally.most[tally.items]
    classes = np.full(items, NO_CONSENSUS, np.int64)
    alone = leads & (tally.leaders[tally.items] == 1)
    classes[tally.items[alone]] = tally.classes[alone]
    totals = np.bincount(votes.items, minlength=items)
    share = np.divide(tally.most, totals, out=np.full(items, np.nan), where=totals > 0)
    return Consensus(classes, np.asarray(share))


def agreement(votes: Votes, items: int, annotators: int) -> Agreement:
    """How often each of ``annotators`` annotators names the majority of the others.

    The majority leaves the annotator's own vote out; where the others tie or there are none, the
    vote is not compared.
    """
    tally = _tally(votes, items)
    item, count = votes.items, tally.counts[tally.place]
    like_minded = count - 1
    is_leader = count == tally.most[item]
    leads_alone = is_leader & (tally.leaders[item] == 1)
    rival = np.where(leads_alone, tally.next_most[item], tally.most[item])
    rivals = np.where(leads_alone, tally.followers[item], tally.leaders[item] - is_leader)
    agrees = like_minded > rival
    compared = agrees | ((like_minded < rival) & (rivals == 1))

    def total(chosen: Bools) -> Int64s:
        return np.bincount(votes.annotators[chosen], minlength=annotators)

    return Agreement(total(compared), total(agrees))


def _tally(votes: Votes, items: int) -> _Tally:
    classes = int(votes.classes.max(initial=0)) + 1
    pairs, place, counts = np.unique(
        votes.items * classes + votes.classes, return_inverse=True, return_counts=True
    )
    item = pairs // classes
    most, leaders = _leaders(item, counts, items)
    behind = counts < most[item]
    next_most, followers = _leaders(item[behind], counts[behind], items)
    return _Tally(item, pairs % classes, counts, place, most, leaders, next_most, followers)


def _leaders(item: Int64s, counts: Int64s, items: int) -> tuple[Int64s, Int64s]:
    """The largest count of each item, and how many have it; 0 and 0 where there is none."""
    most = np.zeros(items, np.int64)
    np.maximum.at(most, item, counts)
    return most, np.bincount(item[counts == most[item]], minlength=items)
