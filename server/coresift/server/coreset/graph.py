"""The neighbour graph of the items."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from coresift.server.arrays import Float32s, Float64s, Int64s, Rows
from coresift.server.coreset.items import SCAN_BYTES, Items, Part, unit
from coresift.server.coreset.problem import Problem, Setting
from coresift.server.pool.canonical import pair_similarities, product_error
from coresift.server.pool.parallel import CORES, in_order
from coresift.server.pool.self_join import PROBES, HostProducts, self_join
from coresift.server.pool.thresholds import lower_bounds, places_above

Found = tuple[Int64s, Rows, Float32s | Float64s]
"""Positions, their neighbours and the cosines."""

EXACT_ITEMS = 20_000
"""Compared all with all: two seconds on two cores."""
BLOCK = 128
"""Items of one product."""
PAIRS = 4_096
"""Pairs that are scored in float64 at a time."""


@dataclass(frozen=True, slots=True)
class Graph:
    """The nearest other items of each item by cosine.

    Attributes:
        neighbours: int32 [n, k], positions, the nearest first; k is at most n - 1.
        similarities: float32 [n, k], cosines.
        exact: False where only the nearest clusters were looked at.
    """

    neighbours: Rows
    similarities: Float32s
    exact: bool


def neighbour_graph(problem: Problem, k: int) -> Graph:
    """The k (at most n - 1) nearest other items of each item by cosine, ties by position.

    A zero vector has cosine 0 with everything. From the pool's neighbour table, where it is one of
    cosines, wide enough, and the items are the whole pool; exact for up to `EXACT_ITEMS`
    items; else by `self_join` over the pool's clusters, in float32. Reports the phase "graph".

    Raises:
        Cancelled: nobody wants it any more.
    """
    items, n = problem.items, len(problem.items)
    width = min(k, n - 1)
    shape = n, width
    graph = Graph(np.empty(shape, np.int32), np.empty(shape, np.float32), True)
    table = items.pool.neighbour_table
    if width == 0:
        return graph
    if table is not None and items.are_unit and n == len(table) and table.shape[1] >= width:
        graph = replace(graph, exact=items.pool.manifest.neighbours_recall == 1)
        parts = _from_table(items, table[:, :width])
    elif n <= EXACT_ITEMS:
        parts = _exact(items, width)
    else:
        graph = replace(graph, exact=False)
        clusters, centres = clusters_of(items), unit(items.pool.centroids)
        products = items.pool.gathering.cosines(items.rows) or HostProducts(items.directions)
        parts = self_join(products, clusters, centres, width, stop=items.stop)
    done = 0
    for positions, neighbours, similarities in parts:
        graph.neighbours[positions] = neighbours
        graph.similarities[positions] = similarities
        done += len(positions)
        problem.report("graph", done / n, None)
    return graph


def flops_of_graph(setting: Setting, k: int) -> float:
    """Floating-point operations of `neighbour_graph`, an estimate.

    A setting does not know the sizes of clusters: where one holds much of a pool, its lists are
    up to eight times as long (`self_join`), and so is the work.
    """
    n, d = setting.n, setting.dimension
    if setting.unit and setting.neighbours >= k:
        return 20.0 * n * k * d
    if n <= EXACT_ITEMS:
        return 2.0 * n * n * d
    # Lists are about sqrt(n) long, and long ones have more members than short ones.
    return 4.0 * n * d * PROBES * math.sqrt(n)


def held_by_graph(setting: Setting, k: int) -> float:
    """Bytes that `neighbour_graph` holds, an estimate."""
    n, d = setting.n, setting.dimension
    if n <= EXACT_ITEMS:
        return n * (8.0 * k + 16.0 * d + 8.0 * BLOCK * CORES)
    return n * (8.0 * k + 24.0) + 2 * SCAN_BYTES


def clusters_of(items: Items) -> Rows:
    """A cluster of the pool for each item, int32 [n]: the centroid nearest by cosine."""
    if items.are_unit:
        return items.pool.clusters[items.rows]
    directions = np.ascontiguousarray(unit(items.pool.centroids).T)
    clusters = np.empty(len(items), np.int32)

    def visit(part: Part) -> tuple[Int64s, Int64s]:
        return part.positions, part.product(directions).argmax(axis=1)

    for positions, nearest in items.scan(visit):
        clusters[positions] = nearest
    return clusters


def _from_table(items: Items, table: Rows) -> Iterator[Found]:
    """The pool's table as it is, with canonical similarities."""
    k = table.shape[1]

    def scored(start: int) -> Found:
        items.check()
        rows = np.arange(start, min(start + BLOCK, len(table)))
        neighbours = table[rows]
        similarities = items.pool.similarities(
            neighbours.ravel(), items.pool.fetch(rows), np.repeat(np.arange(len(rows)), k)
        )
        return rows, neighbours, similarities.reshape(neighbours.shape)

    yield from in_order(scored, range(0, len(table), BLOCK))


def _exact(items: Items, k: int) -> Iterator[Found]:
    """All against all: float32 products make a shortlist, float64 decides.

    Copies are compared once: the distinct directions are, each with a list of the k + 1 nearest
    items of which an item's own position, or else the last, is dropped.
    """
    distinct = _Distinct.of(items.directions(np.arange(len(items))))

    def nearest(start: int) -> Found:
        items.check()
        end = min(start + BLOCK, len(distinct))
        lists, similarities = distinct.nearest(start, end, k + 1, items)
        own, members = distinct.members_between(start, end)
        keep = lists[own] != members[:, None]
        keep[keep.all(axis=1), -1] = False
        shape = len(members), k
        return members, lists[own][keep].reshape(shape), similarities[own][keep].reshape(shape)

    yield from in_order(nearest, range(0, len(distinct), BLOCK))


@dataclass(frozen=True, slots=True)
class _Distinct:
    """Different directions, and the items that have them.

    Attributes:
        vectors: float32 [u, d].
        members: int64 [n], positions by direction, then position.
        starts: int64 [u + 1], where the members of each direction begin.
    """

    vectors: Float32s
    members: Int64s
    starts: Int64s

    @classmethod
    def of(cls, directions: Float32s) -> _Distinct:
        bits = np.ascontiguousarray(directions + np.float32(0))  # -0 is 0
        whole = bits.view(np.dtype((np.void, bits.shape[1] * 4)))[:, 0]
        _, first, which = np.unique(whole, return_index=True, return_inverse=True)
        members = np.argsort(which, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(which))])
        return cls(bits[first], members, starts)

    def __len__(self) -> int:
        return len(self.vectors)

    def members_between(self, start: int, end: int) -> tuple[Int64s, Int64s]:
        """The members of some directions: 0-based numbers of these, and positions."""
        bounds = self.starts[start : end + 1]
        own = np.repeat(np.arange(end - start), np.diff(bounds))
        return own, self.members[bounds[0] : bounds[-1]]

    def nearest(self, start: int, end: int, k: int, items: Items) -> tuple[Rows, Float64s]:
        """The k nearest items of the directions [start, end), each [m, k], ties by position."""
        error = float(product_error("cosine", self.vectors.shape[1], 1.0, np.ones(1))[0])
        products = self.vectors[start:end] @ self.vectors.T
        floor = lower_bounds(products, min(k, len(self))) - np.float32(2 * error)
        own, other = places_above(products, floor)
        similarities = self._similarities(own + start, other, items)
        order = np.lexsort((-similarities, own))
        own, other, similarities = own[order], other[order], similarities[order]
        # Members of directions that are equally near stand among each other, by position.
        counts = np.minimum(np.diff(self.starts)[other], k)
        own = np.repeat(own, counts)
        similarities = np.repeat(similarities, counts)
        place = np.arange(len(own)) - np.repeat(np.cumsum(counts) - counts, counts)
        found = self.members[np.repeat(self.starts[other], counts) + place]
        order = np.lexsort((found, -similarities, own))
        own, found, similarities = own[order], found[order], similarities[order]
        first = np.searchsorted(own, np.arange(end - start))
        best = first[:, None] + np.arange(k)
        return found[best].astype(np.int32), similarities[best]

    def _similarities(self, own: Int64s, other: Int64s, items: Items) -> Float64s:
        similarities = np.empty(len(own))
        for at in range(0, len(own), PAIRS):
            items.check()
            part = slice(at, at + PAIRS)
            pairs = self.vectors[own[part]], self.vectors[other[part]]
            similarities[part] = pair_similarities("cosine", *pairs)
        return similarities
