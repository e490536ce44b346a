"""Majorities and leave-one-out agreement against a count by hand, and on many votes."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from coresift.server.estimates.consensus import (
    NO_CONSENSUS,
    Votes,
    agreement,
    consensus,
)

ITEMS, ANNOTATORS = 8, 5


def as_votes(cast: dict[tuple[int, int], int]) -> Votes:
    table = np.array([(*key, value) for key, value in cast.items()], np.int64).reshape(-1, 3)
    return Votes(table[:, 0], table[:, 1], table[:, 2])


def majority(classes: list[int]) -> int:
    ranked = Counter(classes).most_common(2)
    tied = len(ranked) == 2 and ranked[0][1] == ranked[1][1]
    return NO_CONSENSUS if tied or not ranked else ranked[0][0]


@settings(max_examples=300, deadline=None)
@given(
    cast=st.dictionaries(
        st.tuples(st.integers(0, ITEMS - 1), st.integers(0, ANNOTATORS - 1)),
        st.integers(0, 3),
        max_size=40,
    )
)
def test_against_a_count_by_hand(cast: dict[tuple[int, int], int]) -> None:
    votes = as_votes(cast)
    found = consensus(votes, ITEMS)
    for item in range(ITEMS):
        classes = [value for (place, _), value in cast.items() if place == item]
        assert found.classes[item] == majority(classes)
        if classes:
            assert found.agreement[item] == max(Counter(classes).values()) / len(classes)
        else:
            assert np.isnan(found.agreement[item])
    totals = agreement(votes, ITEMS, ANNOTATORS)
    for annotator in range(ANNOTATORS):
        own = {place: value for (place, name), value in cast.items() if name == annotator}
        others = {
            place: majority(
                [v for (p, name), v in cast.items() if p == place and name != annotator]
            )
            for place in own
        }
        compared = [place for place in own if others[place] != NO_CONSENSUS]
        agreed = sum(own[place] == others[place] for place in compared)
        assert totals.compared[annotator] == len(compared)
        assert totals.agreed[annotator] == agreed


def test_a_careless_annotator_shows_among_many_votes() -> None:
    generator = np.random.default_rng(4)
    items = 100_000
    truth = generator.integers(0, 10, items)
    wrong = generator.random((items, 3)) < np.array([0.02, 0.05, 0.4])
    classes = np.where(wrong, (truth[:, None] + 1) % 10, truth[:, None])
    place, annotator = np.divmod(np.arange(3 * items), 3)
    shuffled = generator.permutation(3 * items)
    votes = Votes(place[shuffled], annotator[shuffled], classes.ravel()[shuffled])
    totals = agreement(votes, items, 3)
    shares = totals.agreed / totals.compared
    assert shares[2] < 0.65
    assert shares[0] > 0.9
    assert np.mean(consensus(votes, items).classes == truth) > 0.95
