"""What the log says of a call's messages, and that it says nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from coresift.server.rpc.call_facts import LISTS, NAMES, NESTED, NUMBERS, TEXTS, request_facts
from coresift.server.rpc.call_facts import answer_facts as facts_of_answer
from coresift.v1 import selection_pb2 as pb

METHODS = pb.DESCRIPTOR.services_by_name["SelectionService"].methods
REQUESTS = {method.input_type.full_name: method.input_type for method in METHODS}
ANSWERS = {method.output_type.full_name: method.output_type for method in METHODS}
ALLOWED = {*NAMES, *TEXTS, *NUMBERS, "items"}
DEPTH = 4


def filled(kind: Descriptor, path: str, variant: int, depth: int = 0) -> Any:
    """A message with every field set, each to what tells of its path; of a oneof one."""
    message = message_factory.GetMessageClass(kind)()
    for field in kind.fields:
        if field.containing_oneof is not None:
            choices = field.containing_oneof.fields
            if field is not choices[variant % len(choices)]:
                continue
        fill(message, field, f"{path}.{field.name}", variant, depth)
    return message


def fill(message: Any, field: FieldDescriptor, path: str, variant: int, depth: int) -> None:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return  # no fact is a map
    if kind is not None:
        if depth < DEPTH:
            inner = filled(kind, path, variant, depth + 1)
            place = getattr(message, field.name)
            place.extend([inner] * 3) if field.is_repeated else place.CopyFrom(inner)
        return
    value = scalar(field, path)
    if field.is_repeated:
        getattr(message, field.name).extend([value] * 3)
    else:
        setattr(message, field.name, value)


def scalar(field: FieldDescriptor, path: str) -> Any:
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return path.encode() if field.type == FieldDescriptor.TYPE_BYTES else path
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return True
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return 1
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return 0.125
    return 1_000_003 if field.name in NUMBERS else 666


@pytest.mark.parametrize("variant", range(5))
@pytest.mark.parametrize("name", REQUESTS)
def test_only_what_is_listed_is_told(name: str, variant: int) -> None:
    facts = request_facts(filled(REQUESTS[name], "v", variant))
    assert facts.keys() <= ALLOWED
    for key, value in facts.items():
        if key == "items":
            assert value == 3
        elif isinstance(value, int):
            assert (key in NUMBERS, value) == (True, 1_000_003)
        else:
            assert value in {f"v.{key}", *(f"v.{inner}.{key}" for inner in NESTED)}


def test_every_listed_field_exists_and_every_call_says_something() -> None:
    told = set().union(*(request_facts(filled(kind, "v", n)) for kind in REQUESTS.values()
                         for n in range(5)))  # fmt: skip
    assert told == ALLOWED
    silent = {
        name.rpartition(".")[2].removesuffix("Request")
        for name, kind in REQUESTS.items()
        if not any(request_facts(filled(kind, "v", n)) for n in range(5))
    }
    assert silent == {"ListSessions", "GetPool", "ListPools"}
    assert set(LISTS) == {"labels", "item_ids"}


@given(st.builds(pb.NextBatchRequest, session_id=st.text(), annotator=st.text(max_size=200)))
def test_names_that_are_none_are_left_out(request: Message) -> None:
    for value in request_facts(request).values():
        assert isinstance(value, str)
        assert 1 <= len(value.encode()) <= 128


@pytest.mark.parametrize("name", ANSWERS)
def test_answers(name: str) -> None:
    facts = facts_of_answer(filled(ANSWERS[name], "v", 0))
    assert facts.keys() <= {"revision", "phase", "items"}
    assert facts_of_answer(message_factory.GetMessageClass(ANSWERS[name])()) in (
        {},
        {"phase": "UNSPECIFIED", "items": 0},
    )


def test_a_call_of_labeling() -> None:
    label = pb.Label(item_id="item-1", class_name="secret", lease_token=b"secret")
    request = pb.AddLabelsRequest(
        request_id="r-1", session_id="s-1", annotator="ann", labels=[label, label]
    )
    assert request_facts(request) == {
        "session_id": "s-1",
        "request_id": "r-1",
        "annotator": "ann",
        "items": 2,
    }
    batch = pb.NextBatchResponse(phase=pb.PHASE_SELECTING, picks=[pb.Pick()] * 4)
    batch.basis.revision = 9
    assert facts_of_answer(batch) == {"revision": 9, "phase": "SELECTING", "items": 4}
