"""ScoreCoreset requests that make no sense: refused before there is a job, naming the field."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from tests.fixtures.nearly_right import World, new_id
from tests.fixtures.servers import DIMENSION, refusal_of

from coresift.v1 import selection_pb2 as pb
from coresift.v1.selection_pb2_grpc import SelectionServiceStub

FIELD, VECTOR, ITEM = "INVALID_FIELD", "INVALID_VECTOR", "ITEM_NOT_FOUND"
BALANCED = pb.ClassBudgets(balanced=pb.ClassBudgets.Balanced())


def counts(**given: int) -> pb.ClassBudgets:
    numbers = {int(name[1:]): count for name, count in given.items()}
    return pb.ClassBudgets(counts=pb.ClassBudgets.Counts(counts=numbers))


def params(**given: Any) -> Struct:
    struct = Struct()
    struct.update(given)
    return struct


def vectors(value: float, dimension: int = DIMENSION) -> pb.Targets:
    data = np.full((2, dimension), value, "<f4").tobytes()
    return pb.Targets(vectors=pb.Vectors(dimension=dimension, data=data))


CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("no budget", {"budget": None}, FIELD, "budget"),
    ("budget 0", {"budget": 0}, FIELD, "budget"),
    ("more than there are", {"budget": 601}, FIELD, "budget"),
    (
        "more than start items leave",
        {"method": "k_center", "budget": 599, "start_item_ids": ["item-1", "item-2"]},
        FIELD,
        "budget",
    ),
    (
        "nothing is left",
        {"method": "k_center", "start_item_ids": [f"item-{n}" for n in range(600)]},
        FIELD,
        "start_item_ids",
    ),
    (
        "an unknown start item",
        {"method": "k_center", "start_item_ids": ["item-1", "sea"]},
        ITEM,
        "start_item_ids[1]",
    ),
    (
        "too many start items",
        {"method": "k_center", "start_item_ids": ["item-1"] * 100_001},
        FIELD,
        "start_item_ids",
    ),
    ("start items of random", {"start_item_ids": ["item-1"]}, FIELD, "start_item_ids"),
    (
        "labels of no session",
        {"method": "k_center", "start_from_labels": True},
        FIELD,
        "session_id",
    ),
    ("method", {"method": "sea"}, "UNKNOWN_METHOD", "method"),
    ("a sampler as the method", {"method": "ccs"}, "UNKNOWN_METHOD", "method"),
    ("parameter", {"params": params(sea=1)}, FIELD, "params.sea"),
    ("parameter of no scalar", {"params": params(sea=[1])}, FIELD, "params.sea"),
    ("sampler", {"sampler": "top"}, FIELD, "sampler"),
    ("sampler_params", {"sampler_params": params(first="hardest")}, FIELD, "sampler_params"),
    ("no class_signal", {"class_budgets": BALANCED}, FIELD, "class_signal"),
    ("no session", {"predicted_classes": True}, FIELD, "session_id"),
    ("a signal", {"class_signal": "nowhere"}, "SIGNAL_NOT_FOUND", "class_signal"),
    ("no rule", {"class_budgets": pb.ClassBudgets()}, FIELD, "class_budgets.rule"),
    ("query", {"query": pb.Targets(item_ids=["item-1"])}, FIELD, "query"),
    ("avoid", {"avoid": pb.Targets(item_ids=["item-1"])}, FIELD, "avoid"),
    ("too many targets", {"query": pb.Targets(item_ids=["item-1"] * 10_001)}, FIELD, "query"),
    (
        "half a vector",
        {"query": pb.Targets(vectors=pb.Vectors(dimension=DIMENSION, data=b"1234"))},
        VECTOR,
        "query.vectors.data",
    ),
    ("one bucket", {"pacing_buckets": 1}, FIELD, "pacing_buckets"),
    ("10,001 buckets", {"pacing_buckets": 10_001}, FIELD, "pacing_buckets"),
    ("no grace", {"grace_period": Duration(nanos=999_999_999)}, FIELD, "grace_period"),
    ("much grace", {"grace_period": Duration(seconds=3601)}, FIELD, "grace_period"),
]


def assert_refused(stub: SelectionServiceStub, given: dict[str, Any], *expected: str) -> str:
    """For this reason, and there is no job; returns the words."""
    fields: dict[str, Any] = {"request_id": new_id(), "method": "random", "budget": 3} | given
    if not {"pool", "session_id"} & fields.keys():
        fields["pool"] = "things"
    request = pb.ScoreCoresetRequest(**fields)
    refusal = refusal_of(lambda: stub.ScoreCoreset(request))
    assert (refusal.reason, *refusal.fields) == expected, refusal
    assert len(refusal.message) > 10
    order = pb.CancelCoresetRequest(request_id=new_id(), job_id=request.request_id)
    assert refusal_of(lambda: stub.CancelCoreset(order)).reason == "JOB_NOT_FOUND"
    return str(refusal.message)


@pytest.mark.parametrize(
    ("given", "reason", "field"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_of_a_pool(
    stub: SelectionServiceStub, given: dict[str, Any], reason: str, field: str
) -> None:
    assert_refused(stub, given, reason, field)


def test_of_a_session(world: World) -> None:
    proxied = {"predicted_classes": True, "class_budgets": BALANCED}
    asked: list[tuple[dict[str, Any], str, str]] = [
        ({"session_id": world.multilabel, **proxied}, FIELD, "predicted_classes"),
        (
            {"session_id": world.binary, **proxied, "class_budgets": counts(c0=1, c1=1)},
            FIELD,
            "class_budgets.counts",
        ),
    ]
    for given, *expected in asked:
        assert_refused(world.stub, given, *expected)
    assert_refused(world.stub, {"session_id": world.unfitted, **proxied}, "HEAD_NOT_FITTED")


def test_a_signal_that_holds_no_classes(world: World) -> None:
    put = world.put(name="no-classes")
    put()
    given = {"pool": "growing", "class_signal": "no-classes"}
    assert_refused(world.stub, given, "INVALID_SIGNAL", "class_signal")
    delete = pb.DeleteSignalsRequest(request_id=new_id(), pool="growing", name="no-classes")
    world.stub.DeleteSignals(delete)


@pytest.mark.parametrize(
    ("budgets", "field", "words"),
    [
        (counts(c0=2, c1=1), "class_budgets.counts[1]", "class 1 has 0 items"),
        (counts(c0=2, c9=1), "class_budgets.counts[9]", "class 9 has 0 items"),
        (counts(c0=4), "class_budgets.counts", "add up to 4, the budget is 3"),
    ],
)
def test_what_the_classes_of_a_signal_cannot_give(
    world: World, budgets: pb.ClassBudgets, field: str, words: str
) -> None:
    """Known from the signal before there is a job; start items are not there to choose."""
    items = len(world.pools.grown.item_ids)
    kinds = np.where(np.arange(items) < 2, 1, 0).astype("<i4")
    world.put(
        [world.chunk(values=kinds)], name="kinds", kind=pb.SIGNAL_KIND_CLASS, columns=["kind"]
    )()
    given = {"pool": "growing", "class_signal": "kinds", "class_budgets": budgets}
    start = {"method": "k_center", "start_item_ids": ["item-0", "item-1"]}
    assert words in assert_refused(world.stub, given | start, FIELD, field)
    delete = pb.DeleteSignalsRequest(request_id=new_id(), pool="growing", name="kinds")
    world.stub.DeleteSignals(delete)


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        (
            {"method": "max_entropy"},
            "session_id",
            "give a session instead of a pool, or source signal or proxy",
        ),
        ({"predicted_classes": True}, "session_id", "or a class_signal"),
        (
            {"method": "k_center", "start_from_labels": True},
            "session_id",
            "give a session instead of a pool, or start_item_ids",
        ),
        ({"method": "k_center", "sampler": "ccs"}, "sampler", "without a sampler"),
        ({"class_budgets": BALANCED}, "class_signal", "predicted_classes of a session will do"),
    ],
)
def test_a_refusal_names_the_way_out(
    stub: SelectionServiceStub, given: dict[str, Any], field: str, words: str
) -> None:
    assert words in assert_refused(stub, given, FIELD, field)


@pytest.mark.parametrize(
    ("targets", "reason", "field"),
    [
        (pb.Targets(item_ids=["item-1", "sea"]), ITEM, "item_ids[1]"),
        (vectors(math.nan), VECTOR, "vectors[0]"),
        (vectors(0.0), VECTOR, "vectors[0]"),
        (vectors(1.0, DIMENSION + 1), VECTOR, "vectors"),
    ],
)
def test_targets(stub: SelectionServiceStub, targets: pb.Targets, reason: str, field: str) -> None:
    near = pb.Targets(item_ids=["item-0"])
    assert_refused(stub, {"method": "query", "query": targets}, reason, f"query.{field}")
    both = {"method": "query", "query": near, "avoid": targets}
    assert_refused(stub, both, reason, f"avoid.{field}")
