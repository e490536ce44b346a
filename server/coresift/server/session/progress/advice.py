"""Whether to go on: the advice that a session's measures give, in a sentence. Pure functions."""

from __future__ import annotations

from enum import IntEnum
from math import floor

import numpy as np

from coresift.server.arrays import Rows
from coresift.server.estimates.stability import is_stable
from coresift.server.pool.groups import NO_GROUP
from coresift.server.session.progress.measures import PROBE_ITEMS, Measures, Sample
from coresift.server.session.setup.config import SessionConfig
from coresift.server.session.setup.materials import Materials


class StopAdvice(IntEnum):
    """Whether to stop, and why; the numbers of ``StopAdvice`` on the wire."""

    CONTINUE = 1
    BUDGET_SPENT = 2
    POOL_EXHAUSTED = 3
    RECALL_REACHED = 4
    STABILISED = 5


def exhausted(
    materials: Materials, config: SessionConfig, voted: Rows, lacking: Rows, hidden: Rows
) -> bool:
    """Whether no eligible row may get a further vote: it has its votes, is hidden, or its group
    has its one label.

    Args:
        voted: rows with a vote, in the order of their first ones.
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
        is_open &= ~np.isin(materials.groups, taken[taken != NO_GROUP])
        # Of labelled rows of a group only the first one may get further votes.
        in_groups = voted[materials.groups[voted] != NO_GROUP]
        first = np.unique(materials.groups[in_groups], return_index=True)[1]
        lacking = np.setdiff1d(lacking, np.delete(in_groups, first))
    is_open[materials.admits(lacking)] = True
    is_open[hidden] = False
    return not is_open.any()


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
