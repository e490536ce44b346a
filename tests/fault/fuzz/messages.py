"""Requests made up from the descriptors: every field of every message, likely and unlikely values.

Half of the values of a name are ones that exist in the service under attack (`Known`), so that
requests get past the first check and reach the code behind it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import struct_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

DEEPEST = 6
"""Of messages in messages."""
MOST_REPEATED = 12
TEXTS = (
    "",
    " ",
    "a",
    "é" * 70,
    "x" * 65,
    "x" * 300,
    "\x00",
    "a\nb",
    "%s%n{}",
    "../../etc/passwd",
    "*",
    "|",
    "acme|theirs",
    "p-aaaaaaaaaaaaaaaa",
    "\U0001f600",
    "'; FLUSHALL; --",
    "{uid}",
    "a:b",
)
INTEGERS = (0, 1, 2, 3, 7, 50, 100, 999, 1000, 1001, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1)
REALS = (0.0, -0.0, 0.5, 1.0, -1.0, 1e-300, 1e30, 1e308, math.inf, -math.inf, math.nan)
INTEGER_BITS = {
    FieldDescriptor.TYPE_INT32: (True, 32),
    FieldDescriptor.TYPE_UINT32: (False, 32),
    FieldDescriptor.TYPE_INT64: (True, 64),
    FieldDescriptor.TYPE_UINT64: (False, 64),
}


@dataclass
class Known:
    """What exists: values of text fields by field name, and of whole messages by type name."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    messages: dict[str, list[Message]] = field(default_factory=dict)
    payloads: list[bytes] = field(default_factory=list)
    """Bytes that mean something: vectors of the right length, lease tokens, files."""


class Forge:
    """Makes messages of a type; ``rng`` decides everything."""

    def __init__(self, rng: random.Random, known: Known) -> None:
        self._rng, self._known = rng, known

    def message(self, descriptor: Descriptor, depth: int = 0) -> Message:
        """A message with about half of its fields set."""
        rng, known = self._rng, self._known.messages.get(descriptor.full_name)
        made: Message = GetMessageClass(descriptor)()
        if known and rng.random() < 0.5:
            made.CopyFrom(rng.choice(known))
            changed = rng.sample(list(descriptor.fields), min(len(descriptor.fields), 1))
        elif descriptor.full_name == "google.protobuf.Struct":
            made.CopyFrom(self._struct())
            return made
        else:
            share = rng.choice((0.2, 0.5, 0.9))
            changed = [f for f in descriptor.fields if rng.random() < share]
        for one in changed:
            made.ClearField(one.name)
            if depth < DEEPEST and rng.random() < 0.9:
                self._fill(made, one, depth)
        return made

    def _fill(self, made: Message, one: FieldDescriptor, depth: int) -> None:
        make = self._maker(one, depth)
        if one.message_type is not None and one.message_type.GetOptions().map_entry:
            return
        if one.is_repeated:
            count = self._rng.choice((1, 1, 2, 3, MOST_REPEATED))
            values = [make() for _ in range(count)]
            if self._rng.random() < 0.3:
                values.append(values[0])
            getattr(made, one.name).extend(values)
        elif one.message_type is not None:
            getattr(made, one.name).CopyFrom(make())
        else:
            setattr(made, one.name, make())

    def _maker(self, one: FieldDescriptor, depth: int) -> Callable[[], Any]:
        rng, kind = self._rng, one.type
        if one.message_type is not None:
            return lambda: self.message(one.message_type, depth + 1)
        if kind in INTEGER_BITS:
            return lambda: self._integer(*INTEGER_BITS[kind])
        if kind == FieldDescriptor.TYPE_ENUM:
            numbers = [*one.enum_type.values_by_number, 99, -1]
            return lambda: rng.choice(numbers)
        return {
            FieldDescriptor.TYPE_BOOL: lambda: rng.random() < 0.5,
            FieldDescriptor.TYPE_STRING: lambda: self._text(one.name),
            FieldDescriptor.TYPE_BYTES: self._bytes,
            FieldDescriptor.TYPE_DOUBLE: self._real,
            FieldDescriptor.TYPE_FLOAT: self._real,
        }[kind]

    def _integer(self, signed: bool, bits: int) -> int:
        value = self._rng.choice((*INTEGERS, self._rng.getrandbits(bits)))
        if signed and self._rng.random() < 0.3:
            value = -value
        most = 2 ** (bits - 1) if signed else 2**bits
        return max(-most if signed else 0, min(most - 1, value))

    def _real(self) -> float:
        return self._rng.choice((*REALS, self._rng.random()))

    def _text(self, name: str) -> str:
        rng, known = self._rng, self._known.texts.get(name)
        if known and rng.random() < 0.7:
            return rng.choice(known)
        if rng.random() < 0.3:
            return f"r{rng.getrandbits(64):x}"
        return rng.choice(TEXTS)

    def _bytes(self) -> bytes:
        rng = self._rng
        if self._known.payloads and rng.random() < 0.4:
            payload = bytearray(rng.choice(self._known.payloads))
            if payload and rng.random() < 0.5:
                payload[rng.randrange(len(payload))] ^= 1 << rng.randrange(8)
            if rng.random() < 0.2:
                del payload[rng.randrange(len(payload) + 1) :]
            return bytes(payload)
        return rng.randbytes(rng.choice((0, 1, 3, 4, 8, 24, 63, 64, 256, 4096)))

    def _struct(self) -> struct_pb2.Struct:
        rng, made = self._rng, struct_pb2.Struct()
        for _ in range(rng.randrange(4)):
            made[self._text("params")] = rng.choice(
                (self._real(), self._text("value"), rng.random() < 0.5, None, [1, "a"], {"a": {}})
            )
        return made


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Bytes of a message with a few of them changed, cut or doubled."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(changed) + 1)
        match rng.randrange(4):
            case 0 if place < len(changed):
                changed[place] = rng.getrandbits(8)
            case 1:
                changed[place:place] = rng.randbytes(rng.randrange(1, 9))
            case 2:
                del changed[place:]
            case _:
                changed += changed[:place]
    return bytes(changed)
