"""Means of groups of items, and how far the items lie from the centres of their groups."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from coresift.server.arrays import Float32s, Float64s, Int64s
from coresift.server.coreset.items import Items, Part

Tell = Callable[[float], None]
"""Told the share of the items that is done, 0..1."""

ROWS = 1_024
"""Vectors widened at a time: with their centres 4 MiB at 256 dimensions."""


def in_halves(tell: Tell) -> tuple[Tell, Tell]:
    """Of work in two parts, what to tell in each."""
    return lambda share: tell(share / 2), lambda share: tell(0.5 + share / 2)


def group_means(items: Items, groups: Int64s, count: int, tell: Tell) -> Float64s:
    """Mean vector of each group, float64 [count, d]; zero for a group without items.

    ``groups``, int64 [n], 0..count-1. Summed in float64 in the order of the scan.
    """
    sums = np.zeros((count, items.dimension))

    def visit(part: Part) -> tuple[int, Int64s, Float64s]:
        own = groups[part.positions]
        order = np.argsort(own, kind="stable")
        present, starts = np.unique(own[order], return_index=True)
        vectors = part.vectors()[order].astype(np.float64)
        return len(own), present, np.add.reduceat(vectors, starts, axis=0)

    done = 0
    for size, present, partial in items.scan(visit):
        sums[present] += partial
        done += size
        tell(done / len(items))
    sizes = np.bincount(groups, minlength=count)
    return np.asarray(sums / np.maximum(sizes, 1)[:, None])


def squared_distances(
    items: Items, centres: Float32s | Float64s, groups: Int64s, tell: Tell
) -> Float64s:
    """Squared distance of each item to the centre of its group, float64 [n].

    ``centres`` [count, d]; ``groups``, int64 [n]. Each item's bits are its own.
    """
    squares = np.empty(len(items))

    def visit(part: Part) -> tuple[Int64s, Float64s]:
        return part.positions, _squares(part.vectors(), centres, groups[part.positions])

    done = 0
    for positions, own in items.scan(visit):
        squares[positions] = own
        done += len(positions)
        tell(done / len(items))
    return squares


def _squares(vectors: Float32s, centres: Float32s | Float64s, groups: Int64s) -> Float64s:
    squares = np.empty(len(vectors))
    for start in range(0, len(vectors), ROWS):
        rows = slice(start, start + ROWS)
        wide = vectors[rows].astype(np.float64, order="C")
        wide -= centres[groups[rows]]
        wide *= wide
        squares[rows] = wide.sum(axis=1)
    return squares
