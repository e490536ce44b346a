"""The steps from a ranking to proposals: one logic for the live session and for replay.

A generator says what it needs next and is sent the answer: the live session awaits it, replay
computes it. What is free is read from the view in one go, between two steps; the proposals belong
to the view's offset at that moment, so that replay proposes the same.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np

from coresift.server.arrays import Rows
from coresift.server.selection.priority import priorities
from coresift.server.session.ranking.offers import Offer, Proposed, lacks, offer, runs_out
from coresift.server.session.ranking.proposals import (
    MAX_SHORTLIST,
    chosen,
    expansion,
    is_plain,
    shortlist_size,
)
from coresift.server.session.ranking.ranking import Ranking
from coresift.server.session.view.view import View


@dataclass(frozen=True, slots=True)
class Deeper:
    """Send the same ranking with at least ``wanted`` rows in each order, if there are as many."""

    ranking: Ranking
    wanted: int


@dataclass(frozen=True, slots=True)
class Ahead:
    """Nothing to send: a `Deeper` with the same will be wanted before long."""

    ranking: Ranking
    wanted: int


@dataclass(frozen=True, slots=True)
class NearLeased:
    """Send the neighbours of `sources`, int32, ascending."""


@dataclass(frozen=True, slots=True)
class Run:
    """Send what ``work`` returns; ``is_quick``: it takes no time."""

    work: Callable[[], list[Proposed]]
    is_quick: bool


MOST_SOURCES = 64
"""Leased rows that are looked around: a look-up of thousands would take seconds."""

Step = Deeper | Ahead | NearLeased | Run


class Outdated(Exception):  # noqa: N818 - no error: the caller ranks anew
    """The view has another configuration than the ranking, or changes too fast for a look-up."""


@dataclass(frozen=True, slots=True)
class Proposals:
    """Proposals, best first, and the offset of the view that they are from, with its nonce."""

    offset: int
    tip: bytes
    rows: list[Proposed]


def propose(
    look: Callable[[], View], ranking: Ranking, annotator: str, size: int, wanted: int
) -> Generator[Step, Any, Proposals]:
    """``wanted`` free rows for a batch of ``size``: others may lease a few meanwhile.

    Args:
        look: the view as it is now.

    Raises:
        Outdated: the view's configuration is not the ranking's.
    """
    config = ranking.snapshot.config
    needed = wanted if ranking.is_review else shortlist_size(config, wanted)
    while True:
        offered = free_rows(look, ranking, annotator, wanted, needed)
        while lacks(offered):
            ranking = yield Deeper(ranking, needed)
            offered = free_rows(look, ranking, annotator, wanted, needed)
        if runs_out(offered):
            yield Ahead(ranking, needed)
        near = np.empty(0, np.int32)
        if not offered.has_more and not ranking.is_review:
            near = yield NearLeased()
            offered = free_rows(look, ranking, annotator, wanted, needed)
        is_quick = ranking.is_review or (is_plain(config) and offered.has_more)
        found = yield Run(work_of(offered, ranking, near, wanted), is_quick)
        if len(found) >= size or not offered.has_more or needed >= MAX_SHORTLIST:
            return Proposals(offered.offset, offered.tip, found)
        needed = min(4 * needed, MAX_SHORTLIST)  # the limits of a batch left too little


def sources(view: View) -> Rows:
    """Leased rows, int32, ascending, whose neighbours help out where candidates run short: of many
    those with the largest hash."""
    rows = np.fromiter(view.leases, np.int32, len(view.leases))
    if len(rows) > MOST_SOURCES:
        priority = priorities(view.config.seed, "sources", rows)
        enough = priority >= np.partition(priority, -MOST_SOURCES)[-MOST_SOURCES]
        rows, priority = rows[enough], priority[enough]
        rows = rows[np.lexsort((rows, -priority))[:MOST_SOURCES]]
    return np.sort(rows)


def free_rows(
    look: Callable[[], View], ranking: Ranking, annotator: str, wanted: int, needed: int
) -> Offer:
    """The offer of this moment. Outdated."""
    view = look()
    if view.config_version != ranking.snapshot.config_version:
        raise Outdated
    return offer(ranking, view, annotator, wanted, needed)


def work_of(
    offered: Offer, ranking: Ranking, near: Rows, wanted: int
) -> Callable[[], list[Proposed]]:
    """The arrangement of an offer, for a worker thread."""

    def beyond(count: int) -> list[Proposed]:
        return expansion(ranking, near, offered.blocked(ranking), count)

    return lambda: chosen(offered, ranking, wanted, beyond)
