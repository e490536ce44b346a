"""Neighbours of all rows among those of near lists, at a recall that a sample has confirmed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from coresift.server.arrays import Rows
from coresift.server.pool.compute import HostCompute
from coresift.server.pool.half import HalfQueries, HalfRows
from coresift.server.pool.half_gain import half_pays
from coresift.server.pool.neighbours import Chunk, without_self
from coresift.server.pool.parallel import in_order
from coresift.server.pool.rows import VectorRows
from coresift.server.pool.search import QUERY_ROWS, exact_search
from coresift.server.pool.segment import Segment
from coresift.server.pool.self_join import Lists
from coresift.server.pool.shortlist import Shortlist

ROWS = 2_048
"""Rows of a list whose neighbours are looked for together."""
FIRST = 4_096
"""Rows of the nearest lists, which set the floors for all that follow."""
COLUMNS = 8_192
"""Rows that these are compared with at a time."""

_SAMPLE = 1_024
_SEED = 2


@dataclass(frozen=True, slots=True)
class ListJoin:
    """The k nearest other rows of each row among the rows of the lists nearest to its list.

    Of the rows that are looked at the k nearest are the true ones, in canonical order: products
    only make shortlists, whatever the blocks and threads.

    Attributes:
        pool: the rows, mapped.
        lists: rows by cluster.
        probes: lists that each list is compared with, itself among them; more where these hold
            fewer than k other rows.
        k: 1..N - 1.
    """

    pool: VectorRows
    lists: Lists
    probes: int
    k: int

    def chunks(self) -> list[Chunk]:
        """Half-open places in the order of the lists."""
        return [(start, end) for _, start, end in self.lists.chunks(ROWS)]

    def work(self, chunks: Sequence[Chunk]) -> Iterator[tuple[Rows, Rows]]:
        """Rows, int32 [m], and their neighbours, int32 [m, k], chunk by chunk."""
        half = half_pays(QUERY_ROWS, self.pool.items, self.pool.dimension, wait=True)
        yield from in_order(lambda chunk: self._join(chunk, half), chunks)

    def _join(self, chunk: Chunk, half: bool) -> tuple[Rows, Rows]:
        start, end = chunk
        mine = self.lists.order[start:end].astype(np.int32)
        others = self.lists.around(self.lists.at(start), self.probes, self.k).astype(np.int32)
        batches = [
            _Batch(self.pool, mine[at : at + QUERY_ROWS], self.k, half)
            for at in range(0, len(mine), QUERY_ROWS)
        ]
        for part in np.split(others, range(FIRST, len(others), COLUMNS)):
            rows = _Gathered(self.pool, part)
            for batch in batches:
                batch.compare(rows)
        return mine, np.concatenate([batch.neighbours() for batch in batches])


class _Gathered:
    """Rows from many places as a segment."""

    def __init__(self, pool: VectorRows, rows: Rows) -> None:
        self.rows = rows
        vectors = pool.fetch(rows)
        norms = None
        if pool.metric == "l2":
            squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
            norms = np.sqrt(squares).astype(np.float32)
        segment = Segment(0, vectors, norms, None, unit=False)
        self.host = HostCompute(segment, pool.metric)
        self.half = HalfRows(segment, pool.metric)


class _Batch:
    """Rows whose neighbours are looked for in one product."""

    def __init__(self, pool: VectorRows, rows: Rows, k: int, half: bool) -> None:
        self._rows = rows
        self._wanted = k + 1
        self._vectors = pool.fetch(rows)
        self._rounded = HalfQueries.of(self._vectors) if half else None
        self._shortlist = Shortlist(pool, self._vectors, self._wanted)
        self._is_first = True

    def compare(self, others: _Gathered) -> None:
        """Consider these too."""
        count, shortlist = len(others.rows), self._shortlist
        bounds = self._wanted, shortlist.floor, shortlist.slack
        if self._rounded is None:
            found = others.host.nearest(0, count, self._vectors, *bounds)
        else:
            found = others.half.nearest(0, count, self._rounded, *bounds)
        queries, places, values = found
        shortlist.add(queries, others.rows[places], values)
        if self._is_first:
            shortlist.prune()
            self._is_first = False

    def neighbours(self) -> Rows:
        """The k nearest other rows of each, int32 [m, k]."""
        _, found, _ = self._shortlist.best()
        return without_self(found.reshape(len(self._rows), self._wanted), self._rows)


def probes_for(pool: VectorRows, lists: Lists, k: int, recall: float) -> int:
    """How many lists hold the share ``recall`` of the k nearest other rows of a row, on average.

    The shares of 1,024 rows, found exactly, say so with two standard errors to spare. All rows,
    where there are no more.
    """
    count = min(_SAMPLE, pool.items)
    sample = np.sort(np.random.default_rng(_SEED).choice(pool.items, count, replace=False))
    rows = sample.astype(np.int32)
    found, _ = exact_search(pool, pool.fetch(rows), k + 1)
    list_of = np.empty(pool.items, np.int64)
    list_of[lists.order] = np.repeat(np.arange(len(lists)), np.diff(lists.starts))
    own, others = list_of[rows], list_of[without_self(found, rows)]
    shares = np.empty((count, len(lists)))
    for number in np.unique(own):
        place = np.argsort(lists.ranking(number))
        for row in np.flatnonzero(own == number):
            held = np.bincount(place[others[row]], minlength=len(lists))
            shares[row] = np.cumsum(held) / k
    mean = shares.mean(axis=0)
    if count < pool.items:
        mean -= 2 * shares.std(axis=0) / np.sqrt(count)
    return int(np.argmax(mean >= min(recall, mean[-1]))) + 1
