"""The k nearest other rows of each row: the row itself is removed by its number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from coresift.server.arrays import Rows
from coresift.server.pool.rows import VectorRows
from coresift.server.pool.search import QUERY_ROWS, Shortlist, exact_search, scan_all


def without_self(found: Rows, rows: Rows) -> Rows:
    """Drop each row's own number from its k + 1 nearest, [n, k + 1] to [n, k].

    Where more than k exact duplicates stand before the row, it is not among them: then the
    last one goes.
    """
    keep = found != rows[:, None]
    keep[keep.all(axis=1), -1] = False
    others: Rows = found[keep].reshape(len(rows), found.shape[1] - 1)
    return others


def fill_table(
    pool: VectorRows, table: Rows, known: int, done: Callable[[int], None] | None = None
) -> None:
    """Write the exact k nearest other rows of every row into ``table`` (int32 [N, k]).

    ``table[:known]`` holds those among the rows below ``known`` already: only rows from there
    on are compared with them.
    """
    k = table.shape[1]
    old = [(start, min(known, start + QUERY_ROWS)) for start in range(0, known, QUERY_ROWS)]
    new = [
        (start, min(pool.items, start + QUERY_ROWS))
        for start in range(known, pool.items, QUERY_ROWS)
    ]
    for start, end in old + new:
        rows = np.arange(start, end, dtype=np.int32)
        if end <= known:
            table[start:end] = _extended(pool, rows, table[start:end], known)
        else:
            found, _ = exact_search(pool, pool.fetch(rows), k + 1)
            table[start:end] = without_self(found, rows)
        if done is not None:
            done(end - start)


def _extended(pool: VectorRows, rows: Rows, old: Rows, known: int) -> Rows:
    """The k nearest among the old ones and the rows from ``known`` on."""
    k = old.shape[1]
    vectors = pool.fetch(rows)
    shortlist = Shortlist(pool, vectors, k)
    queries = np.repeat(np.arange(len(rows)), k)
    similar = pool.similarities(old.ravel(), vectors, queries)
    shortlist.add(queries, old.ravel(), similar.astype(np.float32))
    scan_all(pool, vectors, k, shortlist, first_row=known)
    _, found, _ = shortlist.best()
    return found.reshape(len(rows), k)
