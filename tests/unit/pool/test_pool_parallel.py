"""Work on all cores: in order, and background work behind all other."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.fixtures.threads import on_one_thread

from coresift.server.pool import parallel
from coresift.server.pool.parallel import in_order, stay_behind


def where(part: int) -> tuple[int, int]:
    return part, threading.get_ident()


@pytest.mark.skipif(parallel.CORES == 1, reason="there is one core")
def test_background_work_spreads_only_while_nothing_else_does() -> None:
    def background() -> tuple[int, list[tuple[int, int]]]:
        return threading.get_ident(), list(in_order(where, range(50)))

    with ThreadPoolExecutor(1, initializer=stay_behind) as thread:
        own, found = thread.submit(background).result()
    assert [part for part, _ in found] == list(range(50))
    assert own not in {ident for _, ident in found}
    own, found = on_one_thread(background)
    assert [part for part, _ in found] == list(range(50))
    assert {ident for _, ident in found} == {own}


def test_work_that_ends_early_leaves_nothing_in_the_foreground() -> None:
    for part, _ in in_order(where, range(1_000)):
        if part == 3:
            break
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda part: 1 // part, range(2)))
    assert parallel.foreground.count == 0
