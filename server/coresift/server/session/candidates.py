"""A session's candidates under SEALS, with their vectors side by side in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from coresift.server.arrays import Float32s, Rows
from coresift.server.head import Head
from coresift.server.pool.pool import Pool
from coresift.server.selection.shortlist import contains, fast_weights

BLOCK = 65_536
"""Rows gathered or multiplied at a time: bounds the memory of a pass."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Rows that a strategy may choose from, labelled ones among them. They only grow.

    Attributes:
        rows: int32, ascending.
        parts: the same rows in runs, each with its vectors float32 [m, d]; None while they are
            gathered from the pool for each ranking. A ranking streams through these copies; a
            gather of 100,000 rows from all over a pool takes ten times as long.
    """

    rows: Rows
    parts: tuple[tuple[Rows, Float32s], ...] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the vectors kept."""
        return sum(vectors.nbytes for _, vectors in self.parts or ())

    def grown(self, pool: Pool, found: Rows, keep_bytes: int) -> Candidates:
        """These and the rows ``found``; vectors are kept while they fit in ``keep_bytes``."""
        new = np.unique(found).astype(np.int32)
        new = new[~contains(self.rows, new)]
        # Stable sorts of small integers take linear time, and these are nearly in order.
        rows = np.sort(np.concatenate([self.rows, new]), kind="stable")
        if 4 * pool.manifest.dimension * len(rows) > keep_bytes:
            return Candidates(rows)
        if not len(new) and self.parts is not None:
            return self
        if self.parts is None:
            new = rows
        parts = [*(self.parts or ()), (new, pool.fetch(new))]
        # Runs of falling size: their number stays logarithmic, and so do the copies of a row.
        while len(parts) > 1 and 2 * len(parts[-1][0]) > len(parts[-2][0]):
            (rows_a, vectors_a), (rows_b, vectors_b) = parts[-2:]
            joined = np.concatenate([rows_a, rows_b]), np.concatenate([vectors_a, vectors_b])
            parts[-2:] = [joined]
        return Candidates(rows, tuple(parts))

    def logits(self, pool: Pool, head: Head) -> Iterator[tuple[Rows, Float32s]]:
        """Rows by blocks with their fast logits, float32 [m, K'] of the fitted columns."""
        weights, bias = fast_weights(head)
        if self.parts is None:
            for start in range(0, len(self.rows), BLOCK):
                rows = self.rows[start : start + BLOCK]
                yield rows, pool.fetch(rows) @ weights + bias
            return
        for rows, vectors in self.parts:
            for start in range(0, len(rows), BLOCK):
                end = start + BLOCK
                yield rows[start:end], vectors[start:end] @ weights + bias
