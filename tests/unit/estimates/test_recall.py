"""Prevalence and recall against a slow twin, and what the number of needed labels promises."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coresift.server.estimates.recall import RecallEstimate, estimate_recall
from coresift.server.estimates.sequences import most_positives, positives_bounds
from coresift.server.selection.priority import random_order

ALPHA = 0.05


def estimated(
    order: npt.ArrayLike,
    labels: list[tuple[int, bool]],
    entries: list[int] | None = None,
    target: float | None = None,
) -> RecallEstimate:
    return estimate_recall(
        np.asarray(order, np.int32),
        np.array([row for row, _ in labels], np.int32),
        np.array([positive for _, positive in labels], np.bool_),
        np.array(range(len(labels)) if entries is None else entries, np.int64),
        alpha=ALPHA,
        target=target,
    )


def total_by_the_book(order: list[int], labels: list[tuple[int, bool]], entries: list[int]) -> int:
    """The least bound of all positives over the epochs, item by item."""
    labels_of = dict(labels)
    found = sum(labels_of.values())
    totals = [found + len(order) - len(labels)]
    epoch, count = 0, 0
    while count <= len(labels):
        while 0 < count < len(labels) and entries[count] == entries[count - 1]:
            count += 1
        before = [row for row, _ in labels[:count]]
        sample = []
        for row in (row for row in order if row not in before):
            if row not in labels_of:
                break
            sample.append(labels_of[row])
        rest = most_positives(
            len(order) - count, len(sample), sum(sample), ALPHA / ((epoch + 1) * (epoch + 2))
        )
        totals.append(sum(labels_of[row] for row in before) + rest)
        epoch += 1
        count = round(100 * 1.5 ** (epoch - 1))
    return max(found, min(totals))


@st.composite
def campaigns(draw: st.DrawFn) -> tuple[list[int], list[tuple[int, bool]], list[int]]:
    """An order over some of the rows, labels by two routes, and the calls they came in."""
    seed = draw(st.integers(0, 10_000))
    generator = np.random.default_rng(seed)
    rows, step = draw(st.integers(150, 600)), draw(st.integers(1, 30))
    order = [row for row in random_order(seed, "explore", rows, rows).tolist() if row % 7]
    truth = generator.random(rows) < draw(st.sampled_from([0.02, 0.3]))
    score = truth + generator.standard_normal(rows)
    left, labels, entries = dict.fromkeys(order), [], []
    for entry in range(draw(st.integers(0, len(order) // step))):
        exploit = sorted(left, key=lambda row: -score[row])[: step // 2]
        explore = [row for row in left if row not in exploit][: step - len(exploit)]
        for row in exploit + explore:
            del left[row]
            labels.append((row, bool(truth[row])))
            entries.append(entry)
    return order, labels, entries


@settings(max_examples=80, deadline=None)
@given(campaign=campaigns())
def test_the_bound_is_that_of_the_definition(
    campaign: tuple[list[int], list[tuple[int, bool]], list[int]],
) -> None:
    order, labels, entries = campaign
    result = estimated(order, labels, entries)
    found = sum(positive for _, positive in labels)
    total = total_by_the_book(order, labels, entries)
    assert result.positives_found == found
    assert result.recall_low == (found / total if total else None)
    labels_of = dict(labels)
    prefix = next((n for n, row in enumerate(order) if row not in labels_of), len(order))
    hits = sum(labels_of[row] for row in order[:prefix])
    low, high = positives_bounds(len(order), prefix, hits, ALPHA)
    assert result.sampled == prefix
    assert result.prevalence == (hits / prefix if prefix else None)
    assert result.prevalence_low * len(order) == pytest.approx(max(low, found))
    highest = min(high, found + len(order) - len(labels))
    assert result.prevalence_high * len(order) == pytest.approx(max(highest, found))
    if result.recall is not None:
        assert result.recall_low is not None
        assert result.recall_low <= result.recall <= 1


@settings(max_examples=80, deadline=None)
@given(campaign=campaigns(), target=st.sampled_from([0.5, 0.8, 0.9, 1.0]))
def test_the_labels_needed_suffice(
    campaign: tuple[list[int], list[tuple[int, bool]], list[int]], target: float
) -> None:
    order, labels, entries = campaign
    result = estimated(order, labels, entries, target)
    if not result.positives_found:
        assert result.labels_needed is None
        assert not result.is_certified
        return
    assert result.recall_low is not None
    assert result.is_certified == (result.recall_low >= target)
    assert result.labels_needed is not None
    assert (result.labels_needed == 0) == result.is_certified
    labelled = {row for row, _ in labels}
    rest = [(row, False) for row in order if row not in labelled][: result.labels_needed]
    assert len(rest) == result.labels_needed
    after = [*entries, *range(len(order), len(order) + len(rest))]
    assert estimated(order, labels + rest, after, target).is_certified


def test_fewer_labels_do_not_suffice_without_positives_ahead() -> None:
    order = list(range(400))
    labels = [(row, row % 9 == 0) for row in range(90)]
    needed = estimated(order, labels, target=0.5).labels_needed
    assert needed is not None
    for more in (needed - 1, needed):
        extended = labels + [(row, False) for row in range(90, 90 + more)]
        assert estimated(order, extended, target=0.5).is_certified == (more == needed)


def test_a_pool_that_is_labelled_whole_is_known() -> None:
    order = random_order(3, "explore", 60, 60)
    labels = [(row, row % 10 == 0) for row in range(60)]
    result = estimated(order, labels, target=1.0)
    assert result == RecallEstimate(60, 60, 6, 0.1, 0.1, 0.1, 1.0, 1.0, True, 0)
    negative = [(row, False) for row in range(60)]
    nothing = estimated(order, negative, target=0.9)
    assert nothing == RecallEstimate(60, 60, 0, 0.0, 0.0, 0.0, None, None, False, None)


def test_no_labels_tell_nothing() -> None:
    result = estimated([4, 2, 9], [], target=0.9)
    assert result == RecallEstimate(3, 0, 0, None, 0.0, 1.0, None, 0.0, False, None)


def test_rows_that_are_not_eligible_are_passed_over() -> None:
    labels = [(5, True), (2, False), (9, True)]
    more = [(1_000, True), *labels[:1], (3, True), *labels[1:]]
    assert estimated([9, 2, 7, 5], more, target=0.5) == estimated([9, 2, 7, 5], labels, target=0.5)


def test_an_epoch_starts_after_a_call() -> None:
    """A client that sends its positives first must not split a call at an epoch's start."""
    order = random_order(8, "explore", 1_000, 1_000)
    truth = np.arange(1_000) % 3 == 0
    call = sorted(order[:130].tolist(), key=lambda row: not truth[row])
    labels = [(row, bool(truth[row])) for row in call]
    whole = estimated(order, labels, [0] * 130)
    assert whole.recall_low is not None
    assert whole.recall_low <= 43 / most_positives(1_000, 130, 43, ALPHA / 2)
    split = estimated(order, labels)  # as if each label had been a call of its own
    assert split.recall_low is not None
    assert split.recall_low > whole.recall_low


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="eligible"):
        estimated([], [])
    for target in (0.0, 1.1):
        with pytest.raises(ValueError, match="target"):
            estimated([1], [], target=target)
