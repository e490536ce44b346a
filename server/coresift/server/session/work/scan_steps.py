"""Work that pauses where it needs a pass over a pool: one logic for the live session, where several
share a pass, and for replay, where each has its own."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

from coresift.server.pool.pool import Pool
from coresift.server.selection.circular_scan import show_pool
from coresift.server.selection.leaders import Leaders

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scan:
    """Show ``leaders`` every row of ``pool``; others may be shown them in the same pass."""

    pool: Pool
    leaders: tuple[Leaders, ...]


Steps = Generator[Scan, None, T]


def alone(steps: Steps[T]) -> T:
    """What the steps return, each pass for them alone."""
    try:
        while True:
            scan = next(steps)
            show_pool(scan.pool, scan.leaders)
    except StopIteration as done:
        result: T = done.value
        return result
