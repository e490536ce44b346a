"""What to label next, as values: orders over rows, one for each strategy of a session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np

from coresift.server.arrays import Rows
from coresift.server.selection.scoring import Scored
from coresift.server.selection.strategy import Situation
from coresift.server.session.ranking.candidates import Candidates
from coresift.server.session.ranking.passed import Passed
from coresift.server.session.setup.materials import Materials
from coresift.server.session.view.snapshot import HeadState, Snapshot, training_rows


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
        passed: the rows at its beginning that nobody can get; shared with the orders that this one
            goes on from.
    """

    reason: PickReason
    share: float
    scored: Scored
    details: Mapping[str, float] = field(default_factory=dict)
    component: int = 0
    is_ranked: bool = False
    passed: Passed = field(default_factory=Passed, repr=False, compare=False)

    def continuing(self, before: Order) -> Order:
        """This order in the place of one with fewer rows."""
        goes_on = np.array_equal(self.scored.rows[: len(before.scored.rows)], before.scored.rows)
        return replace(
            self,
            share=before.share,
            component=before.component,
            passed=before.passed if goes_on else self.passed,
        )


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

    def continues(self, other: Ranking) -> bool:
        """Whether this is the other ranking with more rows."""
        return self.state is other.state and any(
            len(own.scored.rows) > len(before.scored.rows)
            for own, before in zip(self.orders, other.orders, strict=True)
        )


def situation_of(materials: Materials, state: HeadState) -> Situation:
    """What strategies may know."""
    snapshot = state.snapshot
    config = snapshot.config
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
        learned=lambda: training_rows(materials, snapshot),
        budget=budget,
        signals=materials.signals,
    )
