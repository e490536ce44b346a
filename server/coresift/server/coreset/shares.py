"""Shares of a whole for its parts, and orders in which parts take turns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coresift.server.arrays import Int64s

GOLDEN = (np.sqrt(5) - 1) / 2
"""Its multiples are spread evenly over 0..1, however many there are."""


def even_shares(room: Int64s, budget: int) -> Int64s:
    """Equal shares of a budget, int64 [parts]: each at most its room, together the budget.

    From the smallest part to the largest, ties by number, each gets the budget that is left
    divided by the parts that are left, rounded down: what a small part cannot give goes to all
    others, and shares that are not cut short by their room differ by at most one.
    """
    shares, left = np.zeros_like(room), budget
    for done, part in enumerate(np.argsort(room, kind="stable")):
        shares[part] = min(int(room[part]), left // (len(room) - done))
        left -= int(shares[part])
    return shares


def proportional_shares(room: Int64s, budget: int) -> Int64s:
    """Shares as the room, by largest remainders, ties by number; int64 [parts]."""
    shares, remainders = np.divmod(room * budget, room.sum())
    shares[np.argsort(-remainders, kind="stable")[: budget - int(shares.sum())]] += 1
    return np.asarray(shares)


def by_turns(lengths: Sequence[int]) -> Int64s:
    """The order that takes from parts of these lengths, laid end to end, evenly: int64.

    Every beginning of it has of each part about its share of the whole.
    """
    # Where in its turn a part comes: else all parts of one item would come together.
    offsets = np.arange(len(lengths)) * GOLDEN % 1
    turns = [
        (np.arange(length) + offset) / max(length, 1)
        for length, offset in zip(lengths, offsets, strict=True)
    ]
    return np.argsort(np.concatenate(turns), kind="stable")
