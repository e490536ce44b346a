"""Every kind of grant on two replicas: replay finds the same picks, a repeated call the same."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from tests.fixtures.pools import extend_pool, make_pool
from tests.fixtures.replicas import Replica, now, only, rows_of
from tests.fixtures.sessions import a_request

from coresift.server.arrays import Bools, Float64s, Int64s, Rows
from coresift.server.errors import CoresiftError, Reason
from coresift.server.estimates.activelab import second_opinions
from coresift.server.estimates.consensus import Votes
from coresift.server.estimates.second_look import class_probabilities
from coresift.server.head import Head, HeadConfig, Task, TrainingSet, fit
from coresift.server.pool.pool import Pool
from coresift.server.selection.candidates import All, Anchors, RandomSubset, Seals
from coresift.server.selection.priority import priorities
from coresift.server.selection.registry import Choice
from coresift.server.session.grants import Batch
from coresift.server.session.lifecycle import PriorWeights
from coresift.server.session.ranking import proposing
from coresift.server.session.ranking.ranking import PickReason
from coresift.server.session.replay import read_log, replay
from coresift.server.session.setup.config import BatchConfig, Component, GroupRule
from coresift.server.session.signals.signal_uploads import (
    SignalChunk,
    SignalHeader,
    SignalKind,
    Upload,
)
from coresift.server.session.view.labels import UNSURE, pack_class
from coresift.server.state.entries import (
    Entry,
    ExpiryEntry,
    GrantEntry,
    LabelsEntry,
    ReleaseEntry,
)
from coresift.server.state.values import Release

ITEMS, MORE = 80, 20
GROUPS = 12
ANNOTATORS = ("ann", "bob", "cyd")
DIRECTION = np.array([1.0, 0.5, -0.5, 0, 0, 0, 0, 0])

Pair = tuple[Replica, Replica]


def metadata_of(row: int) -> dict[str, Any]:
    """Each fifth item has no group."""
    group = {} if row % 5 == 0 else {"group": f"g{row % GROUPS}"}
    return {"id": f"item-{row}", "split": "test" if row % 4 == 0 else "train", **group}


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Pool]:
    """Two versions of a pool, with groups, splits and neighbours."""
    folder = tmp_path_factory.mktemp("pool")
    X = np.random.default_rng(4).standard_normal((ITEMS + MORE, 8)).astype(np.float32)
    X[ITEMS // 2] = X[3]  # a copy
    known = [metadata_of(row) for row in range(ITEMS + MORE)]
    first = make_pool(folder, X[:ITEMS], metadata=known[:ITEMS], neighbours=10)
    ids = [own["id"] for own in known[ITEMS:]]
    lines = "".join(f"{own}\n".replace("'", '"') for own in known[ITEMS:])
    (folder / "more.jsonl").write_text(lines)
    return [first, extend_pool(folder, X[ITEMS:], ids, metadata=folder / "more.jsonl")]


@pytest.fixture(scope="module")
def pool(versions: list[Pool]) -> Pool:
    return versions[0]


@pytest.fixture(scope="module")
def truth(versions: list[Pool]) -> Bools:
    X = versions[1].fetch(np.arange(ITEMS + MORE))
    return np.asarray(X @ DIRECTION > 0.3)


@pytest_asyncio.fixture
async def pair(redis_url: str, versions: list[Pool], tmp_path: Path) -> AsyncIterator[Pair]:
    """Replicas that share store and artifact root."""
    root = str(tmp_path / "artifacts")
    one = await Replica.start(redis_url, versions, artifacts=root)
    two = await Replica.start(redis_url, versions, artifacts=root)
    yield one, two
    await one.stop()
    await two.stop()


async def created(replica: Replica, pool: Pool, **config: Any) -> str:
    given = {"pool_version": pool.manifest.version, "candidates": All(), **config}
    return await replica.create(pool, **given)


def answer_of(batch: Batch) -> tuple[Any, ...]:
    """All that a caller sees, nan equal to nan."""
    picks = [(p.row, repr(p.score), p.predicted, p.reason, p.token) for p in batch.picks]
    basis = (batch.revision, batch.config_version, batch.head_version)
    details = {name: repr(value) for name, value in batch.details.items()}
    return picks, basis, batch.phase, batch.deadline_ms, details


async def next_batch(
    replica: Replica, other: Replica, session: str, annotator: str, size: int, *, review: bool
) -> Batch:
    """A batch; the same request to the other replica has the same answer."""
    request = a_request()
    batch = await replica.next_batch(session, annotator, size, request=request, review=review)
    if batch.picks:
        again = await other.next_batch(session, annotator, size, request=request, review=review)
        assert answer_of(again) == answer_of(batch)
    return batch


async def campaign(
    pair: Pair, session: str, truth: Bools, *, turns: int = 6, size: int = 5, review: bool = False
) -> list[Batch]:
    """Annotators by turns: of each batch one item is returned, one is kept, the rest labelled."""
    batches = []
    for turn in range(turns):
        replica, other = pair[turn % 2], pair[1 - turn % 2]
        name = ANNOTATORS[turn % len(ANNOTATORS)]
        batch = await next_batch(replica, other, session, name, size, review=review)
        batches.append(batch)
        rows = rows_of(batch)
        if len(rows) > 2:
            live = await other.live(session)
            await other.labeling.release(live, a_request(), name, rows[:1], Release.RETURN)
            rows = rows[2:]
        if rows:
            await label(other, session, rows, truth, name, leased=True)
    return batches


async def label(
    replica: Replica,
    session: str,
    rows: Iterable[int],
    truth: Bools,
    annotator: str = "eve",
    *,
    leased: bool = False,
) -> None:
    values = {row: pack_class(int(truth[row])) for row in rows}
    await replica.label(session, values, annotator, leased=leased)


async def check_replay(pair: Pair, session: str) -> None:
    for replica in pair:
        report = replay(replica.loader, await read_log(replica.store, session))
        assert not report.differences
        assert report.batches


def reasons_of(batches: Sequence[Batch]) -> set[PickReason]:
    return {pick.reason for batch in batches for pick in batch.picks}


MIX = (
    Component(Choice("margin"), 2),
    Component(Choice("k_center")),
    Component(Choice("probcover", (("sample", 100),)), 0.5),
)
SHARES = (("positive", 0.5),)
EXPLOIT, EXPLORE, VALIDATION = PickReason.EXPLOIT, PickReason.EXPLORE, PickReason.VALIDATION
KINDS: dict[str, tuple[dict[str, Any], set[PickReason]]] = {
    "mix": (
        {"mix": MIX, "explore_fraction": 0.25, "validation_size": 12},
        {EXPLOIT, EXPLORE, VALIDATION},
    ),
    "mix in groups": (
        {"mix": MIX, "groups": GroupRule("group", 2), "explore_fraction": 0.5},
        {EXPLOIT, EXPLORE},
    ),
    **{
        f"{name} within limits": (
            {"batch": BatchConfig(Choice(name), 0.9, SHARES), "groups": GroupRule("group")},
            {EXPLOIT},
        )
        for name in ("top", "cluster_margin", "badge", "gist", "power")
    },
    "one lease": (
        {"groups": GroupRule("group", one_lease=True), "votes_per_item": 2},
        {EXPLOIT, PickReason.UNDER_VOTED},
    ),
    "one label": ({"groups": GroupRule("group", one_label=True)}, {EXPLOIT}),
    "anchors": ({"candidates": Anchors(size=12, per_class=2, neighbours=5)}, {EXPLOIT}),
    "anchors that run short": (
        {"candidates": Anchors(size=3, per_class=1, neighbours=3)},
        {EXPLOIT, PickReason.EXPAND},
    ),
    "random subset": ({"candidates": RandomSubset(10)}, {EXPLOIT}),
    "random subset that runs short": (
        {"candidates": RandomSubset(2), "filter": 'split == "train"'},
        {EXPLOIT, PickReason.RANDOM},
    ),
    "filter": (
        {"candidates": Seals(4), "filter": 'split == "train"', "explore_fraction": 0.25},
        {EXPLOIT, EXPLORE},
    ),
    "typiclust": ({"mix": only("typiclust", neighbours=5)}, {EXPLOIT}),
    "ens": ({"mix": only("ens", neighbours=10), "label_budget": 40}, {EXPLOIT}),
    "direct": ({"mix": only("direct")}, {EXPLOIT}),
    "bald": ({"mix": only("bald")}, {EXPLOIT}),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_grants_are_replayed(pair: Pair, pool: Pool, truth: Bools, kind: str) -> None:
    config, reasons = KINDS[kind]
    session = await created(pair[0], pool, **config)
    before = await campaign(pair, session, truth, turns=1)
    assert reasons_of(before) <= {PickReason.COLD_START, EXPLOIT, EXPLORE, VALIDATION}
    await label(pair[1], session, [1, 2, 5, 6, 10, 11], truth)
    batches = await campaign(pair, session, truth)
    assert reasons <= reasons_of(batches)
    rows = [row for batch in [*before, *batches] for row in rows_of(batch)]
    if "filter" in config:
        assert set(rows) <= set(np.flatnonzero(pool.where(config["filter"])).tolist())
    if "groups" in config:
        groups = pool.groups("group")
        for batch in batches:
            numbers = groups[rows_of(batch)]
            most = np.bincount(numbers[numbers >= 0], minlength=1).max()
            assert most <= config["groups"].max_per_batch
    await check_replay(pair, session)


async def test_few_of_many_leased_items_help_out_and_the_same_ones_in_replay(
    pair: Pair, pool: Pool, truth: Bools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposing, "MOST_SOURCES", 2)
    session = await created(pair[0], pool, candidates=Seals(2))
    await label(pair[1], session, [1, 2, 5, 6], truth)
    batches = [await pair[turn % 2].next_batch(session, "ann", 5) for turn in range(8)]
    assert PickReason.EXPAND in reasons_of(batches)
    await check_replay(pair, session)
    monkeypatch.setattr(proposing, "MOST_SOURCES", 64)
    report = replay(pair[0].loader, await read_log(pair[0].store, session))
    assert report.differences  # the bound was felt


async def test_leases_that_come_during_every_look_up_are_not_passed_over(
    pair: Pair, pool: Pool, truth: Bools, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    session = await created(one, pool, candidates=Seals(2))
    await label(two, session, [1, 2, 5, 6], truth)
    live = await one.live(session)
    assert (await one.next_batch(session, "first", 1)).picks
    look_up, came = live.neighbourhood.of, 0

    async def leases_meanwhile(rows: Rows) -> Rows:
        nonlocal came
        if came < 8:  # more than one claim looks up
            came += 1
            assert (await two.next_batch(session, f"a{came}", 1)).picks
            await live.sync(now())
        return await look_up(rows)

    monkeypatch.setattr(live.neighbourhood, "of", leases_meanwhile)
    batch = await one.next_batch(session, "ann", 40)
    assert came == 8
    assert PickReason.EXPAND in reasons_of([batch])
    await check_replay(pair, session)


async def test_two_picks_in_another_order_are_found(pair: Pair, pool: Pool, truth: Bools) -> None:
    session = await created(pair[0], pool, mix=MIX, explore_fraction=0.25)
    await label(pair[1], session, [1, 2, 5, 6, 10, 11], truth)
    await campaign(pair, session, truth)
    log = await read_log(pair[0].store, session)
    honest = replay(pair[0].loader, log)
    assert not honest.differences
    grants = [entry for entry in log if isinstance(entry, GrantEntry) and len(entry.rows) > 1]
    assert len(grants) > 4
    for grant in grants:
        first, second, *rest = grant.rows
        swapped = replace(grant, rows=(second, first, *rest))
        changed = [swapped if entry is grant else entry for entry in log]
        report = replay(pair[1].loader, changed)
        (found,) = report.differences
        assert (found.offset, found.granted) == (grant.offset, swapped.rows)
        assert found.replayed[: len(grant.rows)] == grant.rows
        assert (report.batches, report.picks) == (honest.batches, honest.picks)


async def test_grants_of_many_callers_at_once_are_replayed(
    pair: Pair, pool: Pool, truth: Bools
) -> None:
    rule = GroupRule("group", one_lease=True)
    config = {"mix": MIX, "explore_fraction": 0.3, "groups": rule, "votes_per_item": 2}
    session = await created(pair[0], pool, **config, batch=BatchConfig(Choice("power"), 0.95))
    await label(pair[0], session, [0, 1, 2, 3], truth)

    async def annotate(number: int) -> None:
        name = f"a{number}"
        for turn in range(4):
            replica = pair[(number + turn) % 2]
            is_review = turn == 2
            batch = await replica.next_batch(session, name, 4, review=is_review)
            rows = rows_of(batch)
            if rows:
                await label(replica, session, rows[: 2 + number % 2], truth, name, leased=True)

    await asyncio.gather(*map(annotate, range(6)))
    await check_replay(pair, session)


async def test_a_signal_ranks_after_its_record_is_gone(
    pair: Pair, pool: Pool, truth: Bools
) -> None:
    one, two = pair
    values = np.random.default_rng(1).standard_normal(ITEMS).astype(np.float32)
    ids, offsets = pool.ids.column(np.arange(ITEMS))
    chunk = SignalChunk(ids, np.frombuffer(offsets, np.int32), values.tobytes())
    header = SignalHeader(
        a_request(), "difficulty", pool.manifest.name, pool.manifest.version,
        SignalKind.NUMBER, ("score",), ITEMS, sha256(ids + offsets + chunk.values).digest(),
    )  # fmt: skip
    upload = Upload(header, pool)
    upload.add(chunk)
    await one.signals.store(header, pool, upload)
    session = await created(one, pool, mix=only("signal", name="difficulty"))
    first = await campaign(pair, session, truth, turns=2)
    await two.signals.delete(pool.manifest.name, "difficulty", a_request())
    await campaign(pair, session, truth, turns=2)
    await one.lifecycle.update(session, {"explore_fraction": 0.4}, None, a_request())
    await campaign(pair, session, truth, turns=2)
    assert rows_of(first[0]) == np.argsort(-values, kind="stable")[:5].tolist()
    scores = {pick.row: pick.score for batch in first for pick in batch.picks}
    assert scores == {row: float(values[row]) for row in scores}
    await check_replay(pair, session)
    with pytest.raises(CoresiftError) as caught:
        await created(two, pool, mix=only("signal", name="difficulty"))
    assert caught.value.reason is Reason.SIGNAL_NOT_FOUND


async def test_a_prior_head_ranks_until_there_is_another(
    pair: Pair, pool: Pool, truth: Bools
) -> None:
    one, two = pair
    prior = PriorWeights(DIRECTION[None], np.array([-0.3]))
    wanted = {"candidates": All(), "mix": only("most_likely_positive")}
    session = await one.create(pool, prior, pool_version=pool.manifest.version, **wanted)
    logits = pool.fetch(np.arange(ITEMS)) @ DIRECTION - 0.3
    nothing = await one.next_batch(session, "rae", review=True)
    assert (nothing.picks, nothing.phase) == ((), "EXHAUSTED")
    (first,) = await campaign(pair, session, truth, turns=1)
    assert rows_of(first) == np.argsort(-logits, kind="stable")[:5].tolist()
    assert first.head_version.startswith("prior-")
    assert reasons_of([first]) == {EXPLOIT}
    looked = await next_batch(two, one, session, "rae", 2, review=True)  # one class alone
    assert looked.head_version == first.head_version
    assert reasons_of([looked]) == {PickReason.REVIEW}
    await label(two, session, np.argsort(logits)[:3].tolist(), truth)
    later = await campaign(pair, session, truth, turns=3)
    assert {batch.head_version[0] for batch in later} == {"r"}
    await check_replay(pair, session)


@pytest.mark.parametrize("candidates", [All(), Seals(4), Anchors(12, 2, 5), RandomSubset(10)])
async def test_a_session_moves_to_an_appended_version(
    pair: Pair, versions: list[Pool], truth: Bools, candidates: Any
) -> None:
    config = {
        "candidates": candidates,
        "filter": 'split == "train"',
        "groups": GroupRule("group", one_label=True),
        "mix": (Component(Choice("margin")), Component(Choice("typiclust"))),
    }
    session = await created(pair[0], versions[0], **config)
    await label(pair[0], session, [0, 20, 40, 5, 10], truth)  # of no group
    await campaign(pair, session, truth, turns=3)
    changes = {"pool_version": versions[1].manifest.version}
    await pair[1].lifecycle.update(session, changes, None, a_request())
    await campaign(pair, session, truth, turns=3)
    live = await pair[0].live(session)
    await live.sync(now())
    assert live.pool is versions[1]
    labelled = np.array(list(live.view.votes))
    numbers = versions[1].groups("group")[labelled]
    assert np.bincount(numbers[numbers >= 0]).max() == 1
    await check_replay(pair, session)


# --- second looks --------------------------------------------------------------------------------


async def test_second_looks_at_labels_of_one(pair: Pair, pool: Pool, truth: Bools) -> None:
    one, two = pair
    session = await created(one, pool, validation_size=6)
    wrong = truth.copy()
    wrong[[4, 9, 14]] ^= True
    await label(one, session, range(30), wrong)
    live = await two.live(session)
    await live.sync(now())
    validation = (await live.materials(live.config)).validation
    batches = await campaign(pair, session, truth, turns=3, review=True)
    assert reasons_of(batches) == {PickReason.REVIEW}
    rows = [row for batch in batches for row in rows_of(batch)]
    assert set(rows) <= set(range(30))
    losses = losses_by_hand(pool, wrong[:30], validation)
    worst = np.argsort(-losses, kind="stable")[:5]
    assert rows_of(batches[0]) == worst.tolist()
    assert [pick.score for pick in batches[0].picks] == pytest.approx(losses[worst], abs=1e-9)
    assert "best_new_item" not in batches[0].details
    await live.sync(now())
    # What was returned or given back lacks the vote that its second look was for.
    assert all(live.view.quota_of(row) == 2 for row in rows)
    assert live.view.under_voted == {row for row in rows if len(live.view.votes[row]) == 1}
    new = await campaign(pair, session, truth, turns=3)
    assert PickReason.UNDER_VOTED in reasons_of(new)
    mine = await one.next_batch(session, "eve", 10, review=True)
    assert not set(rows_of(mine)) & set(range(30))
    await check_replay(pair, session)


@pytest.mark.parametrize("rule", [None, GroupRule("group", one_label=True)])
async def test_second_looks_at_labels_of_several(
    pair: Pair, pool: Pool, truth: Bools, rule: GroupRule | None
) -> None:
    one, two = pair
    session = await created(one, pool, votes_per_item=2, groups=rule)
    await disagree(one, session, truth)
    batches = await campaign(pair, session, truth, turns=5, review=True)
    assert reasons_of(batches) == {PickReason.REVIEW}
    assert all("best_new_item" in batch.details for batch in batches)
    if rule is not None:
        groups = pool.groups("group")
        log = await read_log(two.store, session)
        assert max(most_leased_at_once(log, groups).values()) == 1
    await check_replay(pair, session)


async def disagree(replica: Replica, session: str, truth: Bools) -> None:
    """Eve labels all of the first 30, fay half of them and often otherwise, gus two more."""
    await label(replica, session, range(30), truth, "eve")
    other = truth ^ (np.arange(len(truth)) % 3 == 0)
    await label(replica, session, range(0, 30, 2), other, "fay")
    await label(replica, session, [30, 31], truth, "gus")
    await replica.label(session, {32: UNSURE}, "gus")


@pytest.mark.parametrize("task", [Task.BINARY, Task.MULTICLASS])
async def test_the_best_new_item_is_on_the_scale_of_second_looks(
    pair: Pair, pool: Pool, truth: Bools, task: Task
) -> None:
    one, two = pair
    classes = ("no", "yes") if task is Task.BINARY else ("no", "yes", "other")
    session = await created(one, pool, task=task, classes=classes, seed=3, votes_per_item=2)
    await disagree(one, session, truth)
    batch = await next_batch(two, one, session, "rae", 30, review=True)
    votes = (await read_votes(one, session)).items()
    rows = [row for row, item in votes if any(value != UNSURE for value in item.values())]
    expected = opinions_by_hand(pool, dict(votes), np.array(rows, np.int32), task, len(classes), 3)
    labelled, unlabelled = expected
    assert batch.details["best_new_item"] == pytest.approx(unlabelled.max(), abs=1e-9)
    by_row = dict(zip(rows, labelled.tolist(), strict=True))
    found = {pick.row: pick.score for pick in batch.picks}
    assert found == pytest.approx({row: by_row[row] for row in found}, abs=1e-9)
    assert len(found) == 30
    assert rows_of(batch) == sorted(found, key=lambda row: (-found[row], row))


async def read_votes(replica: Replica, session: str) -> dict[int, dict[str, bytes]]:
    live = await replica.live(session)
    await live.sync(now())
    return live.view.votes


def opinions_by_hand(
    pool: Pool,
    votes: dict[int, dict[str, bytes]],
    rows: Any,
    task: Task,
    classes: int,
    seed: int,
) -> tuple[Float64s, Float64s]:
    """Scores of labelled and of all new items, from targets that are the votes' shares."""
    named = [[*item] for item in (votes[row] for row in rows.tolist())]
    numbers = [
        [int(np.argmax([value == pack_class(k) for k in range(classes)])) for value in item]
        for item in (votes[row].values() for row in rows.tolist())
    ]
    shares = np.array([np.bincount(own, minlength=classes) / len(own) for own in numbers])
    targets = shares[:, 1:] if task is Task.BINARY else shares
    opposed = shares[:, :1] if task is Task.BINARY else 1 - shares
    training = TrainingSet(pool.fetch(rows), targets, opposed)
    logits = held_out_logits(task, training, rows, seed)
    new = np.setdiff1d(np.arange(pool.manifest.items), list(votes)).astype(np.int32)
    head = head_of(task, training)
    probabilities = head.probabilities(head.logits(pool.fetch(new)))
    if task is Task.BINARY:
        probabilities = np.hstack([1 - probabilities, probabilities])
    names = sorted({name for own in named for name in own})
    said = [
        (place, names.index(name), number)
        for place, (own, given) in enumerate(zip(named, numbers, strict=True))
        for name, number in zip(own, given, strict=True)
    ]
    columns: list[Int64s] = [np.array(column, np.int64) for column in zip(*said, strict=True)]
    found = second_opinions(class_probabilities(logits), Votes(*columns), len(names), probabilities)
    return found.labelled, found.unlabelled


def losses_by_hand(pool: Pool, labels: Bools, validation: Any) -> Float64s:
    """-log p of the labels of the first rows, under heads without the item."""
    rows = np.arange(len(labels), dtype=np.int32)
    targets = labels[:, None].astype(np.float64)
    training = TrainingSet(pool.fetch(rows), targets, 1 - targets)
    trains = ~np.isin(rows, validation)
    part = TrainingSet(training.vectors[trains], targets[trains], 1 - targets[trains])
    logits = head_of(Task.BINARY, part).logits(training.vectors)
    logits[trains] = held_out_logits(Task.BINARY, part, rows[trains], 0)
    return np.logaddexp(0, np.where(labels, -1, 1) * logits[:, 0])


def held_out_logits(task: Task, training: TrainingSet, rows: Any, seed: int) -> Float64s:
    """Of each item by the head of the other folds, nan where there is none."""
    fold = (priorities(seed, "cross-fit", rows) * 5).astype(np.int64)
    logits = np.full(training.targets.shape, np.nan)
    for held_out in np.unique(fold):
        rest, inside = fold != held_out, fold == held_out
        others = TrainingSet(training.vectors[rest], training.targets[rest], training.opposed[rest])
        head = head_of(task, others)
        logits[inside] = np.where(head.fitted, head.logits(training.vectors[inside]), np.nan)
    return logits


def head_of(task: Task, training: TrainingSet) -> Head:
    head = fit(task, HeadConfig(), training)
    assert head is not None
    return head


# --- groups, exactly -----------------------------------------------------------------------------


def most_leased_at_once(log: Iterable[Entry], groups: Any) -> Counter[int]:
    """The largest number of rows of each group that were leased at the same time."""
    live: set[tuple[int, str]] = set()
    most: Counter[int] = Counter()
    for entry in log:
        match entry:
            case GrantEntry():
                live |= {(row, entry.annotator) for row in entry.rows}
            case LabelsEntry() | ReleaseEntry():
                live -= {(row, entry.annotator) for row in entry.rows}
            case ExpiryEntry():
                live -= set(entry.leases)
        held = {row for row, _ in live}
        most |= Counter(int(groups[row]) for row in held if groups[row] >= 0)
    return most


@pytest.mark.parametrize("quota", [1, 2])
@pytest.mark.parametrize("one_label", [False, True], ids=["one lease", "one label"])
async def test_groups_are_counted_exactly(
    pair: Pair, pool: Pool, truth: Bools, quota: int, one_label: bool
) -> None:
    """Six annotators at once, until there is nothing left for any of them."""
    rule = GroupRule("group", one_lease=not one_label, one_label=one_label)
    session = await created(pair[0], pool, groups=rule, votes_per_item=quota, mix=only("margin"))

    async def annotate(number: int) -> None:
        name, turn = f"a{number}", number
        while True:
            turn += 1
            replica, other = pair[turn % 2], pair[1 - turn % 2]
            batch = await replica.next_batch(session, name, 3)
            rows = rows_of(batch)
            if not rows and batch.phase == "EXHAUSTED":
                return
            if rows and turn % 5 == 0:
                live = await other.live(session)
                await other.labeling.release(live, a_request(), name, rows, Release.RETURN)
            elif rows:
                await label(other, session, rows, truth, name, leased=True)

    await asyncio.gather(*map(annotate, range(6)))
    groups = pool.groups("group")
    votes = await read_votes(pair[0], session)
    assert {len(item) for item in votes.values()} == {quota}
    numbers = groups[np.array(list(votes))]
    if one_label:
        assert np.bincount(numbers[numbers >= 0]).tolist() == [1] * (int(groups.max()) + 1)
        assert (numbers < 0).sum() == (groups < 0).sum()
    else:
        assert len(votes) == ITEMS
    log = await read_log(pair[0].store, session)
    most = most_leased_at_once(log, groups)
    assert most == dict.fromkeys(range(int(groups.max()) + 1), 1)
    await check_replay(pair, session)


async def test_labels_by_a_replica_that_has_not_heard_of_the_rule(
    pair: Pair, pool: Pool, truth: Bools
) -> None:
    one, two = pair
    session = await created(one, pool)
    await label(two, session, [0, 20, 40, 5, 10], truth)
    await two.next_batch(session, "bob", 1)
    rule = GroupRule("group", one_label=True)
    await one.lifecycle.update(session, {"groups": rule}, None, a_request())
    batch = await one.next_batch(session, "cyd", 1)
    await label(two, session, [1], truth)
    got = await one.next_batch(session, "ann", 40, min_revision=batch.revision)
    groups = pool.groups("group")
    assert groups[1] not in groups[rows_of(got)]
    assert replay(one.loader, await read_log(one.store, session)).differences == ()
