"""Batch policies that trade score for variety: clusters, a minimum distance, chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coresift.server.arrays import Int64s
from coresift.server.selection.batch import Shortlist
from coresift.server.selection.parameters import parameter
from coresift.server.selection.priority import priorities
from coresift.server.selection.spacing import BLOCK, Spacing, nearness

HALVINGS = 10
"""How often `Gist` halves its distance: to about a thousandth."""


@dataclass(frozen=True, slots=True)
class ClusterMargin:
    """Cluster-Margin (Citovsky et al., 2021): the clusters of the shortlist by turns.

    Clusters come by their number of rows in the shortlist, the smallest first, equals by their
    best row; in every round each that has rows left gives one. ``oversampling`` is the paper's
    k_m / k_t.

    Departures: the pool's stored k-means clusters stand for average-linkage ones; a cluster
    gives its best row, the paper's a random one; any score may rank the shortlist, the paper
    takes the margin.
    """

    oversampling: int = parameter(10, "rows looked at for each one wanted", low=1, high=1_000)

    def arrange(self, shortlist: Shortlist, count: int) -> Int64s:
        clusters = shortlist.pool.clusters[shortlist.rows]
        _, best, cluster, sizes = np.unique(
            clusters, return_index=True, return_inverse=True, return_counts=True
        )
        members = np.argsort(cluster, kind="stable")
        starts = np.cumsum(sizes) - sizes
        rounds = np.empty(len(clusters), np.int64)
        rounds[members] = np.arange(len(clusters)) - starts[cluster[members]]
        order = np.lexsort((best[cluster], sizes[cluster], rounds))
        return order[:count].astype(np.int64, copy=False)


@dataclass(frozen=True, slots=True)
class Gist:
    """The greedy independent set of GIST (Fahrbach et al., 2025): the best rows that keep a
    distance from each other.

    Rows are gone through best first; one is taken if its Euclidean distance to every taken row
    is at least ``min_distance`` (compared as squares in float64; on cosine pools rows are unit
    vectors, and the distance is sqrt(2 - 2 cos)). At the end the distance is halved and the rest
    gone through again, ten times; what is left then, copies mostly, follows best first.

    Departures: the paper runs the greedy for a series of distances and keeps the set with the
    best sum of utility and least distance; one fixed distance lets a larger batch begin with a
    smaller one.
    """

    min_distance: float = parameter(
        0.5, "Euclidean distance of any two picks (unit vectors: 0..2)", low=0, high=1e18
    )
    oversampling: int = parameter(10, "rows looked at for each one wanted", low=1, high=1_000)

    def arrange(self, shortlist: Shortlist, count: int) -> Int64s:
        n = len(shortlist.rows)
        spacing = Spacing(nearness(shortlist.vectors), n, _too_near(self.min_distance))
        chosen: list[int] = []
        rest = _take_spaced(spacing, np.arange(n), chosen, count)
        for halving in range(1, HALVINGS + 1):
            if len(chosen) < count and len(rest):
                spacing.raise_limit(_too_near(self.min_distance / 2**halving))
                rest = _take_spaced(spacing, rest, chosen, count)
        return np.concatenate([np.array(chosen, np.int64), rest])[:count]


def _too_near(distance: float) -> float:
    """The least likeness of rows that are nearer than a distance."""
    return float(np.nextafter(-(distance**2), np.inf))


def _take_spaced(spacing: Spacing, places: Int64s, chosen: list[int], count: int) -> Int64s:
    """Add to ``chosen`` up to ``count`` the places that are free, in order; which are refused."""
    refused = [places[:0]]
    for start in range(0, len(places), BLOCK):
        block = places[start : start + BLOCK]
        while len(block) and len(chosen) < count:
            is_free = spacing.free(block)
            refused.append(block[~is_free])
            block = block[is_free]
            if len(block):
                chosen.append(int(block[0]))
                spacing.take(chosen[-1])
                block = block[1:]
    return np.sort(np.concatenate(refused))


@dataclass(frozen=True, slots=True)
class Power:
    """Stochastic batches (Kirsch et al., 2023): softrank acquisition.

    Draws without replacement with probabilities proportional to rank**-beta: sorts by
    ``-beta log(rank) + Gumbel noise`` from the keyed hash of the row. Ranks stand for scores
    (the paper's power acquisition) because scores may be negative. ``beta`` 0 is uniform;
    a large one is `Top`.
    """

    beta: float = parameter(1.0, "how much the rank counts", low=0, high=100)
    oversampling: int = parameter(10, "rows looked at for each one wanted", low=1, high=1_000)

    def arrange(self, shortlist: Shortlist, count: int) -> Int64s:
        rows = shortlist.rows
        uniform = priorities(shortlist.seed, f"power:{shortlist.revision}", rows)
        with np.errstate(divide="ignore"):  # a hash of 0 comes first
            noise = -np.log(-np.log1p(-uniform))
        key = noise - self.beta * np.log(np.arange(1, len(rows) + 1))
        return np.argsort(-key, kind="stable")[:count].astype(np.int64, copy=False)
