"""Which rows to offer an annotator, in order, from a ranking and the view's leases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from coresift.server.arrays import Rows
from coresift.server.selection.batch import Shortlist
from coresift.server.selection.limits import Limits, within
from coresift.server.selection.registry import batch_policy_of, strategy_of
from coresift.server.selection.shortlist import canonical
from coresift.server.selection.strategy import Ranker
from coresift.server.session.config import SessionConfig
from coresift.server.session.materials import Materials
from coresift.server.session.ranking import Order, PickReason, Ranking, situation_of
from coresift.server.session.view import View
from coresift.server.state.store import MAX_PROPOSALS, NO_GROUP

MAX_SHORTLIST = 16_384
"""Rows that a batch policy and the limits of a batch look at."""
CHUNK = 512
"""Rows of an order looked at together; most calls need no more."""


@dataclass(frozen=True, slots=True)
class Proposed:
    """A row to offer. ``score`` is NaN where no strategy chose it."""

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


@dataclass(frozen=True, slots=True)
class TakenGroups:
    """Groups that have a lease or a label, where a rule allows one, and the row that has it.

    As the claim script has it: a further annotator may get that very row, nobody another one.
    """

    groups: Rows
    holders: Rows
    """int32 [groups]: the row that has the lease or label; FREE or SEVERAL."""

    @classmethod
    def of(cls, materials: Materials, view: View, *, is_review: bool) -> TakenGroups:
        """The groups that a view knows to be taken; second looks heed leases alone."""
        rule, groups = materials.rule, materials.groups
        if rule is None or groups is None or not rule.one_lease:
            return cls(np.empty(0, np.int32), np.empty(0, np.int32))
        holders = np.full(int(groups.max(initial=NO_GROUP)) + 1, FREE, np.int32)
        if rule.one_label and not is_review:
            rows = np.fromiter(view.votes, np.int32, len(view.votes))
            rows = rows[groups[rows] != NO_GROUP]
            # The first to be labelled counts: of equal places NumPy keeps the last assignment.
            holders[groups[rows[::-1]]] = rows[::-1]
        for row in view.leases:
            if (group := groups[row]) != NO_GROUP and holders[group] != row:
                holders[group] = row if holders[group] == FREE else SEVERAL
        return cls(groups, holders)

    def admits(self, row: int) -> bool:
        """Whether the row's group is free, or taken by the row itself."""
        if not len(self.holders) or (group := self.groups[row]) == NO_GROUP:
            return True
        return bool(self.holders[group] in (FREE, row))


FREE, SEVERAL = -1, -2


@dataclass(frozen=True, slots=True)
class Offer:
    """What is free for an annotator at one moment of the view.

    Attributes:
        offset: of the view.
        first: rows that go before all strategies.
        free: of each strategy's order.
        recent: rows that became unavailable since the ranking's snapshot.
    """

    offset: int
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
        """Rows, ascending, that the annotator cannot get."""
        recent = np.array(self.recent, np.int32)
        return np.union1d(ranking.snapshot.labelled(), recent).astype(np.int32)


def over_ask(size: int) -> int:
    """Rows to propose for a batch: other replicas may have leased a few meanwhile."""
    return min(MAX_PROPOSALS, 2 * size + 32)


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


def offer(ranking: Ranking, view: View, annotator: str, wanted: int, needed: int) -> Offer:
    """The rows of a ranking that are free for the annotator: ``needed`` of each order, which
    suffice for ``wanted`` proposals."""
    taken = TakenGroups.of(ranking.materials, view, is_review=ranking.is_review)
    votes, leases, hidden, skips = view.votes, view.leases, view.hidden, view.skips

    def is_new(row: int) -> bool:
        return (
            row not in votes
            and row not in hidden
            and (row not in leases or view.free_for(row, annotator))
            and (row, annotator) not in skips
            and taken.admits(row)
        )

    def is_reviewable(row: int) -> bool:
        return view.free_for_review(row, annotator) and taken.admits(row)

    def free(order: Order, needed: int) -> Free:
        rows, is_free = order.scored.rows, is_reviewable if ranking.is_review else is_new
        places: list[int] = []
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK].tolist()
            places += [start + place for place, row in enumerate(part) if is_free(row)]
            if len(places) >= needed:
                break
        return Free(order, places[:needed], needed)

    if ranking.is_review:
        return Offer(view.offset, [], None, [free(ranking.orders[0], wanted)], taken, [])
    first = _under_voted(ranking.materials, view, annotator, taken, wanted)
    validation = free(ranking.validation, needed)
    first += _proposed(validation.order, validation.places)
    explore = None if ranking.explore is None else free(ranking.explore, needed)
    # An order whose choices depend on each other is diverse itself, and dear.
    orders = [
        free(order, max(wanted, needed // 5) if order.is_ranked else needed)
        for order in ranking.orders
    ]
    return Offer(view.offset, first, explore, orders, taken, _recent(ranking, view, annotator))


def _recent(ranking: Ranking, view: View, annotator: str) -> list[int]:
    """Rows that are leased, skipped, hidden, or labelled since the ranking's snapshot."""
    recent = [row for row in view.leases if not view.free_for(row, annotator)]
    recent += [row for row, name in view.skips if name == annotator]
    recent += view.hidden
    for row, offset in reversed(view.ever.items()):
        if offset <= ranking.snapshot.revision:
            break
        recent.append(row)
    return recent


def lacks(offered: Offer) -> bool:
    """Whether a deeper ranking could fill an offer that is short."""
    orders = [*offered.free, *([offered.explore] if offered.explore is not None else [])]
    return any(free.is_cut for free in orders)


def chosen(
    offered: Offer, ranking: Ranking, wanted: int, beyond: Callable[[int], list[Proposed]]
) -> list[Proposed]:
    """Up to ``wanted`` proposals: items that lack votes, then validation items, then the orders
    by their shares, each as the batch policy arranges it; all within the limits of a batch.

    Args:
        beyond: so many rows beyond the candidates; called where these are all looked at.
    """
    if ranking.is_review:  # the most doubtful first, whatever the policy for new items
        return _proposed(offered.free[0].order, offered.free[0].places)
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
        orders.append(_proposed(offered.explore.order, offered.explore.places))
        shares.append(config.explore_fraction)
    first = offered.first[:reach]
    return first + merge(orders, shares, reach - len(first), {p.row for p in first})


def merge(
    orders: list[list[Proposed]], shares: list[float], count: int, seen: set[int]
) -> list[Proposed]:
    """Up to ``count`` distinct proposals, none of them ``seen`` before, each from the order that
    lags most behind its share."""
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
    groups = config.groups
    limits = Limits(
        max_similarity=config.batch.max_similarity,
        class_shares=tuple(
            (config.classes.index(name), share) for name, share in config.batch.class_shares
        ),
        max_per_group=None if groups is None else groups.max_per_batch,
    )
    return limits if limits != Limits() else None


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
    proposed = _proposed(free.order, free.places)
    limits = _limits(config)
    if is_plain(config):
        return proposed[:reach]
    rows = np.array([p.row for p in proposed], np.int32)
    shortlist = _shortlist(ranking, proposed)
    places = batch_policy_of(config.batch.policy).arrange(shortlist, reach)
    if limits is not None:
        predicted = np.array([p.predicted for p in proposed], np.int16)
        groups = ranking.materials.groups_of(rows)
        places = within(limits, shortlist, places, reach, predicted, groups)
    return [proposed[place] for place in places.tolist()]


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


def _proposed(order: Order, places: list[int]) -> list[Proposed]:
    scored = order.scored
    return [
        Proposed(row, score, predicted, order.reason, order.component)
        for row, score, predicted in zip(
            scored.rows[places].tolist(),
            scored.scores[places].tolist(),
            scored.predicted[places].tolist(),
            strict=True,
        )
    ]


def _under_voted(
    materials: Materials, view: View, annotator: str, taken: TakenGroups, wanted: int
) -> list[Proposed]:
    """Labelled items that lack further votes, those with most votes first."""
    votes = view.votes
    open_rows = [row for row in view.under_voted if annotator not in votes[row]]
    lacking = materials.admits(np.array(open_rows, np.int32))
    counts = np.fromiter((len(votes[row]) for row in lacking.tolist()), np.int64, len(lacking))
    found: list[Proposed] = []
    for row in lacking[np.lexsort((lacking, -counts))].tolist():
        if len(found) == wanted:
            break
        if view.free_for(row, annotator) and taken.admits(row):
            found.append(Proposed(row, float("nan"), -1, PickReason.UNDER_VOTED))
    return found


def expansion(ranking: Ranking, near: Rows, blocked: Rows, wanted: int) -> list[Proposed]:
    """Rows beyond the candidates: ``near`` by the first strategy's score, then random ones.

    Args:
        ranking: complete.
        near: neighbours of leased items, ascending.
        blocked: ascending rows that the annotator cannot get; left out.
        wanted: at most so many rows, fewer only if the pool has no more.
    """
    materials, config = ranking.materials, ranking.snapshot.config
    used = np.union1d(ranking.ranked_rows(), np.union1d(blocked, materials.validation))
    outside = materials.admits(np.setdiff1d(near, used).astype(np.int32))
    expanded = _scored(ranking, outside) if len(outside) else []
    used = np.union1d(used, outside)
    fill = materials.random(config.seed, "fill").first(wanted + len(used))
    fill = fill[~np.isin(fill, used)][:wanted]
    filled = [Proposed(row, float("nan"), -1, PickReason.RANDOM) for row in fill.tolist()]
    return (expanded + filled)[:wanted]


def _scored(ranking: Ranking, rows: Rows) -> list[Proposed]:
    """Rows by the score of the first strategy, as far as it scores them one by one."""
    strategy = strategy_of(ranking.snapshot.config.mix[0].strategy)
    if not ranking.is_cold:
        prepared = strategy.prepare(situation_of(ranking.materials, ranking.state))
        if not isinstance(prepared, Ranker):
            head, fetch = ranking.state.head, ranking.materials.pool.fetch
            scored = canonical(prepared, head, rows, fetch)
            order = Order(PickReason.EXPAND, 1.0, scored)
            return _proposed(order, list(range(len(rows))))
    return [Proposed(row, float("nan"), -1, PickReason.EXPAND) for row in rows.tolist()]
