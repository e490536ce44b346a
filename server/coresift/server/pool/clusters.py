"""Coarse k-means of a pool: clusters, typical rows, and how many lists a search must probe."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from coresift.server.arrays import Float32s, Int64s, Rows
from coresift.server.pool.canonical import Metric
from coresift.server.pool.kernels import import_faiss
from coresift.server.pool.rows import Block, VectorRows
from coresift.server.pool.search import exact_search
from coresift.server.pool.segment import Segment

MAX_COLD_START = 20_000

_SEED = 1
_POINTS_PER_CENTROID = 128
_ROUNDS = 10
_PROBE_QUERIES = 256
_PROBE_NEIGHBOURS = 100
_RECALL = 0.99


def train_centroids(pool: VectorRows) -> Float32s:
    """About sqrt(N) centroids, float32 [clusters, d], of a fixed sample of the rows.

    Unit vectors on cosine pools. The same rows give the same centroids.
    """
    faiss = import_faiss()
    count = max(1, round(math.sqrt(pool.items)))
    chance = np.random.default_rng(_SEED)
    size = min(pool.items, count * _POINTS_PER_CENTROID)
    sample = np.sort(chance.choice(pool.items, size, replace=False))
    kmeans = faiss.Kmeans(
        pool.dimension,
        count,
        niter=_ROUNDS,
        seed=_SEED,
        spherical=pool.metric == "cosine",
        min_points_per_centroid=1,
        max_points_per_centroid=_POINTS_PER_CENTROID,
    )
    kmeans.train(pool.fetch(sample))
    return np.ascontiguousarray(kmeans.centroids, np.float32)


def assign(
    pool: VectorRows, centroids: Float32s, done: Callable[[int], None] | None = None
) -> tuple[Rows, Float32s]:
    """The nearest centroid of each row, int32 [N], and the squared distance, float32 [N]."""
    clusters = np.empty(pool.items, np.int32)
    distances = np.empty(pool.items, np.float32)
    matrix = np.ascontiguousarray(centroids.T)
    half_norms = np.einsum("ij,ij->i", centroids, centroids) / np.float32(2)

    def visit(block: Block) -> int:
        # |x - c|^2 = |x|^2 - 2 (x.c - |c|^2 / 2)
        closeness = block.product(matrix)
        closeness -= half_norms
        nearest = closeness.argmax(axis=1)
        vectors = block.vectors()
        squares = np.einsum("ij,ij->i", vectors, vectors)
        squares -= 2 * np.take_along_axis(closeness, nearest[:, None], axis=1)[:, 0]
        clusters[block.rows] = nearest
        distances[block.rows] = np.maximum(squares, 0)
        return len(block.rows)

    for count in pool.scan(visit):
        if done is not None:
            done(count)
    return clusters, distances


def typical_rows(clusters: Rows, distances: Float32s) -> Rows:
    """Typical rows of distinct clusters, at most 20,000, int32.

    Clusters by size (largest first); of each the member nearest to its centroid, then the
    second of each, and so on. Ties by cluster number and row.
    """
    rows = np.lexsort((np.arange(len(clusters)), distances, clusters))
    owner = clusters[rows]
    sizes = np.bincount(clusters)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    place = np.arange(len(rows)) - starts[owner]
    by_size = np.lexsort((np.arange(len(sizes)), -sizes))
    turn = np.empty(len(sizes), np.int64)
    turn[by_size] = np.arange(len(sizes))
    order = np.lexsort((turn[owner], place))[:MAX_COLD_START]
    return rows[order].astype(np.int32)


def centroid_rows(centroids: Float32s, metric: Metric) -> VectorRows:
    """The centroids as rows of their own that can be searched."""
    norms = np.sqrt(np.einsum("ij,ij->i", centroids, centroids))
    segment = Segment(0, centroids, norms if metric == "l2" else None, None, unit=False)
    return VectorRows([segment], metric, float(norms.max()) * (1 + 1e-6))


def probes_for_recall(pool: VectorRows, centroids: VectorRows, clusters: Rows) -> int:
    """How many lists hold 99 % of the exact neighbours of a sample of rows."""
    k = min(_PROBE_NEIGHBOURS, pool.items - 1)
    if k == 0:
        return 1
    chance = np.random.default_rng(_SEED)
    count = min(_PROBE_QUERIES, pool.items)
    sample = np.sort(chance.choice(pool.items, count, replace=False))
    vectors = pool.fetch(sample)
    neighbours, _ = exact_search(pool, vectors, k + 1)
    ranking, _ = exact_search(centroids, vectors, centroids.items)
    place = np.empty((count, centroids.items), np.int64)
    np.put_along_axis(place, ranking.astype(np.int64), np.arange(centroids.items)[None, :], axis=1)
    depth = np.take_along_axis(place, clusters[neighbours].astype(np.int64), axis=1)
    others: Int64s = np.sort(depth[neighbours != sample[:, None]])
    return int(others[math.ceil(_RECALL * len(others)) - 1]) + 1
