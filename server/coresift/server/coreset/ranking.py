"""Orders by a number: the first of all, and difficulties as numbers to compute with."""

from __future__ import annotations

import numpy as np

from coresift.server.arrays import Float64s, Int64s


def first_of(keys: Float64s, count: int) -> Int64s:
    """Positions of the ``count`` smallest keys, ascending, ties by position; int64."""
    if 0 < count < len(keys):
        bound = np.partition(keys, count - 1)[count - 1]
        near = np.flatnonzero(keys <= bound)
    else:
        near = np.arange(len(keys))
    return near[np.argsort(keys[near], kind="stable")][:count]


def finite(difficulty: Float64s) -> Float64s:
    """Difficulties, float64 [n], with infinity ("never correct") as the largest other plus one.

    Samplers that compute with difficulties need numbers; the order stays as it is: where numbers
    are so large that one more is lost (2^53), it is the next one that float64 has.
    """
    there = difficulty[np.isfinite(difficulty)]
    low, high = (there.min(), there.max()) if len(there) else (0.0, 0.0)
    above = max(high + 1, np.nextafter(high, np.inf))
    below = min(low - 1, np.nextafter(low, -np.inf))
    return np.nan_to_num(difficulty, posinf=above, neginf=below)
