"""Threads that a process which ends does not wait for.

A driver may sit in a read for a minute: the interpreter joins the threads of ThreadPoolExecutor
at its end, these it leaves behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DaemonThreads(Executor):
    """A fixed number of daemon threads that do what is submitted, in order."""

    def __init__(self, number: int, name: str, begin: Callable[[], object] = lambda: None) -> None:
        """``begin`` is called first on every thread."""
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads = [
            Thread(target=self._run, args=(begin,), name=f"{name}_{n}", daemon=True)
            for n in range(number)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have ``fn`` called on one of the threads."""
        future: Future[T] = Future()
        self._work.put((future, partial(fn, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work and end after what was submitted."""
        self.leave(None if wait else 0.0)

    def leave(self, within_s: float | None) -> bool:
        """End after what was submitted; False where that takes longer (None: wait for it)."""
        for _ in self._threads:
            self._work.put(None)
        deadline = None if within_s is None else time.monotonic() + within_s
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self, begin: Callable[[], object]) -> None:
        begin()
        while (item := self._work.get()) is not None:
            future, work = item
            if future.set_running_or_notify_cancel():
                try:
                    result = work()
                except BaseException as problem:
                    future.set_exception(problem)
                else:
                    future.set_result(result)
                    del result
            del item, future, work  # or what they hold would live until the next
