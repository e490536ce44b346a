"""Whether products in bfloat16 are worth it here, and torch on one thread."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache

import numpy as np
import structlog
from threadpoolctl import ThreadpoolController, threadpool_limits

log = structlog.get_logger()

_QUERIES = 32
"""Fewer take little more time than the reading of the rows."""
_DIMENSION = 64
"""In fewer dimensions the products are not what takes the time."""
_WORK = 2**32
"""Multiplications, a tenth of a second, from which the import of torch is worth it."""
_GAIN = 1.5
"""How much faster bfloat16 must be to be used at all."""


def half_pays(queries: int, items: int, dimension: int, *, wait: bool = False) -> bool:
    """Whether bfloat16 products are faster for a search of this size.

    The first search that is large enough has torch imported and both ways measured, once for the
    process and beside its work (a second or two): until then the answer is no, unless ``wait``.
    """
    if queries < _QUERIES or dimension < _DIMENSION or queries * items * dimension < _WORK:
        return False
    answer = _measured()
    return (wait or answer.done()) and answer.result() > _GAIN


@cache
def _openmp() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="openmp")


def one_thread() -> AbstractContextManager[object]:
    """torch works on the calling thread alone meanwhile; others are not concerned."""
    import torch

    torch.get_num_threads()  # a thread's first use of torch sets its number: not after us
    limit: AbstractContextManager[object] = _openmp().limit(limits=1)
    return limit


@cache
def _measured() -> Future[float]:
    executor = ThreadPoolExecutor(1, thread_name_prefix="half")
    try:
        return executor.submit(_gain_or_none)
    finally:
        executor.shutdown(wait=False)


def _gain_or_none() -> float:
    """0 where it cannot be measured: searches go on in float32."""
    try:
        return _gain()
    except Exception as error:
        log.warning("searches do without bfloat16", error=str(error))
        return 0.0


def _gain() -> float:
    """How many times faster bfloat16 products are than NumPy's in float32, on this machine, each on
    one thread: blocks of rows are spread over the others."""
    import torch

    gc.freeze()  # else each full pass of the collector looks at all of torch: 80 ms without a call
    chance = np.random.default_rng(0)
    rows = chance.standard_normal((2048, 256), np.float32)
    queries = rows[:128].copy()
    with one_thread():
        wide, half = torch.from_numpy(rows), torch.from_numpy(queries).to(torch.bfloat16)
        scratch = wide.to(torch.bfloat16)

    def rounded() -> None:
        with one_thread():
            torch.mm(half, scratch.copy_(wide).T)

    with threadpool_limits(1, user_api="blas"):
        return _seconds(lambda: queries @ rows.T) / _seconds(rounded)


def _seconds(work: Callable[[], object]) -> float:
    """The least of five times: others may take the core."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
