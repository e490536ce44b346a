"""A session's candidates, where they are fewer than the pool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from coresift.server.arrays import Float32s, Rows
from coresift.server.head import Task
from coresift.server.pool.parallel import in_order
from coresift.server.pool.pool import Pool
from coresift.server.pool.rows import Block
from coresift.server.selection.candidates import Anchors, RandomSubset, Seals
from coresift.server.selection.priority import priorities
from coresift.server.selection.scoring import Columns, contains
from coresift.server.selection.strategy import Part
from coresift.server.session.setup.materials import Materials
from coresift.server.session.view.snapshot import Snapshot

A = TypeVar("A", Rows, Float32s)

BLOCK = 16_384
"""Rows multiplied at a time: bounds the memory of a pass."""
MERGED = 4_096
"""Rows of copies brought together into one run at most: more would be a pause now and then."""
GATHERED = 2_048
"""Rows gathered at a time: what holds them is not given back to the system in between."""
SPREAD = 4 * GATHERED
"""From so many on they are copied on all cores."""
SCANNED_SHARE = 4
"""Of more rows than a quarter of the pool no copies are made: to pass over all of it costs no
more than to gather them, which a cold replica would do first (0.2 s against 2 s; measured)."""
SMALL_BYTES = 1 << 25
"""Copies of fewer bytes are made in any case."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Rows that a strategy may choose from, labelled ones among them. They only grow.

    Attributes:
        rows: int32, ascending.
        parts: the same rows in runs, each with its vectors float32 [m, d]; None while each ranking
            gathers them from the pool, or passes over all of it. A ranking streams through these
            copies; a gather of 100,000 rows from all over a pool takes ten times as long.
    """

    rows: Rows
    parts: tuple[tuple[Rows, Float32s], ...] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the vectors kept."""
        return sum(vectors.nbytes for _, vectors in self.parts or ())

    def grown(self, pool: Pool, found: Rows, keep_bytes: int) -> Candidates:
        """These and the rows ``found``; vectors are kept while they fit in ``keep_bytes`` and are
        no large share of the pool."""
        new = distinct(found)
        new = new[~contains(self.rows, new)]
        # Stable sorts of small integers take linear time, and these are nearly in order.
        rows = np.sort(np.concatenate([self.rows, new]), kind="stable")
        nbytes = 4 * pool.manifest.dimension * len(rows)
        if nbytes > keep_bytes or (nbytes > SMALL_BYTES and _is_broad(rows, pool)):
            return Candidates(rows)
        if not len(new) and self.parts is not None:
            return self
        if self.parts is None:
            new = rows
        parts = [*(self.parts or ()), (new, _gathered(pool, new))]
        # Runs of falling size, as far as they are brought together: so are the copies of a row few.
        while len(parts) > 1:
            (rows_a, vectors_a), (rows_b, vectors_b) = parts[-2:]
            if 2 * len(rows_b) <= len(rows_a) or len(rows_a) + len(rows_b) > MERGED:
                break
            joined = np.concatenate([rows_a, rows_b]), np.concatenate([vectors_a, vectors_b])
            parts[-2:] = [joined]
        return Candidates(rows, tuple(parts))

    def parts_of(self, pool: Pool, columns: Columns) -> Iterator[Part]:
        """The candidates by blocks, multiplied on all cores."""
        if columns.weights is None:
            return (columns.part(rows, None) for rows in _blocks(self.rows))
        if self.parts is not None:
            return self._kept(pool, self.parts, columns)
        if _is_broad(self.rows, pool):
            return self._scanned(pool, columns)
        return in_order(
            lambda rows: columns.part(rows, partial(pool.product, pool.fetch(rows))),
            _blocks(self.rows, GATHERED),
        )

    def _kept(
        self, pool: Pool, parts: Sequence[tuple[Rows, Float32s]], columns: Columns
    ) -> Iterator[Part]:
        blocks = (
            block
            for rows, vectors in parts
            for block in zip(_blocks(rows), _blocks(vectors), strict=True)
        )
        return in_order(
            lambda block: columns.part(block[0], partial(pool.product, block[1])), blocks
        )

    def _scanned(self, pool: Pool, columns: Columns) -> Iterator[Part]:
        """Of all rows of the pool those that are candidates."""
        is_candidate = np.zeros(pool.manifest.items, np.bool_)
        is_candidate[self.rows] = True

        def visit(block: Block) -> Part:
            part, places = columns.part(block.rows, block.product), is_candidate[block.rows]
            return Part(part.rows[places], part.logits[places], part.projected[places])

        return pool.scan(visit)


def _is_broad(rows: Rows, pool: Pool) -> bool:
    """Whether these are a large share of the pool."""
    return SCANNED_SHARE * len(rows) > pool.manifest.items


def _gathered(pool: Pool, rows: Rows) -> Float32s:
    """Vectors of rows, float32 [n, d]; many are copied on all cores, the few that a batch of labels
    adds on this one, as the fit is on another."""
    vectors = np.empty((len(rows), pool.manifest.dimension), np.float32)

    def copy(start: int) -> None:
        vectors[start : start + GATHERED] = pool.fetch(rows[start : start + GATHERED])

    spread = in_order if len(rows) > SPREAD else map
    for _ in spread(copy, range(0, len(rows), GATHERED)):
        pass
    return vectors


def distinct(rows: Rows) -> Rows:
    """The distinct numbers, int32, ascending. np.unique hashes them: forty times as long."""
    ascending = np.sort(rows.ravel())
    is_new = np.ones(len(ascending), np.bool_)
    np.not_equal(ascending[1:], ascending[:-1], out=is_new[1:])
    return np.asarray(ascending[is_new], np.int32)


def _blocks(array: A, size: int = BLOCK) -> Iterator[A]:
    return (array[start : start + size] for start in range(0, len(array), size))


def seeds_of(snapshot: Snapshot) -> Rows | None:
    """Rows whose neighbours the session's policy asks for; None where it asks for none."""
    match snapshot.config.candidates:
        case Seals():
            seeds = snapshot.ever
        case Anchors() as policy:
            seeds = anchors(policy, snapshot)
        case _:
            return None
    return seeds if len(seeds) else None


def candidates_of(
    materials: Materials, snapshot: Snapshot, seeds: Rows | None, found: Rows
) -> Candidates | None:
    """The candidates of a snapshot; None for the whole pool.

    Args:
        seeds: as `seeds_of` names them, int32 [n].
        found: their nearest neighbours, int32 [n, k].
    """
    match snapshot.config.candidates:
        case RandomSubset(size):
            return random_subset(materials, snapshot, size)
        case Seals() if seeds is not None:
            return Candidates(distinct(found))
        case Anchors() as policy if seeds is not None:
            return around(policy, materials, snapshot, seeds, found)
    return None


def counts(
    materials: Materials, candidates: Candidates | None, snapshot: Snapshot
) -> tuple[int, float]:
    """Unlabelled candidates, and the share of the pool that ever had a label or is a candidate."""
    items = materials.pool.manifest.items
    admitted = len(materials.admits(snapshot.labelled()))
    if candidates is None:
        outside = len(snapshot.ever) - len(materials.admits(snapshot.ever))
        return materials.eligible_items - admitted, (materials.eligible_items + outside) / items
    rows = materials.admits(candidates.rows)
    considered = len(rows) + int((~contains(rows, snapshot.ever)).sum())
    return int((~contains(snapshot.labelled(), rows)).sum()), considered / items


def random_subset(materials: Materials, snapshot: Snapshot, size: int) -> Candidates:
    """``size`` unlabelled eligible rows by a hash of the revision (RandPool)."""
    rows = np.arange(materials.pool.manifest.items, dtype=np.int32)
    if materials.eligible is not None:
        rows = rows[materials.eligible]
    priority = priorities(snapshot.config.seed, f"random_subset:{snapshot.revision}", rows)
    priority[np.searchsorted(rows, materials.admits(snapshot.labelled()))] = -1
    left = len(rows) - int((priority < 0).sum())
    if left > size:
        least = np.partition(priority, len(rows) - size)[len(rows) - size]
        return Candidates(rows[priority >= least])
    return Candidates(rows[priority >= 0])


def anchors(policy: Anchors, snapshot: Snapshot) -> Rows:
    """Labelled rows to start from: of each class those with the largest hash at the revision."""
    rows, present, absent = snapshot.targets_of(snapshot.labelled())
    columns = [*present.T, *absent.T] if snapshot.config.task is Task.BINARY else [*present.T]
    priority = priorities(snapshot.config.seed, f"anchors:{snapshot.revision}", rows)
    chosen = [np.empty(0, np.int32)]
    for weights in columns:
        of_class = np.flatnonzero(weights > 0)
        order = np.lexsort((of_class, -priority[of_class]))
        chosen.append(rows[of_class[order[: policy.per_class]]])
    return np.unique(np.concatenate(chosen)).astype(np.int32)


def around(
    policy: Anchors, materials: Materials, snapshot: Snapshot, starts: Rows, found: Rows
) -> Candidates:
    """The rows among ``found``, int32 [n, k] neighbours of ``starts`` [n], with the largest mean
    similarity to the starts that name them."""
    pool, near = materials.pool, found.ravel()
    which = np.repeat(np.arange(len(starts)), found.shape[1])
    similarity = pool.similarities(near, pool.fetch(starts), which)
    rows, place, counts = np.unique(near, return_inverse=True, return_counts=True)
    mean = np.bincount(place.ravel(), similarity, len(rows)) / np.maximum(counts, 1)
    rows = rows.astype(np.int32)
    free = ~contains(snapshot.labelled(), rows)
    if materials.eligible is not None:
        free &= materials.eligible[rows]
    rows, mean = rows[free], mean[free]
    order = np.lexsort((rows, -mean))[: policy.size]
    return Candidates(np.sort(rows[order]))
