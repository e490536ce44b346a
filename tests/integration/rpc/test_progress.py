"""GetSessionProgress: every field against a slow computation, and advice in real campaigns."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import beta
from sklearn.metrics import average_precision_score
from tests.fixtures.servers import KINDS, Pools, is_spam, kind_of

from coresift.server.estimates.stability import kappa
from coresift.server.head import Head, HeadConfig, Task, TrainingSet, fit
from coresift.server.selection.priority import random_order
from coresift.v1 import selection_pb2 as pb
from coresift.v1.selection_pb2_grpc import SelectionServiceStub

SEED = 5
SPAM_OR_EGGS = 'text in ("a spam", "a eggs")'
Votes = dict[str, dict[str, pb.Label]]
"""Item to annotator to label, by the first label of the item."""


def new_id() -> str:
    return f"r-{uuid4()}"


def create(stub: SelectionServiceStub, **config: Any) -> str:
    wanted = {"pool": "things", "task": pb.TASK_BINARY, "seed": SEED} | config
    request = pb.CreateSessionRequest(request_id=new_id(), config=pb.SessionConfig(**wanted))
    return stub.CreateSession(request).session.session_id


def add(stub: SelectionServiceStub, session: str, annotator: str, labels: list[pb.Label]) -> int:
    answer = stub.AddLabels(
        pb.AddLabelsRequest(
            request_id=new_id(), session_id=session, annotator=annotator, labels=labels
        )
    )
    return answer.basis.revision


def next_batch(stub: SelectionServiceStub, session: str, size: int) -> pb.NextBatchResponse:
    return stub.NextBatch(
        pb.NextBatchRequest(request_id=new_id(), session_id=session, annotator="ann", size=size)
    )


def hide(stub: SelectionServiceStub, session: str, item_ids: list[str]) -> None:
    stub.ReleaseLeases(
        pb.ReleaseLeasesRequest(
            request_id=new_id(),
            session_id=session,
            annotator="ann",
            item_ids=item_ids,
            reason=pb.RELEASE_REASON_CANNOT_LABEL,
        )
    )


def progress(stub: SelectionServiceStub, session: str) -> pb.GetSessionProgressResponse:
    return stub.GetSessionProgress(pb.GetSessionProgressRequest(session_id=session))


def head_of(stub: SelectionServiceStub, session: str, task: Task = Task.BINARY) -> Head:
    answer = stub.GetHead(pb.GetHeadRequest(session_id=session))
    bias = np.frombuffer(answer.bias, "<f8")
    weights = np.frombuffer(answer.weights, "<f8").reshape(len(bias), -1)
    fitted = [name not in answer.unfitted_classes for name in answer.classes]
    return Head(task, weights, bias, np.array(fitted))


def eligible(item_id: str) -> bool:
    return kind_of(item_id) != "ham"


def hash_order(purpose: str, *, filtered: bool = True) -> list[str]:
    ids = [f"item-{row}" for row in random_order(SEED, purpose, 600, 600).tolist()]
    return [item_id for item_id in ids if eligible(item_id)] if filtered else ids


# --- Every field ------------------------------------------------------------------------------

TASKS = {
    Task.BINARY: ["negative", "positive"],
    Task.MULTICLASS: list(KINDS),
    Task.MULTILABEL: list(KINDS),
}
CLASS = {Task.BINARY: "", Task.MULTICLASS: "eggs", Task.MULTILABEL: "spam"}
"""Of the stop rule."""


def label_of(task: Task, item_id: str, rng: random.Random) -> pb.Label:
    """Mostly the truth."""
    if rng.random() < 0.1:
        return pb.Label(item_id=item_id, unsure=pb.Unsure())
    kind = kind_of(item_id) if rng.random() < 0.9 else rng.choice(KINDS)
    match task:
        case Task.BINARY:
            return pb.Label(
                item_id=item_id, class_name="positive" if kind == "spam" else "negative"
            )
        case Task.MULTICLASS:
            return pb.Label(item_id=item_id, class_name=kind)
    absent = [name for name in KINDS if name != kind and rng.random() < 0.9]
    return pb.Label(item_id=item_id, classes=pb.MultilabelValue(present=[kind], absent=absent))


def campaign(stub: SelectionServiceStub, session: str, task: Task) -> tuple[Votes, int]:
    """Three annotators label the start of the hash order, the validation items and others."""
    rng, votes, labels_sent = random.Random(int(task)), defaultdict(dict), 0
    items = hash_order("explore")[:45] + hash_order("validation")[:30]
    items += [f"item-{n}" for n in rng.sample(range(600), 130)]
    items = list(dict.fromkeys(items))
    rng.shuffle(items)
    for start in range(0, len(items), 20):
        labels = [label_of(task, item_id, rng) for item_id in items[start : start + 20]]
        for annotator, some in (("ann", labels), ("bob", labels[:8]), ("cyd", labels[:4])):
            given = [label_of(task, label.item_id, rng) for label in some]
            add(stub, session, annotator, given)
            labels_sent += len(given)
            for label in given:
                votes[label.item_id][annotator] = label
    # An old item is labelled anew; another one loses its only label.
    alone = [item_id for item_id, own in votes.items() if list(own) == ["ann"]]
    del votes[alone[0]]
    votes[alone[1]]["ann"] = label_of(task, "item-0", random.Random(0))
    votes[alone[1]]["ann"].item_id = alone[1]
    add(stub, session, "ann", [pb.Label(item_id=alone[0], retraction=pb.Retraction())])
    add(stub, session, "ann", [votes[alone[1]]["ann"]])
    return votes, labels_sent


def sides_of(votes: dict[str, pb.Label], classes: Sequence[str]) -> dict[str, list[bool]]:
    """Class to what the votes that say something about it say."""
    sides: dict[str, list[bool]] = defaultdict(list)
    for label in votes.values():
        for name in classes:
            if label.class_name:
                sides[name].append(label.class_name == name)
            elif name in label.classes.present or name in label.classes.absent:
                sides[name].append(name in label.classes.present)
    return sides


def winner(votes: dict[str, pb.Label]) -> str:
    """The class with most votes; empty for a tie."""
    names = [label.class_name for label in votes.values() if label.class_name]
    best = {name for name in names if names.count(name) == max(map(names.count, names))}
    return best.pop() if len(best) == 1 else ""


def is_positive(task: Task, votes: dict[str, pb.Label], name: str) -> bool | None:
    """None: nothing is known about the class. A tie is no majority; nor is what nobody can tell."""
    if task is not Task.MULTILABEL:
        return winner(votes) == name
    sides = sides_of(votes, [name])[name]
    if not sides:
        return None if any(label.HasField("classes") for label in votes.values()) else False
    return sum(sides) > len(sides) / 2


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_field(stub: SelectionServiceStub, pools: Pools, task: Task) -> None:
    classes = TASKS[task]
    session = create(
        stub,
        task=pb.Task.ValueType(int(task)),
        classes=classes,
        candidates=pb.CandidatePolicy(all=pb.CandidatePolicy.All(), filter=SPAM_OR_EGGS),
        validation_size=30,
        votes_per_item=3,
        stop=pb.StopRule(target_recall=0.9, confidence=0.9, class_name=CLASS[task]),
    )
    votes, sent = campaign(stub, session, task)
    leased = len(next_batch(stub, session, 7).picks)
    hide(stub, session, ["item-7", "item-8"])
    found = progress(stub, session)
    labels = [label for own in votes.values() for label in own.values()]
    unsure = sum(label.HasField("unsure") for label in labels)
    assert (found.pool_items, found.eligible_items) == (600, 400)
    assert (found.labelled_items, found.votes) == (len(votes), len(labels))
    assert (found.unsure_votes, found.live_leases, found.hidden_items) == (unsure, leased, 2)
    # The label that came anew may have been the same.
    assert found.labels_per_hour in (sent, sent + 1)
    assert found.candidates == 400 - sum(map(eligible, votes))
    assert {c.class_name: (c.positive, c.negative) for c in found.classes} == {
        name: (
            sum(label.class_name == name or name in label.classes.present for label in labels),
            sum(name in label.classes.absent for label in labels),
        )
        for name in classes
    }
    head = stub.GetHead(pb.GetHeadRequest(session_id=session))
    assert found.basis == head.basis
    assert list(found.unfitted_classes) == list(head.unfitted_classes) == []
    assert found.stop_advice == pb.STOP_ADVICE_CONTINUE
    assert "recall is certified from" in found.stop_reason
    check_validation(found, head_of(stub, session, task), pools, task, votes)
    check_agreement(found, pools, task, votes)
    check_sample(found.random_sample, task, votes)
    assert progress(stub, session) == found


def check_validation(
    found: pb.GetSessionProgressResponse, head: Head, pools: Pools, task: Task, votes: Votes
) -> None:
    classes, score = TASKS[task], found.validation
    items = [item_id for item_id in hash_order("validation")[:30] if item_id in votes]
    X = np.stack([pools.things.vector(item_id) for item_id in items])
    logits = X.astype(np.float64) @ head.weights.T + head.bias
    if task is Task.MULTILABEL:
        sides = [
            {
                name: given
                for name, given in sides_of(votes[i], classes).items()
                if 2 * sum(given) != len(given)
            }
            for i in items
        ]
        assert score.items == sum(map(bool, sides)) > 20
        precisions = []
        for column, name in enumerate(classes):
            known = [i for i, own in enumerate(sides) if name in own]
            truth = [2 * sum(sides[i][name]) > len(sides[i][name]) for i in known]
            if 0 < sum(truth) < len(truth):
                precisions.append(average_precision_score(truth, logits[known, column]))
        assert len(precisions) == 2  # the filter leaves no ham
        assert not score.HasField("accuracy")
    else:
        truth = [winner(votes[item_id]) for item_id in items]
        decided = [i for i, name in enumerate(truth) if name]
        assert score.items == len(decided) > 20
        wanted = [classes.index(truth[i]) for i in decided]
        best = logits.argmax(axis=1) if task is Task.MULTICLASS else (logits[:, 0] > 0).astype(int)
        right, n = sum(a == b for a, b in zip(best[decided], wanted, strict=True)), len(decided)
        assert score.accuracy == right / n
        assert score.accuracy_low == pytest.approx(beta.ppf(0.025, right, n - right + 1))
        high = 1.0 if right == n else beta.ppf(0.975, right + 1, n - right)
        assert score.accuracy_high == pytest.approx(high)
        precisions = [average_precision_score(wanted, logits[decided, 0])] * (task is Task.BINARY)
    assert score.HasField("average_precision") == (task is not Task.MULTICLASS)
    if precisions:
        assert score.average_precision == pytest.approx(np.mean(precisions))
        assert score.average_precision_low < score.average_precision
        assert score.average_precision <= score.average_precision_high <= 1


def training_set(pools: Pools, task: Task, votes: Votes, items: Sequence[str]) -> TrainingSet:
    """Each item weighs 1 in each column it knows, shared by its votes; in pool order."""
    columns = TASKS[task][1:] if task is Task.BINARY else TASKS[task]
    items = sorted(items, key=lambda item_id: int(item_id.removeprefix("item-")))
    shape = (len(items), len(columns))
    targets, opposed = np.zeros(shape), np.zeros(shape)
    for place, item_id in enumerate(items):
        for name, sides in sides_of(votes[item_id], columns).items():
            column = columns.index(name)
            targets[place, column] = sum(sides) / len(sides)
            opposed[place, column] = 1 - targets[place, column]
    return TrainingSet(np.stack([pools.things.vector(i) for i in items]), targets, opposed)


def check_agreement(
    found: pb.GetSessionProgressResponse, pools: Pools, task: Task, votes: Votes
) -> None:
    held_out = hash_order("validation")[:30]
    trained = [
        item_id
        for item_id, own in votes.items()
        if item_id not in held_out and sides_of(own, TASKS[task])
    ]
    probe = np.stack([pools.things.vector(item_id) for item_id in hash_order("probe")])
    predicted: list[npt.NDArray[Any]] = []
    for tenths in (7, 8, 9, 10):
        first = trained[: len(trained) * tenths // 10]
        head = fit(task, HeadConfig(), training_set(pools, task, votes, first))
        assert head is not None
        logits = probe.astype(np.float64) @ head.weights.T + head.bias
        best = logits.argmax(axis=1) if task is Task.MULTICLASS else (logits > 0).ravel()
        predicted.append(best)
    expected = [kappa(before, after) for before, after in pairwise(predicted)]
    assert list(found.head_agreement) == pytest.approx(expected, abs=1e-9)


def check_sample(found: pb.RandomSample, task: Task, votes: Votes) -> None:
    name = CLASS[task] or "positive"
    known = {item_id: is_positive(task, own, name) for item_id, own in votes.items()}
    known |= {item_id: False for item_id in ("item-7", "item-8") if item_id not in votes}
    order = hash_order("explore")
    run = 0
    while known.get(order[run]) is not None:
        run += 1
    inside = [known[item_id] for item_id in order[:run]]
    beyond = [known[item_id] for item_id in order[run:] if known.get(item_id) is not None]
    positives = sum(map(bool, inside))
    assert positives > 0
    assert (found.class_name, found.confidence) == (name, 0.9)
    assert (found.items, found.positives) == (run, positives)
    assert found.prevalence == positives / run
    assert found.lift == pytest.approx((sum(map(bool, beyond)) / len(beyond)) / found.prevalence)
    labelled = positives + sum(map(bool, beyond))
    assert labelled / 400 <= found.prevalence_low <= found.prevalence_high <= 1
    assert found.recall_low <= found.recall <= 1
    assert found.labels_needed > 0


# --- Campaigns --------------------------------------------------------------------------------


@pytest.mark.parametrize("explored", [1.0, 0.5])
def test_recall_is_certified_when_it_is_reached_and_never_before(
    stub: SelectionServiceStub, explored: float
) -> None:
    session = create(
        stub,
        strategy=pb.Strategy(name="most_likely_positive"),
        explore_fraction=explored,
        stop=pb.StopRule(target_recall=0.8),
    )
    found = labelled = 0
    while True:
        now = progress(stub, session)
        sample, recall = now.random_sample, found / 200
        assert sample.recall_low <= recall
        assert sample.HasField("labels_needed") == bool(found)
        is_reached = now.stop_advice == pb.STOP_ADVICE_RECALL_REACHED
        assert is_reached == (found > 0 and sample.labels_needed == 0)
        if is_reached:
            break
        assert labelled < 600
        picks = next_batch(stub, session, 40).picks
        labels = [pb.Label(item_id=p.item_id, class_name=is_spam(p.item_id)) for p in picks]
        add(stub, session, "ann", labels)
        labelled += len(labels)
        found += sum(label.class_name == "positive" for label in labels)
    assert 0.8 <= sample.recall_low <= found / 200
    assert labelled < 600
    assert now.stop_reason.startswith(f"{found} of an estimated at most ")
    assert "recall is at least 0.8 at confidence 0.95" in now.stop_reason
    # Exploring alone finds the positives in proportion; exploiting finds them sooner.
    assert (labelled < 500) == (explored < 1)


def test_the_labels_that_are_needed_suffice_where_none_is_positive(
    stub: SelectionServiceStub,
) -> None:
    session = create(
        stub, explore_fraction=1.0, stop=pb.StopRule(target_recall=0.5, class_name="positive")
    )
    spam = [pb.Label(item_id=f"item-{n}", class_name="positive") for n in range(2, 600, 3)]
    add(stub, session, "ann", spam)
    needed = progress(stub, session).random_sample.labels_needed
    assert 0 < needed < 300
    while needed:
        picks = next_batch(stub, session, min(needed, 50)).picks
        assert {is_spam(pick.item_id) for pick in picks} == {"negative"}
        labels = [pb.Label(item_id=pick.item_id, class_name="negative") for pick in picks]
        add(stub, session, "ann", labels)
        now = progress(stub, session)
        assert now.random_sample.labels_needed <= needed - len(labels)
        needed = now.random_sample.labels_needed
    assert now.stop_advice == pb.STOP_ADVICE_RECALL_REACHED


def test_validation_items_come_first_and_never_train(
    stub: SelectionServiceStub, pools: Pools
) -> None:
    session = create(stub, validation_size=30, explore_fraction=0.2)
    labels: Votes = {}
    reasons = []
    for _ in range(4):
        picks = next_batch(stub, session, 20).picks
        reasons += [pick.reason for pick in picks]
        given = [pb.Label(item_id=p.item_id, class_name=is_spam(p.item_id)) for p in picks]
        add(stub, session, "ann", given)
        labels |= {label.item_id: {"ann": label} for label in given}
        now = progress(stub, session)
        assert now.validation.items == min(30, len(labels))
    assert reasons[:30] == [pb.PICK_REASON_VALIDATION] * 30
    assert pb.PICK_REASON_VALIDATION not in reasons[30:]
    items = list(labels)
    assert items[:30] == hash_order("validation", filtered=False)[:30]
    head = head_of(stub, session)
    without = fit(Task.BINARY, HeadConfig(), training_set(pools, Task.BINARY, labels, items[30:]))
    with_all = fit(Task.BINARY, HeadConfig(), training_set(pools, Task.BINARY, labels, items))
    assert without is not None
    assert with_all is not None
    np.testing.assert_allclose(head.weights, without.weights, atol=1e-6)
    np.testing.assert_allclose(head.bias, without.bias, atol=1e-6)
    assert np.abs(head.weights - with_all.weights).max() > 0.01


def test_without_a_head_the_validation_items_are_counted(stub: SelectionServiceStub) -> None:
    session = create(stub, validation_size=10)
    assert not progress(stub, session).HasField("validation")
    picks = next_batch(stub, session, 10).picks
    labels = [pb.Label(item_id=p.item_id, class_name=is_spam(p.item_id)) for p in picks]
    add(stub, session, "ann", [*labels[:9], pb.Label(item_id=picks[9].item_id, unsure=pb.Unsure())])
    now = progress(stub, session)
    assert now.validation == pb.ValidationScore(items=9)
    assert now.basis.head_version == ""
    assert list(now.unfitted_classes) == ["positive"]


def test_the_heads_settle(stub: SelectionServiceStub) -> None:
    session = create(stub, head=pb.HeadConfig(c=1.0))
    assert list(progress(stub, session).head_agreement) == []
    labels = [pb.Label(item_id=f"item-{n}", class_name=is_spam(f"item-{n}")) for n in range(600)]
    add(stub, session, "ann", labels[:49])
    assert list(progress(stub, session).head_agreement) == []
    add(stub, session, "ann", labels[49:60])
    early = progress(stub, session)
    assert len(early.head_agreement) == 3
    assert early.stop_advice == pb.STOP_ADVICE_CONTINUE
    assert "not settled" in early.stop_reason
    add(stub, session, "ann", labels[60:590])
    late = progress(stub, session)
    assert np.mean(late.head_agreement) >= 0.99
    assert late.stop_advice == pb.STOP_ADVICE_STABILISED


def test_one_sided_heads_are_never_called_stable(stub: SelectionServiceStub) -> None:
    session = create(stub)
    labels = [pb.Label(item_id=f"item-{n}", class_name="negative") for n in range(0, 300, 3)]
    add(stub, session, "ann", labels)
    now = progress(stub, session)
    assert list(now.head_agreement) == []
    assert now.stop_advice == pb.STOP_ADVICE_CONTINUE


def test_items_that_nobody_can_label_join_the_run_at_once(stub: SelectionServiceStub) -> None:
    session = create(stub)
    order = hash_order("explore", filtered=False)
    labels = [pb.Label(item_id=i, class_name=is_spam(i)) for i in order[:20] if i != order[4]]
    revision = add(stub, session, "ann", labels)
    before = progress(stub, session)
    assert (before.random_sample.items, before.hidden_items) == (4, 0)
    hide(stub, session, [order[4]])
    after = progress(stub, session)
    assert (after.random_sample.items, after.hidden_items) == (20, 1)
    assert after.basis == before.basis
    assert after.basis.revision == revision


def test_a_filter_bounds_what_can_be_exhausted(stub: SelectionServiceStub) -> None:
    session = create(stub, candidates=pb.CandidatePolicy(filter='text == "a ham"'))
    labels = [pb.Label(item_id=f"item-{n}", class_name="negative") for n in range(0, 600, 3)]
    add(stub, session, "ann", labels[:-1])
    now = progress(stub, session)
    assert (now.eligible_items, now.stop_advice) == (200, pb.STOP_ADVICE_CONTINUE)
    hide(stub, session, [labels[-1].item_id])
    now = progress(stub, session)
    assert now.stop_advice == pb.STOP_ADVICE_POOL_EXHAUSTED
    assert "200" in now.stop_reason
    assert (now.random_sample.items, now.random_sample.positives) == (200, 0)
    assert not now.random_sample.HasField("recall")
