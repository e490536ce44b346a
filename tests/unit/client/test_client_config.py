"""Configuration values, and what they are on the wire."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.client.driver import Driver

from coresift.client import (
    KEEP,
    All,
    Anchors,
    Basis,
    BatchPolicy,
    ClassWeight,
    Groups,
    Head,
    HeadConfig,
    Mix,
    RandomSubset,
    Seals,
    Session,
    StopRule,
    Strategy,
)
from coresift.client.calls import config_messages as messages
from coresift.client.calls.configure import create_session, update_session
from coresift.client.calls.session import session_of
from coresift.v1 import selection_pb2 as pb

names = st.text(min_size=1, max_size=8)
params = st.dictionaries(
    st.from_regex("[a-z_]{1,8}", fullmatch=True).filter(
        lambda name: name not in ("max_similarity", "class_shares")
    ),
    st.text(max_size=8)
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False),
)
strategies = st.builds(lambda name, given: Strategy(name, **given), names, params).filter(
    lambda strategy: strategy.name != "mix"
)
shares = st.floats(0.01, 10)
candidate_policies = st.one_of(
    st.just(All()),
    st.builds(Seals, st.integers(1, 1000)),
    st.builds(RandomSubset, st.integers(1, 10**7)),
    st.builds(Anchors, st.integers(1, 10**5), st.integers(1, 100), st.integers(1, 1000)),
)
batches = st.builds(
    lambda name, given, similarity, classes: BatchPolicy(
        name, max_similarity=similarity, class_shares=classes, **given
    ),
    names,
    params,
    st.none() | st.floats(0.01, 1),
    st.dictionaries(names, st.floats(0, 1)),
)


def answering(name: str, request: Any) -> Any:
    """A server that takes every configuration."""
    session = pb.Session(session_id="s", config=request.config, prior_head="")
    kind = pb.CreateSessionResponse if name == "CreateSession" else pb.UpdateSessionResponse
    return kind(session=session)


@given(strategies, st.lists(st.tuples(strategies, shares), min_size=2, max_size=8))
def test_strategies_survive_the_wire(single: Strategy, parts: list[tuple[Strategy, float]]) -> None:
    for strategy in (single, Mix(parts)):
        message = messages.strategy_message(strategy)
        assert messages.strategy_of(pb.Strategy.FromString(message.SerializeToString())) == strategy


@given(candidate_policies, batches, st.text(max_size=20))
def test_policies_survive_the_wire(candidates: Any, batch: BatchPolicy, condition: str) -> None:
    message = messages.candidates_message(candidates, condition)
    assert messages.candidates_of(message) == candidates
    assert message.filter == condition
    assert messages.batch_of(messages.batch_message(batch)) == batch


def test_values_are_values() -> None:
    bald = Strategy("bald", samples=64)
    assert len({bald, Strategy("bald", samples=64), Strategy("bald")}) == 2
    assert Mix({bald: 1, "random": 2}) == Mix([(bald, 1.0), (Strategy("random"), 2)])
    batch = BatchPolicy("gist", min_distance=0.1, max_similarity=0.9, class_shares={"a": 0.5})
    assert hash(batch) == hash(copy.deepcopy(batch))
    for value in (bald, Mix({bald: 1}), batch):
        assert pickle.loads(pickle.dumps(value)) == value  # noqa: S301 - our own bytes
        assert eval(repr(value)) == value  # noqa: S307 - a repr is what makes the value


def test_values_read_well() -> None:
    assert repr(Strategy("signal", name="loss")) == "Strategy('signal', name='loss')"
    assert str(Strategy("bald", samples=64)) == "bald(samples=64)"
    assert str(Mix({"bald": 0.7, "random": 0.3})) == "0.7 bald + 0.3 random"
    assert str(BatchPolicy()) == "top"
    assert str(BatchPolicy("gist", max_similarity=0.9)) == "gist(max_similarity=0.9)"


def test_whole_numbers_are_integers_again() -> None:
    read = messages.strategy_of(messages.strategy_message(Strategy("s", a=2, b=0.5, c=True)))
    assert isinstance(read, Strategy)
    assert [type(value) for value in read.params.values()] == [int, float, bool]


def test_what_the_wire_cannot_carry_is_refused() -> None:
    for value in (None, [1], {"a": 1}):
        with pytest.raises(TypeError, match="parameter x must be a number"):
            Strategy("s", x=value)  # type: ignore[arg-type]
    # 0 means the default on the wire.
    for config in (
        {"candidates": Seals(0)},
        {"candidates": Anchors(neighbours=0)},
        {"head": HeadConfig(c=0)},
        {"groups": Groups("video", 0)},
        {"stop": StopRule(0)},
        {"stop": StopRule(0.5, confidence=0)},
    ):
        with pytest.raises(ValueError, match="must be greater than 0"):
            Driver(answering).run(create_session("p", **config))
    with pytest.raises(ValueError, match="must name a metadata column"):
        Driver(answering).run(create_session("p", groups=Groups("")))


def test_a_session_is_read_as_it_was_made() -> None:
    given: dict[str, Any] = {
        "strategy": Mix({"max_entropy": 2, Strategy("signal", name="loss"): 1}),
        "candidates": RandomSubset(500),
        "filter": 'split == "train"',
        "batch": BatchPolicy("power", beta=2, class_shares={"b": 0.5}),
        "groups": Groups("video", one_label=True),
        "head": HeadConfig(3.0, ClassWeight.BALANCED),
        "seed": 7,
        "votes_per_item": 2,
        "label_budget": 0,
        "explore_fraction": 0.2,
        "validation_size": 30,
        "stop": StopRule(0.9, class_name="b"),
    }
    session = Driver(answering).run(create_session("p", "multiclass", ["a", "b", "c"], **given))
    assert isinstance(session, Session)
    assert {name: getattr(session, name) for name in given} == given


def test_a_session_of_defaults() -> None:
    session = session_of(pb.Session(config=pb.SessionConfig(pool="p", task=pb.TASK_BINARY)))
    assert session.strategy == Strategy("max_entropy")
    assert session.candidates == Seals(100)
    assert session.batch == BatchPolicy()
    assert session.groups is None
    assert session.stop is None
    assert (session.filter, session.explore_fraction, session.validation_size) == ("", 0, 0)


def updated(**changes: Any) -> Any:
    driver = Driver(answering)
    driver.run(update_session("s", **changes))
    return driver.sent[0].request


def test_update_sends_what_is_given_and_nothing_else() -> None:
    request = updated()
    assert list(request.update_mask.paths) == []
    request = updated(explore_fraction=0.0, validation_size=0, groups=None, stop=None)
    assert set(request.update_mask.paths) == {
        "explore_fraction",
        "validation_size",
        "groups",
        "stop",
    }
    assert not request.config.HasField("groups")
    assert not request.config.HasField("stop")
    request = updated(batch="badge", groups=Groups("video"), stop=KEEP, strategy="bald")
    assert list(request.update_mask.paths) == ["strategy", "batch", "groups"]
    assert request.config.batch.name == "badge"
    assert request.config.groups.column == "video"


def test_candidates_and_filter_change_together() -> None:
    request = updated(candidates=All(), filter="camera == 3")
    assert list(request.update_mask.paths) == ["candidates"]
    assert request.config.candidates.HasField("all")
    assert request.config.candidates.filter == "camera == 3"
    for half in ({"candidates": All()}, {"filter": ""}):
        with pytest.raises(ValueError, match="change together"):
            updated(**half)


def created(classes: list[str], prior: Any) -> Any:
    driver = Driver(answering)
    driver.run(create_session("p", "multiclass", classes, prior_head=prior))
    return driver.sent[0].request.prior_head  # type: ignore[union-attr]


def test_a_prior_head() -> None:
    W, b = np.arange(6.0).reshape(2, 3), np.array([0.5, -0.5])
    basis = Basis("p", "v", 1, 2, "h", 0)
    head = Head(("a", "b"), (), W, b, basis)
    for prior in (head, (W, b), (W.tolist(), b.astype(np.float32))):
        message = created(["a", "b"], prior)
        assert message.dimension == 3
        np.testing.assert_array_equal(np.frombuffer(message.weights, "<f8").reshape(2, 3), W)
        np.testing.assert_array_equal(np.frombuffer(message.bias, "<f8"), b)
    binary = created([], (W[0], 0.5))
    assert (binary.dimension, len(binary.bias)) == (3, 8)
    with pytest.raises(ValueError, match="has the classes a, b; the session has b, a"):
        created(["b", "a"], head)
    for bad in ((W, b[:1]), (np.zeros((2, 2, 2)), b)):
        with pytest.raises(ValueError, match="prior_head must be weights"):
            created(["a", "b"], bad)
