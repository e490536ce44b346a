"""Strategies, batches, filters, groups and priors that cannot be: refused, with nothing changed."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import pytest
from google.protobuf.struct_pb2 import Struct
from tests.fixtures.nearly_right import Call, Make, World, assert_refused, new_id, rows
from tests.fixtures.servers import DIMENSION

from coresift.client import Client
from coresift.client.convert import StringColumn
from coresift.server.selection.registry import BATCH_POLICIES, MIX, STRATEGIES
from coresift.v1 import selection_pb2 as pb

INVALID, PRECONDITION = "INVALID_ARGUMENT", "FAILED_PRECONDITION"
FIELD, METHOD, CLASS = "INVALID_FIELD", "UNKNOWN_METHOD", "UNKNOWN_CLASS"
SHARES = "config.strategy.shares"
MULTICLASS = {"task": pb.TASK_MULTICLASS, "classes": ["a", "b", "c"]}
MULTILABEL = {"task": pb.TASK_MULTILABEL, "classes": ["a", "b"]}


def struct(**params: Any) -> Struct:
    message = Struct()
    message.update(params)
    return message


def strategy(name: str, /, **params: Any) -> pb.Strategy:
    return pb.Strategy(name=name, params=struct(**params))


def mix(*parts: pb.Strategy | tuple[pb.Strategy, float], **params: Any) -> pb.Strategy:
    pairs = [part if isinstance(part, tuple) else (part, 1.0) for part in parts]
    shares = [pb.StrategyShare(strategy=own, share=share) for own, share in pairs]
    return pb.Strategy(name="mix", shares=shares, params=struct(**params))


def shares_without_mix(name: str) -> pb.Strategy:
    return pb.Strategy(name=name, shares=[pb.StrategyShare(strategy=RANDOM, share=1.0)])


RANDOM = strategy("random")
NESTED = mix(RANDOM, mix(RANDOM, RANDOM))


def batch(name: str = "", **fields: Any) -> pb.BatchPolicy:
    return pb.BatchPolicy(name=name, **fields)


def groups(column: str = "text", **fields: Any) -> dict[str, Any]:
    return {"groups": pb.GroupRule(column=column, **fields)}


def where(text: str) -> dict[str, Any]:
    return {"candidates": pb.CandidatePolicy(filter=text)}


def anchors(**fields: int) -> dict[str, Any]:
    policy = pb.CandidatePolicy.Anchors(**fields)
    return {"candidates": pb.CandidatePolicy(anchors=policy)}


def random_subset(size: int) -> dict[str, Any]:
    policy = pb.CandidatePolicy.RandomSubset(size=size)
    return {"candidates": pb.CandidatePolicy(random_subset=policy)}


def stop(**fields: Any) -> dict[str, Any]:
    return {"stop": pb.StopRule(**fields)}


CASES: list[tuple[str, dict[str, Any], str, str, str]] = [
    (name, fields, *answer)
    for name, fields, answer in (
        # --- strategies
        (
            "parameter",
            {"strategy": strategy("random", luck=1)},
            (INVALID, FIELD, "config.strategy.params.luck"),
        ),
        (
            "null parameter",
            {"strategy": strategy("margin", over=None)},
            (INVALID, FIELD, "config.strategy.params.over"),
        ),
        (
            "list parameter",
            {"strategy": strategy("margin", over=["mean"])},
            (INVALID, FIELD, "config.strategy.params.over"),
        ),
        (
            "number for text",
            {"strategy": strategy("signal", name=1)},
            (INVALID, FIELD, "config.strategy.params.name"),
        ),
        (
            "no signal named",
            {"strategy": strategy("signal")},
            (INVALID, FIELD, "config.strategy.params.name"),
        ),
        (
            "signal that is not there",
            {"strategy": strategy("signal", name="nothing")},
            ("NOT_FOUND", "SIGNAL_NOT_FOUND", "config.strategy.params.name"),
        ),
        (
            "half a sample",
            {"strategy": strategy("bald", samples=8.5)},
            (INVALID, FIELD, "config.strategy.params.samples"),
        ),
        (
            "true as a number",
            {"strategy": strategy("bald", samples=True)},
            (INVALID, FIELD, "config.strategy.params.samples"),
        ),
        (
            "too many samples",
            {"strategy": strategy("bald", samples=257)},
            (INVALID, FIELD, "config.strategy.params.samples"),
        ),
        (
            "NaN",
            {"strategy": strategy("information_density", beta=math.nan)},
            (INVALID, FIELD, "config.strategy.params.beta"),
        ),
        (
            "over on a binary task",
            {"strategy": strategy("margin", over="max")},
            (INVALID, FIELD, "config.strategy"),
        ),
        (
            "binary strategy",
            {"strategy": strategy("direct")} | MULTICLASS,
            (INVALID, FIELD, "config.strategy.name"),
        ),
        (
            "no neighbour table",
            {"strategy": strategy("ens")},
            (PRECONDITION, "POOL_LACKS_NEIGHBOURS", "config.strategy"),
        ),
        # --- mixes
        (
            "shares without a mix",
            {"strategy": shares_without_mix("random")},
            (INVALID, FIELD, SHARES),
        ),
        ("mix of none", {"strategy": mix()}, (INVALID, FIELD, SHARES)),
        ("mix of one", {"strategy": mix(RANDOM)}, (INVALID, FIELD, SHARES)),
        ("mix of nine", {"strategy": mix(*[RANDOM] * 9)}, (INVALID, FIELD, SHARES)),
        (
            "mix with parameters",
            {"strategy": mix(RANDOM, RANDOM, beta=1)},
            (INVALID, FIELD, "config.strategy.params"),
        ),
        ("mix of a mix", {"strategy": NESTED}, (INVALID, FIELD, f"{SHARES}[1].strategy")),
        (
            "shares within a share",
            {"strategy": mix(RANDOM, shares_without_mix("margin"))},
            (INVALID, FIELD, f"{SHARES}[1].strategy"),
        ),
        (
            "nameless share",
            {"strategy": mix(pb.Strategy(), RANDOM)},
            (INVALID, METHOD, f"{SHARES}[0].strategy.name"),
        ),
        (
            "unknown share",
            {"strategy": mix(RANDOM, strategy("sea"))},
            (INVALID, METHOD, f"{SHARES}[1].strategy.name"),
        ),
        (
            "parameter of a share",
            {"strategy": mix(RANDOM, strategy("signal"))},
            (INVALID, FIELD, f"{SHARES}[1].strategy.params.name"),
        ),
        (
            "signal of a share",
            {"strategy": mix(RANDOM, strategy("signal", name="nothing"))},
            ("NOT_FOUND", "SIGNAL_NOT_FOUND", f"{SHARES}[1].strategy.params.name"),
        ),
        *(
            (
                f"share of {share}",
                {"strategy": mix(RANDOM, (RANDOM, share))},
                (INVALID, FIELD, f"{SHARES}[1].share"),
            )
            for share in (0.0, -1.0, math.nan, math.inf)
        ),
        # --- batches
        ("batch policy", {"batch": batch("sea")}, (INVALID, METHOD, "config.batch.name")),
        (
            "parameter of a batch policy",
            {"batch": batch("power", params=struct(gamma=1))},
            (INVALID, FIELD, "config.batch.params.gamma"),
        ),
        (
            "beta below 0",
            {"batch": batch("power", params=struct(beta=-1))},
            (INVALID, FIELD, "config.batch.params.beta"),
        ),
        *(
            (
                f"similarity of {value}",
                {"batch": batch(max_similarity=value)},
                (INVALID, FIELD, "config.batch.max_similarity"),
            )
            for value in (0.0, -0.5, 1.1, math.nan)
        ),
        (
            "share of no class",
            {"batch": batch(class_shares={"spam": 0.5})},
            (INVALID, CLASS, "config.batch.class_shares['spam']"),
        ),
        (
            "shares of more than all",
            {"batch": batch(class_shares={"positive": 0.7, "negative": 0.7})},
            (INVALID, FIELD, "config.batch.class_shares"),
        ),
        (
            "class shares of labels",
            {"batch": batch(class_shares={"a": 0.5})} | MULTILABEL,
            (INVALID, FIELD, "config.batch.class_shares"),
        ),
        # --- candidates
        ("filter", where("text == "), (INVALID, FIELD, "config.candidates.filter")),
        ("filter column", where("sea == 1"), (INVALID, FIELD, "config.candidates.filter")),
        ("empty filter", where("text == 'x'"), (INVALID, FIELD, "config.candidates.filter")),
        (
            "filter without metadata",
            {"pool": "growing"} | where("text == 'x'"),
            (INVALID, FIELD, "config.candidates.filter"),
        ),
        (
            "large subset",
            random_subset(10_000_001),
            (INVALID, FIELD, "config.candidates.random_subset.size"),
        ),
        (
            "large sub-pool",
            anchors(size=100_001),
            (INVALID, FIELD, "config.candidates.anchors.size"),
        ),
        (
            "101 anchors",
            anchors(per_class=101),
            (INVALID, FIELD, "config.candidates.anchors.per_class"),
        ),
        (
            "1001 neighbours of an anchor",
            anchors(neighbours=1001),
            (INVALID, FIELD, "config.candidates.anchors.neighbours"),
        ),
        # --- groups, exploration, validation, stop
        ("nameless groups", groups("", max_per_batch=2), (INVALID, FIELD, "config.groups.column")),
        ("group column", groups("sea"), (INVALID, FIELD, "config.groups.column")),
        (
            "1001 of a group",
            groups(max_per_batch=1001),
            (INVALID, FIELD, "config.groups.max_per_batch"),
        ),
        (
            "two with one lease",
            groups(max_per_batch=2, one_lease=True),
            (INVALID, FIELD, "config.groups.max_per_batch"),
        ),
        (
            "two with one label",
            groups(max_per_batch=2, one_label=True),
            (INVALID, FIELD, "config.groups.max_per_batch"),
        ),
        *(
            (
                f"exploring {value}",
                {"explore_fraction": value},
                (INVALID, FIELD, "config.explore_fraction"),
            )
            for value in (-0.1, 1.1, math.nan)
        ),
        (
            "large validation slice",
            {"validation_size": 100_001},
            (INVALID, FIELD, "config.validation_size"),
        ),
        ("recall above 1", stop(target_recall=1.1), (INVALID, FIELD, "config.stop.target_recall")),
        (
            "recall of NaN",
            stop(target_recall=math.nan),
            (INVALID, FIELD, "config.stop.target_recall"),
        ),
        ("little confidence", stop(confidence=0.4), (INVALID, FIELD, "config.stop.confidence")),
        ("full confidence", stop(confidence=1.0), (INVALID, FIELD, "config.stop.confidence")),
        ("recall of no class", stop(class_name="spam"), (INVALID, CLASS, "config.stop.class_name")),
        (
            "recall of which class",
            stop(target_recall=0.9) | MULTICLASS,
            (INVALID, FIELD, "config.stop.class_name"),
        ),
    )
]


def created(fields: dict[str, Any]) -> Make:
    return lambda world: world.create(**fields)


def updated(fields: dict[str, Any]) -> Make:
    return lambda world: world.update("votes_per_item", *fields, votes_per_item=2, **fields)


@rows(*((name, created(fields), *answer) for name, fields, *answer in CASES))
def test_of_new_sessions(world: World, make: Make, code: str, reason: str, field: str) -> None:
    assert_refused(world, make, code, reason, field)


@rows(
    *(
        (name, updated(fields), *answer)
        for name, fields, *answer in CASES
        if not fields.keys() & {"task", "pool"}
    )
)
def test_of_old_sessions(world: World, make: Make, code: str, reason: str, field: str) -> None:
    assert_refused(world, make, code, reason, field)


def test_an_unknown_name_is_answered_with_the_known(client: Client) -> None:
    with pytest.raises(Exception, match=", ".join([*STRATEGIES, MIX])):
        client.create_session("things", strategy="sea")
    with pytest.raises(Exception, match=", ".join(BATCH_POLICIES)):
        client.create_session("things", batch="sea")


def floats(count: int, value: float = 1.0) -> bytes:
    return np.full(count, value, "<f8").tobytes()


def with_prior(**fields: Any) -> Make:
    def make(world: World) -> Call:
        usual = {"dimension": DIMENSION, "weights": floats(DIMENSION), "bias": floats(1)}
        request = pb.CreateSessionRequest(
            request_id=new_id(),
            config=pb.SessionConfig(pool="things", task=pb.TASK_BINARY),
        )
        request.prior_head.CopyFrom(pb.HeadWeights(**usual | fields))
        return lambda: world.stub.CreateSession(request)

    return make


WEIGHTS, BIAS = "prior_head.weights", "prior_head.bias"


@rows(
    *(
        (name, make, INVALID, FIELD, field)
        for name, make, field in (
            ("no weights", with_prior(weights=b""), WEIGHTS),
            ("seven bytes", with_prior(weights=floats(DIMENSION)[:-1]), WEIGHTS),
            ("no bias", with_prior(bias=b""), BIAS),
            ("bias of nine bytes", with_prior(bias=floats(1) + b"x"), BIAS),
            ("no dimension", with_prior(dimension=0), WEIGHTS),
            ("other dimension", with_prior(dimension=DIMENSION + 1), WEIGHTS),
            (
                "dimension of another pool",
                with_prior(dimension=DIMENSION + 1, weights=floats(DIMENSION + 1)),
                WEIGHTS,
            ),
            ("two classes", with_prior(weights=floats(2 * DIMENSION), bias=floats(2)), WEIGHTS),
            ("NaN weight", with_prior(weights=floats(DIMENSION, math.nan)), "prior_head.weights"),
            ("infinite bias", with_prior(bias=floats(1, math.inf)), "prior_head.bias"),
        )
    )
)
def test_of_priors(world: World, make: Make, code: str, reason: str, field: str) -> None:
    assert_refused(world, make, code, reason, field)


def test_of_signals(world: World) -> None:
    """Of classes, of another pool version, of several columns: none of them ranks items."""
    ids, old = world.pools.things.item_ids, world.pools.growing.item_ids

    def upload(
        name: str, pool: str, of: list[str], version: str, kind: int, columns: list[str]
    ) -> None:
        dtype = "<i4" if kind == pb.SIGNAL_KIND_CLASS else "<f4"
        values = np.zeros((len(of), len(columns)), dtype).tobytes()
        column = StringColumn.of(of).part(0, len(of))
        header = pb.SignalHeader(
            request_id=new_id(),
            pool=pool,
            pool_version=version,
            name=name,
            kind=pb.SignalKind.ValueType(kind),
            columns=columns,
            count=len(of),
            sha256=hashlib.sha256(column.data + column.offsets + values).digest(),
        )
        chunk = pb.SignalChunk(item_ids=column, values=values)
        parts = [pb.PutSignalsRequest(header=header), pb.PutSignalsRequest(chunk=chunk)]
        world.stub.PutSignals(iter(parts))

    number, of_class = pb.SIGNAL_KIND_NUMBER, pb.SIGNAL_KIND_CLASS
    parent = world.stub.GetPool(pb.GetPoolRequest(name="growing")).pool.parent_version
    upload("two", "things", ids, "", kind=number, columns=["a", "b"])
    upload("kinds", "things", ids, "", kind=of_class, columns=["kind"])
    upload("older", "growing", old, parent, kind=number, columns=["a"])
    wrong = {
        "name": [
            {"strategy": strategy("signal", name="kinds")},
            {"strategy": strategy("signal", name="older"), "pool": "growing"},
        ],
        "column": [
            {"strategy": strategy("signal", name="two")},
            {"strategy": strategy("signal", name="two", column="c")},
        ],
        "of": [{"strategy": strategy("signal", name="two", of="margin")}],
    }
    world.seen = []
    for param, cases in wrong.items():
        for fields in cases:
            field = f"config.strategy.params.{param}"
            assert_refused(world, created(fields), INVALID, "INVALID_SIGNAL", field)
    world.create(strategy=strategy("signal", name="two", column="b"))()
    for name, pool in (("two", "things"), ("kinds", "things"), ("older", "growing")):
        request = pb.DeleteSignalsRequest(request_id=new_id(), pool=pool, name=name)
        world.stub.DeleteSignals(request)
    world.seen = []
