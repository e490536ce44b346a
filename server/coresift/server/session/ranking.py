"""From a session's labels to an order over rows. Pure functions, run on worker threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from coresift.server.arrays import Rows
from coresift.server.head import Head, Task, TrainingSet, fit
from coresift.server.pool.pool import Pool
from coresift.server.selection.priority import random_order
from coresift.server.selection.shortlist import Scored, fast_weights, top
from coresift.server.selection.strategies import STRATEGIES, Strategy
from coresift.server.session.candidates import BLOCK, Candidates
from coresift.server.session.config import SessionConfig
from coresift.server.session.labels import pack_class, training_targets
from coresift.server.session.view import View
from coresift.server.state.store import head_key


class PickReason(IntEnum):
    """Why an item was picked; the numbers of ``PickReason`` on the wire."""

    EXPLOIT = 1
    COLD_START = 2
    EXPAND = 3
    RANDOM = 4
    UNDER_VOTED = 5


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The labels of a view at its revision; safe to read on other threads."""

    config: SessionConfig
    config_version: int
    revision: int
    nonce: bytes
    votes: dict[int, dict[str, bytes]]
    ever: Rows

    @classmethod
    def of(cls, view: View) -> Snapshot:
        """A snapshot of the view as it is."""
        return cls(
            view.config,
            view.config_version,
            view.revision,
            view.nonce,
            dict(view.votes),
            np.fromiter(view.ever, np.int32, len(view.ever)),
        )

    def labelled(self) -> Rows:
        """Rows with a vote, ascending."""
        return np.sort(np.fromiter(self.votes, np.int32, len(self.votes)))

    def strategy(self) -> Strategy:
        """The session's strategy."""
        return STRATEGIES[self.config.strategy](self.config.task, self.config.seed)


@dataclass(frozen=True, slots=True)
class HeadState:
    """The head of a snapshot; ``head`` is None while the labels do not determine one."""

    snapshot: Snapshot
    head: Head | None

    @property
    def version(self) -> str:
        """Identifies the head by labels and configuration; empty without one."""
        if self.head is None:
            return ""
        return head_key(self.snapshot.revision, self.snapshot.nonce, self.snapshot.config_version)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Rows in the order in which they should be labelled.

    Attributes:
        state: labels and head that it comes from.
        candidates: what was ranked; None: the pool.
        scored: the rows; not ``complete`` where more candidates exist beyond the last.
        reason: why these rows.
        near: neighbours of the positives, where there was no head.
    """

    state: HeadState
    candidates: Candidates | None
    scored: Scored
    reason: PickReason
    near: Rows | None = None

    @property
    def snapshot(self) -> Snapshot:
        """The labels that it comes from."""
        return self.state.snapshot


def fit_head(pool: Pool, snapshot: Snapshot) -> Head | None:
    """The head of the snapshot's labels; None where they do not determine one."""
    config, rows = snapshot.config, snapshot.labelled()
    votes = [list(snapshot.votes[row].values()) for row in rows.tolist()]
    places, targets, opposed = training_targets(config.task, len(config.classes), votes)
    if not len(places):
        return None
    return fit(config.task, config.head, TrainingSet(pool.fetch(rows[places]), targets, opposed))


FIRST_DEPTH = 2_000
"""Rows of a first ranking; `deeper` ones are made when these are used up."""


def rank(
    pool: Pool,
    state: HeadState,
    candidates: Candidates | None,
    depth: int = FIRST_DEPTH,
    near: Rows | None = None,
) -> Ranking:
    """The first ``depth`` rows to label (or all there are).

    Args:
        candidates: None for the whole pool. Rows with a vote are left out.
        near: neighbours of `positive_rows`, int32 [n, k], if they are known; used only while
            there is no head.
    """
    snapshot = state.snapshot
    strategy, excluded = snapshot.strategy(), snapshot.labelled()
    if strategy.needs_head and state.head is None:
        if near is None:
            near = _nearest_to_positives(pool, snapshot)
        scored = _cold_start(pool, snapshot, near, depth)
        return Ranking(state, candidates, scored, PickReason.COLD_START, near)
    used = state.head if strategy.needs_head else None
    if candidates is None:
        blocks = whole_pool(pool, used)
    elif used is None:
        blocks = _without_logits(candidates.rows)
    else:
        blocks = candidates.logits(pool, used)
    scored = top(strategy, used, blocks, pool.fetch, excluded, depth, pool.max_norm)
    return Ranking(state, candidates, scored, PickReason.EXPLOIT)


Blocks = Iterator[tuple[Rows, npt.NDArray[np.float32]]]


def whole_pool(pool: Pool, head: Head | None, stop: Callable[[], bool] | None = None) -> Blocks:
    """All rows by blocks with their fast logits, float32 [m, K'] of the fitted columns."""
    if head is None:
        yield from _without_logits(np.arange(pool.manifest.items, dtype=np.int32))
        return
    weights, bias = fast_weights(head)
    yield from pool.scan(lambda block: (block.rows, block.product(weights) + bias), stop=stop)


def _without_logits(rows: Rows) -> Blocks:
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        yield part, np.empty((len(part), 0), np.float32)


def deeper(pool: Pool, ranking: Ranking) -> Ranking:
    """The same ranking with eight times the rows (or all there are)."""
    depth = 8 * max(1, len(ranking.scored.rows))
    return rank(pool, ranking.state, ranking.candidates, depth, ranking.near)


def _nearest_to_positives(pool: Pool, snapshot: Snapshot) -> Rows:
    rows, k = positive_rows(snapshot), min(snapshot.config.seals_k or 100, pool.manifest.items - 1)
    if not len(rows) or not k:
        return np.empty((0, 0), np.int32)
    return pool.neighbours(rows, k)


def _cold_start(pool: Pool, snapshot: Snapshot, nearest: Rows, depth: int) -> Scored:
    """An order before a head exists.

    Only positives labelled: by turns their neighbours (the nearest of each first) and random
    items. Otherwise typical items of distinct clusters (the start of Hacohen et al., 2022),
    then random ones.
    """
    config, items = snapshot.config, pool.manifest.items
    labelled = snapshot.labelled()
    wanted = min(items, depth + len(labelled))
    random = random_order(config.seed, "cold_start", items, wanted)
    if len(nearest):
        near = nearest.T.ravel()
        near = near[np.sort(np.unique(near, return_index=True)[1])]
        turns = np.concatenate([2.0 * np.arange(len(near)), 2.0 * np.arange(len(random)) + 1])
        rows = np.concatenate([near, random])[np.argsort(turns, kind="stable")]
    else:
        rows = np.concatenate([pool.cold_start_rows, random])
    rows = rows[np.sort(np.unique(rows, return_index=True)[1])]
    rows = rows[~np.isin(rows, labelled)].astype(np.int32)
    complete = wanted == items
    if not complete:
        rows = rows[:depth]
    return Scored(rows, np.full(len(rows), np.nan), np.full(len(rows), -1, np.int16), complete)


def positive_rows(snapshot: Snapshot) -> Rows:
    """Rows that some annotator calls positive, ascending; none unless the task is binary."""
    if snapshot.config.task is not Task.BINARY:
        return np.empty(0, np.int32)
    positive = pack_class(1)
    rows = [row for row, item in snapshot.votes.items() if positive in item.values()]
    return np.sort(np.array(rows, np.int32))
