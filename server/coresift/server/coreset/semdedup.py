"""Semantic deduplication: of what is alike within a cluster, the first is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from coresift.server.arrays import Bools, Float32s, Float64s, Int64s, Rows
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

    Copies are compared once: exact ones (of the direction) with the first of them in their
    cluster alone. The others of a cluster are compared all with all.

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
        """What it takes if clusters hold about sqrt(n) items.

        A setting does not know how large they are, nor how many items are copies: a cluster of m
        different items takes m^2 d operations more than is said here.
        """
        # Clusters are uneven, which doubles the pairs; float64 doubles their time.
        pairs = setting.n**1.5
        return Cost(4.0 * pairs * setting.dimension, 4, 96.0 * setting.n + SCAN_BYTES)

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
        similarities, prints = _scanned(problem)
        order = np.argsort(self._precedence(problem, similarities), kind="stable")
        items.check()
        order = order[np.argsort(clusters[order], kind="stable")]
        items.check()
        copies = _copies(items, order, clusters, prints)
        redundancy = np.empty(len(items))
        # A zero vector's cosine is 0, and its print too.
        redundancy[order[copies]] = prints[order[copies]] != 0
        order = order[~copies]
        sizes = np.bincount(clusters[order])
        blocks = list(_blocks(sizes[sizes > 0]))
        work = np.cumsum([(end - start) * (end - first) for first, start, end in blocks])

        def visit(block: tuple[int, int, int]) -> tuple[int, int, Float64s]:
            first, start, end = block
            return start, end, _largest_before(items, order[first:end], start - first)

        for (start, end, largest), done in zip(in_order(visit, blocks), work, strict=True):
            redundancy[order[start:end]] = largest
            problem.report("score", 0.1 + 0.9 * float(done / work[-1]), None)
        return redundancy

    def _precedence(self, problem: Problem, similarities: Float64s) -> Float64s:
        """Number of each item by which the items of a cluster are ordered, ascending."""
        if self.keep == "random":
            return -priorities(problem.seed, "semdedup", problem.items.rows)
        return similarities if self.keep == "far" else -similarities


def _scanned(problem: Problem) -> tuple[Float64s, Float64s]:
    """Cosine of each item and its centroid times the centroid's length, and the item's print: its
    direction times a random vector, the same for copies; float64 [n] each."""
    items = problem.items
    pool = items.pool
    chance = priorities(0, "semdedup print", np.arange(items.dimension, dtype=np.int32)) - 0.5
    similarities, prints = np.empty(len(items)), np.empty(len(items))

    def visit(part: Part) -> tuple[Int64s, Float64s, Float64s]:
        positions = part.positions
        clusters = pool.clusters[items.rows[positions]]
        vectors = part.vectors()
        near, own = np.empty(len(positions)), np.empty(len(positions))
        for start in range(0, len(own), ROWS):
            rows = slice(start, start + ROWS)
            directions = _directions(vectors[rows])
            near[rows] = (directions * pool.centroids[clusters[rows]]).sum(axis=1)
            directions *= chance
            own[rows] = directions.sum(axis=1)
        return positions, near, own

    done = 0
    for positions, near, own in items.scan(visit):
        similarities[positions], prints[positions] = near, own
        done += len(positions)
        problem.report("score", 0.1 * done / len(items), None)
    return similarities, prints


def _copies(items: Items, order: Int64s, clusters: Rows, prints: Float64s) -> Bools:
    """Of the places of an order by cluster those with the same direction as an earlier one of
    their cluster, bool [n]: the first with their print is that one."""
    own, mark = clusters[order], prints[order]
    by_print = np.lexsort((mark, own))
    own, mark = own[by_print], mark[by_print]
    items.check()
    is_first = np.append(True, (own[1:] != own[:-1]) | (mark[1:] != mark[:-1]))
    later = np.flatnonzero(~is_first)
    first = np.flatnonzero(is_first)[np.cumsum(is_first)[later] - 1]
    copies = np.zeros(len(order), np.bool_)

    def same(start: int) -> tuple[Int64s, Bools]:
        items.check()
        part = slice(start, start + COLUMNS)
        ours, theirs = by_print[later[part]], by_print[first[part]]
        one, other = (_directions(items.fetch(order[at])) for at in (ours, theirs))
        return ours, (one == other).all(axis=1)

    for ours, are_same in in_order(same, range(0, len(later), COLUMNS)):
        copies[ours] = are_same
    return copies


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
