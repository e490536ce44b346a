"""Simulated campaigns: bounds hold at all looks together, and certified recall is there.

Annotators look after every 20 labels. Most labels go to what scores highest, with scores that
sharpen on the positives as they are found; the rest goes in the hash order. Within a call the
positives are sent first, as a client may.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.stats import hypergeom

from coresift.server.arrays import Bools, Int64s, Rows
from coresift.server.estimates.recall import RecallEstimate, estimate_recall
from coresift.server.selection.priority import random_order

ITEMS, CAMPAIGNS, CALL = 3_000, 200, 20
TARGETS = (0.8, 0.9)


@dataclass(frozen=True)
class Setting:
    """How common the positives are, how well scores find them, and how labels are spent.

    ``certifies``: whether a good part of the campaigns are long enough to certify a recall of 0.8.
    """

    share: float
    separation: float
    explore: float
    labels: int
    certifies: bool


SETTINGS = {
    "1 %": Setting(0.01, 4.0, 0.4, 800, False),
    "1 %, long": Setting(0.01, 5.0, 0.8, 2_400, True),
    "5 %": Setting(0.05, 4.0, 0.5, 1_300, True),
    "5 %, poor scores": Setting(0.05, 1.0, 0.6, 800, False),
}


def campaign(setting: Setting, seed: int) -> Iterator[tuple[Bools, RecallEstimate]]:
    generator = np.random.default_rng(seed)
    truth = generator.random(ITEMS) < setting.share
    score = generator.standard_normal(ITEMS) + setting.separation * truth
    order = random_order(seed, "explore", ITEMS, ITEMS)
    free, labelled, entries = np.ones(ITEMS, np.bool_), np.empty(0, np.int32), np.empty(0, np.int64)
    explored = round(setting.explore * CALL)
    for call in range(setting.labels // CALL):
        # The more was found, the surer the scores: choices depend on all labels so far.
        sharpness = np.count_nonzero(truth[labelled]) / (10 + np.count_nonzero(truth[labelled]))
        noise = (1 - sharpness) * generator.standard_normal(ITEMS)
        exploit = np.argpartition(np.where(free, -(score + noise), np.inf), CALL - explored)
        exploit = exploit[: CALL - explored]
        free[exploit] = False
        rest = order[free[order]][:explored]
        free[rest] = False
        batch: Rows = np.concatenate([exploit, rest]).astype(np.int32)
        labelled = np.concatenate([labelled, batch[np.argsort(~truth[batch], kind="stable")]])
        entries = np.append(entries, np.full(CALL, call))
        yield truth, look(order, labelled, truth, entries)


def look(order: Rows, labelled: Rows, truth: Bools, entries: Int64s) -> RecallEstimate:
    return estimate_recall(order, labelled, truth[labelled], entries)


@pytest.mark.parametrize("name", SETTINGS)
def test_bounds_hold_at_all_looks_and_stops_are_true(name: str) -> None:
    prevalence_failed = recall_failed = 0
    stopped, stopped_falsely = dict.fromkeys(TARGETS, 0), dict.fromkeys(TARGETS, 0)
    for seed in range(CAMPAIGNS):
        prevalence_holds = recall_holds = True
        waiting = set(TARGETS)
        for truth, estimate in campaign(SETTINGS[name], seed):
            positives = np.count_nonzero(truth)
            share, recall = positives / ITEMS, estimate.positives_found / positives
            assert estimate.recall_low is not None
            prevalence_holds &= estimate.prevalence_low <= share <= estimate.prevalence_high
            recall_holds &= estimate.recall_low <= recall
            for target in [t for t in waiting if estimate.recall_low >= t]:
                waiting.remove(target)
                stopped[target] += 1
                stopped_falsely[target] += recall < target
        prevalence_failed += not prevalence_holds
        recall_failed += not recall_holds
    assert prevalence_failed <= 0.05 * CAMPAIGNS
    assert recall_failed <= 0.05 * CAMPAIGNS
    for target in TARGETS:
        assert stopped_falsely[target] < 0.05 * CAMPAIGNS
    assert (stopped[0.8] > 0.4 * CAMPAIGNS) == SETTINGS[name].certifies


def test_an_interval_for_one_look_would_fail() -> None:
    """The campaigns are long enough to tell: a fixed-sample interval breaks under the looks."""
    generator = np.random.default_rng(0)
    positives, looks = 150, np.arange(CALL, 1_200, CALL)
    truth = np.arange(ITEMS) < positives
    failed = 0
    for _ in range(CAMPAIGNS):
        found = np.cumsum(generator.permutation(truth))[looks - 1]
        tails = (
            hypergeom.cdf(found, ITEMS, positives, looks),
            hypergeom.sf(found - 1, ITEMS, positives, looks),
        )
        failed += bool((np.minimum(*tails) < 0.025).any())
    assert failed > 0.1 * CAMPAIGNS
