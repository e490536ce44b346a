"""Work on parts on all cores, results in order.

BLAS runs on one thread in the server, and we spread blocks over threads ourselves: a product
that BLAS splits in two waits at its end for the slower half, which on a busy machine costs a time
slice a block (measured: 320 ms a scan instead of 60).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from threading import local
from typing import TypeVar

from threadpoolctl import threadpool_limits

A = TypeVar("A")
T = TypeVar("T")

CORES = len(os.sched_getaffinity(0))

_thread = local()


def limit_blas() -> None:
    """Give BLAS one thread, for the whole process and for good."""
    threadpool_limits(1, user_api="blas")


def stay_alone() -> None:
    """Let this thread work on its parts itself: background work leaves the cores to others."""
    _thread.is_alone = True


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(CORES, thread_name_prefix="blocks")


def in_order(work: Callable[[A], T], parts: Iterable[A]) -> Iterator[T]:
    """``work`` of each part, computed on all cores, at most two parts a core ahead.

    ``work`` must be safe on threads and must not call this function. When the iteration ends
    early, what runs is waited for.
    """
    if CORES == 1 or getattr(_thread, "is_alone", False):
        yield from map(work, parts)
        return
    ahead: deque[Future[T]] = deque()
    try:
        for part in parts:
            ahead.append(_threads().submit(work, part))
            if len(ahead) > 2 * CORES:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        for future in ahead:
            future.cancel()
        wait(ahead)
