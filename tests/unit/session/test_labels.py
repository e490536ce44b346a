"""Labels: packed and back, and what they teach a head."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from coresift.server.head import Task
from coresift.server.session.view.labels import (
    UNSURE,
    ClassSets,
    pack_class,
    pack_sets,
    training_targets,
    unpack,
)
from coresift.server.state.values import RETRACTION

CLASSES = 4


@st.composite
def class_sets(draw: st.DrawFn) -> ClassSets:
    sides = draw(st.lists(st.sampled_from("pa-"), min_size=CLASSES, max_size=CLASSES))
    return ClassSets(
        tuple(i for i, side in enumerate(sides) if side == "p"),
        tuple(i for i, side in enumerate(sides) if side == "a"),
    )


@given(st.integers(0, 999))
def test_a_class_survives_packing(number: int) -> None:
    assert unpack(pack_class(number)) == number
    assert pack_class(number) not in {UNSURE, RETRACTION}


@given(class_sets())
def test_class_sets_survive_packing(sets: ClassSets) -> None:
    assert unpack(pack_sets(sets)) == sets
    assert pack_sets(sets) not in {UNSURE, RETRACTION}


def test_unsure_is_a_vote_and_no_retraction() -> None:
    assert unpack(UNSURE) is None
    assert UNSURE != RETRACTION


def twin(task: Task, votes: list[bytes]) -> tuple[list[float], list[float]]:
    """Shares of the votes on one item that name each column present and absent."""
    width = 1 if task is Task.BINARY else CLASSES
    present, absent = [0.0] * width, [0.0] * width
    for value in map(unpack, votes):
        if isinstance(value, ClassSets):
            for column in value.present:
                present[column] += 1
            for column in value.absent:
                absent[column] += 1
        elif value is not None and task is Task.BINARY:
            (present if value else absent)[0] += 1
        elif value is not None:
            present[value] += 1
    if task is Task.MULTICLASS:
        known = [sum(present)] * width
    else:
        known = [a + b for a, b in zip(present, absent, strict=True)]
    share = [1 / count if count else 0.0 for count in known]
    return (
        [a * b for a, b in zip(present, share, strict=True)],
        [a * b for a, b in zip(absent, share, strict=True)],
    )


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(Task))
def test_targets_are_shares_of_the_votes(data: st.DataObject, task: Task) -> None:
    value = {
        Task.BINARY: st.builds(pack_class, st.integers(0, 1)),
        Task.MULTICLASS: st.builds(pack_class, st.integers(0, CLASSES - 1)),
        Task.MULTILABEL: st.builds(pack_sets, class_sets()),
    }[task]
    item = st.lists(st.one_of(value, st.just(UNSURE)), min_size=1, max_size=4)
    votes = data.draw(st.lists(item, max_size=6))
    classes = 2 if task is Task.BINARY else CLASSES
    places, targets, opposed = training_targets(task, classes, votes)
    expected = [twin(task, each) for each in votes]
    trains = [place for place, (a, b) in enumerate(expected) if any(a) or any(b)]
    assert places.tolist() == trains
    assert targets.shape == opposed.shape == (len(trains), 1 if task is Task.BINARY else CLASSES)
    for at, place in enumerate(trains):
        np.testing.assert_allclose(targets[at], expected[place][0], rtol=1e-15)
        np.testing.assert_allclose(opposed[at], expected[place][1], rtol=1e-15)
    if task is not Task.MULTICLASS:
        sums = targets + opposed
        assert np.isin(np.round(sums, 12), [0, 1]).all()


def test_disagreeing_votes_share_an_item() -> None:
    yes, no = pack_class(1), pack_class(0)
    votes = [[yes, no, no, UNSURE], [UNSURE], [yes]]
    places, targets, opposed = training_targets(Task.BINARY, 2, votes)
    assert places.tolist() == [0, 2]
    np.testing.assert_allclose(targets[:, 0], [1 / 3, 1])
    np.testing.assert_allclose(opposed[:, 0], [2 / 3, 0])
