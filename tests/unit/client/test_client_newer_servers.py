"""Answers of a newer server: fields, enum values and reasons that this client does not know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from tests.unit.client.driver import Driver

from coresift.client import Outcome, Phase, PickReason, SignalKind, Task
from coresift.client.calls import labels, leases, pools, progress, session, signals
from coresift.v1 import selection_pb2 as pb

UNKNOWN_FIELD = bytes([0xFA, 0xFF, 0x0F, 3]) + b"new"
"""Field 32,767 of three bytes."""
UNKNOWN_ENUM = 99
MOST_DEPTH = 4


def newer(message: Message, depth: int = 0) -> Any:
    """The message with every enum unknown, one entry in each list, and an unknown field, in it
    and in each message inside it."""
    for field in message.DESCRIPTOR.fields:
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if is_map or field.containing_oneof is not None:
            continue
        value = getattr(message, field.name)
        if field.type == FieldDescriptor.TYPE_ENUM and field.is_repeated:
            value.append(UNKNOWN_ENUM)
        elif field.type == FieldDescriptor.TYPE_ENUM:
            setattr(message, field.name, UNKNOWN_ENUM)
        elif field.message_type is not None and depth < MOST_DEPTH:
            newer(value.add() if field.is_repeated else value, depth + 1)
    message.MergeFromString(UNKNOWN_FIELD)
    return message


def one(reply: Message) -> Driver:
    return Driver(lambda _name, _request: newer(reply))  # type: ignore[no-any-return]


def stream(reply: Message) -> Driver:
    def answer(_name: str, _request: Any) -> Iterator[Message]:
        yield newer(reply)

    return Driver(answer)  # type: ignore[arg-type]


def test_a_batch() -> None:
    batch = one(pb.NextBatchResponse()).run(leases.next_batch("s", "ann"))
    assert batch.phase is Phase.UNKNOWN
    assert [pick.reason for pick in batch] == [PickReason.UNKNOWN]


def test_labels() -> None:
    result = one(pb.AddLabelsResponse()).run(labels.add_labels("s", {"a": "x"}, "ann"))
    assert result.outcomes == (Outcome.UNKNOWN,)
    driver = stream(pb.ListLabelsResponse())
    driver.run(labels.list_labels("s"))
    assert [record.outcome for record in driver.emitted] == [Outcome.UNKNOWN]


def test_sessions() -> None:
    assert one(pb.GetSessionResponse()).run(session.get_session("s")).task is Task.UNKNOWN
    assert one(pb.GetSessionProgressResponse()).run(progress.progress("s")) is not None


def test_pools_and_signals() -> None:
    assert one(pb.GetPoolResponse()).run(pools.get_pool("p")).items == 0
    driver = one(pb.ListSignalsResponse())
    driver.run(signals.list_signals("p"))
    assert [signal.kind for signal in driver.emitted] == [SignalKind.UNKNOWN]


@pytest.mark.parametrize("method", list(pb.DESCRIPTOR.services_by_name["SelectionService"].methods))
def test_every_answer_still_parses(method: Any) -> None:
    reply = method.output_type._concrete_class()
    wire = newer(reply).SerializeToString()
    assert wire.count(UNKNOWN_FIELD) >= 1
    assert type(reply).FromString(wire).SerializeToString() == wire
