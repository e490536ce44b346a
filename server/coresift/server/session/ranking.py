"""From a session's labels to orders over rows. Pure functions, run on worker threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np

from coresift.server.arrays import Bools, Rows
from coresift.server.pool.pool import Pool
from coresift.server.selection.registry import Choice, strategy_of
from coresift.server.selection.shortlist import Columns, Scored, predicted_classes, top
from coresift.server.selection.strategy import Part, Ranker, Situation
from coresift.server.session.candidates import BLOCK, Candidates
from coresift.server.session.cold_start import cold_start, nearest_to_positives, unscored
from coresift.server.session.materials import Materials
from coresift.server.session.passed import Passed
from coresift.server.session.snapshot import HeadState, Snapshot, training_rows


class PickReason(IntEnum):
    """Why an item was picked; the numbers of ``PickReason`` on the wire."""

    EXPLOIT = 1
    COLD_START = 2
    EXPAND = 3
    RANDOM = 4
    UNDER_VOTED = 5
    EXPLORE = 6
    VALIDATION = 7
    REVIEW = 8


@dataclass(frozen=True, slots=True)
class Order:
    """Rows in the order in which one strategy would have them labelled.

    Attributes:
        reason: why these rows.
        share: of each batch, of the sum over all orders.
        component: place of the strategy in the session's mix.
        is_ranked: each choice depends on those before it.
        scored: the rows; not ``complete`` where more exist beyond the last.
        details: what the strategy found on its way.
        passed: the rows at its beginning that nobody can get.
    """

    reason: PickReason
    share: float
    scored: Scored
    details: Mapping[str, float] = field(default_factory=dict)
    component: int = 0
    is_ranked: bool = False
    passed: Passed = field(default_factory=Passed, init=False, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Ranking:
    """What to label next: an order for each strategy, the random ones beside them.

    Attributes:
        state: labels and head that it comes from.
        candidates: what was ranked; None: all eligible rows of the pool.
        orders: of the strategies; batches are made up of them by their shares.
        explore: the exploration share, where there is one.
        validation: rows to be labelled before all others.
        near: neighbours of the positives, where there was no head.
        is_review: the one order holds labelled rows for a second look.
    """

    materials: Materials
    state: HeadState
    candidates: Candidates | None
    orders: tuple[Order, ...]
    explore: Order | None
    validation: Order
    near: Rows | None = None
    is_review: bool = False

    @property
    def snapshot(self) -> Snapshot:
        """The labels that it comes from."""
        return self.state.snapshot

    @property
    def is_cold(self) -> bool:
        """Whether there was no head for the strategy."""
        return self.orders[0].reason is PickReason.COLD_START

    @property
    def complete(self) -> bool:
        """Whether no candidate is missing from the strategies' orders."""
        return all(order.scored.complete for order in self.orders)

    @property
    def details(self) -> Mapping[str, float]:
        """What the strategies found on their way; in a mix under the path of each."""
        return {
            name if len(self.orders) == 1 else f"shares[{order.component}].{name}": value
            for order in self.orders
            for name, value in order.details.items()
        }

    def ranked_rows(self) -> Rows:
        """Rows of all orders of the strategies, ascending."""
        return np.unique(np.concatenate([order.scored.rows for order in self.orders]))


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
        situation = situation_of(materials, state)
        total = sum(part.share for part in mix)
        orders = tuple(
            replace(
                _order(part.strategy, situation, candidates, blocked),
                share=part.share / total,
                component=number,
            )
            for number, part in enumerate(mix)
        )
    explore = _explored(materials, snapshot, FIRST_DEPTH)
    return Ranking(
        materials, state, candidates, orders, explore, _validated(materials, snapshot), near
    )


def situation_of(materials: Materials, state: HeadState) -> Situation:
    """What strategies may know."""
    snapshot = state.snapshot
    config, (rows, targets, opposed) = snapshot.config, training_rows(materials, snapshot)
    budget = None
    if config.label_budget is not None:
        budget = max(0, config.label_budget - snapshot.vote_count())
    return Situation(
        pool=materials.pool,
        task=config.task,
        seed=config.seed,
        revision=snapshot.revision,
        head=state.head,
        head_config=config.head,
        labelled=snapshot.labelled(),
        train_rows=rows,
        targets=targets,
        opposed=opposed,
        budget=budget,
        signals=materials.signals,
    )


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
) -> Order:
    """The first rows of a strategy's order: more than are ``known``, and ``wanted`` at least."""
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
    columns = Columns.of(prepared, head)
    parts = whole_pool(pool, columns) if candidates is None else candidates.parts_of(pool, columns)
    depth = max(FIRST_DEPTH, 8 * known, 2 * wanted)
    scored = top(prepared, head, parts, pool.fetch, blocked, depth, pool.max_norm)
    return Order(PickReason.EXPLOIT, 1.0, scored)


def whole_pool(
    pool: Pool, columns: Columns, stop: Callable[[], bool] | None = None
) -> Iterator[Part]:
    """All rows by blocks."""
    if columns.weights is None:
        rows = np.arange(pool.manifest.items, dtype=np.int32)
        for start in range(0, len(rows), BLOCK):
            yield columns.part(rows[start : start + BLOCK], None)
    else:
        yield from pool.scan(lambda block: columns.part(block.rows, block.product), stop=stop)


def deeper(ranking: Ranking, wanted: int = 0) -> Ranking:
    """The same ranking with more rows: many more, and ``wanted`` at least, if there are as many."""
    materials, state = ranking.materials, ranking.state
    snapshot = state.snapshot
    blocked = _blocked(materials, snapshot)
    deepest = max(wanted, *(len(order.scored.rows) for order in ranking.orders))
    explore = _explored(materials, snapshot, 8 * max(FIRST_DEPTH, deepest))
    if ranking.is_cold:
        near = ranking.near if ranking.near is not None else np.empty((0, 0), np.int32)
        scored = cold_start(materials, snapshot, near, blocked, 8 * max(1, deepest))
        orders: tuple[Order, ...] = (replace(ranking.orders[0], scored=scored),)
        return replace(ranking, orders=orders, explore=explore)
    situation = situation_of(materials, state)
    orders = tuple(
        order
        if order.scored.complete
        else replace(
            _order(
                part.strategy,
                situation,
                ranking.candidates,
                blocked,
                len(order.scored.rows),
                max(wanted // 5, wanted if not order.is_ranked else 0),
            ),
            share=order.share,
            component=order.component,
        )
        for part, order in zip(snapshot.config.mix, ranking.orders, strict=True)
    )
    return replace(ranking, orders=orders, explore=explore)


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
