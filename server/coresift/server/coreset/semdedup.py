"""Semantic deduplication: of what is alike within a cluster, the first is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from coresift.server.arrays import Float32s, Float64s, Int64s
from coresift.server.coreset.items import SCAN_BYTES, Items, Part, divisors
from coresift.server.coreset.problem import Cost, Needs, Problem, Selection, Setting
from coresift.server.coreset.ranking import first_of
from coresift.server.pool.parallel import in_order
from coresift.server.selection.parameters import parameter
from coresift.server.selection.priority import priorities

ROWS = 512
"""Items compared at a time with the items before them."""
COLUMNS = 1_024
"""Of those before, at a time: 4 MiB of cosines."""
_DIGITS = 12
"""Of a cosine: beyond them its bits depend on the block, and copies would not tie."""


@dataclass(frozen=True, slots=True)
class SemDeDup:
    """Removes items that are much like others of their cluster (Abbas et al., 2023).

    The items of each cluster stand in an order: by the cosine with its centroid, the lowest first
    (``keep="far"``, the paper's choice) or the highest ("near"), or by the seed's hash ("random");
    ties by row. An item's redundancy is its largest cosine (float64, to 12 decimals) to an item of
    its cluster that comes before it, kept or not, and -1 where none does. The score is
    1 - redundancy: 2 for the first of a cluster, 0 for a copy of one before.

    With a threshold, all items whose redundancy is at most the threshold are kept, so that no two
    kept items of a cluster are more alike. Otherwise the ``budget`` items with the largest scores
    are. Both from the largest score, ties by row.

    Departures: clusters are those stored with the pool, about the square root of its size, and
    not a k-means of its own; they are of the whole pool, also where only some items are looked at.

    Details: ``threshold``, the one that was given, or the largest redundancy that was kept; if
    that is positive, it keeps these items as a threshold, and any that tie with the last.
    """

    threshold: float = parameter(
        0.0, "cosine above which an item is a duplicate; 0: the budget decides", low=0.0, high=1.0
    )
    keep: Literal["far", "near", "random"] = parameter(
        "far",
        "which comes first: far from its centroid or near it",
        choices=("far", "near", "random"),
    )

    def needs(self) -> Needs:
        return Needs(budget=self.threshold == 0)

    def objection(self, setting: Setting) -> tuple[str, str] | None:
        return None

    def cost(self, setting: Setting) -> Cost:
        # Clusters are uneven, which doubles the pairs; float64 doubles their time.
        pairs = setting.n**1.5
        return Cost(4.0 * pairs * setting.dimension, 4, 64.0 * setting.n + SCAN_BYTES)

    def select(self, problem: Problem) -> Selection:
        redundancy = self._redundancies(problem)
        if self.threshold:
            kept = np.flatnonzero(redundancy <= self.threshold)
            positions = kept[np.argsort(redundancy[kept], kind="stable")]
            limit = self.threshold
        else:
            positions = first_of(redundancy, problem.size())
            limit = float(redundancy[positions[-1]])
        return Selection(positions, 1 - redundancy[positions], details={"threshold": limit})

    def _redundancies(self, problem: Problem) -> Float64s:
        """Largest cosine of each item to one before it in its cluster, float64 [n]."""
        items = problem.items
        clusters = items.pool.clusters[items.rows]
        order = np.argsort(self._precedence(problem), kind="stable")
        items.check()
        order = order[np.argsort(clusters[order], kind="stable")]
        sizes = np.bincount(clusters)
        blocks = list(_blocks(sizes[sizes > 0]))
        work = np.cumsum([(end - start) * (end - first) for first, start, end in blocks])
        redundancy = np.empty(len(items))

        def visit(block: tuple[int, int, int]) -> tuple[int, int, Float64s]:
            first, start, end = block
            return start, end, _largest_before(items, order[first:end], start - first)

        for (start, end, largest), done in zip(in_order(visit, blocks), work, strict=True):
            redundancy[order[start:end]] = largest
            problem.report("score", 0.1 + 0.9 * float(done / work[-1]), None)
        return redundancy

    def _precedence(self, problem: Problem) -> Float64s:
        """Number of each item by which the items of a cluster are ordered, ascending."""
        if self.keep == "random":
            return -priorities(problem.seed, "semdedup", problem.items.rows)
        similarities = _to_centroids(problem)
        return similarities if self.keep == "far" else -similarities


def _to_centroids(problem: Problem) -> Float64s:
    """Cosine of each item and its centroid times the centroid's length, float64 [n]."""
    items = problem.items
    pool = items.pool
    found = np.empty(len(items))

    def visit(part: Part) -> tuple[Int64s, Float64s]:
        positions = part.positions
        clusters = pool.clusters[items.rows[positions]]
        vectors = part.vectors()
        own = np.empty(len(positions))
        for start in range(0, len(own), ROWS):
            rows = slice(start, start + ROWS)
            own[rows] = (_directions(vectors[rows]) * pool.centroids[clusters[rows]]).sum(axis=1)
        return positions, own

    done = 0
    for positions, own in items.scan(visit):
        found[positions] = own
        done += len(positions)
        problem.report("score", 0.1 * done / len(items), None)
    return found


def _blocks(sizes: Int64s) -> Iterator[tuple[int, int, int]]:
    """Of clusters that lie one after the other: the cluster's first place, and places
    [start, end) to compare with all before them."""
    first = 0
    for size in sizes.tolist():
        for start in range(first, first + size, ROWS):
            yield first, start, min(first + size, start + ROWS)
        first += size


def _largest_before(items: Items, places: Int64s, start: int) -> Float64s:
    """For each place from ``start`` on, the largest cosine to one before it; -1 for the first."""
    rows = _directions(items.fetch(places[start:]))
    largest = np.full(len(rows), -1.0)
    for column in range(0, len(places), COLUMNS):
        items.check()
        others = places[column : column + COLUMNS]
        cosines = rows @ _directions(items.fetch(others)).T
        after = np.arange(column, column + len(others)) >= np.arange(start, len(places))[:, None]
        cosines[after] = -1.0
        np.maximum(largest, cosines.max(axis=1), out=largest)
    return np.round(largest, _DIGITS)


def _directions(vectors: Float32s) -> Float64s:
    """Vectors scaled to length 1 in float64; a zero vector stays."""
    return np.asarray(vectors / divisors(vectors))
