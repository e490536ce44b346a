"""What of a ranking is free for an annotator at one moment of a view."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple

import numpy as np

from coresift.server.arrays import Rows
from coresift.server.session.ranking.ranking import Order, PickReason, Ranking
from coresift.server.session.ranking.taken_groups import TakenGroups
from coresift.server.session.setup.materials import Materials
from coresift.server.session.view.view import View

CHUNK = 64
"""At least so many rows of an order are looked at together, or half as many again as are needed."""


class Proposed(NamedTuple):
    """A row to offer. ``score`` is NaN where no strategy chose it.

    A tuple, as every call makes some fifty: a frozen dataclass takes four times as long.
    """

    row: int
    score: float
    predicted: int
    reason: PickReason
    component: int = 0
    """Place in the session's mix of the strategy that scored it."""


@dataclass(frozen=True, slots=True)
class Free:
    """Free rows of an order: the first ``needed`` of them, or all that it has so far."""

    order: Order
    places: list[int]
    needed: int

    @property
    def has_more(self) -> bool:
        """Whether there may be further ones."""
        return len(self.places) >= self.needed or not self.order.scored.complete

    @property
    def is_cut(self) -> bool:
        """Whether a deeper order could hold the missing ones."""
        return len(self.places) < self.needed and not self.order.scored.complete

    @property
    def runs_out(self) -> bool:
        """Whether more than half of the order is behind, and a deeper one could hold more.

        Not where choices depend on each other: such orders are dear, and labels may come first.
        """
        order, behind = self.order, self.places[0] if self.places else 0
        is_cut = not (order.scored.complete or order.is_ranked)
        return is_cut and 2 * behind > len(order.scored.rows)


@dataclass(frozen=True, slots=True)
class Offer:
    """What is free for an annotator at one moment of the view.

    Attributes:
        offset, tip: of the view.
        first: rows that go before all strategies.
        free: of each strategy's order.
        recent: rows that became unavailable since the ranking's snapshot; only where the orders
            have no more, so that rows beyond them are looked for.
    """

    offset: int
    tip: bytes
    first: list[Proposed]
    explore: Free | None
    free: list[Free]
    taken: TakenGroups
    recent: list[int]

    @property
    def has_more(self) -> bool:
        """Whether the strategies' orders may hold further free rows."""
        return any(free.has_more for free in self.free)

    def blocked(self, ranking: Ranking) -> Rows:
        """Rows that the annotator cannot get."""
        return np.concatenate([ranking.snapshot.labelled(), np.array(self.recent, np.int32)])


def offer(ranking: Ranking, view: View, annotator: str, wanted: int, needed: int) -> Offer:
    """The rows of a ranking that are free for the annotator: ``needed`` of each order, which
    suffice for ``wanted`` proposals."""
    taken = TakenGroups.of(ranking.materials, view, is_review=ranking.is_review)
    free_places = view.places_for_review if ranking.is_review else view.places_for

    def free(order: Order, needed: int) -> Free:
        rows = order.scored.rows
        places: list[int] = []
        first = 0 if ranking.is_review else order.passed.of(view)
        chunk = max(CHUNK, needed + needed // 2)
        for start in range(first, len(rows), chunk):
            part = rows[start : start + chunk].tolist()
            found = free_places(part, annotator)
            if not taken.is_empty:
                found = [place for place in found if taken.admits(part[place])]
            places += [start + place for place in found]
            if len(places) >= needed:
                break
        if not ranking.is_review:
            order.passed.move(rows, view, places[0] if places else len(rows))
        return Free(order, places[:needed], needed)

    if ranking.is_review:
        return Offer(view.offset, view.tip, [], None, [free(ranking.orders[0], wanted)], taken, [])
    first = _under_voted(ranking.materials, view, annotator, taken, wanted)
    validation = free(ranking.validation, needed)
    first += proposed(validation.order, validation.places)
    explore = None if ranking.explore is None else free(ranking.explore, needed)
    # An order whose choices depend on each other is diverse itself, and dear.
    orders = [
        free(order, max(wanted, needed // 5) if order.is_ranked else needed)
        for order in ranking.orders
    ]
    has_more = any(order.has_more for order in orders)
    recent = [] if has_more else _recent(ranking, view, annotator)
    return Offer(view.offset, view.tip, first, explore, orders, taken, recent)


def _recent(ranking: Ranking, view: View, annotator: str) -> list[int]:
    """Rows that are leased, skipped, hidden, or labelled since the ranking's snapshot."""
    if view.config.votes_per_item == 1 and not view.extra:
        recent = list(view.leases)
    else:
        recent = [row for row in view.leases if not view.free_for(row, annotator)]
    recent += [row for row, name in view.skips if name == annotator]
    recent += view.hidden
    for row, offset in zip(reversed(view.ever_rows), reversed(view.ever_offsets), strict=True):
        if offset <= ranking.snapshot.revision:
            break
        recent.append(row)
    return recent


def lacks(offered: Offer) -> bool:
    """Whether a deeper ranking could fill an offer that is short."""
    return any(free.is_cut for free in _deepening(offered))


def runs_out(offered: Offer) -> bool:
    """Whether an offer as large may be short before long, which a deeper ranking could fill."""
    return any(free.runs_out for free in _deepening(offered))


def _deepening(offered: Offer) -> list[Free]:
    return offered.free if offered.explore is None else [*offered.free, offered.explore]


def proposed(order: Order, places: list[int]) -> list[Proposed]:
    """The rows at some places of an order."""
    if not places:
        return []
    scored, at = order.scored, np.array(places)
    columns = (column[at].tolist() for column in (scored.rows, scored.scores, scored.predicted))
    return list(map(Proposed._make, zip(*columns, repeat(order.reason), repeat(order.component))))


def _under_voted(
    materials: Materials, view: View, annotator: str, taken: TakenGroups, wanted: int
) -> list[Proposed]:
    """Labelled items that lack further votes, those with most votes first."""
    votes = view.votes
    open_rows = [row for row in view.under_voted if annotator not in votes[row]]
    if not open_rows:
        return []
    lacking = materials.admits(np.array(open_rows, np.int32))
    counts = np.fromiter((len(votes[row]) for row in lacking.tolist()), np.int64, len(lacking))
    found: list[Proposed] = []
    for row in lacking[np.lexsort((lacking, -counts))].tolist():
        if len(found) == wanted:
            break
        if view.free_for(row, annotator) and taken.admits(row):
            found.append(Proposed(row, float("nan"), -1, PickReason.UNDER_VOTED))
    return found
