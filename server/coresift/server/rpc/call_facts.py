"""What the log says of a call's messages: whose, on what, how many; never what is in them.

Only the fields named here are read: a new one of the API stays out of the log until it has its
place here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from coresift.server.rpc.checks import is_name
from coresift.v1 import selection_pb2 as pb

Facts = dict[str, str | int]

MAX_NAME_BYTES = 128
"""Of annotators and pools: a longer one is refused anyway, and not logged."""

NAMES = ("session_id", "request_id", "job_id")
TEXTS = ("annotator", "pool")
NUMBERS = ("size", "start_revision", "min_revision", "budget", "count")
LISTS = ("labels", "item_ids")
"""Their length is the number of items."""
NESTED = ("header", "config", "items")
"""Messages within a request that are read as it is."""


def request_facts(request: Message) -> Facts:
    """The facts of a request, or of the first message of an upload."""
    facts: Facts = {}
    for read in _readers(request.DESCRIPTOR):
        read(request, facts)
    return facts


def answer_facts(answer: Any) -> Facts:
    """What came of a call with one answer: revision, phase, number of items."""
    facts: Facts = {}
    fields = answer.DESCRIPTOR.fields_by_name
    holder = answer.session if "session" in fields else answer
    if "basis" in holder.DESCRIPTOR.fields_by_name and holder.HasField("basis"):
        facts["revision"] = holder.basis.revision
    if isinstance(answer, pb.NextBatchResponse):
        facts["phase"] = pb.Phase.Name(answer.phase).removeprefix("PHASE_")
        facts["items"] = len(answer.picks)
    return facts


@cache
def _readers(kind: Descriptor) -> tuple[Callable[[Any, Facts], None], ...]:
    """How a message of this type is read, worked out once."""
    present = kind.fields_by_name
    readers = [_text(name, is_name) for name in NAMES if name in present]
    readers += [_text(name, _is_short) for name in TEXTS if name in present]
    readers += [_number(name) for name in NUMBERS if name in present]
    readers += [_length(name) for name in LISTS if name in present]
    readers += [_nested(name) for name in NESTED if name in present]
    return tuple(readers)


def _text(name: str, is_fine: Callable[[str], bool]) -> Callable[[Any, Facts], None]:
    def read(message: Any, facts: Facts) -> None:
        value = getattr(message, name)
        if is_fine(value):
            facts[name] = value

    return read


def _number(name: str) -> Callable[[Any, Facts], None]:
    def read(message: Any, facts: Facts) -> None:
        if value := getattr(message, name):
            facts[name] = value

    return read


def _length(name: str) -> Callable[[Any, Facts], None]:
    def read(message: Any, facts: Facts) -> None:
        facts["items"] = len(getattr(message, name))

    return read


def _nested(name: str) -> Callable[[Any, Facts], None]:
    def read(message: Any, facts: Facts) -> None:
        if message.HasField(name):
            facts.update(request_facts(getattr(message, name)))

    return read


def _is_short(text: str) -> bool:
    return 1 <= len(text.encode()) <= MAX_NAME_BYTES
