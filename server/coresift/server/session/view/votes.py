"""What a session's votes decide: consensus by item, agreement by annotator. Pure functions.

Votes are taken apart into decisions: an item of a binary or multiclass session is one (column 0,
the sides are the classes), one of a multilabel session has a decision for each class that a vote
names (the sides are 0, absent, and 1, present). A tie decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np

from coresift.server.arrays import Bools, Float64s, Int64s, Rows
from coresift.server.estimates.consensus import Votes, agreement, consensus
from coresift.server.head import Task
from coresift.server.session.setup.config import SessionConfig
from coresift.server.session.view.labels import ClassSets, unpack
from coresift.server.session.view.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Decisions:
    """The votes of a snapshot, and what they decide.

    Attributes:
        rows: int32 [n], rows with a vote, ascending.
        names: annotators with a vote, by name.
        voted: int64 [v], place of each vote's item in ``rows``; votes stand by item, then name.
        annotators: int64 [v], place of its annotator in ``names``.
        unsure: bool [v].
        items, columns: int64 [m], of each decision, by item, then column.
        winners: int64 [m], the side with the most votes, or `NO_CONSENSUS`.
        shares: float64 [m], share of the votes for the most frequent side.
        said: one place an opinion on a decision; its annotators are places of votes.
    """

    config: SessionConfig
    config_version: int
    revision: int
    rows: Rows
    names: tuple[str, ...]
    voted: Int64s
    annotators: Int64s
    unsure: Bools
    items: Int64s
    columns: Int64s
    winners: Int64s
    shares: Float64s
    said: Votes


@dataclass(frozen=True, slots=True)
class ItemConsensus:
    """An item; see ItemConsensus on the wire. Classes by number."""

    row: int
    votes: int
    unsure_votes: int
    winner: int | None
    """None: a tie, all unsure, or multilabel."""
    present: tuple[int, ...]
    absent: tuple[int, ...]
    agreement: float
    is_conflict: bool


@dataclass(frozen=True, slots=True)
class AnnotatorAgreement:
    """An annotator; see AnnotatorAgreement on the wire."""

    annotator: str
    votes: int
    unsure_votes: int
    compared: int
    agreed: int


def decide(snapshot: Snapshot) -> Decisions:
    """The decisions of a snapshot. O(votes)."""
    config, rows = snapshot.config, snapshot.labelled()
    names = sorted({name for item in snapshot.votes.values() for name in item})
    numbers = {name: number for number, name in enumerate(names)}
    codes: dict[bytes, int] = {}
    votes = (
        (place, numbers[name], codes.setdefault(value, len(codes)))
        for place, row in enumerate(rows.tolist())
        for name, value in sorted(snapshot.votes[row].items())
    )
    # Not from a list: its conversion would keep the event loop's thread waiting.
    voted, annotators, code = np.fromiter(chain.from_iterable(votes), np.int64).reshape(-1, 3).T
    opinions = [_opinions(value) for value in codes]
    counts = np.array([len(pairs) for pairs in opinions], np.int64)
    pairs = np.array([pair for some in opinions for pair in some], np.int64).reshape(-1, 2)
    # Each vote brings the opinions of its value, which stand together in `pairs`.
    said = counts[code]
    vote = np.repeat(np.arange(len(code)), said)
    within = np.arange(len(vote)) - np.repeat(np.cumsum(said) - said, said)
    first = np.cumsum(counts) - counts
    column, side = pairs[first[code[vote]] + within].T
    keys, decision = np.unique(voted[vote] * len(config.classes) + column, return_inverse=True)
    opinion = Votes(decision, vote, side)
    found = consensus(opinion, len(keys))
    return Decisions(
        config=config,
        config_version=snapshot.config_version,
        revision=snapshot.revision,
        rows=rows,
        names=tuple(names),
        voted=voted,
        annotators=annotators,
        unsure=said == 0,
        items=keys // len(config.classes),
        columns=keys % len(config.classes),
        winners=found.classes,
        shares=found.agreement,
        said=opinion,
    )


def _opinions(value: bytes) -> list[tuple[int, int]]:
    """(column, side) pairs that a packed label names; none for unsure."""
    content = unpack(value)
    if isinstance(content, ClassSets):
        return [(i, 1) for i in content.present] + [(i, 0) for i in content.absent]
    return [] if content is None else [(0, content)]


def annotators_of(decisions: Decisions) -> tuple[AnnotatorAgreement, ...]:
    """Every annotator against the others, by name.

    A vote is compared where the others decide on something that it names, and agrees if it says
    the same on all of that.
    """
    votes, count = len(decisions.voted), len(decisions.names)
    by_vote = agreement(decisions.said, len(decisions.items), votes)
    compared = by_vote.compared > 0
    agreed = compared & (by_vote.agreed == by_vote.compared)

    def total(chosen: Bools) -> list[int]:
        counts: list[int] = np.bincount(decisions.annotators[chosen], minlength=count).tolist()
        return counts

    columns = (np.ones(votes, np.bool_), decisions.unsure, compared, agreed)
    return tuple(map(AnnotatorAgreement, decisions.names, *map(total, columns)))


def items_after(
    decisions: Decisions, after: int, count: int, *, only_conflicts: bool
) -> tuple[tuple[ItemConsensus, ...], bool]:
    """Up to ``count`` items in pool order, beyond row ``after``; whether there are more."""
    listed = decisions.rows > after
    if only_conflicts:
        disputed = np.zeros(len(listed), np.bool_)
        disputed[decisions.items[decisions.shares < 1]] = True
        listed &= disputed
    places = np.flatnonzero(listed)
    items = tuple(_item(decisions, place) for place in places[:count].tolist())
    return items, len(places) > count


def _item(decisions: Decisions, place: int) -> ItemConsensus:
    votes = slice(*np.searchsorted(decisions.voted, [place, place + 1]).tolist())
    on_it = slice(*np.searchsorted(decisions.items, [place, place + 1]).tolist())
    winners, shares = decisions.winners[on_it], decisions.shares[on_it]
    unsure = decisions.unsure[votes]
    winner, present, absent = None, (), ()
    if decisions.config.task is Task.MULTILABEL:
        columns = decisions.columns[on_it]
        present, absent = (tuple(columns[winners == side].tolist()) for side in (1, 0))
    elif len(winners) and winners[0] >= 0:
        winner = int(winners[0])
    return ItemConsensus(
        row=int(decisions.rows[place]),
        votes=len(unsure),
        unsure_votes=int(unsure.sum()),
        winner=winner,
        present=present,
        absent=absent,
        agreement=float(shares.min()) if len(shares) else 0.0,
        is_conflict=bool((shares < 1).any()),
    )
