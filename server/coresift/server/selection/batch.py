"""Batch policies: how a batch is taken from the best of an order.

A policy arranges the free rows at hand; the first of its arrangement are leased. Each choice
depends on those before it alone, so that a prefix is a batch of its own size: what others lease
meanwhile is passed over without a new arrangement.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol

import numpy as np

from coresift.server.arrays import Float32s, Float64s, Int64s, Rows
from coresift.server.head import Head
from coresift.server.pool.pool import Pool


@dataclass(frozen=True)
class Shortlist:
    """The best free rows of an order, as a batch policy sees them.

    Attributes:
        rows: int32 [n], best first, distinct.
        scores: float64 [n]; they fall, unless each choice depended on those before it. NaN
            throughout where no strategy chose.
        head: None while there is none.
        seed, revision: of random choices.
    """

    pool: Pool
    rows: Rows
    scores: Float64s
    head: Head | None
    seed: int
    revision: int

    @cached_property
    def vectors(self) -> Float32s:
        """float32 [n, d]."""
        return self.pool.fetch(self.rows)

    @cached_property
    def probabilities(self) -> Float64s:
        """Of the head's fitted columns, float64 [n, K'] (binary: both classes; [n, 0] without a
        head)."""
        if self.head is None:
            return np.empty((len(self.rows), 0))
        probabilities = self.head.probabilities(self.head.logits(self.vectors))
        probabilities = probabilities[:, self.head.fitted]
        if probabilities.shape[1] == 1:
            return np.concatenate([1 - probabilities, probabilities], axis=1)
        return probabilities


class BatchPolicy(Protocol):
    """Frozen parameters of a way to arrange a batch; a registered name on the wire."""

    @property
    def oversampling(self) -> int:
        """How many times the wanted rows the policy looks at."""
        ...

    def arrange(self, shortlist: Shortlist, count: int) -> Int64s:
        """Places in the shortlist, distinct, the first choice first: ``min(count, n)`` of them.

        Fewer are arranged first to last as more are: a prefix does not depend on ``count``.
        """
        ...


@dataclass(frozen=True, slots=True)
class Top:
    """The best scores."""

    oversampling: ClassVar[int] = 1

    def arrange(self, shortlist: Shortlist, count: int) -> Int64s:
        return np.arange(min(count, len(shortlist.rows)))
