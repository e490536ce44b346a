"""Open-loop load from a process of its own: calls begin when they are due, come what may.

A latency counts from the moment the call was due, so that a stalled server or generator cannot
hide how long callers would have waited (coordinated omission).
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

SERVICE = "/coresift.v1.SelectionService/"
CHANNELS = 4
"""Connections: one alone carries its calls one after the other through one thread."""
GIVE_UP_S = 20.0
NUMBER = b"call-00000000"
"""Stands in a request for the number of the call, where every call needs a name of its own."""


@dataclass(frozen=True)
class Outcome:
    """A call: when it was due (seconds from the start), how long it took, its status code."""

    due_s: float
    seconds: float
    code: str


@contextmanager
def on_core(number: int) -> Iterator[None]:
    """Processes started meanwhile run on one core of the machine's, and all their threads.

    Without it server and generator take turns on the same cores, and a latency is mostly the
    time until the operating system lets the generator read an answer that has long been there.
    Does nothing where there is but one core.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[number]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def offer(
    address: str, method: str, request: bytes, folder: Path, *, rate: float, seconds: float
) -> list[Outcome]:
    """The outcomes of ``rate`` calls a second for ``seconds``; streams are read to their end."""
    body = folder / "request.bin"
    body.write_bytes(request)
    command = [sys.executable, "-m", "tests.fault.load", address, method, str(body)]
    done = subprocess.run(
        [*command, str(rate), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=seconds + 2 * GIVE_UP_S,
    )
    return [Outcome(*entry) for entry in json.loads(done.stdout)]


def quantile(outcomes: list[Outcome], share: float = 0.99) -> float:
    """Of the latencies, seconds."""
    ordered = sorted(outcome.seconds for outcome in outcomes)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def _offer(
    address: str, method: str, request: bytes, rate: float, seconds: float
) -> list[tuple[float, float, str]]:
    outcomes: list[tuple[float, float, str]] = []
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(CHANNELS)]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    if method == "Predict":
        calls = [channel.unary_stream(SERVICE + method) for channel in channels]
    else:
        calls = [channel.unary_unary(SERVICE + method) for channel in channels]
    start = time.perf_counter() + 0.05

    async def one(number: int) -> None:
        due = start + number / rate
        body = request.replace(NUMBER, b"call-%08d" % number)
        try:
            call = calls[number % CHANNELS](body, timeout=GIVE_UP_S)
            if method == "Predict":
                async for _ in call:
                    pass
            else:
                await call
            code = "OK"
        except grpc.aio.AioRpcError as error:
            code = error.code().name
        outcomes.append((due - start, time.perf_counter() - due, code))

    tasks = []
    for number in range(int(rate * seconds)):
        if (wait := start + number / rate - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one(number)))
    await asyncio.gather(*tasks)
    await asyncio.gather(*(channel.close() for channel in channels))
    return outcomes


def main() -> None:
    """``ADDRESS METHOD REQUEST_FILE RATE SECONDS``: outcomes as JSON."""
    address, method, body, rate, seconds = sys.argv[1:]
    gc.disable()
    request = Path(body).read_bytes()
    outcomes = asyncio.run(_offer(address, method, request, float(rate), float(seconds)))
    sys.stdout.write(json.dumps(outcomes))


if __name__ == "__main__":
    main()
