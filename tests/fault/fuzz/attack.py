"""Sends forged requests to a service and says what became of them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from tests.fault.fuzz.messages import Forge, Known, damaged

from coresift.v1 import selection_pb2 as pb

METHODS: tuple[MethodDescriptor, ...] = tuple(
    pb.DESCRIPTOR.services_by_name["SelectionService"].methods
)
STUCK_S = 30.0
PARTS = 4
"""Messages of a forged upload at most."""
READ = 200
"""Messages of a stream that are read before it is cancelled."""
DAMAGED = 0.1
"""Share of the calls that send damaged bytes."""
NEVER = ("INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED", "UNAVAILABLE", "DATA_LOSS")
"""A forged request is refused for what is wrong with it, and answered in time."""
NO_DEFECTS = ("The session is being written anew", "Internal error from Core")
"""An EraseAnnotator among the others makes calls on its session wait. The other is said by the
client's library, of an upload that was refused while it was being written."""


@dataclass
class Outcomes:
    """How forged calls ended, and those that must not end so."""

    calls: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, method: str, parts: list[bytes], code: str, details: str) -> None:
        self.calls += 1
        self.codes[code] += 1
        if code in NEVER and not details.startswith(NO_DEFECTS):
            self.wrong.append(f"{method} {code} {details}: {[part.hex() for part in parts]}")


def forged(rng: random.Random, known: Known, method: MethodDescriptor) -> list[bytes]:
    """The messages of one call, serialized; some of them damaged."""
    forge = Forge(rng, known)
    count = rng.randrange(PARTS + 1) if method.client_streaming else 1
    parts = [forge.message(method.input_type).SerializeToString() for _ in range(count)]
    if rng.random() < DAMAGED:
        parts = [damaged(rng, part) for part in parts]
    return parts


async def send(
    channel: grpc.aio.Channel, method: MethodDescriptor, parts: list[bytes]
) -> tuple[str, str]:
    """Make one call; the name of its status and what it says."""
    service = method.containing_service.full_name
    answer = GetMessageClass(method.output_type)
    kinds = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
    }
    make = kinds[method.client_streaming, method.server_streaming]
    invoke = make(
        f"/{service}/{method.name}",
        request_serializer=bytes,
        response_deserializer=answer.FromString,
    )
    request = iter(parts) if method.client_streaming else parts[0]
    call = invoke(request, timeout=STUCK_S)
    try:
        if method.server_streaming:
            await _read_some(call)
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""


async def _read_some(call: grpc.aio.UnaryStreamCall) -> None:  # type: ignore[type-arg]
    for _ in range(READ):
        if await call.read() is grpc.aio.EOF:
            return
    call.cancel()


async def attack(target: str, seeds: Iterable[int], known: Known, *, at_once: int = 24) -> Outcomes:
    """Send one forged call for each seed, ``at_once`` at a time."""
    outcomes, waiting = Outcomes(), iter(seeds)
    async with grpc.aio.insecure_channel(target) as channel:

        async def work() -> None:
            for seed in waiting:
                rng = random.Random(seed)
                method = rng.choice(METHODS)
                parts = forged(rng, known, method)
                code, details = await send(channel, method, parts)
                outcomes.add(f"seed {seed} {method.name}", parts, code, details)

        await asyncio.gather(*(work() for _ in range(at_once)))
    return outcomes
