"""How common the positives are, and how many of them have been found: bounds for every look.

**Prevalence.** A keyed hash fixes an order of the eligible rows before any label is known, so the
longest fully labelled prefix of that order, by whatever route its rows were labelled, is a simple
random sample without replacement. Its confidence sequence (`sequences`) holds at all prefix
lengths together, so also at one that depends on the labels or on what the strategy does next.

**Recall by elusion** (Roitblat, 2007, names the test; here it is exact and may be looked at any
number of times). The whole-pool sample says little about recall once most positives are labelled.
Epoch j starts when a given number of rows is labelled, and restricts the order to the rows U_j
that are unlabelled then. The prefix of that restricted order is a simple random sample of U_j:

- which rows are labelled before the epoch depends on the order through those rows alone.
  Exploring takes the first unlabelled row, so it tells that the rows it took come before all of
  U_j, and nothing about the order within U_j; exploiting never reads the order.
- the starts are a function of the count of labelled rows, not of what the sample shows.

Hence P(positives in U_j <= high_j at all looks) >= 1 - alpha_j, and then no more than
found_at_start_j + high_j positives exist. With alpha_j = alpha / ((j + 1)(j + 2)), j = 0 being the
whole pool, the shares sum to alpha: the least of these totals, at every look, is right with
probability 1 - alpha. Recall is at least found_now over it.

What must hold for this: whether an explored row is labelled before or after an epoch's start may
not depend on its class. Therefore an epoch starts between two entries of the log, never among the
labels of one call. Rows that are leased for exploring across a start are a limit of it: they
matter only if annotators are systematically faster on one class, and by no more rows than these.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

from coresift.server.arrays import Bools, Int64s, Rows
from coresift.server.estimates.sequences import draws_needed, most_positives, positives_bounds

FIRST_EPOCH = 100
"""Labelled rows at the start of epoch 1; each further epoch starts at 1.5 times as many."""


@dataclass(frozen=True, slots=True)
class RecallEstimate:
    """What the labels tell of a concept in the eligible rows.

    The bounds of the prevalence hold at all looks with probability 1 - alpha, and so does the
    bound of the recall; both together with 1 - 2 alpha.

    Attributes:
        population: eligible rows.
        sampled: length of the fully labelled prefix of the hash order.
        positives_found: labelled positives, by whatever route.
        prevalence: share of positives in the prefix, unbiased at any fixed length; None if empty.
        prevalence_low, prevalence_high: of the share of positives in the population. They also
            know the positives found elsewhere, so the estimate may lie outside them.
        recall: share of all positives that has been found, estimated from the epoch that bounds
            it best; None without a sample in it or where no positive is known or likely.
        recall_low: None where the bounds leave no positive in the population.
        is_certified: recall_low is at least the target.
        labels_needed: the further labels, in the hash order and none of them positive, after
            which the target would be certified; 0 if it is, None without a target or where no
            positive is found yet. A positive among them makes it more.
    """

    population: int
    sampled: int
    positives_found: int
    prevalence: float | None
    prevalence_low: float
    prevalence_high: float
    recall: float | None
    recall_low: float | None
    is_certified: bool
    labels_needed: int | None


def estimate_recall(
    order: Rows,
    labelled: Rows,
    positive: Bools,
    entries: Int64s,
    *,
    alpha: float = 0.05,
    target: float | None = None,
) -> RecallEstimate:
    """Prevalence and recall of a concept, from a session's labels.

    Args:
        order: int32 [N], the eligible rows in the hash order; N >= 1.
        labelled: int32 [L], distinct labelled rows in the order of their first label. Those that
            are not eligible are passed over. A row that nobody can label, or whose votes are all
            unsure, belongs here as one that is not positive; a retracted one does not.
        positive: bool [L], what is known of them now.
        entries: int64 [L], not descending, offset of the log entry of that first label.
        alpha: probability that a bound fails at any look.
        target: recall to certify, in (0, 1].

    Raises:
        ValueError: no eligible rows, or a target out of range.
    """
    if not len(order):
        raise ValueError("no rows are eligible")
    if target is not None and not 0 < target <= 1:
        raise ValueError(f"target recall {target} is not in (0, 1]")
    evidence = _evidence(order, labelled, positive, entries, alpha)
    prefix, found = evidence.prefix(), evidence.found
    found_in_prefix = evidence.sample(prefix)[1][0]
    low, high = positives_bounds(len(order), prefix, found_in_prefix, alpha)
    greatest = found + evidence.unlabelled(prefix)
    total, epoch = evidence.total_high(prefix)
    is_certified, needed = False, None
    if target is not None and found:
        allowed = _greatest_total(found, target)
        is_certified = total <= allowed
        needed = 0 if is_certified else evidence.labels_needed(allowed)
    return RecallEstimate(
        population=len(order),
        sampled=prefix,
        positives_found=found,
        prevalence=found_in_prefix / prefix if prefix else None,
        prevalence_low=min(max(low, found), greatest) / len(order),
        prevalence_high=max(min(high, greatest), found) / len(order),
        recall=evidence.recall(prefix, epoch),
        recall_low=found / total if total else None,
        is_certified=is_certified,
        labels_needed=needed,
    )


@dataclass(frozen=True, slots=True)
class _Evidence:
    """The labelled rows by their place in the hash order.

    Attributes:
        population: rows in the order.
        places: int64 [L], ascending, places of the labelled rows in the order.
        epochs: int64 [L], the last epoch that had started before the row was labelled.
        positive: bool [L].
        starts: int64 [J], labelled rows at the start of each epoch; the first is 0.
        alpha: to be shared by the epochs.
    """

    population: int
    places: Int64s
    epochs: Int64s
    positive: Bools
    starts: Int64s
    alpha: float

    @property
    def found(self) -> int:
        return int(np.count_nonzero(self.positive))

    def prefix(self) -> int:
        """Length of the fully labelled prefix of the order."""
        gaps = np.flatnonzero(self.places != np.arange(len(self.places)))
        return int(gaps[0]) if len(gaps) else len(self.places)

    def unlabelled(self, reach: int) -> int:
        """Rows without a label once the first ``reach`` of the order all have one."""
        return self.population - reach - len(self.places) + self._labelled_within(reach)

    def sample(self, reach: int) -> tuple[list[int], list[int]]:
        """Drawn and found per epoch when the first ``reach`` are labelled, no new one positive."""
        within = slice(0, self._labelled_within(reach))
        drawn = reach - _before(self.epochs[within], len(self.starts))
        positives = self.epochs[within][self.positive[within]]
        found = len(positives) - _before(positives, len(self.starts))
        return drawn.tolist(), found.tolist()

    def found_at_starts(self) -> list[int]:
        """Positives, as known now, among the rows labelled before each epoch."""
        before: list[int] = _before(self.epochs[self.positive], len(self.starts)).tolist()
        return before

    def total_high(self, reach: int) -> tuple[int, int]:
        """The best bound of all positives, and the epoch that it comes from."""
        drawn, found = self.sample(reach)
        totals = [
            earlier + most_positives(self.population - start, n, k, _share(self.alpha, epoch))
            for epoch, (start, earlier, n, k) in enumerate(
                zip(self.starts.tolist(), self.found_at_starts(), drawn, found, strict=True)
            )
        ]
        best = min(totals)
        # What is labelled already bounds the total on both sides with certainty.
        total = max(self.found, min(best, self.found + self.unlabelled(reach)))
        return total, totals.index(best)

    def recall(self, reach: int, epoch: int) -> float | None:
        """Recall as the epoch's sample estimates it."""
        drawn, found = (numbers[epoch] for numbers in self.sample(reach))
        if not drawn:
            return None
        rest = (self.population - int(self.starts[epoch])) * found / drawn
        total = max(self.found_at_starts()[epoch] + rest, self.found)
        return self.found / total if total else None

    def labels_needed(self, allowed: int) -> int:
        """Labels in the hash order, none positive, until at most ``allowed`` positives exist.

        By the epochs there are, or by the next one if that is sooner. Positives that are labelled
        already and lie ahead in the order count when the sample reaches them; therefore the
        number always suffices, but in rare cases a smaller one would too.
        """
        # The sample ends before a row without a label: it passes over those that have one, and a
        # positive among them raises the bound again.
        ahead = np.arange(self.prefix(), self.population)
        reaches = np.append(np.setdiff1d(ahead, self.places, assume_unique=True), self.population)
        needed = bisect_left(
            reaches, True, key=lambda reach: self.total_high(int(reach))[0] <= allowed
        )
        epoch, start = len(self.starts), _grid(len(self.starts))
        if start < self.population:
            more = draws_needed(
                self.population - start, 0, 0, allowed - self.found, _share(self.alpha, epoch)
            )
            if more is not None:
                needed = min(needed, start - len(self.places) + more)
        return needed

    def _labelled_within(self, reach: int) -> int:
        return int(np.searchsorted(self.places, reach))


def _evidence(
    order: Rows, labelled: Rows, positive: Bools, entries: Int64s, alpha: float
) -> _Evidence:
    rows = max(int(order.max()), int(labelled.max(initial=0))) + 1
    eligible = np.zeros(rows, np.bool_)
    eligible[order] = True
    counted = eligible[labelled]
    labelled, positive, entries = labelled[counted], positive[counted], entries[counted]
    ranks = np.full(rows, -1, np.int32)
    ranks[labelled] = np.arange(len(labelled), dtype=np.int32)
    by_place = ranks[order]
    places = np.flatnonzero(by_place >= 0)
    ranks = by_place[places]
    starts = _starts(entries)
    epochs = np.searchsorted(starts, ranks, side="right") - 1
    return _Evidence(len(order), places, epochs, positive[ranks], starts, alpha)


def _grid(epoch: int) -> int:
    """Labelled rows that start an epoch."""
    return round(FIRST_EPOCH * 1.5 ** (epoch - 1)) if epoch else 0


def _starts(entries: Int64s) -> Int64s:
    """Labelled rows at each epoch's start: a number of the grid, and the rest of its log entry."""
    starts = [0]
    while (count := _grid(len(starts))) <= len(entries):
        starts.append(int(np.searchsorted(entries, entries[count - 1], side="right")))
    return np.array(starts, np.int64)


def _share(alpha: float, epoch: int) -> float:
    """The epoch's share of alpha; the shares of all epochs sum to alpha."""
    return alpha / ((epoch + 1) * (epoch + 2))


def _before(epochs: Int64s, count: int) -> Int64s:
    """How many of the rows were labelled before each epoch, int64 [count]."""
    counts = np.bincount(epochs, minlength=count)
    return np.cumsum(counts) - counts


def _greatest_total(found: int, target: float) -> int:
    """The greatest number of positives of which ``found`` are at least the target share."""
    total = int(found / target) + 1  # the division may round either way
    while total > 0 and found / total < target:
        total -= 1
    return total
