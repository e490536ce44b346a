"""Lower bounds of the k-th largest of many values, and what reaches them."""

from __future__ import annotations

import numpy as np

from coresift.server.arrays import Bools, Float32s, Int64s

SPREAD = 4
"""Groups a wanted value: more cost time to sort, fewer let more values through."""


def lower_bounds(values: Float32s, k: int) -> Float32s:
    """A bound that at least k values of each row reach, float32 [m]; values is [m, n], n >= k.

    Columns are dealt into groups, and the k-th largest of the groups' maxima is taken: it lies
    little below the k-th largest value, and most values only stream by.
    """
    columns = values.shape[1]
    groups = SPREAD * k
    tall = columns // groups
    if tall > 1:
        dealt = values[:, : tall * groups].reshape(len(values), tall, groups)
        values, columns = dealt.max(axis=1), groups
    bounds: Float32s = np.partition(values, columns - k, axis=1)[:, columns - k]
    return bounds


def places_above(values: Float32s, floor: Float32s) -> tuple[Int64s, Int64s]:
    """Rows and columns of the values that reach their row's floor, int64, by row, then column."""
    return places(values >= floor[:, None])


def places(chosen: Bools) -> tuple[Int64s, Int64s]:
    """Rows and columns of what is chosen in a matrix, int64, by row, then column."""
    rows, columns = np.divmod(np.flatnonzero(chosen), chosen.shape[1])
    return rows, columns


def order_by(groups: Int64s, values: Float32s) -> Int64s:
    """The order by group (0..2^31 - 1), then value from the largest; equal ones in any order."""
    bits = (values + np.float32(0)).view(np.int32)  # -0 is 0
    ascending = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    return np.argsort((groups << 32) - ascending)
