"""The k nearest other rows of each row: the row itself is removed by its number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from coresift.server.arrays import Rows
from coresift.server.pool.half_gain import half_pays
from coresift.server.pool.parallel import in_order
from coresift.server.pool.rows import VectorRows
from coresift.server.pool.search import QUERY_ROWS, exact_search, scan_all
from coresift.server.pool.shortlist import Shortlist

Chunk = tuple[int, int]
"""Half-open: a part of the work on a table, of as many rows."""


class TableWork(Protocol):
    """A way to the neighbours of all rows, in parts that stand alone."""

    def chunks(self) -> list[Chunk]:
        """All parts, always the same."""
        ...

    def work(self, chunks: Sequence[Chunk]) -> Iterator[tuple[Rows, Rows]]:
        """Rows, int32 [m], and their neighbours, int32 [m, k], chunk by chunk."""
        ...


def without_self(found: Rows, rows: Rows) -> Rows:
    """Drop each row's own number from its k + 1 nearest, [n, k + 1] to [n, k].

    Where more than k exact duplicates stand before the row, it is not among them: then the
    last one goes.
    """
    keep = found != rows[:, None]
    keep[keep.all(axis=1), -1] = False
    others: Rows = found[keep].reshape(len(rows), found.shape[1] - 1)
    return others


@dataclass(frozen=True, slots=True)
class ExactTable:
    """The exact k nearest other rows of every row.

    Attributes:
        pool: the rows.
        k: 1..N - 1.
        old: int32 [known, k], the neighbours of the first rows among these: they are compared
            with later rows only.
    """

    pool: VectorRows
    k: int
    old: Rows

    def chunks(self) -> list[Chunk]:
        """Rows: first those that have a list, then the others."""
        known, items = len(self.old), self.pool.items
        return [
            (start, min(end, start + QUERY_ROWS))
            for first, end in ((0, known), (known, items))
            for start in range(first, end, QUERY_ROWS)
        ]

    def work(self, chunks: Sequence[Chunk]) -> Iterator[tuple[Rows, Rows]]:
        """Rows, int32 [m], and their neighbours, int32 [m, k], chunk by chunk."""
        if self.pool.is_on_device:
            # What decides takes longer on one core here than the products do there.
            yield from in_order(self._chunk, chunks)
        else:
            half_pays(QUERY_ROWS, self.pool.items, self.pool.dimension, wait=True)
            yield from map(self._chunk, chunks)

    def _chunk(self, chunk: Chunk) -> tuple[Rows, Rows]:
        start, end = chunk
        rows = np.arange(start, end, dtype=np.int32)
        if end <= len(self.old):
            return rows, self._extended(rows, self.old[start:end])
        found, _ = exact_search(self.pool, self.pool.fetch(rows), self.k + 1)
        return rows, without_self(found, rows)

    def _extended(self, rows: Rows, old: Rows) -> Rows:
        """The k nearest among the old ones and the rows that came later."""
        vectors = self.pool.fetch(rows)
        shortlist = Shortlist(self.pool, vectors, self.k)
        queries = np.repeat(np.arange(len(rows)), self.k)
        similar = self.pool.similarities(old.ravel(), vectors, queries)
        shortlist.add(queries, old.ravel(), similar.astype(np.float32))
        shortlist.prune()
        scan_all(self.pool, vectors, self.k, shortlist, first_row=len(self.old))
        _, found, _ = shortlist.best()
        return found.reshape(len(rows), self.k)
