"""A scan of a pool that those who come join where it is (Harizopoulos et al., QPipe, 2005).

Who joins is shown the blocks from there to the last, then those before: it takes no longer than a
scan of its own, and the reading and the product are for all. What is best does not depend on where
one began.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from coresift.server.pool.pool import Pool
from coresift.server.pool.rows import Block
from coresift.server.selection.device_scan import show_on_device
from coresift.server.selection.leaders import Leaders, Near, Together

MOST_COLUMNS = 32
"""Side by side in one product, unless one rider has more. So many take about four times as long
as one; beyond that each takes as long as the one before, and all wait for the last."""


class Rider:
    """Leaders that are to be shown every row.

    Attributes:
        columns: how many they add to the product.
    """

    def __init__(self, several: Sequence[Leaders], leave: Callable[[], object]) -> None:
        """``leave`` is told once, when they have been, or are all over."""
        self.leaders = tuple(several)
        self.columns = sum(len(leaders.columns.offset) for leaders in several)
        self._leave = leave
        self._to_show = self._to_add = 0
        self._has_left = False

    def board(self, blocks: int) -> None:
        """Begin a turn of so many blocks."""
        self._to_show = self._to_add = blocks

    def wants(self) -> bool:
        """Whether the next block is for them, too; where all are over, they leave."""
        if all(leaders.is_over for leaders in self.leaders):
            self.leave()
            return False
        self._to_show -= 1
        return self._to_show >= 0

    def note(self) -> None:
        """What they found in a block has been added."""
        self._to_add -= 1
        if not self._to_add:
            self.leave()

    def leave(self) -> None:
        """Their turn is over."""
        if not self._has_left:
            self._has_left = True
            self._leave()


class CircularScan:
    """The scan of one pool. Riders come from any thread; `turn` is for one thread at a time."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiting: deque[Rider] = deque()
        self._riders: list[Rider] = []
        self._next = 0

    def join(self, rider: Rider) -> None:
        """Take a rider along from the next block on, or as soon as there is room."""
        self._waiting.append(rider)

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits or rides. To be asked between turns."""
        return not (self._waiting or self._riders)

    def turn(self) -> None:
        """Go on, at most once around, so that others get the thread now and then."""
        if self._pool.is_on_device:
            self._show_all()
            return
        count = self._pool.block_count
        handed_out = islice(self._companions(count), count)
        for companions, found in self._pool.scan_around(self._next, _look, handed_out):
            self._next = (self._next + 1) % count
            companions.add(found)

    def _companions(self, count: int) -> Iterator[_Companions]:
        """Who rides over the next block, until nobody does."""
        companions: _Companions | None = None
        while True:
            self._admit(count)
            self._riders = [rider for rider in self._riders if rider.wants()]
            if not self._riders:
                return
            if companions is None or companions.riders != self._riders:
                companions = _Companions(self._riders)
            yield companions

    def _admit(self, count: int) -> None:
        columns = sum(rider.columns for rider in self._riders)
        while self._waiting:
            columns += self._waiting[0].columns
            if self._riders and columns > MOST_COLUMNS:
                return
            rider = self._waiting.popleft()
            rider.board(count)
            self._riders = [*self._riders, rider]

    def _show_all(self) -> None:
        """On a device a scan is over before anyone could join it."""
        riders = [self._waiting.popleft() for _ in range(len(self._waiting))]
        show_on_device(self._pool, [leaders for rider in riders for leaders in rider.leaders])
        for rider in riders:
            rider.leave()


def show_pool(pool: Pool, several: Sequence[Leaders]) -> None:
    """Show leaders every row of the pool, in a scan of their own."""
    scan = CircularScan(pool)
    scan.join(Rider(several, lambda: None))
    while not scan.is_empty:
        scan.turn()


class _Companions:
    """Riders over the same block."""

    def __init__(self, riders: list[Rider]) -> None:
        self.riders = riders
        self.together = Together([leaders for rider in riders for leaders in rider.leaders])

    def add(self, found: Sequence[Near]) -> None:
        """Keep what they found in a block."""
        self.together.add(found)
        for rider in self.riders:
            rider.note()


def _look(block: Block, companions: _Companions) -> tuple[_Companions, list[Near]]:
    return companions, companions.together.look(block)
