"""A scan of a pool whose rows live on a device: as little as can be leaves it."""

from __future__ import annotations

from collections.abc import Sequence

from coresift.server.arrays import Float32s
from coresift.server.pool.pool import Pool
from coresift.server.selection.leaders import Leaders, Together


def show_on_device(pool: Pool, several: Sequence[Leaders]) -> None:
    """Show leaders every row that may be among their best.

    Those whose score is a function of one product have a scan each, in which only rows within
    their bounds leave the device. The others share one that brings all their products here.
    """
    rest = []
    for leaders in several:
        if (column := leaders.column) is None:
            rest.append(leaders)
        else:
            _show_within_bounds(pool, leaders, column)
    if not rest:
        return
    together = Together(rest)
    for found in pool.scan(together.look):
        together.add(found)
        if together.is_over:
            return


def _show_within_bounds(pool: Pool, leaders: Leaders, column: Float32s) -> None:
    for rows, products in pool.between(column, leaders.bounds):
        logits = (products + leaders.columns.offset)[:, None]
        leaders.add(leaders.look(leaders.columns.split(rows, logits)))
        if leaders.is_over:
            return
