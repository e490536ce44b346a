"""Sizes, vectors, labels and settings that cannot be: refused, and nothing has changed."""

from __future__ import annotations

import math

import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from tests.fixtures.nearly_right import Call, Make, World, assert_refused, new_id, rows
from tests.fixtures.servers import DIMENSION

from coresift.v1 import selection_pb2 as pb

LONG = 2**64 - 1
INVALID, PRECONDITION = "INVALID_ARGUMENT", "FAILED_PRECONDITION"
FIELD, VECTOR = "INVALID_FIELD", "INVALID_VECTOR"
NAN = [math.nan, *[1.0] * (DIMENSION - 1)]
INFINITE = [-math.inf, *[1.0] * (DIMENSION - 1)]
ONES = [1.0] * DIMENSION


def sent(call: str, values: list[float], dimension: int) -> Make:
    """Sends vectors by an RPC."""

    def make(world: World) -> Call:
        vectors = world.vectors(values, dimension)
        if call == "predict":
            return world.predict(vectors=vectors)
        return world.score(vectors) if call == "score" else world.search(vector=vectors)

    return make


def updated(path: str) -> Make:
    """Updates a field beside a proper one."""
    return lambda world: world.update("strategy", path)


@rows(
    *(
        (f"{name}: size", make, INVALID, FIELD, field)
        for name, make, field in (
            ("next 0", lambda w: w.next(size=0), "size"),
            ("next 1001", lambda w: w.next(size=1001), "size"),
            ("next huge", lambda w: w.next(size=2**32 - 1), "size"),
            ("no labels", lambda w: w.add(), "labels"),
            ("1001 labels", lambda w: w.add(*[w.label()] * 1001), "labels"),
            ("renew 1001", lambda w: w.renew(item_ids=["item-1"] * 1001), "item_ids"),
            ("release none", lambda w: w.release(item_ids=[]), "item_ids"),
            ("release 1001", lambda w: w.release(item_ids=["item-1"] * 1001), "item_ids"),
            ("release twice", lambda w: w.release(item_ids=[w.leased] * 2), "item_ids[1]"),
            ("renew twice", lambda w: w.renew(item_ids=[w.leased] * 2), "item_ids[1]"),
            ("search 0", lambda w: w.search(item_id="item-1", count=0), "count"),
            ("search 1001", lambda w: w.search(item_id="item-1", count=1001), "count"),
            ("predict none", lambda w: w.predict(items=pb.ItemList()), "items.item_ids"),
            (
                "predict 10001",
                lambda w: w.predict(items=pb.ItemList(item_ids=["item-1"] * 10_001)),
                "items.item_ids",
            ),
            ("top 0", lambda w: w.predict(top=pb.PoolTop()), "top.count"),
            ("top huge", lambda w: w.predict(top=pb.PoolTop(count=2**32 - 1)), "top.count"),
            ("core-set 0", lambda w: w.coreset(budget=0), "budget"),
            ("core-set 601", lambda w: w.coreset(budget=601), "budget"),
            ("core-set huge", lambda w: w.coreset(budget=LONG), "budget"),
            (
                "core-set beside start",
                lambda w: w.coreset(method="k_center", budget=600, start_item_ids=["item-1"]),
                "budget",
            ),
            (
                "start items",
                lambda w: w.coreset(method="k_center", start_item_ids=["item-1"] * 100_001),
                "start_item_ids",
            ),
            ("lease 0", lambda w: w.next(lease_duration=Duration()), "lease_duration"),
            ("lease back", lambda w: w.next(lease_duration=Duration(seconds=-9)), "lease_duration"),
            (
                "lease 25 h",
                lambda w: w.next(lease_duration=Duration(seconds=90_000)),
                "lease_duration",
            ),
            (
                "renew 0.9 s",
                lambda w: w.renew(lease_duration=Duration(nanos=900_000_000)),
                "lease_duration",
            ),
            ("grace 0", lambda w: w.coreset(grace_period=Duration()), "grace_period"),
            (
                "grace 1 day",
                lambda w: w.coreset(grace_period=Duration(seconds=86_400)),
                "grace_period",
            ),
        )
    ),
)
def test_sizes(world: World, make: Make, code: str, reason: str, field: str | None) -> None:
    assert_refused(world, make, code, reason, field)


@rows(
    *(
        (f"{call}: {name}", sent(call, values, dimension), INVALID, VECTOR, field + at)
        for call, field in (("predict", "vectors"), ("score", "vectors"), ("search", "vector"))
        for name, values, dimension, at in (
            ("NaN", NAN, DIMENSION, "[0]"),
            ("infinity", INFINITE, DIMENSION, "[0]"),
            ("zero", [0.0] * DIMENSION, DIMENSION, "[0]"),
            ("another dimension", ONES[:8], 8, ".dimension"),
            ("half a vector", ONES[:8], DIMENSION, ".data"),
            ("no vector", [], DIMENSION, ".data"),
        )
    ),
    (
        "10001 vectors",
        lambda w: w.predict(vectors=w.vectors(np.ones((10_001, DIMENSION)))),
        INVALID,
        VECTOR,
        "vectors.data",
    ),
    (
        "the second vector",
        lambda w: w.predict(vectors=w.vectors([ONES, NAN])),
        INVALID,
        VECTOR,
        "vectors[1]",
    ),
    (
        "two vectors to search",
        lambda w: w.search(vector=w.vectors([ONES, ONES])),
        INVALID,
        VECTOR,
        "vector.data",
    ),
)
def test_vectors(world: World, make: Make, code: str, reason: str, field: str | None) -> None:
    assert_refused(world, make, code, reason, field)


@rows(
    *(
        (f"label: {name}", make, INVALID, reason, field)
        for name, make, reason, field in (
            (
                "same item, other class",
                lambda w: w.add(w.label(), w.label(class_name="negative")),
                "CONFLICTING_LABELS",
                "labels[1]",
            ),
            (
                "same item, unsure",
                lambda w: w.add(w.label(), w.label(unsure=pb.Unsure())),
                "CONFLICTING_LABELS",
                "labels[1]",
            ),
            (
                "unknown class",
                lambda w: w.add(w.label(class_name="ham")),
                "UNKNOWN_CLASS",
                "labels[0].class_name",
            ),
            (
                "empty class",
                lambda w: w.add(w.label(class_name="")),
                "UNKNOWN_CLASS",
                "labels[0].class_name",
            ),
            (
                "unknown class of many",
                lambda w: w.add(
                    w.label(classes=pb.MultilabelValue(absent=["sea"])), session_id=w.multilabel
                ),
                "UNKNOWN_CLASS",
                "labels[0].classes.absent",
            ),
            (
                "nothing said",
                lambda w: w.add(pb.Label(item_id="item-1")),
                FIELD,
                "labels[0].value",
            ),
            (
                "classes in a binary session",
                lambda w: w.add(w.label(classes=pb.MultilabelValue(present=["positive"]))),
                FIELD,
                "labels[0].classes",
            ),
            (
                "class in a multilabel session",
                lambda w: w.add(w.label(class_name="meat"), session_id=w.multilabel),
                FIELD,
                "labels[0].class_name",
            ),
            (
                "classes in a multiclass session",
                lambda w: w.add(
                    w.label(classes=pb.MultilabelValue(present=["ham"])), session_id=w.multiclass
                ),
                FIELD,
                "labels[0].classes",
            ),
            (
                "present and absent",
                lambda w: w.add(
                    w.label(classes=pb.MultilabelValue(present=["meat"], absent=["meat"])),
                    session_id=w.multilabel,
                ),
                FIELD,
                "labels[0].classes",
            ),
            (
                "neither present nor absent",
                lambda w: w.add(w.label(classes=pb.MultilabelValue()), session_id=w.multilabel),
                FIELD,
                "labels[0].classes",
            ),
            (
                "token of another item",
                lambda w: w.add(w.label(lease_token=w.token)),
                "LEASE_TOKEN_FOREIGN",
                "labels[0].lease_token",
            ),
            (
                "token of another annotator",
                lambda w: w.add(w.label(w.leased, lease_token=w.token), annotator="bob"),
                "LEASE_TOKEN_FOREIGN",
                "labels[0].lease_token",
            ),
            (
                "token of another session",
                lambda w: w.add(w.label(w.leased, lease_token=w.token), session_id=w.unfitted),
                "LEASE_TOKEN_FOREIGN",
                "labels[0].lease_token",
            ),
            (
                "random token",
                lambda w: w.add(w.label(w.leased, lease_token=b"x" * 24)),
                "LEASE_TOKEN_FOREIGN",
                "labels[0].lease_token",
            ),
            (
                "cut token",
                lambda w: w.add(w.label(w.leased, lease_token=w.token[:-1])),
                "LEASE_TOKEN_FOREIGN",
                "labels[0].lease_token",
            ),
            (
                "one bad among good",
                lambda w: w.add(w.label(), w.label("item-1", class_name="ham")),
                "UNKNOWN_CLASS",
                "labels[1].class_name",
            ),
        )
    ),
)
def test_labels(world: World, make: Make, code: str, reason: str, field: str | None) -> None:
    assert_refused(world, make, code, reason, field)


@rows(
    *(
        (f"create: {name}", make, INVALID, reason, field)
        for name, make, reason, field in (
            ("no pool", lambda w: w.create(pool=""), FIELD, "config.pool"),
            ("no task", lambda w: w.create(task=0), FIELD, "config.task"),
            ("task 9", lambda w: w.create(task=9), FIELD, "config.task"),
            ("one class", lambda w: w.create(classes=["a"]), FIELD, "config.classes"),
            (
                "one of many classes",
                lambda w: w.create(task=pb.TASK_MULTICLASS, classes=["a"]),
                FIELD,
                "config.classes",
            ),
            (
                "no label",
                lambda w: w.create(task=pb.TASK_MULTILABEL),
                FIELD,
                "config.classes",
            ),
            (
                "three sides",
                lambda w: w.create(classes=["a", "b", "c"]),
                FIELD,
                "config.classes",
            ),
            (
                "1001 classes",
                lambda w: w.create(task=pb.TASK_MULTICLASS, classes=[str(n) for n in range(1001)]),
                FIELD,
                "config.classes",
            ),
            ("a class twice", lambda w: w.create(classes=["a", "a"]), FIELD, "config.classes[1]"),
            ("nameless class", lambda w: w.create(classes=["a", ""]), FIELD, "config.classes[1]"),
            (
                "class of 129",
                lambda w: w.create(classes=["a", "é" * 65]),
                FIELD,
                "config.classes[1]",
            ),
            (
                "strategy",
                lambda w: w.create(strategy=pb.Strategy(name="sea")),
                "UNKNOWN_METHOD",
                "config.strategy.name",
            ),
            (
                "strategy for binary only",
                lambda w: w.create(
                    task=pb.TASK_MULTICLASS,
                    classes=["a", "b"],
                    strategy=pb.Strategy(name="most_likely_positive"),
                ),
                FIELD,
                "config.strategy.name",
            ),
            (
                "1001 neighbours",
                lambda w: w.create(
                    candidates=pb.CandidatePolicy(seals=pb.CandidatePolicy.Seals(k=1001))
                ),
                FIELD,
                "config.candidates.seals.k",
            ),
            ("c < 0", lambda w: w.create(head=pb.HeadConfig(c=-1)), FIELD, "config.head.c"),
            ("c NaN", lambda w: w.create(head=pb.HeadConfig(c=math.nan)), FIELD, "config.head.c"),
            (
                "c infinite",
                lambda w: w.create(head=pb.HeadConfig(c=math.inf)),
                FIELD,
                "config.head.c",
            ),
            (
                "class weight 9",
                lambda w: w.create(head=pb.HeadConfig(class_weight=pb.ClassWeight.ValueType(9))),
                FIELD,
                "config.head.class_weight",
            ),
            ("101 votes", lambda w: w.create(votes_per_item=101), FIELD, "config.votes_per_item"),
            (
                "huge budget",
                lambda w: w.create(label_budget=LONG),
                FIELD,
                "config.label_budget",
            ),
            (
                "long lease",
                lambda w: w.create(lease_duration=Duration(seconds=2**40)),
                FIELD,
                "config.lease_duration",
            ),
        )
    ),
    *(
        (f"update: {name}", make, code, reason, field)
        for name, make, code, reason, field in (
            ("nothing", lambda w: w.update(), INVALID, FIELD, "update_mask"),
            ("no such field", lambda w: w.update("sea"), INVALID, FIELD, "update_mask"),
            ("inner name", lambda w: w.update("seals_k"), INVALID, FIELD, "update_mask"),
            *(
                (path, updated(path), PRECONDITION, "IMMUTABLE_FIELD", "update_mask")
                for path in ("task", "seed", "pool", "classes")
            ),
            (
                "strategy",
                lambda w: w.update("strategy", strategy=pb.Strategy(name="sea")),
                INVALID,
                "UNKNOWN_METHOD",
                "config.strategy.name",
            ),
            (
                "one bad of two",
                lambda w: w.update("votes_per_item", "head", votes_per_item=101),
                INVALID,
                FIELD,
                "config.votes_per_item",
            ),
            (
                "expected version",
                lambda w: (
                    lambda: w.stub.UpdateSession(
                        pb.UpdateSessionRequest(
                            request_id=new_id(),
                            session_id=w.binary,
                            update_mask=FieldMask(paths=["head"]),
                            expected_config_version=LONG,
                        )
                    )
                ),
                "ABORTED",
                "CONFIG_VERSION_MISMATCH",
                "expected_config_version",
            ),
        )
    ),
    (
        "session taken",
        lambda w: (
            lambda: w.stub.CreateSession(
                pb.CreateSessionRequest(
                    request_id=new_id(),
                    session_id=w.binary,
                    config=pb.SessionConfig(pool="things", task=pb.TASK_BINARY),
                )
            )
        ),
        "ALREADY_EXISTS",
        "SESSION_EXISTS",
        "session_id",
    ),
)
def test_configurations(
    world: World, make: Make, code: str, reason: str, field: str | None
) -> None:
    assert_refused(world, make, code, reason, field)
