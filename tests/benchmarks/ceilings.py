"""What the machine can do at best, measured in the same run as everything else."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import redis
import torch

from coresift.server.state.embedded import EmbeddedRedis

METHOD = "/bench.Echo/Empty"
CALLS = 1_000
CALLERS = 64
BURST = 4_000
"""Calls of all callers together."""
SQUARE = 2048


def measure_ceilings() -> dict[str, float]:
    """Bandwidth, matrix products, scans of 1M x 256, empty calls, a Redis round trip, imports."""
    generator = np.random.default_rng(0)
    stream = torch.ones(64 * 1024 * 1024)
    rows = torch.from_numpy(generator.standard_normal((250_000, 256)).astype(np.float32))
    half_rows = rows.bfloat16()
    half_one, half_ten = half_rows[:1].T.contiguous(), half_rows[:10].T.contiguous()
    table, weights = rows.numpy(), rows[:1].T.numpy()  # torch takes three times as long for these
    seconds = median_seconds(lambda: table @ weights)
    figures = {"float32 scan of 1M x 256, 1 output, ms": 4e3 * seconds}
    most = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            on = f"{threads} thread{'s' * (threads > 1)}"
            figures[f"streaming read GB/s, {on}"] = stream.nbytes / 1e9 / median_seconds(stream.sum)
            for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
                work, flop = product(dtype)
                figures[f"{name} product GFLOP/s, {on}"] = flop / 1e9 / median_seconds(work)
            for name, matrix, columns in (
                ("bfloat16 scan of 1M x 256, 1 output", half_rows, half_one),
                ("bfloat16 scan of 1M x 256, 10 outputs", half_rows, half_ten),
            ):
                seconds = median_seconds(lambda m=matrix, w=columns: m @ w)  # type: ignore[misc]
                figures[f"{name}, ms, {on}"] = 4e3 * seconds
    finally:
        torch.set_num_threads(most)
    others = {
        "Redis GET ms": 1e3 * _redis_get(),
        "imports of a server s": median_seconds(_import, 1),
    }
    return figures | _calls() | others


def product(dtype: torch.dtype) -> tuple[Callable[[], object], int]:
    """A product of two square matrices, and its floating-point operations."""
    square = torch.randn((SQUARE, SQUARE), generator=torch.Generator().manual_seed(0)).to(dtype)
    return lambda: square @ square, 2 * SQUARE**3


def median_seconds(work: Callable[[], object], runs: int = 7) -> float:
    """Median time of ``work`` over several runs, after one to warm up."""
    work()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def _calls() -> dict[str, float]:
    """Calls that do nothing, of a server in a process of its own: one at a time, and many."""
    command = [sys.executable, "-m", "tests.benchmarks.ceilings"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = f"127.0.0.1:{int(server.stdout.readline())}"
            with grpc.insecure_channel(address) as channel:
                call: Any = channel.unary_unary(METHOD)
                alone = median_seconds(lambda: call(b""), CALLS)
            return {
                "empty gRPC call ms": 1e3 * alone,
                f"empty gRPC calls a second, {CALLERS} callers": asyncio.run(_burst(address)),
            }
        finally:
            server.terminate()


async def _burst(address: str) -> float:
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(METHOD)

        async def caller() -> None:
            for _ in range(BURST // CALLERS):
                await call(b"")

        began = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        return BURST / (time.perf_counter() - began)


def _redis_get() -> float:
    """Seconds of the smallest command, over the socket that a server uses without --state."""
    with tempfile.TemporaryDirectory() as folder:
        embedded = EmbeddedRedis(Path(folder))
        asyncio.run(embedded.start())
        try:
            with redis.Redis.from_url(embedded.url) as client:
                return median_seconds(lambda: client.get("nothing"), CALLS)
        finally:
            asyncio.run(embedded.stop())


def _import() -> None:
    subprocess.run([sys.executable, "-c", "import coresift.server.app"], check=True)


async def _serve_empty() -> None:
    async def empty(request: bytes, context: object) -> bytes:
        return b""

    _, service, method = METHOD.split("/")
    handlers: Any = {method: grpc.unary_unary_rpc_method_handler(empty)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve_empty())
