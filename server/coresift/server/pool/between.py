"""Rows whose product with a column of weights lies between two bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from coresift.server.arrays import Float32s, Int64s, Rows
from coresift.server.pool.compute import Compute
from coresift.server.pool.device_compute import DeviceCompute
from coresift.server.pool.parallel import in_order
from coresift.server.pool.rows import Stop, VectorRows, check

Found = tuple[Int64s, Float32s]


def rows_between(
    pool: VectorRows,
    weights: Float32s,
    bounds: Callable[[], tuple[float, float]],
    stop: Stop | None = None,
) -> Iterator[tuple[Rows, Float32s]]:
    """All rows with a product between the bounds, block by block in a fixed order.

    On a GPU nothing but these leaves it: a scan for the best of many rows costs little more than
    reading them there.

    Args:
        weights: float32 [d].
        bounds: least and most, both included, asked before each block: they may draw nearer as
            the caller learns what is best.
        stop: asked between blocks; ends the scan with `Cancelled`.

    Returns:
        For each block rows int32 [n] and their products float32 [n], each within `product_error`
        of the exact one: a row whose exact product is that far inside the bounds is never missing.
    """
    for segment, compute in zip(pool.segments, pool.computes, strict=True):
        between = _way(compute, weights)

        def work(span: tuple[int, int], between: Callable[..., Found] = between) -> Found:
            check(stop)
            return between(*span, *bounds())

        spans = pool.spans(segment.items, compute)
        for slots, products in in_order(work, spans) if compute.spread else map(work, spans):
            rows = slots if segment.maps is None else segment.maps.slot_rows[slots]
            yield (rows + segment.first).astype(np.int32), products


def _way(compute: Compute, weights: Float32s) -> Callable[[int, int, float, float], Found]:
    if isinstance(compute, DeviceCompute):
        column = compute.column(weights)
        return lambda start, stop, low, high: compute.between(start, stop, column, low, high)
    return partial(_on_host, compute, np.ascontiguousarray(weights[:, None]))


def _on_host(
    compute: Compute, matrix: Float32s, start: int, stop: int, low: float, high: float
) -> Found:
    products = compute.product(start, stop, matrix)[:, 0]
    found = np.flatnonzero((products >= low) & (products <= high))
    return found + start, products[found]
