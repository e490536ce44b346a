"""Which rows to offer an annotator, in order, from a ranking and the view's leases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from coresift.server.arrays import Rows
from coresift.server.selection.batch import Shortlist
from coresift.server.selection.limits import Limits, within
from coresift.server.selection.registry import batch_policy_of, strategy_of
from coresift.server.selection.scoring import canonical
from coresift.server.selection.strategy import Ranker
from coresift.server.session.ranking.offers import Free, Offer, Proposed, proposed
from coresift.server.session.ranking.ranking import Order, PickReason, Ranking, situation_of
from coresift.server.session.setup.config import SessionConfig
from coresift.server.state.values import MAX_PROPOSALS

MAX_SHORTLIST = 16_384
"""Rows that a batch policy and the limits of a batch look at."""


def over_ask(size: int, others: int = 0) -> int:
    """Rows to propose for a batch: other replicas may have leased a few meanwhile, and claims
    under way here may lease ``others``."""
    return min(MAX_PROPOSALS, 2 * size + 32 + others)


def is_plain(config: SessionConfig) -> bool:
    """Whether batches are the best scores and nothing else: then arranging costs nothing."""
    batch = config.batch
    return batch.policy.name == "top" and not _limits(config)


def shortlist_size(config: SessionConfig, wanted: int) -> int:
    """How many free rows of an order its arrangement looks at."""
    needed = wanted * batch_policy_of(config.batch.policy).oversampling
    if _limits(config):
        needed = max(needed, 10 * wanted)
    return min(max(MAX_SHORTLIST, wanted), needed)


def chosen(
    offered: Offer, ranking: Ranking, wanted: int, beyond: Callable[[int], list[Proposed]]
) -> list[Proposed]:
    """Up to ``wanted`` proposals: items that lack votes, then validation items, then the orders
    by their shares, each as the batch policy arranges it; all within the limits of a batch.

    Args:
        beyond: so many rows beyond the candidates; called where these are all looked at.
    """
    if ranking.is_review:  # the most doubtful first, whatever the policy for new items
        return proposed(offered.free[0].order, offered.free[0].places)
    limits = _limits(ranking.snapshot.config)
    reach = wanted if limits is None else 4 * wanted
    while True:
        merged = _merged(offered, ranking, reach)
        is_all = len(merged) < reach
        if is_all and not offered.has_more:
            there, more = {p.row for p in merged}, beyond(reach)
            is_all = len(more) < reach
            merged += [p for p in more if p.row not in there and offered.taken.admits(p.row)]
        if limits is not None:
            merged = _limited(limits, merged, ranking, wanted)
        if len(merged) >= wanted or is_all:
            return merged[:wanted]
        reach *= 4  # the limits of a batch left too little of these


def _merged(offered: Offer, ranking: Ranking, reach: int) -> list[Proposed]:
    """Up to ``reach`` proposals in order, before the limits of a whole batch."""
    config = ranking.snapshot.config
    orders = [_arranged(free, ranking, reach) for free in offered.free]
    shares = [(1 - config.explore_fraction) * free.order.share for free in offered.free]
    if offered.explore is not None:
        orders.append(proposed(offered.explore.order, offered.explore.places))
        shares.append(config.explore_fraction)
    first = offered.first[:reach]
    return first + merge(orders, shares, reach - len(first), {p.row for p in first})


def merge(
    orders: list[list[Proposed]], shares: list[float], count: int, seen: set[int]
) -> list[Proposed]:
    """Up to ``count`` distinct proposals, none of them ``seen`` before, each from the order that
    lags most behind its share."""
    used = [order for order, share in zip(orders, shares, strict=True) if share > 0]
    if len(used) == 1:  # as in most sessions: nothing takes turns
        return [p for p in used[0] if p.row not in seen][:count]
    merged: list[Proposed] = []
    seen = set(seen)
    taken, place = [0] * len(orders), [0] * len(orders)
    while len(merged) < count:
        for i, order in enumerate(orders):
            while place[i] < len(order) and order[place[i]].row in seen:
                place[i] += 1
        left = [i for i in range(len(orders)) if place[i] < len(orders[i]) and shares[i] > 0]
        if not left:
            break
        total = len(merged) + 1
        chosen = max(left, key=lambda i: (shares[i] * total - taken[i], -i))
        merged.append(orders[chosen][place[chosen]])
        seen.add(merged[-1].row)
        taken[chosen] += 1
    return merged


def _limits(config: SessionConfig) -> Limits | None:
    groups, batch = config.groups, config.batch
    if groups is None and batch.max_similarity is None and not batch.class_shares:
        return None
    return Limits(
        max_similarity=batch.max_similarity,
        class_shares=tuple(
            (config.classes.index(name), share) for name, share in batch.class_shares
        ),
        max_per_group=None if groups is None else groups.max_per_batch,
    )


def _shortlist(ranking: Ranking, proposed: list[Proposed]) -> Shortlist:
    snapshot = ranking.snapshot
    return Shortlist(
        pool=ranking.materials.pool,
        rows=np.array([p.row for p in proposed], np.int32),
        scores=np.array([p.score for p in proposed], np.float64),
        head=ranking.state.head,
        seed=snapshot.config.seed,
        revision=snapshot.revision,
    )


def _arranged(free: Free, ranking: Ranking, reach: int) -> list[Proposed]:
    """Up to ``reach`` rows of an order as the batch policy has them, within the limits."""
    config = ranking.snapshot.config
    found = proposed(free.order, free.places)
    if is_plain(config):
        return found[:reach]
    limits = _limits(config)
    rows = np.array([p.row for p in found], np.int32)
    shortlist = _shortlist(ranking, found)
    places = batch_policy_of(config.batch.policy).arrange(shortlist, reach)
    if limits is not None:
        predicted = np.array([p.predicted for p in found], np.int16)
        groups = ranking.materials.groups_of(rows)
        places = within(limits, shortlist, places, reach, predicted, groups)
    return [found[place] for place in places.tolist()]


def _limited(
    limits: Limits, merged: list[Proposed], ranking: Ranking, wanted: int
) -> list[Proposed]:
    """The proposals that one batch may hold together; their classes are in order already."""
    rows = np.array([p.row for p in merged], np.int32)
    together = replace(limits, class_shares=())
    predicted = np.array([p.predicted for p in merged], np.int16)
    groups = ranking.materials.groups_of(rows)
    shortlist = _shortlist(ranking, merged)
    places = within(together, shortlist, np.arange(len(rows)), wanted, predicted, groups)
    return [merged[place] for place in places.tolist()]


def expansion(ranking: Ranking, near: Rows, blocked: Rows, wanted: int) -> list[Proposed]:
    """Rows beyond the candidates: ``near`` by the first strategy's score, then random ones.

    Args:
        ranking: complete.
        near: distinct neighbours of leased items, ascending.
        blocked: rows that the annotator cannot get; left out.
        wanted: at most so many rows, fewer only if the pool has no more.
    """
    materials, config = ranking.materials, ranking.snapshot.config
    ranked = (order.scored.rows for order in ranking.orders)
    is_used = np.zeros(materials.pool.manifest.items, np.bool_)
    for rows in (*ranked, materials.validation, blocked):
        is_used[rows] = True
    outside = materials.admits(near[~is_used[near]])
    expanded = _scored(ranking, outside) if len(outside) else []
    if len(expanded) >= wanted:
        return expanded[:wanted]
    is_used[outside] = True
    fill = materials.random(config.seed, "fill").first(wanted + int(is_used.sum()))
    fill = fill[~is_used[fill]][:wanted]
    filled = [Proposed(row, float("nan"), -1, PickReason.RANDOM) for row in fill.tolist()]
    return expanded + filled[: wanted - len(expanded)]


def _scored(ranking: Ranking, rows: Rows) -> list[Proposed]:
    """Rows by the score of the first strategy, as far as it scores them one by one."""
    strategy = strategy_of(ranking.snapshot.config.mix[0].strategy)
    if not ranking.is_cold:
        prepared = strategy.prepare(situation_of(ranking.materials, ranking.state))
        if not isinstance(prepared, Ranker):
            head, fetch = ranking.state.head, ranking.materials.pool.fetch
            scored = canonical(prepared, head, rows, fetch)
            order = Order(PickReason.EXPAND, 1.0, scored)
            return proposed(order, list(range(len(rows))))
    return [Proposed(row, float("nan"), -1, PickReason.EXPAND) for row in rows.tolist()]
