"""From a session's labels to orders over rows. Pure functions, run on worker threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from coresift.server.arrays import Bools, Rows
from coresift.server.pool.pool import Pool
from coresift.server.selection.circular_scan import show_pool
from coresift.server.selection.leaders import Leaders, show
from coresift.server.selection.registry import Choice, strategy_of
from coresift.server.selection.scoring import Scored, predicted_classes
from coresift.server.selection.strategy import Ranker, Situation
from coresift.server.session.ranking.candidates import Candidates
from coresift.server.session.ranking.cold_start import cold_start, nearest_to_positives, unscored
from coresift.server.session.ranking.ranking import Order, PickReason, Ranking, situation_of
from coresift.server.session.setup.materials import Materials
from coresift.server.session.view.snapshot import HeadState, Snapshot
from coresift.server.session.work.scan_steps import Scan, Steps, alone

FIRST_DEPTH = 2_000
"""Rows of a first order; `deeper` ones are made when these are used up."""
FIRST_RANKED = 256
"""The same where each choice depends on those before it: such orders are dear."""


def rank(
    materials: Materials,
    state: HeadState,
    candidates: Candidates | None,
    near: Rows | None = None,
) -> Ranking:
    """The first rows to label, as `rank_in_steps` finds them."""
    return alone(rank_in_steps(materials, state, candidates, near))


def deeper(ranking: Ranking, wanted: int = 0) -> Ranking:
    """The same ranking with more rows, as `deepen_in_steps` finds them."""
    return alone(deepen_in_steps(ranking, wanted))


def rank_in_steps(
    materials: Materials,
    state: HeadState,
    candidates: Candidates | None,
    near: Rows | None = None,
) -> Steps[Ranking]:
    """The first rows to label.

    Args:
        candidates: None for the whole pool. Rows with a vote are left out.
        near: neighbours of `positive_rows`, int32 [n, k], if they are known; used only while
            there is no head.
    """
    snapshot = state.snapshot
    blocked = _blocked(materials, snapshot)
    mix = snapshot.config.mix
    if state.head is None and any(strategy_of(part.strategy).needs_head for part in mix):
        if near is None:
            near = nearest_to_positives(materials.pool, snapshot)
        scored = cold_start(materials, snapshot, near, blocked, FIRST_DEPTH)
        orders: tuple[Order, ...] = (Order(PickReason.COLD_START, 1.0, scored),)
    else:
        total = sum(part.share for part in mix)
        situation = situation_of(materials, state)
        found = yield from _together(
            [_order(part.strategy, situation, candidates, blocked) for part in mix],
            materials.pool,
        )
        orders = tuple(
            replace(order, share=part.share / total, component=number)
            for number, (part, order) in enumerate(zip(mix, found, strict=True))
        )
    explore = _explored(materials, snapshot, FIRST_DEPTH)
    return Ranking(
        materials, state, candidates, orders, explore, _validated(materials, snapshot), near
    )


def deepen_in_steps(ranking: Ranking, wanted: int = 0) -> Steps[Ranking]:
    """The same ranking with more rows: many more, and ``wanted`` at least, if there are as many."""
    materials, state = ranking.materials, ranking.state
    snapshot = state.snapshot
    blocked = _blocked(materials, snapshot)
    deepest = max(wanted, *(len(order.scored.rows) for order in ranking.orders))
    explore = _explored(materials, snapshot, 8 * max(FIRST_DEPTH, deepest))
    if explore is not None and ranking.explore is not None:
        explore = explore.continuing(ranking.explore)
    if ranking.is_cold:
        near = ranking.near if ranking.near is not None else np.empty((0, 0), np.int32)
        scored = cold_start(materials, snapshot, near, blocked, 8 * max(1, deepest))
        cold = Order(PickReason.COLD_START, 1.0, scored).continuing(ranking.orders[0])
        return replace(ranking, orders=(cold,), explore=explore)
    situation = situation_of(materials, state)
    found = yield from _together(
        [
            order
            if order.scored.complete
            else _order(
                part.strategy,
                situation,
                ranking.candidates,
                blocked,
                len(order.scored.rows),
                max(wanted // 5, wanted if not order.is_ranked else 0),
            )
            for part, order in zip(snapshot.config.mix, ranking.orders, strict=True)
        ],
        materials.pool,
    )
    orders = tuple(
        new.continuing(before) for new, before in zip(found, ranking.orders, strict=True)
    )
    return replace(ranking, orders=orders, explore=explore)


def _blocked(materials: Materials, snapshot: Snapshot) -> Bools:
    """Rows that no strategy may choose, bool [N]: labelled, not eligible, or for validation."""
    if materials.eligible is None:
        blocked = np.zeros(materials.pool.manifest.items, np.bool_)
    else:
        blocked = ~materials.eligible
    blocked[snapshot.labelled()] = True
    blocked[materials.validation] = True
    return blocked


def _order(
    choice: Choice,
    situation: Situation,
    candidates: Candidates | None,
    blocked: Bools,
    known: int = 0,
    wanted: int = 0,
) -> Order | Leaders:
    """The first rows of a strategy's order: more than are ``known``, and ``wanted`` at least.

    Leaders where every vector of the pool is to be looked at.
    """
    prepared = strategy_of(choice).prepare(situation)
    pool, head = situation.pool, situation.head
    if isinstance(prepared, Ranker):
        rows = np.flatnonzero(~blocked).astype(np.int32)
        if candidates is not None:
            rows = candidates.rows[~blocked[candidates.rows]]
        ranked = prepared.rank(rows, max(FIRST_RANKED, 3 * known // 2, wanted))
        complete = len(ranked.rows) == len(rows)
        predicted = np.full(len(ranked.rows), -1, np.int16)
        if head is not None:
            predicted = predicted_classes(head, head.logits(pool.fetch(ranked.rows)))
        scored = Scored(ranked.rows, ranked.scores, predicted, complete)
        return Order(PickReason.EXPLOIT, 1.0, scored, ranked.details, is_ranked=True)
    depth = max(FIRST_DEPTH, 8 * known, 2 * wanted)
    leaders = Leaders(prepared, head, blocked, depth, pool.max_norm)
    if candidates is not None:
        show(leaders, candidates.parts_of(pool, leaders.columns))
    elif leaders.columns.weights is None:
        show_pool(pool, [leaders])
    else:
        return leaders
    return _order_of(leaders, pool)


def _order_of(leaders: Leaders, pool: Pool) -> Order:
    return Order(PickReason.EXPLOIT, 1.0, leaders.best(pool.fetch))


def _together(begun: Sequence[Order | Leaders], pool: Pool) -> Steps[list[Order]]:
    """All orders; those that need it by one pass over the pool."""
    if leaders := tuple(some for some in begun if isinstance(some, Leaders)):
        yield Scan(pool, leaders)
    return [_order_of(some, pool) if isinstance(some, Leaders) else some for some in begun]


def _validated(materials: Materials, snapshot: Snapshot) -> Order:
    """Validation items that have no vote, in hash order."""
    rows = materials.validation
    rows = rows[~np.isin(rows, snapshot.labelled())] if len(rows) else rows
    return Order(PickReason.VALIDATION, 1.0, unscored(rows, is_complete=True))


def _explored(materials: Materials, snapshot: Snapshot, depth: int) -> Order | None:
    """The next items of the fixed hash order that have no vote; None without exploration.

    Those of the validation slice are left out: they come before all others anyway.
    """
    share = snapshot.config.explore_fraction
    if not share:
        return None
    wanted = depth + len(snapshot.votes) + len(materials.validation)
    rows = materials.order.first(wanted)
    rows = rows[~np.isin(rows, np.union1d(snapshot.labelled(), materials.validation))]
    is_complete = wanted >= materials.order.length
    return Order(PickReason.EXPLORE, share, unscored(rows, is_complete=is_complete))
