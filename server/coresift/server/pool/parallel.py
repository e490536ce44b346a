"""Work on parts on all cores, results in order.

BLAS runs on one thread in the server, and we spread blocks over threads ourselves: a product
that BLAS splits in two waits at its end for the slower half, which on a busy machine costs a time
slice a block (measured: 320 ms a scan instead of 60).
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache
from threading import Lock, get_native_id, local
from typing import TypeVar

from threadpoolctl import threadpool_limits

from coresift.server.cores import usable_cores

A = TypeVar("A")
T = TypeVar("T")

CORES = usable_cores()
NICE = 5
"""Of background threads: a third of what others get. Less, and one that holds the interpreter's
lock might not run for long while all wait for it."""

_thread = local()


def limit_blas() -> None:
    """Give BLAS one thread, for the whole process and for good."""
    threadpool_limits(1, user_api="blas")


def stay_behind() -> None:
    """Let this thread spread its parts only while no other work is spread, and give way to
    others: background work takes the cores that nobody else needs."""
    _thread.is_behind = True
    give_way()


def give_way() -> None:
    """Let the system prefer other threads to this one, where it can (Linux)."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, get_native_id(), NICE)


@cache
def _threads(name: str, prepare: Callable[[], None] | None = None) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(CORES, thread_name_prefix=name, initializer=prepare)


class _Foreground:
    """How much work is spread over the cores, background work apart; open while some is."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.count = 0

    def __enter__(self) -> None:
        with self._lock:
            self.count += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.count -= 1


foreground = _Foreground()


def in_order(work: Callable[[A], T], parts: Iterable[A]) -> Iterator[T]:
    """``work`` of each part, computed on all cores, at most two parts a core ahead.

    ``work`` must be safe on threads and must not call this function. When the iteration ends
    early, what runs is waited for.
    """
    if CORES == 1:
        yield from map(work, parts)
    elif getattr(_thread, "is_behind", False):
        threads = _threads("behind", give_way)
        yield from _ahead(work, parts, threads, lambda: 0 if foreground.count else CORES)
    else:
        with foreground:
            yield from _ahead(work, parts, _threads("blocks"), lambda: 2 * CORES)


def _ahead(
    work: Callable[[A], T], parts: Iterable[A], threads: ThreadPoolExecutor, most: Callable[[], int]
) -> Iterator[T]:
    """Results in order, with ``most()`` parts ahead; with none this thread works itself."""
    ahead: deque[Future[T]] = deque()
    try:
        for part in parts:
            if not (limit := most()):
                while ahead:
                    yield ahead.popleft().result()
                yield work(part)
                continue
            ahead.append(threads.submit(work, part))
            if len(ahead) > limit:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        for future in ahead:
            future.cancel()
        wait(ahead)
