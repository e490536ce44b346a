"""What the machine can do at best, measured in the same run as everything else."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import redis
import torch

from coresift.server.state.embedded import EmbeddedRedis

METHOD = "/bench.Echo/Empty"
CALLS = 1_000


def measure_ceilings() -> dict[str, float]:
    """Bandwidth, matrix products, scans of 1M x 256, an empty call and a Redis round trip."""
    generator = np.random.default_rng(0)
    stream = torch.ones(64 * 1024 * 1024)
    square = torch.from_numpy(generator.standard_normal((2048, 2048)).astype(np.float32))
    rows = torch.from_numpy(generator.standard_normal((250_000, 256)).astype(np.float32))
    half_square, half_rows = square.bfloat16(), rows.bfloat16()
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
            for name, factor in (("float32", square), ("bfloat16", half_square)):
                seconds = median_seconds(lambda factor=factor: factor @ factor)  # type: ignore[misc]
                figures[f"{name} product GFLOP/s, {on}"] = 2 * 2048**3 / 1e9 / seconds
            for name, matrix, columns in (
                ("bfloat16 scan of 1M x 256, 1 output", half_rows, half_one),
                ("bfloat16 scan of 1M x 256, 10 outputs", half_rows, half_ten),
            ):
                seconds = median_seconds(lambda m=matrix, w=columns: m @ w)  # type: ignore[misc]
                figures[f"{name}, ms, {on}"] = 4e3 * seconds
    finally:
        torch.set_num_threads(most)
    return figures | {"empty gRPC call ms": 1e3 * _empty_call(), "Redis GET ms": 1e3 * _redis_get()}


def median_seconds(work: Callable[[], object], runs: int = 7) -> float:
    """Median time of ``work`` over several runs, after one to warm up."""
    work()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def _empty_call() -> float:
    """Seconds of a call that does nothing, of a server in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.ceilings"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            with grpc.insecure_channel(f"127.0.0.1:{int(server.stdout.readline())}") as channel:
                call = channel.unary_unary(METHOD)
                return median_seconds(lambda: call(b""), CALLS)
        finally:
            server.terminate()


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


async def _serve_empty() -> None:
    async def empty(request: bytes, context: object) -> bytes:
        return b""

    _, service, method = METHOD.split("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(empty)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve_empty())
