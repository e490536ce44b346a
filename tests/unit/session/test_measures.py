"""Measures of a session against counts by hand, the advice they give, and who computes them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.pools import make_pool

from coresift.server.artifacts import Artifacts
from coresift.server.estimates.recall import RecallEstimate, estimate_recall
from coresift.server.estimates.stability import kappa
from coresift.server.head import Task, TrainingSet, fit
from coresift.server.pool.pool import Pool
from coresift.server.selection.priority import random_order
from coresift.server.session.progress.advice import StopAdvice, advise, exhausted
from coresift.server.session.progress.measures import Measures, Sample, measure
from coresift.server.session.setup.config import GroupRule, SessionConfig, StopRule
from coresift.server.session.setup.config_checks import complete
from coresift.server.session.setup.materials import Loader, Materials
from coresift.server.session.setup.pools import Pools
from coresift.server.session.view.labels import UNSURE, ClassSets, pack_class, pack_sets, unpack
from coresift.server.session.view.snapshot import Snapshot, head_state
from coresift.server.session.view.view import View
from coresift.server.session.view.votes import annotators_of, decide, items_after
from coresift.server.session.work.latest import Latest
from coresift.server.session.work.workers import Workers
from coresift.server.state.entries import LabelsEntry, ReleaseEntry
from coresift.server.state.values import RETRACTION, Release

N = 240
CLASSES = ("ham", "eggs", "spam")
HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Row n is of kind n % 3; split "a" holds the rows below 180, videos have 8 rows each."""
    X = np.random.default_rng(0).normal(size=(N, 6)) + 2.5 * np.eye(6)[np.arange(N) % 3]
    X = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)
    metadata = [{"split": "a" if row < 180 else "b", "video": str(row // 8)} for row in range(N)]
    return make_pool(tmp_path_factory.mktemp("pool"), X, metadata=metadata)


@pytest.fixture(scope="module")
def load(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Materials]:
    loader = Loader(Pools([pool]), Artifacts(str(tmp_path_factory.mktemp("artifacts"))))
    return loader.load


def a_config(pool: Pool, task: Task = Task.BINARY, **fields: Any) -> SessionConfig:
    classes = () if task is Task.BINARY else CLASSES
    config = SessionConfig(pool.manifest.name, pool.manifest.version, task, classes, seed=3)
    return complete(replace(config, **fields), pool)


class Session:
    """A view that labels come into, a call an entry."""

    def __init__(self, config: SessionConfig) -> None:
        self.view = View(config, 1)

    def label(self, annotator: str, labels: Mapping[int, bytes], time_ms: int = 0) -> None:
        offset = self.view.offset + 1
        rows, values = tuple(labels), tuple(labels.values())
        ids = tuple(f"item-{row}" for row in rows)
        nonce = b"%d" % offset
        entry = LabelsEntry(offset, time_ms, "q", nonce, annotator, rows, ids, values, ())
        self.view.apply([entry])

    def hide(self, *rows: int) -> None:
        reason = int(Release.CANNOT_LABEL)
        self.view.apply([ReleaseEntry(self.view.offset + 1, 0, "q", "ann", rows, reason)])

    def measures(self, load: Callable[..., Materials]) -> Measures:
        snapshot = Snapshot.of(self.view)
        materials = load(snapshot.config)
        return measure(materials, head_state(materials, snapshot), self.view.hidden)


def truth(task: Task, row: int) -> bytes:
    """Spam is positive; an item has its kind alone."""
    kind = row % 3
    match task:
        case Task.BINARY:
            return pack_class(int(kind == 2))
        case Task.MULTICLASS:
            return pack_class(kind)
    return pack_sets(ClassSets((kind,), tuple(sorted({0, 1, 2} - {kind}))))


# --- Votes ------------------------------------------------------------------------------------

VALUES = {
    Task.BINARY: [UNSURE, pack_class(0), pack_class(1)],
    Task.MULTICLASS: [UNSURE, *map(pack_class, range(3))],
    Task.MULTILABEL: [
        UNSURE,
        pack_sets(ClassSets((0,), (1, 2))),
        pack_sets(ClassSets((1, 2), (0,))),
        pack_sets(ClassSets((1,), ())),
        pack_sets(ClassSets((), (1, 2))),
    ],
}
Cast = Mapping[int, Mapping[str, bytes]]
"""Row to annotator to label."""


def said(value: bytes) -> dict[int, int]:
    """Decision (class of a multilabel item, else 0) to what the vote says."""
    content = unpack(value)
    if isinstance(content, ClassSets):
        return dict.fromkeys(content.present, 1) | dict.fromkeys(content.absent, 0)
    return {} if content is None else {0: content}


def majority(sides: Iterable[int]) -> int | None:
    """The side with the most votes; None for a tie and without votes."""
    sides = list(sides)
    counts = {side: sides.count(side) for side in sides}
    best = [side for side, count in counts.items() if count == max(counts.values())]
    return best[0] if len(best) == 1 else None


def opinions(votes: Mapping[str, bytes], without: str = "") -> dict[int, list[int]]:
    """Decision to what the annotators say of it."""
    found: dict[int, list[int]] = {}
    for name, value in votes.items():
        for column, side in said(value).items() if name != without else ():
            found.setdefault(column, []).append(side)
    return found


@st.composite
def casts(draw: st.DrawFn) -> tuple[Task, Cast]:
    task = draw(st.sampled_from(list(Task)))
    votes = st.dictionaries(
        st.sampled_from(["ann", "bob", "cyd", "dee"]), st.sampled_from(VALUES[task]), min_size=1
    )
    return task, draw(st.dictionaries(st.integers(0, N - 1), votes, max_size=12))


def snapshot_of(config: SessionConfig, cast: Cast) -> Snapshot:
    session = Session(config)
    for row, votes in cast.items():
        for name, value in votes.items():
            session.label(name, {row: value})
    return Snapshot.of(session.view)


@settings(max_examples=150, deadline=None)
@given(drawn=casts(), only_conflicts=st.booleans())
def test_consensus_is_a_count_by_hand(
    pool: Pool, drawn: tuple[Task, Cast], only_conflicts: bool
) -> None:
    task, cast = drawn
    decisions = decide(snapshot_of(a_config(pool, task), cast))
    expected = []
    for row, votes in sorted(cast.items()):
        by_column = opinions(votes)
        shares = [max(map(sides.count, sides)) / len(sides) for sides in by_column.values()]
        won = {column: majority(sides) for column, sides in by_column.items()}
        is_conflict = any(len(set(sides)) > 1 for sides in by_column.values())
        if is_conflict or not only_conflicts:
            is_multilabel = task is Task.MULTILABEL
            sets = [
                tuple(sorted(c for c, side in won.items() if is_multilabel and side == wanted))
                for wanted in (1, 0)
            ]
            expected.append(
                (
                    row,
                    len(votes),
                    sum(value == UNSURE for value in votes.values()),
                    None if is_multilabel else won.get(0),
                    *sets,
                    min(shares, default=0.0),
                    is_conflict,
                )
            )
    listed, after, has_more = [], -1, True
    while has_more:
        page, has_more = items_after(decisions, after, 3, only_conflicts=only_conflicts)
        listed += [tuple(getattr(item, name) for name in item.__slots__) for item in page]
        after = page[-1].row if page else after
    assert listed == expected
    for found in annotators_of(decisions):
        own = {row: votes for row, votes in cast.items() if found.annotator in votes}
        compared = agreed = 0
        for votes in own.values():
            others = opinions(votes, without=found.annotator)
            mine = said(votes[found.annotator])
            theirs = {column: majority(others.get(column, ())) for column in mine}
            decided = [column for column, side in theirs.items() if side is not None]
            compared += bool(decided)
            agreed += bool(decided) and all(theirs[column] == mine[column] for column in decided)
        unsure = sum(votes[found.annotator] == UNSURE for votes in own.values())
        counted = (found.votes, found.unsure_votes, found.compared, found.agreed)
        assert counted == (len(own), unsure, compared, agreed)
    names = {name for votes in cast.values() for name in votes}
    assert [found.annotator for found in annotators_of(decisions)] == sorted(names)


# --- The random sample ------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_the_random_sample_is_what_the_votes_say(
    pool: Pool, load: Callable[..., Materials], data: st.DataObject
) -> None:
    task = data.draw(st.sampled_from(list(Task)))
    number = data.draw(st.integers(0, 1 if task is Task.BINARY else 2))
    config = a_config(pool, task, filter=data.draw(st.sampled_from(["", 'split == "a"'])))
    config = replace(config, stop=StopRule(0.8, 0.9, config.classes[number]))
    session, rng = Session(config), random.Random(data.draw(st.integers(0, 1000)))
    order = [
        row for row in random_order(3, "explore", N, N).tolist() if row < 180 or not config.filter
    ]
    ahead = data.draw(st.integers(0, 30))
    rows = order[:ahead] + rng.sample(range(N), data.draw(st.integers(0, 20)))
    rng.shuffle(rows)
    first: dict[int, int] = {}  # row -> entry that labelled or hid it first
    hidden: set[int] = set()
    for row in rows:
        offset = session.view.offset + 1
        if rng.random() < 0.1:
            session.hide(row)
            hidden.add(row)
        else:
            value = RETRACTION if rng.random() < 0.1 else rng.choice(VALUES[task])
            session.label(rng.choice(["ann", "bob", "cyd"]), {row: value})
        first.setdefault(row, offset)
    known = {}
    for row in first:
        votes = session.view.votes.get(row, {})
        sides = opinions(votes)
        column, wanted = (number, 1) if task is Task.MULTILABEL else (0, number)
        if column in sides:
            known[row] = majority(sides[column]) == wanted
        elif row in hidden or (votes and not sides):
            known[row] = False
    prefix = 0
    while prefix < len(order) and order[prefix] in known:
        prefix += 1
    inside = [known[row] for row in order[:prefix]]
    beyond = [positive for row, positive in known.items() if row in order[prefix:]]
    sample = session.measures(load).sample
    assert sample is not None
    found = sample.estimate
    assert (found.population, found.sampled, sample.positives) == (len(order), prefix, sum(inside))
    assert found.positives_found == sum(inside) + sum(beyond)
    assert found.prevalence == (sum(inside) / prefix if prefix else None)
    lift = None
    if sum(inside) and beyond:
        lift = pytest.approx((sum(beyond) / len(beyond)) / (sum(inside) / prefix))
    assert sample.lift == lift
    assert (sample.class_name, sample.confidence) == (config.classes[number], 0.9)


def test_rows_are_dated_by_what_came_first(pool: Pool, load: Callable[..., Materials]) -> None:
    config = replace(a_config(pool), stop=StopRule(0.5))
    session = Session(config)
    order = random_order(3, "explore", N, N)
    calls = [order[start : start + 30] for start in range(0, 210, 30)]
    for rows in calls:  # the first row of each call is hidden before, and labelled all the same
        session.hide(int(rows[0]))
        session.label("ann", {row: truth(Task.BINARY, row) for row in rows[1:].tolist()})
    session.label("bob", {int(rows[0]): pack_class(1) for rows in calls})
    labelled = np.concatenate(calls)
    offsets = [2 * call + (place > 0) + 1 for call in range(7) for place in range(30)]
    hidden = {int(rows[0]) for rows in calls}
    positive = [row % 3 == 2 or row in hidden for row in labelled.tolist()]
    expected = estimate_recall(
        order, labelled, np.array(positive), np.array(offsets), alpha=1 - 0.95, target=0.5
    )
    sample = session.measures(load).sample
    assert sample is not None
    assert sample.estimate == expected


def test_a_tie_and_what_nobody_can_tell_are_not_positive(
    pool: Pool, load: Callable[..., Materials]
) -> None:
    session = Session(a_config(pool))
    a, b, c, d, e = random_order(3, "explore", N, 5).tolist()
    session.label("ann", {a: pack_class(1), b: pack_class(1), c: UNSURE, d: pack_class(1)})
    session.label("bob", {b: pack_class(0), d: UNSURE})
    session.hide(e)
    sample = session.measures(load).sample
    assert sample is not None
    assert (sample.estimate.sampled, sample.positives) == (5, 2)


@pytest.mark.parametrize("task", [Task.MULTICLASS, Task.MULTILABEL])
def test_without_a_class_there_is_no_sample(
    pool: Pool, load: Callable[..., Materials], task: Task
) -> None:
    session = Session(a_config(pool, task))
    session.label("ann", {0: truth(task, 0)})
    assert session.measures(load).sample is None


# --- The head ---------------------------------------------------------------------------------


@pytest.mark.parametrize("task", list(Task))
def test_successive_heads(pool: Pool, load: Callable[..., Materials], task: Task) -> None:
    config = a_config(pool, task, validation_size=20, filter='split == "a"')
    session, rng = Session(config), np.random.default_rng(1)
    materials = load(config)
    rows = rng.permutation(N)[:120].tolist()
    for row in rows:
        session.label("ann", {row: truth(task, row)})
    session.label("ann", {rows[0]: RETRACTION})
    session.label("ann", {rows[0]: truth(task, rows[0] + 1)})  # a present vote on an old item
    probe = [row for row in random_order(3, "probe", N, N).tolist() if row < 180]
    X = pool.fetch(np.array(probe, np.int32))
    trained = [row for row in rows if row not in set(materials.validation.tolist())]
    assert len(trained) < 120
    predicted = []
    for tenths in (7, 8, 9, 10):
        kept = np.array(trained[: len(trained) * tenths // 10], np.int32)
        _, targets, opposed = Snapshot.of(session.view).targets_of(kept)
        head = fit(task, config.head, TrainingSet(pool.fetch(kept), targets, opposed))
        assert head is not None
        logits = head.logits(X)
        predicted.append(logits.argmax(axis=1) if task is Task.MULTICLASS else (logits > 0).ravel())
    expected = [kappa(a, b) for a, b in pairwise(predicted)]
    assert session.measures(load).kappas == pytest.approx(expected, abs=1e-12)
    assert None not in expected


def test_successive_heads_need_fifty_training_items(
    pool: Pool, load: Callable[..., Materials]
) -> None:
    session = Session(a_config(pool))
    session.label("ann", {row: truth(Task.BINARY, row) for row in range(49)})
    session.label("ann", {100: UNSURE})
    assert session.measures(load).kappas == ()
    session.label("ann", {49: truth(Task.BINARY, 49)})
    assert len(session.measures(load).kappas) == 3


def test_nothing_is_stable_while_a_head_is_missing(
    pool: Pool, load: Callable[..., Materials]
) -> None:
    session = Session(a_config(pool))
    for row in range(0, 180, 3):  # only the negative kind
        session.label("ann", {row: pack_class(0)})
    measures = session.measures(load)
    assert measures.kappas == (None, None, None)
    assert measures.unfitted_classes == ("positive",)
    session.label("ann", {2: pack_class(1)})
    measures = session.measures(load)
    assert measures.kappas == (None, None, None)
    assert advise(measures.config, N, measures, exhausted=False)[0] == StopAdvice.CONTINUE
    assert measures.unfitted_classes == ()


@pytest.mark.parametrize("task", list(Task))
def test_validation_counts_what_its_votes_decide(
    pool: Pool, load: Callable[..., Materials], task: Task
) -> None:
    config = a_config(pool, task, validation_size=30)
    validation = load(config).validation.tolist()
    session = Session(config)
    session.label("ann", {row: truth(task, row) for row in range(60) if row not in validation})
    assert session.measures(load).validation is None
    a, b, *rest = validation
    session.label("ann", {row: truth(task, row) for row in rest[:12]} | {a: UNSURE})
    session.label("ann", {b: truth(task, b)})
    session.label("bob", {b: truth(task, b + (2 if b % 3 else 1))})
    found = session.measures(load).validation
    head = head_state(load(config), Snapshot.of(session.view)).head
    assert found is not None
    assert head is not None
    # Two annotators who contradict each other on two classes agree on the third.
    assert found.items == 12 + (task is Task.MULTILABEL)
    if task is not Task.MULTILABEL:
        logits = head.logits(pool.fetch(np.array(rest[:12], np.int32)))
        best = logits.argmax(axis=1) if task is Task.MULTICLASS else logits[:, 0] > 0
        right = [int(p) == unpack(truth(task, r)) for p, r in zip(best, rest[:12], strict=True)]
        assert found.accuracy is not None
        assert found.accuracy.value == sum(right) / 12
    else:
        assert found.accuracy is None
    assert (found.average_precision is None) == (task is Task.MULTICLASS)


def test_validation_without_a_head_has_only_a_count(
    pool: Pool, load: Callable[..., Materials]
) -> None:
    config = a_config(pool, validation_size=30)
    session = Session(config)
    session.label("ann", {int(row): truth(Task.BINARY, row) for row in load(config).validation})
    found = session.measures(load).validation
    assert found is not None
    assert (found.items, found.accuracy, found.average_precision) == (30, None, None)


# --- Advice -----------------------------------------------------------------------------------


def a_sample(**fields: Any) -> Sample:
    estimate = RecallEstimate(1000, 50, 412, 0.05, 0.412, 0.43, 0.97, 412 / 430, True, 0)
    return Sample("spam", 3, 0.95, replace(estimate, **fields), None)


def advised(
    config: SessionConfig, votes: int = 5, *, is_exhausted: bool = False, **fields: Any
) -> tuple[StopAdvice, str]:
    measures = Measures(config, 1, 0, "", (), 0, votes, 0, (), None, (), None)
    return advise(config, 600, replace(measures, **fields), exhausted=is_exhausted)


def test_the_first_reason_that_holds_is_given(pool: Pool) -> None:
    config = a_config(pool, stop=StopRule(0.95), label_budget=5)
    all_of_it: dict[str, Any] = {"is_exhausted": True, "sample": a_sample(), "kappas": (1.0,) * 3}
    advice, reason = advised(config, **all_of_it)
    assert (advice, reason) == (StopAdvice.BUDGET_SPENT, "the label budget of 5 is spent")
    advice, reason = advised(config, 4, **all_of_it)
    assert advice is StopAdvice.POOL_EXHAUSTED
    assert "600" in reason
    advice, reason = advised(config, 4, **all_of_it | {"is_exhausted": False})
    assert advice is StopAdvice.RECALL_REACHED
    assert reason == (
        "412 of an estimated at most 430 positives are labelled: "
        "recall is at least 0.95 at confidence 0.95"
    )
    short = a_sample(recall_low=0.9499, is_certified=False, labels_needed=240)
    advice, reason = advised(config, 4, sample=short, kappas=(1.0, 0.99, 0.981))
    assert advice is StopAdvice.STABILISED
    assert "0.990" in reason
    advice, reason = advised(config, 4, sample=short, kappas=(1.0, 0.98, 0.98))
    assert (advice, reason) == (
        StopAdvice.CONTINUE,
        "recall is certified from 0.94; at least 240 more random labels are needed for 0.95 "
        "if none of them is positive",
    )


def test_what_else_there_is_to_say(pool: Pool) -> None:
    config = a_config(pool, stop=StopRule(0.95))
    nothing = a_sample(positives_found=0, recall_low=0.0, is_certified=False, labels_needed=None)
    assert advised(config, sample=nothing)[1] == (
        "no item is known to be 'spam' yet, so recall cannot be certified"
    )
    plain = a_config(pool)
    assert "0.500" in advised(plain, sample=nothing, kappas=(0.4, None, 0.6))[1]
    for kappas in ((), (None, None, None)):
        assert advised(plain, sample=nothing, kappas=kappas) == (
            StopAdvice.CONTINUE,
            "nothing speaks for stopping yet",
        )


@pytest.mark.parametrize("kappas", [(None, 1.0, 1.0), (1.0, 1.0, None), (1.0, 1.0), ()])
def test_undefined_agreement_is_never_stable(pool: Pool, kappas: tuple[float | None, ...]) -> None:
    assert advised(a_config(pool), kappas=kappas)[0] is StopAdvice.CONTINUE


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_pool_is_exhausted_when_no_row_is_open(
    pool: Pool, load: Callable[..., Materials], data: st.DataObject
) -> None:
    config = a_config(
        pool,
        filter=data.draw(st.sampled_from(["", 'split == "b"'])),
        groups=data.draw(
            st.sampled_from([None, GroupRule("video"), GroupRule("video", 1, True, True)])
        ),
    )
    rows = range(180 if config.filter else 0, N)
    kinds = data.draw(st.sampled_from(["done", "mixed", "a video each"]))
    rng = random.Random(data.draw(st.integers(0, 1000)))
    voted = {row for row in rows if kinds != "a video each" or row % 8 == 0}
    lacking, hidden = set(), set(rng.sample(sorted(voted), 3)) if kinds == "mixed" else set()
    if kinds == "mixed":
        voted -= set(rng.sample(sorted(hidden), rng.randrange(3)))
        lacking = set(rng.sample(sorted(voted), rng.randrange(3)))
    one_label = config.groups is not None and config.groups.one_label
    taken = {row // 8 for row in voted} if one_label else set()
    first = {min(row for row in voted if row // 8 == group) for group in taken}
    is_open = [
        row not in hidden
        and (
            (row in lacking and (not one_label or row in first))
            or (row not in voted and row // 8 not in taken)
        )
        for row in rows
    ]
    arrays = [np.array(sorted(some), np.int32) for some in (voted, lacking, hidden)]
    assert exhausted(load(config), config, *arrays) == (not any(is_open))


# --- The rate, and sharing --------------------------------------------------------------------


def test_the_rate_is_of_the_hour_up_to_the_newest_label(pool: Pool) -> None:
    session = Session(a_config(pool))
    assert session.view.labels_per_hour() == 0
    session.label("ann", {1: pack_class(1), 2: UNSURE}, 1_000)
    session.label("ann", {3: pack_class(1)}, 1_500)
    assert session.view.labels_per_hour() == 3
    session.label("ann", {1: pack_class(0), 3: pack_class(1)}, 2_000)  # one is as it was
    session.label("ann", {3: RETRACTION}, HOUR_MS)
    assert session.view.labels_per_hour() == 4
    session.label("bob", {5: pack_class(1)}, HOUR_MS + 1_000)  # an hour after the first call
    assert session.view.labels_per_hour() == 2
    session.label("bob", {6: pack_class(1)}, 100 * HOUR_MS)
    assert session.view.labels_per_hour() == 1
    session.hide(7)
    assert session.view.labels_per_hour() == 1


class Counted:
    """Makes results of a state that the test moves; counts how often."""

    def __init__(self) -> None:
        self.state, self.made = 0, 0
        self.may_go = asyncio.Event()
        self.fails = False

    async def find(self, began: float) -> tuple[Hashable, Callable[[], Awaitable[int]]]:
        state = self.state

        async def make() -> int:
            await self.may_go.wait()
            if self.fails:
                raise ValueError("no result")
            self.made += 1
            return state

        return state, make


async def test_waiting_callers_share_a_result() -> None:
    workers, counted = Workers(1), Counted()
    latest: Latest[int] = Latest(workers, 2)
    calls = [asyncio.create_task(latest.of("one", 0.0, counted.find)) for _ in range(5)]
    await asyncio.sleep(0)
    calls[0].cancel()  # the work goes on for the others
    counted.may_go.set()
    assert await asyncio.gather(*calls[1:]) == [0] * 4
    assert counted.made == 1
    assert await latest.of("one", 0.0, counted.find) == 0
    counted.state = 1
    assert await latest.of("one", 0.0, counted.find) == 1
    assert counted.made == 2
    for other in ("two", "three"):  # "one" is no longer kept
        await latest.of(other, 0.0, counted.find)
    await latest.of("one", 0.0, counted.find)
    assert counted.made == 5
    await workers.drain(1)


async def test_a_failure_is_not_kept() -> None:
    workers, counted = Workers(1), Counted()
    counted.may_go.set()
    latest: Latest[int] = Latest(workers, 2)
    counted.fails = True
    with pytest.raises(ValueError, match="no result"):
        await latest.of("one", 0.0, counted.find)
    counted.fails = False
    assert await latest.of("one", 0.0, counted.find) == 0
    await workers.drain(1)
