"""Herding: a core-set whose mean stays near the mean of all items (Welling, 2009)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from coresift.server.arrays import Bools, Float32s, Float64s, Int64s
from coresift.server.coreset.items import SCAN_BYTES, Items, Part
from coresift.server.coreset.problem import Cost, Needs, Problem, Selection, Setting
from coresift.server.pool.canonical import matrix_products, product_error
from coresift.server.pool.parallel import in_order

KEPT_BYTES = 512 * 2**20
"""Of some rows of a pool: up to this size they are fetched once, not anew for every choice."""
_BLOCK = 16_384
"""Kept vectors of one product."""
_NEAR = 4_096
"""Near-tied vectors that are fetched at a time."""


@dataclass(frozen=True, slots=True)
class Herding:
    """Kernel herding with the linear kernel (Welling, 2009; Chen, Welling and Smola, 2010).

    With mu the mean of the items and w = mu at first, each choice is the item x with the largest
    <w, x> (float64, ties by row), and then w grows by mu - x. Hence w = t mu minus the sum of the
    chosen, and the mean of the core-set comes near mu at a rate up to 1/t, where a random
    sample's comes at 1/sqrt(t). The score is <w, x> when the item was chosen, the objective minus
    the squared distance of the core-set's mean to mu.

    Departure: no item is chosen twice, while the paper may return to one.

    A choice takes one pass over the vectors. w turns by about half of its length with each, so
    that bounds from stored clusters or earlier products rule out too little: of the text
    embeddings of clinc150 nothing, of fashion_mnist a sixth.
    """

    def needs(self) -> Needs:
        return Needs()

    def objection(self, setting: Setting) -> tuple[str, str] | None:
        return None

    def cost(self, setting: Setting) -> Cost:
        vectors = 4.0 * setting.n * setting.dimension
        kept = 2 * min(vectors, KEPT_BYTES)  # of some rows, as budgets by class make them
        return Cost(passes=1.0 + setting.budget, held=32.0 * setting.n + kept + SCAN_BYTES)

    def select(self, problem: Problem) -> Selection:
        items, budget = problem.items, problem.size()
        mean = _mean(items)
        leader = _Leader(items)
        w, total = mean.copy(), np.zeros_like(mean)
        positions, scores = np.empty(budget, np.int64), np.empty(budget)
        objective = 0.0
        for t in range(budget):
            positions[t], scores[t] = leader.take(w)
            total += items.fetch(positions[t : t + 1])[0]
            w = (t + 2) * mean - total
            objective = -float(((total / (t + 1) - mean) ** 2).sum())
            problem.report("select", (t + 1) / budget, objective)
        return Selection(positions, scores, objective=objective)


def _mean(items: Items) -> Float64s:
    total = np.zeros(items.dimension)
    for part in items.scan(lambda part: part.vectors().sum(axis=0, dtype=np.float64)):
        total += part
    return total / len(items)


class _Leader:
    """Finds the items with the largest inner products: float32 proposes, float64 decides."""

    def __init__(self, items: Items) -> None:
        self._items = items
        self._taken: Bools = np.zeros(len(items), np.bool_)
        self._kept: Float32s | None = None
        is_part = len(items) < items.pool.manifest.items
        if is_part and 4 * len(items) * items.dimension <= KEPT_BYTES:
            self._kept = np.concatenate(list(items.scan(lambda part: part.vectors())))

    def take(self, w: Float64s) -> tuple[int, float]:
        """The position with the largest <w, x> that was not taken yet, and this product."""
        items = self._items
        length = np.array([np.sqrt(w @ w)])
        slack = 2 * float(product_error("ip", items.dimension, items.pool.max_norm, length)[0])
        found = list(self._leading(np.asarray(w[:, None], np.float32), slack))
        best = max(float(products.max(initial=-np.inf)) for _, products in found)
        near = np.sort(np.concatenate([at[products >= best - slack] for at, products in found]))
        leader, product = -1, -np.inf
        for start in range(0, len(near), _NEAR):  # of copies all rows are near
            items.check()
            part = near[start : start + _NEAR]
            exact = matrix_products(items.fetch(part), w[None, :])[:, 0]
            first = int(exact.argmax())  # of equals the first
            if exact[first] > product:
                leader, product = int(part[first]), float(exact[first])
        self._taken[leader] = True
        return leader, product

    def _leading(self, column: Float32s, slack: float) -> Iterator[tuple[Int64s, Float64s]]:
        """Of each block the open positions within the slack of its best, and their products."""
        kept = self._kept

        def scanned(part: Part) -> tuple[Int64s, Float64s]:
            return self._best_of(part.positions, part.product(column)[:, 0], slack)

        def held(start: int) -> tuple[Int64s, Float64s]:
            assert kept is not None  # noqa: S101 - else nothing calls it
            self._items.check()
            vectors = kept[start : start + _BLOCK]
            positions = np.arange(start, start + len(vectors))
            return self._best_of(positions, (vectors @ column)[:, 0], slack)

        if kept is None:
            return self._items.scan(scanned)
        return in_order(held, range(0, len(kept), _BLOCK))

    def _best_of(
        self, positions: Int64s, products: Float32s, slack: float
    ) -> tuple[Int64s, Float64s]:
        wide = products.astype(np.float64)
        wide[self._taken[positions]] = -np.inf
        best = wide.max()
        near = np.flatnonzero(wide >= best - slack) if best > -np.inf else np.empty(0, np.int64)
        return positions[near], wide[near]
