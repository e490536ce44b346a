"""Rows whose product with a column of weights lies between two bounds, on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from coresift.server.arrays import Float32s, Rows
from coresift.server.pool.device_compute import DeviceCompute
from coresift.server.pool.rows import Stop, VectorRows, check

FIRST = 65_536
"""Slots that are looked at before all others: they draw the bounds so near that little of what
follows leaves the device."""


def rows_between(
    pool: VectorRows,
    weights: Float32s,
    bounds: Callable[[], tuple[float, float]],
    stop: Stop | None = None,
) -> Iterator[tuple[Rows, Float32s]]:
    """All rows with a product between the bounds, block by block in a fixed order.

    Nothing else leaves the device: a scan for the best of many rows costs little more than reading
    them there.

    Args:
        pool: rows on a device.
        weights: float32 [d].
        bounds: least and most, both included, asked before each block: they may draw nearer as
            the caller learns what is best.
        stop: asked between blocks; ends the scan with `Cancelled`.

    Returns:
        For each block rows int32 [n] and their products float32 [n], each within `product_error`
        of the exact one: a row whose exact product is that far inside the bounds is never missing.
    """
    first = FIRST
    for segment, compute in zip(pool.segments, pool.computes, strict=True):
        if not isinstance(compute, DeviceCompute):
            raise TypeError("the rows are not on a device")
        column, first = compute.column(weights), min(first, segment.items)
        others = pool.spans(segment.items - first, compute)
        spans = ((start + first, end + first) for start, end in others)
        for start, end in ((0, first), *spans):
            check(stop)
            slots, products = compute.between(start, end, column, *bounds())
            rows = slots if segment.maps is None else segment.maps.slot_rows[slots]
            yield (rows + segment.first).astype(np.int32), products
        first = 0
