"""k-means, and of each cluster the member nearest to its centroid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coresift.server.arrays import Float32s, Float64s, Int64s
from coresift.server.coreset.centres import Tell, group_means, in_halves, squared_distances
from coresift.server.coreset.items import Items, Part
from coresift.server.coreset.problem import Cost, Needs, Problem, Selection, Setting
from coresift.server.coreset.ranking import first_of
from coresift.server.selection.parameters import parameter
from coresift.server.selection.priority import priorities

PRODUCT = 2**22
"""Numbers of one product: 16 MiB, as much as a block of vectors."""


@dataclass(frozen=True, slots=True)
class KMeansMedoids:
    """Lloyd's k-means (1982) with one cluster for each item wanted; its medoids are the core-set.

    Centroids start at the first items of the seed's hash order, and are trained on a random
    sample; the nearest (Euclidean, whatever the pool's metric, float32) takes a point. A centroid
    without points moves to a point that is farthest from its own, the farthest first. In the end
    every item goes to its nearest centroid, and of each cluster the member nearest to its
    centroid (float64, ties by row) is selected. A cluster that has none takes the item that is
    farthest from its centroid and no medoid, ties by row, as its only member.

    The largest cluster comes first, ties by row. The score is minus the distance to the
    centroid, the weight the size of the cluster, the objective minus the sum over all items of
    the squared distance to their centroid.

    Which of two centroids is nearer is not decided in float64: that takes a tenth to a quarter of
    the time again. Where they are equally near but for the rounding of a float32 product, it
    depends on how the products are cut into blocks, so that another size of these, or another
    processor, may give another core-set of about the same objective.

    Departures: training ends after ``iterations`` rounds though points may still move; centroids
    start at random and not by k-means++, which takes a pass for each.
    """

    iterations: int = parameter(10, "rounds of training at most", low=1, high=100)
    sample: int = parameter(32, "training points for each cluster", low=1, high=10_000)

    def needs(self) -> Needs:
        return Needs()

    def objection(self, setting: Setting) -> tuple[str, str] | None:
        return None

    def cost(self, setting: Setting) -> Cost:
        points = self.iterations * self._points(setting.n, setting.budget) + setting.n
        centroids = float(setting.budget) * setting.dimension
        return Cost(
            2.0 * points * centroids,
            3.0 + 2.0 * points / setting.n,
            32.0 * centroids + 64.0 * setting.n + 64e6,
        )

    def _points(self, n: int, clusters: int) -> int:
        return min(n, self.sample * clusters)

    def select(self, problem: Problem) -> Selection:
        items, count = problem.items, problem.size()
        centroids = self._trained(problem)
        first, second = in_halves(lambda share: problem.report("select", share, None))
        clusters = assigned(items, centroids, first)
        squares = squared_distances(items, centroids, clusters, second)
        items.check()
        positions = medoids(clusters, squares, count)
        weights = np.bincount(clusters)
        order = np.lexsort((positions, -weights))
        return Selection(
            positions[order],
            -np.sqrt(squares[positions[order]]),
            weights[order].astype(np.float64),
            -float(squares.sum()),
        )

    def _trained(self, problem: Problem) -> Float64s:
        """Centroids, float64 [budget, d]."""
        items, count = problem.items, problem.size()
        keys = priorities(problem.seed, "k_means_medoids", items.rows)
        items.check()
        points = first_of(-keys, self._points(len(items), count))
        sample = Items(items.pool, items.rows[np.sort(points)], items.stop)
        centroids = items.fetch(points[:count]).astype(np.float64)
        before = np.full(len(sample), -1)
        for done in range(self.iterations):

            def tell(share: float, done: int = done) -> None:
                problem.report("train", (done + share) / self.iterations, None)

            first, second = in_halves(tell)
            clusters = assigned(sample, centroids, first)
            if np.array_equal(clusters, before):
                break
            centroids, before = _moved(sample, centroids, clusters, second), clusters
        return centroids


def assigned(items: Items, centroids: Float64s, tell: Tell) -> Int64s:
    """The nearest centroid of each item by a float32 product, ties to the first: int64 [n]."""
    # Around their middle centroids are shorter, and products of float32 nearer to the truth.
    middle = centroids.mean(axis=0)
    offsets = centroids - middle
    matrix = np.ascontiguousarray(offsets.T, np.float32)
    # |x - c|^2 = |x - m|^2 - 2 (x.(c - m) - m.(c - m) - |c - m|^2 / 2)
    shifts = (offsets @ middle + (offsets**2).sum(axis=1) / 2).astype(np.float32)
    clusters = np.empty(len(items), np.int64)

    def visit(part: Part) -> tuple[Int64s, Int64s]:
        positions = part.positions
        nearest = np.zeros(len(positions), np.int64)
        best = np.full(len(positions), -np.inf, np.float32)
        step = max(64, PRODUCT // len(positions))
        for first in range(0, len(centroids), step):
            items.check()
            closeness = part.product(matrix[:, first : first + step])
            closeness -= shifts[first : first + step]
            own = closeness.argmax(axis=1)
            closest: Float32s = np.take_along_axis(closeness, own[:, None], axis=1)[:, 0]
            better = closest > best
            nearest[better] = own[better] + first
            best[better] = closest[better]
        return positions, nearest

    done = 0
    for positions, nearest in items.scan(visit):
        clusters[positions] = nearest
        done += len(positions)
        tell(done / len(items))
    return clusters


def _moved(points: Items, centroids: Float64s, clusters: Int64s, tell: Tell) -> Float64s:
    """Each centroid where the mean of its points is, one without points where it is needed."""
    means = group_means(points, clusters, len(centroids), tell)
    empty = np.setdiff1d(np.arange(len(centroids)), clusters)
    if len(empty):
        squares = squared_distances(points, centroids, clusters, lambda share: None)
        means[empty] = points.fetch(first_of(-squares, len(empty)))
    return means


def medoids(clusters: Int64s, squares: Float64s, count: int) -> Int64s:
    """A member of each of ``count`` clusters, int64 [count]: the one with the least square.

    An empty cluster is given a member: ``clusters``, int64 [n], and ``squares``, float64 [n], are
    changed.
    """
    nearest = _nearest(clusters, squares)
    empty = np.setdiff1d(np.arange(count), clusters)
    if len(empty):
        open_squares = squares.copy()
        open_squares[nearest] = -1
        far = first_of(-open_squares, len(empty))
        clusters[far], squares[far] = empty, 0.0
        nearest = _nearest(clusters, squares)
    return nearest


def _nearest(clusters: Int64s, squares: Float64s) -> Int64s:
    """Of each cluster that has members the one with the least square, ties by position."""
    least = np.full(int(clusters.max()) + 1, np.inf)
    np.minimum.at(least, clusters, squares)
    near = np.flatnonzero(squares == least[clusters])
    _, first = np.unique(clusters[near], return_index=True)
    return np.asarray(near[first])
