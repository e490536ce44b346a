"""ProbCover: balls around the choices that cover most of the pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from coresift.server.arrays import Bools, Float64s, Int64s, Rows
from coresift.server.head import Task
from coresift.server.pool.parallel import in_order
from coresift.server.pool.pool import Pool
from coresift.server.selection.coverage import blocks, distances, squares, within
from coresift.server.selection.parameters import parameter
from coresift.server.selection.priority import priorities, random_order
from coresift.server.selection.strategy import EVERY_TASK, Ranked, Ranker, Setting, Situation

Bits = npt.NDArray[np.uint64]

BALLS = 2_048
"""Balls whose purity is looked at: their share is known within 0.01 (two standard deviations)."""
SMALLEST = 1e-5
"""Least radius in units of the pool's largest norm: what is nearer counts as a copy."""


@dataclass(frozen=True, slots=True)
class ProbCover:
    """Maximum coverage by balls of one radius (Yehuda, Dekel, Hacohen and Weinshall, 2022).

    A row covers what is at most ``radius`` away (Euclidean, float64). Of a random sample of the
    pool, what labelled rows cover is covered; each choice is the candidate that covers most of the
    rest, ties by row, and its score the share of the sample that it adds. Candidates that add
    nothing come last in the seed's hash order, with the score 0.

    Unless given, the radius is the largest at which a share of ``purity`` of the balls is pure: all
    sample rows in them belong to one cluster. Since a ball is pure as long as it does not reach
    the nearest row of another cluster, that is a quantile of these distances.

    Departures: coverage and purity are counted on ``sample`` rows, not on all, and at most as many
    candidates, the first in the hash order, may cover (those in the sample come first in it); the
    pseudo-labels are the clusters stored with the pool, about the square root of its size, and
    not as many as classes: the radius is smaller than the paper's.

    Details: ``radius``; ``covered``, the share of the sample that labelled rows cover.
    """

    radius: float = parameter(
        0.0, "of a ball, in units of the embedding; 0: found by purity", low=0.0, high=1e18
    )
    purity: float = parameter(0.95, "share of balls within one cluster", low=0.5, high=1.0)
    sample: int = parameter(10_000, "rows that stand for the pool", low=100, high=20_000)
    needs_head: ClassVar[bool] = False
    tasks: ClassVar[frozenset[Task]] = EVERY_TASK

    def objection(self, setting: Setting) -> str | None:
        return None

    def prepare(self, situation: Situation) -> Ranker:
        return MaximumCoverage(situation.pool, situation.labelled, situation.seed, self)


@dataclass(frozen=True, slots=True)
class MaximumCoverage:
    """Orders candidates by greedy maximum coverage of a sample."""

    pool: Pool
    labelled: Rows
    seed: int
    strategy: ProbCover

    def rank(self, candidates: Rows, depth: int) -> Ranked:
        pool, size = self.pool, self.strategy.sample
        drawn = random_order(self.seed, "probcover", pool.manifest.items, size)
        sample = pool.fetch(drawn).astype(np.float64)
        radius = self.strategy.radius or self._pure_radius(sample, pool.clusters[drawn])
        radius = min(max(radius, SMALLEST * pool.max_norm), 3 * pool.max_norm)
        covered = self._covered(sample, radius)
        details = {"radius": radius, "covered": float(covered.mean())}
        priority = priorities(self.seed, "probcover", candidates)
        order = np.lexsort((candidates, -priority))
        choosers = np.sort(order[:size])
        graph = self._graph(candidates[choosers], sample, radius)
        picked, gains = greedy_coverage(graph, pack(~covered[None])[0], depth)
        first = choosers[picked]
        rest = order[~np.isin(order, first)][: max(0, depth - len(first))]
        rows = candidates[np.concatenate([first, rest])]
        return Ranked(rows, np.concatenate([gains / len(drawn), np.zeros(len(rest))]), details)

    def _pure_radius(self, sample: Float64s, clusters: Rows) -> float:
        """The largest radius at which enough balls around the first of the sample are pure."""
        count = min(BALLS, len(sample))

        def reach(span: slice) -> Float64s:
            squared = squares(sample[span], sample)
            squared[clusters[span, None] == clusters] = np.inf
            nearest = squared.argmin(axis=1)
            alone = np.isinf(squared.min(axis=1))
            return np.where(alone, np.inf, distances(sample[span], sample[nearest]))

        limits = np.sort(np.concatenate(list(in_order(reach, blocks(count, len(sample))))))
        impure = int((1 - self.strategy.purity) * count + 1e-9)
        return float(np.nextafter(limits[impure], 0))

    def _covered(self, sample: Float64s, radius: float) -> Bools:
        """Which of the sample labelled rows cover."""
        labelled = self.pool.fetch(self.labelled)

        def look(span: slice) -> Bools:
            covered = np.zeros(span.stop - span.start, np.bool_)
            for part in blocks(len(labelled), len(covered)):
                bare = np.flatnonzero(~covered)
                Y = labelled[part].astype(np.float64)
                near = within(sample[span][bare], Y, radius, self.pool.max_norm)
                covered[bare] = near.any(axis=1)
            return covered

        return np.concatenate(list(in_order(look, blocks(len(sample), 2_048))))

    def _graph(self, choosers: Rows, sample: Float64s, radius: float) -> Bits:
        """Which of the sample each chooser covers."""

        def look(span: slice) -> Bits:
            X = self.pool.fetch(choosers[span]).astype(np.float64)
            return pack(within(X, sample, radius, self.pool.max_norm))

        parts = list(in_order(look, blocks(len(choosers), len(sample))))
        return np.concatenate([pack(np.zeros((0, len(sample)), np.bool_)), *parts])


def pack(near: Bools) -> Bits:
    """Rows of bool [n, m] as words of 64 bits: whatever the radius, m / 8 bytes a row."""
    return np.packbits(np.pad(near, ((0, 0), (0, -near.shape[1] % 64))), axis=1).view(np.uint64)


def greedy_coverage(graph: Bits, bare: Bits, depth: int) -> tuple[Int64s, Int64s]:
    """Up to ``depth`` rows of the graph that cover most of what is bare, and what each adds.

    Ends when nothing is left to add. Gains only fall, so an old one is an upper bound: the row
    with the largest is chosen once it is up to date.
    """
    picked: list[int] = []
    gains: list[int] = []
    spans = blocks(len(graph), graph.shape[1])
    parts = [np.bitwise_count(graph[span] & bare).sum(axis=1) for span in spans]
    bounds = np.concatenate([np.empty(0), *parts]).astype(np.int64)
    while len(picked) < min(depth, len(graph)):
        place = int(bounds.argmax())  # the first of equals: rows ascend
        if bounds[place] == 0:
            break
        gain = int(np.bitwise_count(graph[place] & bare).sum())
        if gain < bounds[place]:
            bounds[place] = gain
            continue
        picked.append(place)
        gains.append(gain)
        bare = bare & ~graph[place]
        bounds[place] = 0
    return np.array(picked, np.int64), np.array(gains, np.int64)
