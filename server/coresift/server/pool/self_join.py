"""Neighbours of every item at once: lists of items joined with the lists near them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from coresift.server.arrays import Float32s, Int64s, Rows
from coresift.server.pool.canonical import Metric
from coresift.server.pool.parallel import in_order
from coresift.server.pool.rows import Stop, check
from coresift.server.pool.thresholds import SPREAD, lower_bounds, places

V = TypeVar("V")

PROBES = 16
"""Lists that each list is compared with, itself among them."""
LONGEST = 8
"""Mean lengths that a list may have; what exceeds them is a list of its own."""
ROWS = 256
"""Items of one product."""
COLUMNS = 8_192
"""Items that these are compared with in one product: both copies and the product, 17 MiB at
d = 256, stay with the allocator."""


Found = tuple[Int64s, Int64s, Float32s]
"""Numbers 0..m-1 of some items, ascending, beside them numbers of others, ascending for each item,
and the inner products."""


class Products(Protocol[V]):
    """Inner products of items, by their positions. Called on several threads."""

    @property
    def breadth(self) -> int:
        """How many times larger than `ROWS` and `COLUMNS` the sides of a product should be."""
        ...

    def these(self, positions: Int64s) -> V:
        """Items as `largest` takes them."""
        ...

    def largest(
        self, mine: V, others: Int64s, own: tuple[Int64s, Int64s], floor: Float32s, k: int
    ) -> Found:
        """Of each of ``mine`` at least the k largest products with others that reach its floor.

        A few times k a row at most, however many tie; of ties the first. ``own`` are the pairs of
        an item and itself, which do not count.
        """
        ...


def self_join(
    products: Products[Any],
    clusters: Rows,
    centroids: Float32s,
    k: int,
    *,
    probes: int = PROBES,
    stop: Stop | None = None,
) -> Iterator[tuple[Int64s, Rows, Float32s]]:
    """The k nearest other items of each item by inner product, among those of near clusters.

    Each cluster's members are compared with the members of the ``probes`` clusters whose
    centroids are nearest to its own by inner product, or of more until there are k others. Large
    clusters are cut into lists of bounded length, and of each block of products at most a few k a
    row are sorted, however many tie, so that no data make it quadratic. float32 products decide;
    an item is never its own neighbour, by position and not by value.

    Recall of 32 neighbours on a long-tailed mixture whose noise is as large as what its clusters
    share (d = 256, sqrt(n) clusters): 0.86 with 8 probes and 0.92 with 16 at 100,000 items; 0.87,
    0.91 and 0.93 with 16, 24 and 32 at a million. Time grows with probes x n^1.5.

    Args:
        products: of the items, on the host or on a device.
        clusters: int32 [n], of each item.
        centroids: float32 [c, d], of length 1.
        k: 1..n - 1.
        stop: asked between products; `Cancelled` once it says so.

    Yields:
        Positions int64 [m], every one once, their neighbours int32 [m, k], the nearest first,
        ties by position, and the inner products float32 [m, k].
    """
    lists = Lists.of(clusters, centroids)

    def join(span: tuple[int, int, int]) -> tuple[Int64s, Rows, Float32s]:
        number, start, end = span
        mine = lists.order[start:end]
        return mine, *_nearest(products, mine, lists.around(number, probes, k), k, stop)

    yield from in_order(join, lists.chunks(ROWS * products.breadth))


@dataclass(frozen=True, slots=True)
class Lists:
    """Items by cluster, long clusters in several lists.

    Attributes:
        order: int64 [n], positions by list, then position.
        starts: int64 [lists + 1], where each list begins.
        owners: int64 [lists], its cluster.
        centroids: float32 [c, d].
        handicaps: float32 [c]: a centroid is the nearer to another the larger their inner product
            less this is.
    """

    order: Int64s
    starts: Int64s
    owners: Int64s
    centroids: Float32s
    handicaps: Float32s

    @classmethod
    def of(cls, clusters: Rows, centroids: Float32s, metric: Metric = "ip") -> Lists:
        order = np.argsort(clusters, kind="stable")
        sizes = np.bincount(clusters, minlength=len(centroids))
        longest = LONGEST * -(-len(clusters) // np.count_nonzero(sizes))
        place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        owner = clusters[order].astype(np.int64)
        begins = np.flatnonzero(place % longest == 0)
        handicaps = np.einsum("ij,ij->i", centroids, centroids) / np.float32(2)
        if metric != "l2":
            handicaps[:] = 0
        return cls(order, np.append(begins, len(order)), owner[begins], centroids, handicaps)

    def __len__(self) -> int:
        return len(self.owners)

    def at(self, place: int) -> int:
        """The list that holds a place in ``order``."""
        return int(np.searchsorted(self.starts, place, side="right")) - 1

    def chunks(self, longest: int) -> Iterator[tuple[int, int, int]]:
        """Parts of lists: the list's number and half-open places in ``order``."""
        for number, (first, end) in enumerate(zip(self.starts, self.starts[1:], strict=False)):
            for start in range(first, end, longest):
                yield number, start, min(start + longest, int(end))

    def ranking(self, number: int) -> Int64s:
        """All lists, the nearest to a list first: itself."""
        own = self.owners[number]
        closeness = (self.centroids @ self.centroids[own] - self.handicaps)[self.owners]
        closeness[self.owners == own] = np.inf
        apart = np.abs(np.arange(len(self.owners)) - number)
        return np.lexsort((apart, -closeness))

    def around(self, number: int, probes: int, k: int) -> Int64s:
        """Positions in the lists nearest to a list, that list's first."""
        nearest = self.ranking(number)
        held = np.cumsum(np.diff(self.starts)[nearest])
        enough = max(probes, int(np.searchsorted(held, k + 1)) + 1)
        parts = [self.order[self.starts[at] : self.starts[at + 1]] for at in nearest[:enough]]
        return np.concatenate(parts)


@dataclass(frozen=True, slots=True)
class HostProducts:
    """Products of vectors.

    Attributes:
        these: gives those of positions, float32 [m, d].
    """

    these: Callable[[Int64s], Float32s]
    breadth: ClassVar[int] = 1

    def largest(
        self, mine: Float32s, others: Int64s, own: tuple[Int64s, Int64s], floor: Float32s, k: int
    ) -> Found:
        products = mine @ self.these(others).T
        products[own] = -np.inf
        if len(others) >= k:
            floor = np.maximum(floor, lower_bounds(products, k))
        rows, columns = _some_above(products, floor, k)
        return rows, columns, products[rows, columns]


def _nearest(
    products: Products[Any],
    mine: Int64s,
    others: Int64s,
    k: int,
    stop: Stop | None,
) -> tuple[Rows, Float32s]:
    """The k nearest of ``others`` (more than k) of each of ``mine``, themselves excluded."""
    queries, others, step = products.these(mine), np.sort(others), COLUMNS * products.breadth
    least = np.full(len(mine), -np.inf, np.float32)
    rows, found, values = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    for start in range(0, len(others), step):
        check(stop)
        part = others[start : start + step]
        _, own, at = np.intersect1d(mine, part, assume_unique=True, return_indices=True)
        # Positions rise from part to part: what only equals the k-th so far comes after it.
        floor = np.nextafter(least, np.float32(np.inf))
        new, columns, more = products.largest(queries, part, (own, at), floor, k)
        rows = np.concatenate([rows, new])
        found = np.concatenate([found, part[columns]])
        values = np.concatenate([values, more])
        order = np.lexsort((-values, rows))  # stable: ties stay by position
        place = np.arange(len(order)) - np.searchsorted(rows[order], rows[order])
        last = order[place == k - 1]
        least[rows[last]] = values[last]
        best = order[place < k]
        rows, found, values = rows[best], found[best], values[best]
    shape = len(mine), k
    return found.reshape(shape).astype(np.int32), values.reshape(shape)


def _some_above(values: Float32s, floor: Float32s, k: int) -> tuple[Int64s, Int64s]:
    """As `places_above`, but where these are many only the k largest of a row, ties by column."""
    above = values >= floor[:, None]
    if np.count_nonzero(above) > SPREAD * k * len(values) and values.shape[1] > k:
        # Copies, or few different values: nearly all may equal the bound.
        bound = np.partition(values, -k, axis=1)[:, -k, None]
        larger, equal = values > bound, values == bound
        room = k - np.count_nonzero(larger, axis=1)[:, None]
        above &= larger | (equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= room))
    return places(above)
