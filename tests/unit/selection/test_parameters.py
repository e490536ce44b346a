"""Parameters from the wire: types, ranges, what is missing and what nobody knows."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from math import inf, nextafter
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coresift.server.errors import CoresiftError, Reason
from coresift.server.selection.candidates import CANDIDATE_POLICIES
from coresift.server.selection.parameters import parameter, read
from coresift.server.selection.registry import BATCH_POLICIES, STRATEGIES


@dataclass(frozen=True, slots=True)
class Kind:
    """One parameter of each sort."""

    name: str = parameter(..., "what it reads")
    count: int = parameter(10, "how many", low=1, high=1_000)
    weight: float = parameter(1.0, "how much", low=0)
    bound: float = parameter(-1.0, "below", high=0.5)
    free: float = parameter(0.0, "anything")
    swift: bool = parameter(False, "whether to hurry")
    over: Literal["mean", "max"] = parameter("mean", "columns", choices=("mean", "max"))


def got(**params: Any) -> Kind:
    return read(Kind, {"name": "x"} | params, "config.strategy.params")


@pytest.mark.parametrize(
    ("params", "field", "value"),
    [
        ({"name": "é" * 64}, "name", "é" * 64),
        ({"count": 1}, "count", 1),
        ({"count": 1_000.0}, "count", 1_000),
        ({"weight": 0}, "weight", 0.0),
        ({"weight": 1e308}, "weight", 1e308),
        ({"bound": 0.5}, "bound", 0.5),
        ({"bound": -1e308}, "bound", -1e308),
        ({"free": -7}, "free", -7.0),
        ({"swift": True}, "swift", True),
        ({"over": "max"}, "over", "max"),
    ],
)
def test_what_fits_is_taken(params: dict[str, Any], field: str, value: object) -> None:
    found = getattr(got(**params), field)
    assert found == value
    assert type(found) is type(value)


def test_what_is_left_out_has_its_default() -> None:
    assert got() == Kind("x", 10, 1.0, -1.0, 0.0, False, "mean")


@pytest.mark.parametrize(
    ("params", "field", "words"),
    [
        ({"count": 0}, "count", "must be in 1..1000, got 0"),
        ({"count": 1_001}, "count", "must be in 1..1000, got 1001"),
        ({"count": 1.5}, "count", "must be a whole number, got 1.5"),
        ({"count": True}, "count", "must be a number, got True"),
        ({"count": "10"}, "count", "must be a number, got '10'"),
        ({"count": float("nan")}, "count", "must be a number, got nan"),
        ({"count": float("inf")}, "count", "must be a number, got inf"),
        ({"weight": -1e-9}, "weight", "must be in 0.., got -1e-09"),
        ({"weight": False}, "weight", "must be a number, got False"),
        ({"weight": "1"}, "weight", "must be a number"),
        ({"free": float("nan")}, "free", "must be a number, got nan"),
        ({"free": float("-inf")}, "free", "must be a number, got -inf"),
        ({"bound": 0.51}, "bound", "must be in ..0.5, got 0.51"),
        ({"swift": 1.0}, "swift", "must be true or false"),
        ({"swift": "true"}, "swift", "must be true or false"),
        ({"name": 1.0}, "name", "must be text"),
        ({"name": True}, "name", "must be text"),
        ({"name": ""}, "name", "must have 1..128 bytes"),
        ({"name": "é" * 65}, "name", "must have 1..128 bytes"),
        ({"over": "median"}, "over", "must be one of mean, max; got 'median'"),
        ({"over": 1.0}, "over", "must be one of mean, max; got 1.0"),
        (
            {"colour": "red"},
            "colour",
            "is no parameter here; valid are name, count, weight, bound, free, swift, over",
        ),
    ],
)
def test_what_does_not_fit_is_named(params: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(CoresiftError) as caught:
        got(**params)
    assert caught.value.reason is Reason.INVALID_FIELD
    assert caught.value.field == f"config.strategy.params.{field}"
    assert words in caught.value.message


def test_what_is_required_says_what_for() -> None:
    with pytest.raises(CoresiftError, match="is required: what it reads") as caught:
        read(Kind, {"count": 3}, "here")
    assert caught.value.field == "here.name"


def test_what_takes_no_parameters_says_so() -> None:
    with pytest.raises(CoresiftError, match="valid are none"):
        read(CANDIDATE_POLICIES["all"], {"k": 3}, "here")


@given(
    name=st.sampled_from(["name", "count", "weight", "bound", "free", "swift", "over", "other"]),
    value=st.one_of(st.floats(), st.text(max_size=140), st.booleans()),
)
def test_whatever_comes_is_taken_or_refused(name: str, value: float | str | bool) -> None:
    refusal = None
    try:
        found = read(Kind, {"name": "x", name: value}, "here")
    except CoresiftError as error:
        refusal = error
    if refusal is None:
        assert getattr(found, name) == value
    else:
        assert (refusal.reason, refusal.field) == (Reason.INVALID_FIELD, f"here.{name}")


KINDS = [*STRATEGIES.values(), *BATCH_POLICIES.values(), *CANDIDATE_POLICIES.values()]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_registered_kind_takes_its_ends_and_nothing_beyond(kind: type[Any]) -> None:
    required = {own.name: "x" for own in fields(kind) if own.default is MISSING}
    assert isinstance(read(kind, required, "here"), kind)
    for own in fields(kind):
        assert own.metadata["about"]
        for end, side in (("low", -1), ("high", 1)):
            limit = own.metadata[end]
            if limit is not None:
                found = read(kind, required | {own.name: limit}, "here")
                assert getattr(found, own.name) == limit
                beyond = limit + side if own.type == "int" else nextafter(limit, side * inf)
                with pytest.raises(CoresiftError, match=f"here.{own.name} must be"):
                    read(kind, required | {own.name: beyond}, "here")
        for choice in own.metadata["choices"]:
            assert getattr(read(kind, required | {own.name: choice}, "here"), own.name) == choice
