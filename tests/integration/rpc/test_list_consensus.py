"""ListConsensus against counts by hand, on the three tasks, page by page."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from uuid import uuid4

import pytest
from tests.fixtures.servers import refusal_of

from coresift.v1 import selection_pb2 as pb
from coresift.v1.selection_pb2_grpc import SelectionServiceStub

CLASSES = {
    pb.TASK_BINARY: ["no", "yes"],
    pb.TASK_MULTICLASS: ["ham", "eggs", "spam"],
    pb.TASK_MULTILABEL: ["ham", "eggs", "spam"],
}
Cast = dict[str, dict[str, pb.Label]]
"""Item to annotator to label."""


def new_id() -> str:
    return f"r-{uuid4()}"


def create(stub: SelectionServiceStub, task: pb.Task.ValueType) -> str:
    config = pb.SessionConfig(pool="things", task=task, classes=CLASSES[task], votes_per_item=3)
    request = pb.CreateSessionRequest(request_id=new_id(), config=config)
    return stub.CreateSession(request).session.session_id


def add(
    stub: SelectionServiceStub, session: str, annotator: str, labels: list[pb.Label]
) -> pb.AddLabelsResponse:
    return stub.AddLabels(
        pb.AddLabelsRequest(
            request_id=new_id(), session_id=session, annotator=annotator, labels=labels
        )
    )


def pages(
    stub: SelectionServiceStub, session: str, size: int = 0, *, only_conflicts: bool = False
) -> list[pb.ListConsensusResponse]:
    answers, token = [], ""
    while not answers or token:
        request = pb.ListConsensusRequest(
            session_id=session, page_size=size, page_token=token, only_conflicts=only_conflicts
        )
        answers.append(stub.ListConsensus(request))
        token = answers[-1].next_page_token
    return answers


def drawn_label(rng: random.Random, task: pb.Task.ValueType, item_id: str) -> pb.Label:
    if rng.random() < 0.15:
        return pb.Label(item_id=item_id, unsure=pb.Unsure())
    if task != pb.TASK_MULTILABEL:
        return pb.Label(item_id=item_id, class_name=rng.choice(CLASSES[task]))
    sides = {name: rng.choice(["present", "absent", ""]) for name in CLASSES[task]}
    sides[rng.choice(CLASSES[task])] = "present"
    sets = {
        side: [name for name in CLASSES[task] if sides[name] == side]
        for side in ("present", "absent")
    }
    return pb.Label(item_id=item_id, classes=pb.MultilabelValue(**sets))


def cast_votes(
    stub: SelectionServiceStub, session: str, task: pb.Task.ValueType
) -> tuple[Cast, int]:
    """Votes of three annotators on some of 120 items, and the newest revision."""
    rng, cast, revision = random.Random(int(task)), defaultdict(dict), 0
    for annotator in ("zoë", "ann", "Bob"):
        items = [*range(100, 160), *rng.sample(range(160, 600), 60)]  # some have all three
        labels = [drawn_label(rng, task, f"item-{n}") for n in items]
        add(stub, session, annotator, labels)
        taken_back = pb.Label(item_id="item-100", retraction=pb.Retraction())
        revision = add(stub, session, annotator, [taken_back]).basis.revision
        for label in labels:
            if label.item_id != "item-100":
                cast[label.item_id][annotator] = label
    return dict(cast), revision


def said(label: pb.Label) -> dict[str, str]:
    """What a label decides: of a multilabel item each class, else the item's class."""
    if label.WhichOneof("value") == "classes":
        present = dict.fromkeys(label.classes.present, "present")
        return present | dict.fromkeys(label.classes.absent, "absent")
    return {"": label.class_name} if label.class_name else {}


def sides_of(votes: Iterable[pb.Label]) -> dict[str, list[str]]:
    sides = defaultdict(list)
    for vote in votes:
        for decision, side in said(vote).items():
            sides[decision].append(side)
    return dict(sides)


def majority(sides: list[str]) -> str:
    most = max(map(sides.count, sides), default=0)
    best = {side for side in sides if sides.count(side) == most}
    return best.pop() if len(best) == 1 else ""


def expected_item(item_id: str, votes: dict[str, pb.Label], classes: list[str]) -> pb.ItemConsensus:
    sides = sides_of(votes.values())
    won = {decision: majority(given) for decision, given in sides.items()}
    sets = {
        side: [name for name in classes if won.get(name) == side] for side in ("present", "absent")
    }
    shares = [max(map(given.count, given)) / len(given) for given in sides.values()]
    return pb.ItemConsensus(
        item_id=item_id,
        votes=len(votes),
        unsure_votes=sum(vote.HasField("unsure") for vote in votes.values()),
        class_name=won.get("", ""),
        classes=pb.MultilabelValue(**sets) if any(sets.values()) else None,
        agreement=min(shares, default=0.0),
        is_conflict=any(len(set(given)) > 1 for given in sides.values()),
    )


def expected_annotator(name: str, cast: Cast) -> pb.AnnotatorAgreement:
    answer = pb.AnnotatorAgreement(annotator=name)
    for votes in cast.values():
        if name not in votes:
            continue
        others = sides_of(vote for other, vote in votes.items() if other != name)
        own = said(votes[name])
        theirs = {decision: majority(others.get(decision, [])) for decision in own}
        decided = [decision for decision, side in theirs.items() if side]
        answer.votes += 1
        answer.unsure_votes += votes[name].HasField("unsure")
        answer.compared += bool(decided)
        answer.agreed += bool(decided) and all(theirs[d] == own[d] for d in decided)
    return answer


@pytest.mark.parametrize("task", CLASSES, ids=pb.Task.Name)
def test_it_is_what_the_votes_say(stub: SelectionServiceStub, task: pb.Task.ValueType) -> None:
    session = create(stub, task)
    cast, revision = cast_votes(stub, session, task)
    items = [
        expected_item(f"item-{n}", cast[f"item-{n}"], CLASSES[task])
        for n in range(600)
        if f"item-{n}" in cast
    ]
    conflicts = [item for item in items if item.is_conflict]
    assert 0 < len(conflicts) < len(items)
    annotators = [expected_annotator(name, cast) for name in sorted(["zoë", "ann", "Bob"])]
    assert all(0 < found.agreed < found.compared < found.votes for found in annotators)
    for size in (0, 7, 1_000):
        for only_conflicts in (False, True):
            answers = pages(stub, session, size, only_conflicts=only_conflicts)
            listed = [item for answer in answers for item in answer.items]
            assert listed == (conflicts if only_conflicts else items)
            assert {len(answer.items) for answer in answers[:-1]} <= {size or 50}
            for answer in answers:
                assert list(answer.annotators) == annotators
                assert answer.basis.revision == revision
                assert (answer.basis.config_version, answer.basis.head_version) == (1, "")


def test_it_knows_every_label_at_once(stub: SelectionServiceStub) -> None:
    session = create(stub, pb.TASK_BINARY)
    (empty,) = pages(stub, session)
    assert (len(empty.items), len(empty.annotators), empty.basis.revision) == (0, 0, 0)
    for n, name in enumerate(("no", "yes", "yes")):
        label = pb.Label(item_id="item-3", class_name=name)
        revision = add(stub, session, f"annotator {n}", [label]).basis.revision
        (page,) = pages(stub, session)
        assert page.basis.revision == revision
        assert (page.items[0].votes, page.items[0].class_name) == (n + 1, ("no", "", "yes")[n])
    unsure = pb.Label(item_id="item-1", unsure=pb.Unsure())
    add(stub, session, "annotator 0", [unsure])
    (page,) = pages(stub, session)
    assert [item.item_id for item in page.items] == ["item-1", "item-3"]
    assert page.items[0] == pb.ItemConsensus(item_id="item-1", votes=1, unsure_votes=1)


def test_a_page_goes_on_where_the_last_one_ended(stub: SelectionServiceStub) -> None:
    """Also when labels came between: none of the items behind is passed over or repeated."""
    session = create(stub, pb.TASK_BINARY)
    even = [pb.Label(item_id=f"item-{n}", class_name="yes") for n in range(0, 40, 2)]
    add(stub, session, "ann", even)
    first = stub.ListConsensus(pb.ListConsensusRequest(session_id=session, page_size=10))
    odd = [pb.Label(item_id=f"item-{n}", class_name="no") for n in (1, 3, 31, 33)]
    add(stub, session, "ann", odd)
    rest = stub.ListConsensus(
        pb.ListConsensusRequest(
            session_id=session, page_size=1_000_000, page_token=first.next_page_token
        )
    )
    listed = [item.item_id for page in (first, rest) for item in page.items]
    expected = sorted([*range(0, 40, 2), 31, 33])
    assert listed == [f"item-{n}" for n in expected]
    assert rest.next_page_token == ""


def test_what_it_refuses(stub: SelectionServiceStub) -> None:
    session, _ = (create(stub, pb.TASK_BINARY) for _ in range(2))
    sessions = stub.ListSessions(pb.ListSessionsRequest(page_size=1))
    for token in ("x", sessions.next_page_token, "Y29uc2Vuc3VzOi0x"):  # the last: row -1
        request = pb.ListConsensusRequest(session_id=session, page_token=token)
        refusal = refusal_of(lambda request=request: stub.ListConsensus(request))  # type: ignore[misc]
        assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_PAGE_TOKEN")
        assert refusal.fields == ("page_token",)
    for name, reason in (("never made", "INVALID_FIELD"), ("never-made", "SESSION_NOT_FOUND")):
        request = pb.ListConsensusRequest(session_id=name)
        refusal = refusal_of(lambda request=request: stub.ListConsensus(request))  # type: ignore[misc]
        assert refusal.reason == reason
