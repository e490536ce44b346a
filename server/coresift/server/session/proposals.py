"""Which rows to offer an annotator, in order, from a ranking and the view's leases."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import nsmallest

import numpy as np

from coresift.server.arrays import Rows
from coresift.server.pool.pool import Pool
from coresift.server.selection.priority import random_order
from coresift.server.selection.shortlist import canonical
from coresift.server.session.ranking import PickReason, Ranking
from coresift.server.session.view import View
from coresift.server.state.store import MAX_PROPOSALS


@dataclass(frozen=True, slots=True)
class Proposed:
    """A row to offer. ``score`` is NaN where no strategy chose it."""

    row: int
    score: float
    predicted: int
    reason: PickReason


def over_ask(size: int) -> int:
    """Rows to propose for a batch: other replicas may have leased a few meanwhile."""
    return min(MAX_PROPOSALS, 2 * size + 32)


def proposals(ranking: Ranking, view: View, annotator: str, wanted: int) -> list[Proposed]:
    """Up to ``wanted`` free rows: those that lack votes first, then by rank."""
    found = _under_voted(view, annotator, wanted)
    scored = ranking.scored
    for place in range(len(scored.rows)):
        if len(found) >= wanted:
            break
        row = int(scored.rows[place])
        if row not in view.votes and view.free_for(row, annotator):
            found.append(
                Proposed(
                    row, float(scored.scores[place]), int(scored.predicted[place]), ranking.reason
                )
            )
    return found


def _under_voted(view: View, annotator: str, wanted: int) -> list[Proposed]:
    """Labelled items that lack further votes, those with most votes first."""
    rows = [row for row in view.under_voted if view.free_for(row, annotator)]
    rows = nsmallest(wanted, rows, key=lambda row: (-len(view.votes[row]), row))
    return [Proposed(row, float("nan"), -1, PickReason.UNDER_VOTED) for row in rows]


def expansion(
    pool: Pool, ranking: Ranking, near: Rows, blocked: Rows, wanted: int
) -> list[Proposed]:
    """Rows beyond the candidates: ``near`` by the strategy's score, then random ones.

    Args:
        ranking: complete.
        near: neighbours of leased items, ascending.
        blocked: ascending rows that the annotator cannot get; left out.
        wanted: at most so many rows, fewer only if the pool has no more.
    """
    config, items, head = ranking.snapshot.config, pool.manifest.items, ranking.state.head
    outside = np.setdiff1d(near, np.union1d(ranking.scored.rows, blocked)).astype(np.int32)
    strategy = ranking.snapshot.strategy()
    if len(outside) and (head is not None or not strategy.needs_head):
        used_head = head if strategy.needs_head else None
        scored = canonical(strategy, used_head, outside, pool.fetch)
        expanded = [
            Proposed(row, score, predicted, PickReason.EXPAND)
            for row, score, predicted in zip(
                scored.rows.tolist(), scored.scores.tolist(), scored.predicted.tolist(), strict=True
            )
        ]
    else:
        expanded = [Proposed(row, float("nan"), -1, PickReason.EXPAND) for row in outside.tolist()]
    used = np.union1d(np.union1d(ranking.scored.rows, blocked), outside)
    random = random_order(config.seed, "fill", items, min(items, wanted + len(used)))
    fill = random[~np.isin(random, used)][:wanted]
    filled = [Proposed(row, float("nan"), -1, PickReason.RANDOM) for row in fill.tolist()]
    return (expanded + filled)[:wanted]
