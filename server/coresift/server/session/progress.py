"""How far a session is, and whether to go on: GetSessionProgress."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from enum import IntEnum
from math import floor

import numpy as np

from coresift.server.arrays import Rows
from coresift.server.estimates.stability import is_stable
from coresift.server.head import Task
from coresift.server.session.config import SessionConfig
from coresift.server.session.latest import Latest
from coresift.server.session.live import LiveSession
from coresift.server.session.materials import Materials
from coresift.server.session.measures import PROBE_ITEMS, Measures, Sample, measure
from coresift.server.session.snapshot import HeadState
from coresift.server.session.view import View
from coresift.server.session.workers import Workers
from coresift.server.state.store import Store

KEPT_SESSIONS = 1_000
"""Whose measures are kept, each with its snapshot: as many as there are live sessions."""


class StopAdvice(IntEnum):
    """Whether to stop, and why; the numbers of ``StopAdvice`` on the wire."""

    CONTINUE = 1
    BUDGET_SPENT = 2
    POOL_EXHAUSTED = 3
    RECALL_REACHED = 4
    STABILISED = 5


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a session is; see GetSessionProgressResponse."""

    config: SessionConfig
    config_version: int
    revision: int
    head_version: str
    pool_items: int
    eligible_items: int
    labelled_items: int
    votes: int
    unsure_votes: int
    labels_per_hour: float
    live_leases: int
    candidates: int
    considered_share: float
    classes: tuple[tuple[str, int, int], ...]
    """Name, votes present, votes absent (multilabel)."""
    unfitted_classes: tuple[str, ...]
    hidden_items: int
    measures: Measures
    advice: StopAdvice
    reason: str
    """Of the advice, in a sentence."""


class ProgressReports:
    """GetSessionProgress, over a store and the replica's live sessions."""

    def __init__(self, store: Store, workers: Workers) -> None:
        self._store, self._workers = store, workers
        self._latest: Latest[Measures] = Latest(workers, KEPT_SESSIONS)

    async def of(self, live: LiveSession) -> Progress:
        """Counts of labels, leases and candidates, with the head up to the newest label.

        What only labels change is computed once a revision; leases and hidden items are those of
        this moment.
        """
        began = time.monotonic()
        measures = await self._measures(live, began)
        candidates, considered = await live.candidate_counts(began)
        leases = await self._store.leases(live.uid)
        is_exhausted = await self._is_exhausted(live)
        state, view = measures.state, live.view
        snapshot = state.snapshot
        config = snapshot.config
        materials = await live.materials(config)
        advice, reason = advise(config, materials.eligible_items, measures, exhausted=is_exhausted)
        return Progress(
            config=config,
            config_version=snapshot.config_version,
            revision=snapshot.revision,
            head_version=state.version,
            pool_items=materials.pool.manifest.items,
            eligible_items=materials.eligible_items,
            labelled_items=len(snapshot.votes),
            votes=measures.votes,
            unsure_votes=measures.unsure_votes,
            labels_per_hour=float(view.labels_per_hour()),
            live_leases=len(leases),
            candidates=candidates,
            considered_share=considered,
            classes=measures.classes,
            unfitted_classes=unfitted_classes(state),
            hidden_items=len(view.hidden),
            measures=measures,
            advice=advice,
            reason=reason,
        )

    async def _measures(self, live: LiveSession, began: float) -> Measures:
        async def find() -> tuple[Hashable, Callable[[], Awaitable[Measures]]]:
            state = await live.fitted(began)
            snapshot = state.snapshot
            materials = await live.materials(snapshot.config)
            # A later pool version may have come with the hidden rows, but not with the snapshot.
            items = materials.pool.manifest.items
            hidden = {row: offset for row, offset in live.view.hidden.items() if row < items}

            async def make() -> Measures:
                return await self._workers.run(lambda: measure(materials, state, hidden))

            key = (snapshot.revision, snapshot.nonce, snapshot.config_version, len(hidden))
            return key, make

        return await self._latest.of(live.uid, find)

    async def _is_exhausted(self, live: LiveSession) -> bool:
        config = live.config
        materials = await live.materials(config)
        if live.config is not config:  # changed meanwhile
            return await self._is_exhausted(live)
        voted, lacking, hidden = _rows_of(live.view)
        return await self._workers.run(lambda: exhausted(materials, config, voted, lacking, hidden))


def _rows_of(view: View) -> tuple[Rows, Rows, Rows]:
    """Rows with votes, those of them that lack votes, and hidden ones."""
    voted, lacking, hidden = (
        np.fromiter(rows, np.int32, len(rows))
        for rows in (view.votes, view.under_voted, view.hidden)
    )
    return voted, lacking, hidden


def exhausted(
    materials: Materials, config: SessionConfig, voted: Rows, lacking: Rows, hidden: Rows
) -> bool:
    """Whether no eligible row may get a further vote: it has its votes, is hidden, or its group
    has its one label.

    Args:
        voted: rows with a vote.
        lacking: those of them that lack votes.
        hidden: rows that nobody can label.
    """
    if materials.eligible is None:
        is_open = np.ones(materials.pool.manifest.items, np.bool_)
    else:
        is_open = materials.eligible.copy()
    is_open[voted] = False
    if materials.groups is not None and config.groups is not None and config.groups.one_label:
        taken = np.unique(materials.groups[voted])
        is_open &= ~np.isin(materials.groups, taken[taken >= 0])
    is_open[materials.admits(lacking)] = True
    is_open[hidden] = False
    return not is_open.any()


def unfitted_classes(state: HeadState) -> tuple[str, ...]:
    """Names of the columns that the head lacks; all without a head."""
    config = state.snapshot.config
    names = config.classes[1:] if config.task is Task.BINARY else config.classes
    if state.head is None:
        return names
    return tuple(name for name, ok in zip(names, state.head.fitted, strict=True) if not ok)


def advise(
    config: SessionConfig, eligible_items: int, measures: Measures, *, exhausted: bool
) -> tuple[StopAdvice, str]:
    """Whether to stop, and why: the first reason that holds."""
    budget, sample, kappas = config.label_budget, measures.sample, measures.kappas
    if budget is not None and measures.votes >= budget:
        return StopAdvice.BUDGET_SPENT, f"the label budget of {budget} is spent"
    if exhausted:
        return (
            StopAdvice.POOL_EXHAUSTED,
            f"none of the {eligible_items} items that may be labelled can get a further label",
        )
    if sample is not None and sample.estimate.is_certified:
        return StopAdvice.RECALL_REACHED, _recall_reached(config, sample)
    if is_stable(kappas):
        return StopAdvice.STABILISED, (
            f"the last heads agree on {PROBE_ITEMS} random items: "
            f"Cohen's kappa is {_mean(kappas):.3f} on average"
        )
    return StopAdvice.CONTINUE, _to_go_on(config, measures)


def _to_go_on(config: SessionConfig, measures: Measures) -> str:
    sample, kappas = measures.sample, measures.kappas
    if config.stop.target_recall is not None and sample is not None:
        return _recall_missing(config, sample)
    if any(value is not None for value in kappas):
        average = f"Cohen's kappa of successive ones is {_mean(kappas):.3f} on average"
        return f"the heads have not settled: {average}"
    return "nothing speaks for stopping yet"


def _recall_reached(config: SessionConfig, sample: Sample) -> str:
    found = sample.estimate
    total = round(found.positives_found / found.recall_low) if found.recall_low else 0
    return (
        f"{found.positives_found} of an estimated at most {total} positives are labelled: recall "
        f"is at least {config.stop.target_recall:g} at confidence {config.stop.confidence:g}"
    )


def _recall_missing(config: SessionConfig, sample: Sample) -> str:
    found = sample.estimate
    if not found.positives_found:
        return f"no item is known to be {sample.class_name!r} yet, so recall cannot be certified"
    low = floor(100 * (found.recall_low or 0.0)) / 100  # never rounded up to the target
    return (
        f"recall is certified from {low:.2f}; at least {found.labels_needed} more random labels "
        f"are needed for {config.stop.target_recall:g} if none of them is positive"
    )


def _mean(kappas: tuple[float | None, ...]) -> float:
    known = [value for value in kappas if value is not None]
    return sum(known) / len(known)
