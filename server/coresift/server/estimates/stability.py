"""Whether successive heads still change their minds (Bloodgood and Vijay-Shanker, 2009).

Each new head predicts the same fixed sample of the pool; the agreement of successive heads beyond
chance is Cohen's kappa (1960). Learning has stabilised once it stays high: the paper's stopping
rule, which says that further labels change little, not that the head is good.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coresift.server.arrays import Int64s


def kappa(before: Int64s, after: Int64s) -> float | None:
    """Cohen's kappa of two heads' predicted classes, int64 [n] each; 1 is perfect agreement.

    None where chance alone agrees fully, that is where both predict one and the same class (or
    there are no items): agreement then says nothing.
    """
    if not len(before):
        return None
    codes = np.unique(np.concatenate([before, after]), return_inverse=True)[1]
    first, second = codes[: len(before)], codes[len(before) :]
    classes = int(codes.max()) + 1
    shares = np.bincount(first, minlength=classes) / len(first)
    by_chance = float(shares @ (np.bincount(second, minlength=classes) / len(second)))
    if classes == 1:
        return None
    observed = float(np.mean(first == second))
    return (observed - by_chance) / (1 - by_chance)


def is_stable(kappas: Sequence[float | None], threshold: float = 0.99, windows: int = 3) -> bool:
    """Whether the last ``windows`` agreements, newest last, average at least ``threshold``.

    Never while one of them is undefined or there are fewer of them. The defaults are the paper's,
    which averages over its windows too.
    """
    last = kappas[-windows:]
    known = [value for value in last if value is not None]
    return len(known) == windows and sum(known) / windows >= threshold
