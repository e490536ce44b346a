"""Binary, multiclass and multilabel sessions from the first label to the head."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import expit, softmax
from tests.fixtures.servers import KINDS, Pools, clustered, is_spam, kind_of

from coresift.client import (
    All,
    Classes,
    Client,
    CoresiftError,
    Outcome,
    Phase,
    PickReason,
    Reason,
    Seals,
    Session,
    Task,
)
from coresift.client.calls.labels import LabelValue

Scores = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]


def sets(item_id: str) -> Classes:
    """What is meat, what comes in tins; of ham nothing is known about tins."""
    kind = kind_of(item_id)
    present = {"ham": ["meat"], "eggs": [], "spam": ["meat", "tinned"]}[kind]
    absent = {"ham": [], "eggs": ["meat", "tinned"], "spam": []}[kind]
    return Classes(present, absent)


def neg_abs(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return -np.abs(logits[:, 0])


def entropy(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    terms = np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0)
    return np.asarray(-terms.sum(axis=1))


def softmax_entropy(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return entropy(softmax(logits, axis=1))


def softmax_margin(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    p = np.sort(softmax(logits, axis=1), axis=1)
    return np.asarray(p[:, -2] - p[:, -1])


def mean_entropy(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    p = expit(logits)
    return np.array(np.mean([entropy(np.stack([q, 1 - q], axis=1)) for q in p.T], axis=0))


TASKS: list[tuple[Task, list[str], Callable[[str], LabelValue], str, Scores]] = [
    (Task.BINARY, [], is_spam, "max_entropy", neg_abs),
    (Task.BINARY, ["no", "yes"], lambda i: ("no", "yes")[kind_of(i) == "ham"], "margin", neg_abs),
    (Task.BINARY, [], is_spam, "most_likely_positive", lambda logits: logits[:, 0]),
    (Task.MULTICLASS, list(KINDS), kind_of, "max_entropy", softmax_entropy),
    (Task.MULTICLASS, list(KINDS), kind_of, "margin", softmax_margin),
    (
        Task.MULTICLASS,
        list(KINDS),
        kind_of,
        "least_confidence",
        lambda logits: 1 - softmax(logits, axis=1).max(axis=1),
    ),
    (Task.MULTILABEL, ["meat", "tinned"], sets, "max_entropy", mean_entropy),
]


@pytest.mark.parametrize(
    ("task", "classes", "truth", "strategy", "score"),
    TASKS,
    ids=[f"{case[0]}-{case[3]}" for case in TASKS],
)
def test_a_session_of_each_task(
    client: Client,
    pools: Pools,
    task: Task,
    classes: list[str],
    truth: Callable[[str], LabelValue],
    strategy: str,
    score: Scores,
) -> None:
    session = client.create_session("things", task, classes, strategy=strategy, seed=11)
    first = client.next_batch(session, "ann", 40)
    assert first.phase is Phase.COLD_START
    assert {pick.reason for pick in first} == {PickReason.COLD_START}
    result = client.add_labels(session, {i: truth(i) for i in first.item_ids}, "ann", batch=first)
    assert set(result.outcomes) == {Outcome.NEW}
    batch = client.next_batch(session, "ann", 50)
    assert batch.phase is Phase.SELECTING
    assert batch.basis.revision == result.revision
    check_scores(client, session, pools, batch.item_ids, [p.score for p in batch], score)
    check_predictions(client, session, pools)
    labels = list(client.list_labels(session))
    assert [record.item_id for record in labels] == first.item_ids
    assert [record.value for record in labels] == [as_read(truth(i)) for i in first.item_ids]
    progress = client.progress(session)
    counts = {c.class_name: (c.positive, c.negative) for c in progress.classes}
    assert counts == expected_counts(session, [truth(i) for i in first.item_ids])
    assert (progress.votes, progress.labelled_items, progress.live_leases) == (40, 40, 50)
    assert progress.unfitted_classes == ()


def as_read(value: LabelValue) -> LabelValue:
    if isinstance(value, Classes):
        return Classes(tuple(value.present), tuple(value.absent))
    return value


def expected_counts(session: Session, values: list[LabelValue]) -> dict[str, tuple[int, int]]:
    counts = {}
    for name in session.classes:
        present = absent = 0
        for value in values:
            present += name in value.present if isinstance(value, Classes) else name == value
            absent += isinstance(value, Classes) and name in value.absent
        counts[name] = (present, absent)
    return counts


def probabilities(task: Task, logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(softmax(logits, axis=1) if task is Task.MULTICLASS else expit(logits))


def check_scores(
    client: Client,
    session: Session,
    pools: Pools,
    item_ids: list[str],
    scores: list[float],
    score: Scores,
) -> None:
    """The batch is in the order of the scores, which are those of the head taken away."""
    head = client.head(session)
    vectors = np.stack([pools.things.vector(i) for i in item_ids])
    assert scores == sorted(scores, reverse=True)
    np.testing.assert_allclose(scores, score(head.logits(vectors)), atol=1e-9)
    outside = 3 * clustered(64, 99)  # scaled by the server
    answer = client.score_vectors(session, outside)
    logits = head.logits(unit(outside))
    np.testing.assert_allclose(answer.scores, score(logits), atol=1e-9)
    expected = probabilities(session.task, logits)
    np.testing.assert_allclose(answer.probabilities, expected, atol=1e-6)


def unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    wide = vectors.astype(np.float64)
    return np.array(wide / np.linalg.norm(wide, axis=1, keepdims=True), np.float32)


def check_predictions(client: Client, session: Session, pools: Pools) -> None:
    """All three targets agree with the head taken away."""
    things, head = pools.things, client.head(session)
    expected = probabilities(session.task, head.logits(things.vectors))
    columns = session.classes[1:] if session.task is Task.BINARY else session.classes
    backwards = things.item_ids[::-1]
    by_item = client.predict(session, items=backwards)
    assert by_item.classes == head.classes == tuple(columns)
    assert list(by_item.item_ids) == backwards
    np.testing.assert_allclose(by_item.probabilities, expected[::-1], atol=1e-6)
    by_vector = client.predict(session, vectors=things.vectors)
    assert len(by_vector.item_ids) == 0
    np.testing.assert_allclose(by_vector.probabilities, expected, atol=1e-6)
    for place, name in enumerate(columns):
        order = np.lexsort((np.arange(len(expected)), -expected[:, place]))
        top = client.predict(session, top=25, class_name=name)
        assert list(top.item_ids) == [things.item_ids[row] for row in order[:25]]
        np.testing.assert_allclose(top.probabilities, expected[order[:25]], atol=1e-6)
    whole = client.predict(session, top=100_000, class_name=columns[0])
    assert sorted(whole.item_ids) == sorted(things.item_ids)
    falling = whole.probabilities[:, 0]
    assert (np.diff(falling) <= 0).all()


def test_random_needs_no_head(client: Client) -> None:
    session = client.create_session("things", strategy="random", candidates=All(), seed=3)
    twin = client.create_session("things", strategy="random", candidates=All(), seed=3)
    other = client.create_session("things", strategy="random", candidates=All(), seed=4)
    picks = [client.next_batch(s, "ann", 50) for s in (session, twin, other)]
    assert {batch.phase for batch in picks} == {Phase.SELECTING}
    assert picks[0].item_ids == picks[1].item_ids != picks[2].item_ids
    with pytest.raises(CoresiftError) as caught:
        client.head(session)
    assert caught.value.reason is Reason.HEAD_NOT_FITTED


def test_classes_that_cannot_be_fitted_are_named(client: Client) -> None:
    session = client.create_session("things", Task.MULTICLASS, [*KINDS, "sea"])
    items = [f"item-{n}" for n in range(30)]
    client.add_labels(session, {i: kind_of(i) for i in items}, "ann")
    head = client.head(session)
    assert head.unfitted_classes == client.progress(session).unfitted_classes == ("sea",)
    predicted = client.predict(session, items=items)
    np.testing.assert_array_equal(predicted.probabilities[:, 3], 0)
    np.testing.assert_allclose(predicted.probabilities.sum(axis=1), 1, atol=1e-6)
    for batch in (client.next_batch(session, "ann", 5),):
        assert {pick.predicted_class for pick in batch} <= set(KINDS)


def test_seals_looks_at_the_neighbours_of_what_is_labelled(client: Client, pools: Pools) -> None:
    session = client.create_session("things", candidates=Seals(5))
    labelled = ["item-2", "item-3", "item-4"]
    client.add_labels(session, {i: is_spam(i) for i in labelled}, "ann")
    near = {
        neighbour.item_id
        for i in labelled
        for neighbour in client.search_pool("things", item_id=i, count=5)
    } - set(labelled)
    batch = client.next_batch(session, "ann", len(near))
    assert set(batch.item_ids) == near
    assert {pick.reason for pick in batch} == {PickReason.EXPLOIT}
    progress = client.progress(session)
    assert progress.candidates == len(near)
    assert progress.considered_share == pytest.approx((len(near) + 3) / 600)
    beyond = client.next_batch(session, "ann", 30)
    assert {pick.reason for pick in beyond} <= {PickReason.EXPAND, PickReason.RANDOM}
    assert not set(beyond.item_ids) & (near | set(labelled))
    assert beyond[0].reason is PickReason.EXPAND
    whole = client.create_session("things", candidates=All())
    client.add_labels(whole, {i: is_spam(i) for i in labelled}, "ann")
    assert client.progress(whole).candidates == len(pools.things.item_ids) - 3
