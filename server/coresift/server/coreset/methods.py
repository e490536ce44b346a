"""Core-set methods: frozen requests in, selections out, and one registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from coresift.server.coreset.k_center import k_center
from coresift.server.coreset.selection import Request, Selection
from coresift.server.head import Task
from coresift.server.pool.pool import Pool
from coresift.server.selection.priority import priorities, random_order
from coresift.server.selection.shortlist import Columns, top
from coresift.server.selection.uncertainty import column_entropy, entropy_scorer


def random(pool: Pool, request: Request) -> Selection:
    """A simple random sample: the first of the keyed hash order; the score is the priority."""
    rows = random_order(request.seed, "coreset", pool.manifest.items, request.budget)
    return Selection(rows, priorities(request.seed, "coreset", rows), None, None)


def max_entropy(pool: Pool, request: Request) -> Selection:
    """The items whose predicted class is most uncertain (selection via proxy, Coleman et al.,
    2020): largest entropy in nats, ties by row. Also for binary heads the score is the entropy.
    """
    head = request.head
    if head is None:
        raise ValueError("max_entropy needs a head")
    scorer = entropy_scorer(head.task)
    columns = Columns.of(scorer, head)
    parts = pool.scan(lambda block: columns.part(block.rows, block.product), stop=request.stop)
    nothing = np.zeros(pool.manifest.items, np.bool_)
    scored = top(scorer, head, parts, pool.fetch, nothing, request.budget, pool.max_norm)
    rows, scores = scored.rows[: request.budget], scored.scores[: request.budget]
    if head.task is Task.BINARY:  # its order is -|logit|: the same, without saturation
        scores = column_entropy(scores[:, None])[:, 0].astype(np.float64)
    return Selection(rows, scores, None, None)


@dataclass(frozen=True, slots=True)
class Method:
    """A core-set method.

    Attributes:
        select: the selection; reports progress and stops through the request.
        needs_head: a session's head is the proxy.
        takes_start: start rows have a meaning.
        cost: passes over the pool, and bytes beyond it, for (items, dimension, budget).
    """

    select: Callable[[Pool, Request], Selection]
    needs_head: bool
    takes_start: bool
    cost: Callable[[int, int, int], tuple[float, float]]


METHODS: Mapping[str, Method] = {
    "random": Method(random, False, False, lambda n, d, budget: (0.0, 24.0 * n)),
    "k_center": Method(
        k_center,
        False,
        True,
        lambda n, d, budget: (4.0 + budget / 50, 24.0 * n + 8.0 * d * (budget + 4_096)),
    ),
    "max_entropy": Method(
        max_entropy, True, False, lambda n, d, budget: (2.0, 16.0 * n + 8.0 * d * budget)
    ),
}
"""Every method by its name on the wire."""
