"""Two replicas driven at random against a plain-Python model of a session."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.fixtures.pools import make_pool
from tests.fixtures.replicas import Replica, now, only, rows_of
from tests.fixtures.sessions import a_request, all_leases

from coresift.server.errors import CoresiftError, Reason
from coresift.server.head import HeadConfig, Task
from coresift.server.pool.pool import Pool
from coresift.server.selection.candidates import All, Anchors, CandidatePolicy, RandomSubset, Seals
from coresift.server.selection.registry import Choice
from coresift.server.session.grants import Ask, Batch
from coresift.server.session.progress.advice import StopAdvice
from coresift.server.session.ranking.offers import offer
from coresift.server.session.ranking.proposals import chosen
from coresift.server.session.ranking.ranking import PickReason
from coresift.server.session.replay import read_log, replay
from coresift.server.session.setup.config import BatchConfig, Component, GroupRule
from coresift.server.session.view.labels import UNSURE, ClassSets, pack_class, pack_sets, unpack
from coresift.server.state.values import RETRACTION, Outcome, Release

ITEMS = 7
ANCHORS = Anchors(size=3, per_class=1, neighbours=2)
GROUPS = {0: "a", 1: "a", 2: "a", 3: "b", 4: "b", 6: "b"}
"""Row 5 is in no group."""
ADMITTED = {1, 2, 3, 4, 5}
FILTER = 'split == "train"'
FALLING = {"random", "max_entropy", "margin", "most_likely_positive"}
"""Strategies whose scores fall along their order."""
ANYONE = "someone new"
annotators = st.sampled_from(["ann", "bob", "cyd"])
replicas = st.integers(0, 1)
sizes = st.sampled_from([1, 2, ITEMS])
some_rows = st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=5, unique=True)

VALUES = {
    Task.BINARY: [pack_class(0), pack_class(1), UNSURE, RETRACTION],
    Task.MULTICLASS: [*map(pack_class, range(3)), UNSURE, RETRACTION],
    Task.MULTILABEL: [
        *(pack_sets(ClassSets(*sets)) for sets in [((0,), (1, 2)), ((1,), ()), ((), (0, 1))]),
        UNSURE,
        RETRACTION,
    ],
}


@dataclass
class Model:
    """What a session must be. Leases are live until they are taken out here.

    ``votes`` holds the rows in the order in which they got the first of their votes.
    """

    quota: int
    budget: int | None
    rule: GroupRule | None = None
    eligible: set[int] = field(default_factory=lambda: set(range(ITEMS)))
    extra: dict[int, int] = field(default_factory=dict)
    votes: dict[int, dict[str, bytes]] = field(default_factory=dict)
    leases: set[tuple[int, str]] = field(default_factory=set)
    skips: set[tuple[int, str]] = field(default_factory=set)
    hidden: set[int] = field(default_factory=set)
    revision: int = 0
    config_version: int = 1

    def vote_count(self) -> int:
        return sum(map(len, self.votes.values()))

    def room(self) -> int:
        """How many more leases the budget allows."""
        if self.budget is None:
            return ITEMS
        return max(0, self.budget - self.vote_count() - len(self.leases))

    def quota_of(self, row: int) -> int:
        return self.quota + self.extra.get(row, 0)

    def is_open(self, row: int, annotator: str, leases: set[tuple[int, str]]) -> bool:
        """Whether the annotator has done nothing with the row, and its group is not leased."""
        mine = annotator in self.votes.get(row, {}) or (row, annotator) in leases
        given_up = row in self.hidden or (row, annotator) in self.skips
        return not mine and not given_up and not self.group_is_leased(row, leases)

    def group_is_leased(self, row: int, leases: set[tuple[int, str]]) -> bool:
        """Whether a rule keeps the row back because another one of its group is leased."""
        if self.rule is None or not self.rule.one_lease or row not in GROUPS:
            return False
        return any(at != row and GROUPS.get(at) == GROUPS[row] for at, _ in leases)

    def group_is_labelled(self, row: int) -> bool:
        """Whether a rule keeps the row back because another one of its group got the label."""
        if self.rule is None or not self.rule.one_label or row not in GROUPS:
            return False
        labelled = [at for at in self.votes if GROUPS.get(at) == GROUPS[row]]
        return labelled[:1] not in ([], [row])

    def free(self, annotator: str, leases: set[tuple[int, str]]) -> set[int]:
        """Guarantee 2 of the design, word for word; and the filter and the rule for groups."""
        rows = set()
        for row in self.eligible:
            live = sum(at == row for at, _ in leases)
            fits = live + len(self.votes.get(row, {})) + 1 <= self.quota_of(row)
            is_open = self.is_open(row, annotator, leases)
            if fits and is_open and not self.group_is_labelled(row):
                rows.add(row)
        return rows

    def free_for_review(self, annotator: str) -> set[int]:
        """Rows that the filter admits, with a vote for a class, of other annotators; nobody holds
        them or they lack votes."""
        rows = set()
        for row, votes in self.votes.items():
            live = sum(at == row for at, _ in self.leases)
            fits = live == 0 or live + len(votes) + 1 <= self.quota_of(row)
            says_something = any(value != UNSURE for value in votes.values())
            if fits and says_something and self.is_open(row, annotator, self.leases):
                rows.add(row)
        return rows & self.eligible

    def grant(self, rows: list[int], annotator: str, *, review: bool = False) -> None:
        self.leases |= {(row, annotator) for row in rows}
        for row in rows if review else ():
            filled = len(self.votes[row]) + sum(at == row for at, _ in self.leases)
            if filled > self.quota_of(row):
                self.extra[row] = filled - self.quota

    def comes_back(self, annotator: str) -> bool:
        """Whether the end of leases would give the annotator something."""
        if not self.leases:
            return False
        if self.room() == 0:
            assert self.budget is not None
            return self.vote_count() < self.budget and bool(self.free(annotator, set()))
        own = {lease for lease in self.leases if lease[1] == annotator}
        return bool(self.free(annotator, own))

    def label(self, row: int, annotator: str, value: bytes, leased: bool) -> Outcome:
        votes = dict(self.votes.get(row, {}))
        before = votes.get(annotator, RETRACTION)
        if value == before:
            return Outcome.UNCHANGED
        if value == RETRACTION:
            del votes[annotator]
            self.votes[row] = votes
            if not votes:
                del self.votes[row]
            return Outcome.RETRACTED
        votes[annotator] = value
        self.votes[row] = votes
        if before != RETRACTION:
            return Outcome.CORRECTED
        if len(votes) > self.quota_of(row):
            return Outcome.SURPLUS
        late = leased and (row, annotator) not in self.leases
        return Outcome.LATE if late else Outcome.NEW


class SessionMachine(RuleBasedStateMachine):
    """Does everything on one of two replicas and on the model."""

    url: str
    pool: Pool

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.replicas = [
            self.run(Replica.start(self.url, [self.pool])),
            self.run(Replica.start(self.url, [self.pool])),
        ]
        self.answers: list[tuple[Ask, Batch]] = []

    def run(self, call: Any) -> Any:
        return self.loop.run_until_complete(call)

    @initialize(
        task=st.sampled_from(Task),
        candidates=st.sampled_from([All(), Seals(2), Seals(5), RandomSubset(3), ANCHORS]),
        quota=st.integers(1, 2),
        seed=st.integers(0, 5),
        budget=st.sampled_from([None, 4, 8]),
        labels=st.integers(0, 3),
    )
    def create(
        self,
        task: Task,
        candidates: CandidatePolicy,
        quota: int,
        seed: int,
        budget: int | None,
        labels: int,
    ) -> None:
        self.task = task
        classes = () if task is Task.BINARY else ("a", "b", "c")
        self.id = self.run(
            self.replicas[0].create(
                self.pool,
                task=task,
                classes=classes,
                candidates=candidates,
                votes_per_item=quota,
                label_budget=budget,
                seed=seed,
            )
        )
        self.model = Model(quota, budget)
        self.config: dict[str, Any] = {}
        for row in range(labels):
            self._label(0, [row], "eve", False, VALUES[task][row % 2])

    def teardown(self) -> None:
        try:
            if hasattr(self, "id"):
                self.run(self.everyone_would_pick_the_same())
        finally:
            for replica in self.replicas:
                self.run(replica.stop())
            self.loop.close()

    async def everyone_would_pick_the_same(self) -> None:
        fresh = await Replica.start(self.url, [self.pool])
        try:
            for each in (fresh, *self.replicas):
                report = replay(each.loader, await read_log(each.store, self.id))
                assert not report.differences
            for annotator in ("ann", "dee"):
                picks = [
                    await self._would_pick(each, annotator) for each in (fresh, *self.replicas)
                ]
                assert picks[0] == picks[1] == picks[2]
        finally:
            await fresh.stop()

    async def _would_pick(self, replica: Replica, annotator: str) -> list[Any]:
        live = await replica.live(self.id)
        ranking = await live.ranked(now())
        assert ranking.snapshot.revision == self.model.revision
        offered = offer(ranking, live.view, annotator, ITEMS, ITEMS)
        found = chosen(offered, ranking, ITEMS, lambda count: [])
        if ranking.state.head is not None:
            review = await live.reviewed(now())
            offered = offer(review, live.view, annotator, ITEMS, ITEMS)
            found += chosen(offered, review, ITEMS, lambda count: [])
        return [(p.row, repr(p.score), p.predicted, p.reason) for p in found]

    def check_rows(self, batch: Batch, free: set[int], size: int) -> None:
        """What holds for new items and for second looks."""
        model, rows = self.model, rows_of(batch)
        assert len(set(rows)) == len(rows) <= min(size, model.room())
        assert set(rows) <= free
        assert bool(rows) == bool(free and model.room())
        if model.rule is not None and model.rule.one_lease:
            in_groups = Counter(GROUPS[row] for row in rows if row in GROUPS)
            assert max(in_groups.values(), default=0) <= 1
        assert batch.revision == model.revision
        assert batch.config_version == model.config_version
        if batch.head_version:
            assert batch.head_version.startswith(f"r{model.revision}-")
        if rows:
            assert batch.phase in {"COLD_START", "SELECTING"}
        else:
            assert batch.phase in {"WAITING", "EXHAUSTED"}
            assert batch.deadline_ms is None
            assert (batch.next_available_ms is not None) == (batch.phase == "WAITING")

    def check_batch(self, batch: Batch, annotator: str, size: int) -> None:
        model, rows = self.model, rows_of(batch)
        self.check_rows(batch, model.free(annotator, model.leases), size)
        if model.rule is not None:
            in_groups = Counter(GROUPS[row] for row in rows if row in GROUPS)
            assert max(in_groups.values(), default=0) <= model.rule.max_per_batch
        if not rows:
            comes_back = model.comes_back(annotator)
            has_one_lease = model.rule is not None and model.rule.one_lease
            # A lease may keep its group back: who waits in vain for it learns so when it ends.
            waits = comes_back or (has_one_lease and batch.phase == "WAITING")
            assert not waits or model.leases
            assert batch.phase == ("WAITING" if waits else "EXHAUSTED")
        scores = [pick.score for pick in batch.picks if pick.reason is PickReason.EXPLOIT]
        assert not self.scores_fall() or scores == sorted(scores, reverse=True)
        for pick in batch.picks:
            assert (pick.reason is PickReason.UNDER_VOTED) == bool(model.votes.get(pick.row))
        model.grant(rows, annotator)

    def scores_fall(self) -> bool:
        """Whether a batch has its scores in order."""
        mix = self.config.get("mix", only("max_entropy"))
        batch = self.config.get("batch", BatchConfig())
        is_top = batch.policy.name == "top" and not batch.class_shares
        return is_top and len(mix) == 1 and mix[0].strategy.name in FALLING

    @rule(at=replicas, annotator=annotators)
    def take_and_label(self, at: int, annotator: str) -> None:
        self.next_batch_of(at, annotator, 2)
        held = sorted(row for row, who in self.model.leases if who == annotator)
        for number, row in enumerate(held):
            self._label(1 - at, [row], annotator, True, VALUES[self.task][number % 2])

    @rule(at=replicas, change=st.integers(-2, 2))
    def move_the_budget(self, at: int, change: int) -> None:
        total = self.model.vote_count() + len(self.model.leases)
        self._configure(at, {"label_budget": max(0, total + change)})

    @rule(at=replicas, annotator=annotators, size=sizes)
    def next_batch(self, at: int, annotator: str, size: int) -> None:
        self.next_batch_of(at, annotator, size)

    def next_batch_of(self, at: int, annotator: str, size: int) -> None:
        replica = self.replicas[at]
        ask = Ask(a_request(), annotator, size, None, None)
        live = self.run(replica.live(self.id))
        batch = self.run(replica.batches.next(live, ask))
        self.check_batch(batch, annotator, size)
        if batch.picks:
            self.answers.append((ask, batch))

    @rule(at=replicas, annotator=annotators, size=sizes)
    def review(self, at: int, annotator: str, size: int) -> None:
        replica = self.replicas[at]
        ask = Ask(a_request(), annotator, size, None, None, review=True)
        live = self.run(replica.live(self.id))
        if self.run(live.fitted(now())).head is None:
            with pytest.raises(CoresiftError) as caught:
                self.run(replica.batches.next(live, ask))
            assert caught.value.reason is Reason.HEAD_NOT_FITTED
            return
        batch = self.run(replica.batches.next(live, ask))
        self.check_rows(batch, self.model.free_for_review(annotator), size)
        assert batch.head_version
        scores = [pick.score for pick in batch.picks]
        assert scores == sorted(scores, reverse=True)
        assert {pick.reason for pick in batch.picks} <= {PickReason.REVIEW}
        self.model.grant(rows_of(batch), annotator, review=True)
        if batch.picks:
            self.answers.append((ask, batch))

    @rule(at=replicas, annotator=annotators, size=sizes)
    def next_batch_by_old_labels(self, at: int, annotator: str, size: int) -> None:
        """The replica need not know the newest labels; what it grants is free all the same."""
        replica, model = self.replicas[at], self.model
        ask = Ask(a_request(), annotator, size, None, 0)
        live = self.run(replica.live(self.id))
        batch = self.run(replica.batches.next(live, ask))
        rows = rows_of(batch)
        assert len(set(rows)) == len(rows) <= min(size, model.room())
        assert set(rows) <= model.free(annotator, model.leases)
        assert batch.revision <= model.revision
        assert batch.config_version == model.config_version
        model.grant(rows, annotator)
        if batch.picks:
            self.answers.append((ask, batch))

    @rule(at=replicas, annotator=annotators, size=sizes)
    def next_batch_that_expires(self, at: int, annotator: str, size: int) -> None:
        replica = self.replicas[at]
        batch = self.run(replica.next_batch(self.id, annotator, size, lease_ms=1))
        self.check_batch(batch, annotator, size)
        ended = {(row, annotator) for row in rows_of(batch)}
        uid = self.run(replica.live(self.id)).uid
        while ended & {(at.row, at.annotator) for at in self.run(all_leases(replica.store, uid))}:
            pass
        self.model.leases -= ended

    @precondition(lambda self: self.answers)
    @rule(at=replicas, data=st.data())
    def repeat(self, at: int, data: st.DataObject) -> None:
        ask, before = data.draw(st.sampled_from(self.answers))
        live = self.run(self.replicas[at].live(self.id))
        again = self.run(self.replicas[at].batches.next(live, ask))
        assert rows_of(again) == rows_of(before)
        assert [pick.token for pick in again.picks] == [pick.token for pick in before.picks]
        assert (again.phase, again.deadline_ms) == (before.phase, before.deadline_ms)
        assert (again.revision, again.head_version) == (before.revision, before.head_version)
        assert again.details == before.details

    @rule(at=replicas, rows=some_rows, annotator=annotators, leased=st.booleans(), data=st.data())
    def label(
        self, at: int, rows: list[int], annotator: str, leased: bool, data: st.DataObject
    ) -> None:
        value = data.draw(st.sampled_from(VALUES[self.task]))
        self._label(at, rows, annotator, leased, value)

    @rule(at=replicas, annotator=annotators, data=st.data())
    def label_what_one_holds(self, at: int, annotator: str, data: st.DataObject) -> None:
        held = sorted(row for row, who in self.model.leases if who == annotator)
        if held:
            value = data.draw(st.sampled_from(VALUES[self.task][:2]))
            self._label(at, held, annotator, True, value)

    def _label(self, at: int, rows: list[int], annotator: str, leased: bool, value: bytes) -> None:
        expected = tuple(self.model.label(row, annotator, value, leased) for row in rows)
        self.model.leases -= {(row, annotator) for row in rows}
        written = self.run(
            self.replicas[at].label(self.id, dict.fromkeys(rows, value), annotator, leased=leased)
        )
        assert written.outcomes == expected
        assert written.revision > self.model.revision
        self.model.revision = written.revision

    @rule(at=replicas, rows=some_rows, annotator=annotators, reason=st.sampled_from(Release))
    def release(self, at: int, rows: list[int], annotator: str, reason: Release) -> None:
        self._release(at, rows, annotator, reason)

    def _release(self, at: int, rows: list[int], annotator: str, reason: Release) -> None:
        live = self.run(self.replicas[at].live(self.id))
        released = self.run(
            self.replicas[at].labeling.release(live, a_request(), annotator, rows, reason)
        )
        pairs = {(row, annotator) for row in rows}
        assert {(row, annotator) for row in released} == pairs & self.model.leases
        self.model.leases -= pairs
        if reason is Release.SKIP:
            self.model.skips |= pairs
        elif reason is Release.CANNOT_LABEL:
            self.model.hidden |= set(rows)

    @rule(at=replicas, annotator=annotators)
    def return_what_one_holds(self, at: int, annotator: str) -> None:
        held = sorted(row for row, who in self.model.leases if who == annotator)
        if held:
            self._release(at, held, annotator, Release.RETURN)

    @rule(at=replicas, annotator=annotators)
    def renew(self, at: int, annotator: str) -> None:
        live = self.run(self.replicas[at].live(self.id))
        renewed = self.run(self.replicas[at].labeling.renew(live, a_request(), annotator, [], None))
        held = sorted(row for row, who in self.model.leases if who == annotator)
        assert list(renewed.renewed) == held

    @rule(at=replicas, data=st.data())
    def configure(self, at: int, data: st.DataObject) -> None:
        mixes = [*map(only, ["random", "max_entropy", "margin", "typiclust", "k_center"])]
        mixes.append(only("probcover", sample=100))
        if self.task is Task.BINARY:
            mixes.append(only("most_likely_positive"))
            mixes.append(only("ens", neighbours=3, horizon=4))
        mixes += [
            (Component(mixes[-1][0].strategy, 2), Component(Choice("random"))),
            (Component(Choice("k_center")), *mixes[-1]),
        ]
        batches = [
            BatchConfig(),
            BatchConfig(max_similarity=0.999),
            *(
                BatchConfig(Choice(name, (("oversampling", 2),)), max_similarity)
                for name in ("cluster_margin", "gist", "power")
                for max_similarity in (None, 0.999)
            ),
            BatchConfig(Choice("badge")),
        ]
        if self.task is not Task.MULTILABEL:
            shares = (("positive" if self.task is Task.BINARY else "c", 0.5),)
            batches += [BatchConfig(class_shares=shares), BatchConfig(Choice("badge"), 0.9, shares)]
        policies = [All(), Seals(1), Seals(3), Seals(5), RandomSubset(2), ANCHORS]
        rules = [None, *(GroupRule("group", most) for most in (1, 2))]
        rules += [GroupRule("group", one_lease=True), GroupRule("group", one_label=True)]
        choices = {
            "mix": st.sampled_from(mixes),
            "candidates": st.sampled_from(policies),
            "filter": st.sampled_from(["", FILTER]),
            "groups": st.sampled_from(rules),
            "batch": st.sampled_from(batches),
            "explore_fraction": st.sampled_from([0.0, 0.4, 1.0]),
            "validation_size": st.sampled_from([0, 2]),
            "votes_per_item": st.integers(1, 3),
            "label_budget": st.one_of(st.none(), st.just(12)),
            "head": st.sampled_from([HeadConfig(), HeadConfig(1.0, "balanced")]),
        }
        field = data.draw(st.sampled_from(sorted(choices)))
        changes: dict[str, Any] = {field: data.draw(choices[field])}
        if field in {"explore_fraction", "validation_size"} and changes[field]:
            rule = self.model.rule
            if rule is not None and rule.one_label:  # such a sample could not be labelled whole
                changes["groups"] = None
        elif field == "groups" and changes[field] is not None and changes[field].one_label:
            changes |= {"explore_fraction": 0.0, "validation_size": 0}
        self._configure(at, changes)

    def _configure(self, at: int, changes: dict[str, Any]) -> None:
        update = self.replicas[at].lifecycle.update(self.id, changes, None, a_request())
        record = self.run(update)
        model = self.model
        model.config_version += 1
        assert record.config_version == model.config_version
        model.quota = changes.get("votes_per_item", model.quota)
        model.budget = changes.get("label_budget", model.budget)
        self.config |= changes
        if "filter" in changes:
            model.eligible = ADMITTED if changes["filter"] else set(range(ITEMS))
        if "groups" in changes:
            rule = changes["groups"]
            if rule is not None:
                rule = replace(rule, one_lease=rule.one_lease or rule.one_label)
            model.rule = rule

    @rule(at=replicas)
    def progress(self, at: int) -> None:
        found = self.run(self.replicas[at].progress(self.id))
        model = self.model
        votes = [value for item in model.votes.values() for value in item.values()]
        assert found.revision == model.revision
        assert found.config_version == model.config_version
        assert found.votes == len(votes)
        assert found.labelled_items == len(model.votes)
        assert found.eligible_items == len(model.eligible)
        assert found.unsure_votes == votes.count(UNSURE)
        assert found.live_leases == len(model.leases)
        assert found.hidden_items == len(model.hidden)
        is_spent = model.budget is not None and len(votes) >= model.budget
        assert (found.advice is StopAdvice.BUDGET_SPENT) == is_spent
        is_exhausted = not model.free(ANYONE, set())
        assert (found.advice is StopAdvice.POOL_EXHAUSTED) == (is_exhausted and not is_spent)
        assert 0 <= found.considered_share <= 1
        assert found.candidates <= len(model.eligible - model.votes.keys())
        values = [unpack(value) for value in votes]
        for number, (_, present, absent) in enumerate(found.classes):
            if self.task is Task.MULTILABEL:
                sets = [value for value in values if isinstance(value, ClassSets)]
                assert present == sum(number in each.present for each in sets)
                assert absent == sum(number in each.absent for each in sets)
            else:
                assert (present, absent) == (values.count(number), 0)

    @invariant()
    def leases_agree(self) -> None:
        if hasattr(self, "id"):
            live = self.run(self.replicas[0].live(self.id))
            leases = self.run(self.replicas[0].labeling.leases(live, "", (-1, ""), 1_000))
            assert {(at.row, at.annotator) for at in leases} == self.model.leases


def run_machine(redis_url: str, folder: Path, examples: int) -> None:
    chance = np.random.default_rng(0)
    X = chance.standard_normal((ITEMS, 6)).astype(np.float32)
    X[: ITEMS // 2] += 2
    X[-1] = X[0]
    metadata = [
        {"split": "train" if row in ADMITTED else "test"}
        | ({"group": GROUPS[row]} if row in GROUPS else {})
        for row in range(ITEMS)
    ]
    SessionMachine.url = redis_url
    SessionMachine.pool = make_pool(folder, X, metadata=metadata, neighbours=3)
    run_state_machine_as_test(
        SessionMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_sessions_do_what_the_model_says(redis_url: str, tmp_path: Path) -> None:
    run_machine(redis_url, tmp_path, 30)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_sessions_do_what_the_model_says_for_long(redis_url: str, tmp_path: Path) -> None:
    run_machine(redis_url, tmp_path, 600)
