"""Randomness as a keyed hash of the row: independent of order, replica and concurrency."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from coresift.server.arrays import Rows


def priorities(seed: int, purpose: str, rows: Rows) -> npt.NDArray[np.float64]:
    """H(seed, purpose, row): uniform numbers in [0, 1), float64 [n], of rows, int32 [n].

    SplitMix64 (Steele, Lea and Flood, 2014) of the row under a key from seed and purpose.
    """
    key = blake2b(f"{seed}:{purpose}".encode(), digest_size=8).digest()
    with np.errstate(over="ignore"):
        state = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        state ^= np.uint64(int.from_bytes(key, "little"))
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
        state ^= state >> np.uint64(31)
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def random_order(seed: int, purpose: str, items: int, count: int) -> Rows:
    """The first ``count`` of all rows 0..items-1 by decreasing priority, int32.

    Linear time: only rows above a threshold that holds about ``count`` of them are sorted.
    """
    count = min(count, items)
    priority = priorities(seed, purpose, np.arange(items, dtype=np.int32))
    chosen = np.arange(items, dtype=np.int32)
    if 0 < count < items:
        threshold = np.partition(priority, items - count)[items - count]
        chosen = np.flatnonzero(priority >= threshold).astype(np.int32)
    return chosen[np.lexsort((chosen, -priority[chosen]))][:count]
