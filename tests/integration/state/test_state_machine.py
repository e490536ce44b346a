"""A session driven at random against a plain-Python model of what the store promises."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import hypothesis.strategies as st
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
from tests.fixtures.sessions import a_claim, a_request, all_leases

from coresift.server.errors import CoresiftError, Reason
from coresift.server.head import Task
from coresift.server.session.setup.config import SessionConfig
from coresift.server.session.view.view import View
from coresift.server.state.entries import (
    ConfigEntry,
    ExpiryEntry,
    GrantEntry,
    LabelsEntry,
    ReleaseEntry,
)
from coresift.server.state.keys import SessionKeys
from coresift.server.state.redis_store import RedisStore
from coresift.server.state.replies import unpack
from coresift.server.state.values import (
    NO_GROUP,
    RETRACTION,
    Granted,
    LabelWrite,
    Outcome,
    Proposal,
    Release,
    Settings,
    ViewKey,
)

ROWS = 8
GROUPS = [NO_GROUP, 0, 0, 0, 2**52, 2**52, 2**52, 7]
NO_GROUPS = [NO_GROUP] * ROWS
LONG_MS = 3_600_000
NAMES = ["ann", "bob", "a", "9:ä"]
annotators = st.sampled_from(NAMES)
rows = st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=ROWS)
values = st.sampled_from([b"yes", b"no", RETRACTION])


def a_config(quota: int, budget: int | None) -> SessionConfig:
    return SessionConfig(
        "p", "v", Task.BINARY, ("no", "yes"), votes_per_item=quota, label_budget=budget
    )


@dataclass
class Model:
    """What the state of a session must be. Leases are live until `expire`."""

    quota: int
    budget: int | None
    groups: list[int] = field(default_factory=lambda: NO_GROUPS)
    extra: dict[int, int] = field(default_factory=dict)
    votes: dict[int, dict[str, bytes]] = field(default_factory=dict)
    leases: set[tuple[int, str]] = field(default_factory=set)
    skips: set[tuple[int, str | None]] = field(default_factory=set)
    due: set[tuple[int, str]] = field(default_factory=set)
    log: list[tuple[Any, ...]] = field(default_factory=lambda: [("config", 1)])
    revision: int = 0
    config_version: int = 1

    def settle(self) -> None:
        if self.due:
            self.log.append(("expiry", frozenset(self.due)))
            self.due = set()

    def total(self) -> int:
        return sum(map(len, self.votes.values())) + len(self.leases)

    def is_free(self, row: int, annotator: str, review: bool = False) -> bool:
        votes = self.votes.get(row, {})
        held = [who for at, who in self.leases | self.due if at == row]
        hidden = (row, None) in self.skips or (row, annotator) in self.skips
        mine = annotator in votes or annotator in held
        has_room = self.lacking(row) >= 1 or (review and not held)
        return not mine and not hidden and has_room and (not review or len(votes) > 0)

    def lacking(self, row: int) -> int:
        held = sum(at == row for at, _ in self.leases | self.due)
        return self.quota + self.extra.get(row, 0) - len(self.votes.get(row, {})) - held

    def group_is_open(self, row: int, one_label: bool) -> bool:
        others = [at for at in range(ROWS) if at != row and self.groups[at] == self.groups[row]]
        if self.groups[row] == NO_GROUP:
            return True
        if any(at in others for at, _ in self.leases):
            return False
        # The votes are in the order in which their rows got the first one.
        labelled = [at for at in self.votes if self.groups[at] == self.groups[row]]
        return not one_label or not labelled or row in self.votes

    def claim(
        self, proposed: list[int], annotator: str, size: int, review: bool, one_label: bool
    ) -> tuple[int, ...]:
        self.settle()
        granted: list[int] = []
        for row in proposed:
            spent = self.budget is not None and self.total() >= self.budget
            is_free = self.is_free(row, annotator, review) and self.group_is_open(row, one_label)
            if len(granted) < size and not spent and is_free:
                granted.append(row)
                self.leases.add((row, annotator))
                if self.lacking(row) < 0:
                    self.extra[row] = self.extra.get(row, 0) - self.lacking(row)
        if granted:
            self.log.append(("grant", annotator, tuple(granted), review))
        return tuple(granted)

    def label(self, row: int, annotator: str, value: bytes, leased: bool) -> Outcome:
        before = self.votes.get(row, {}).get(annotator, RETRACTION)
        if value == before:
            return Outcome.UNCHANGED
        votes = self.votes.setdefault(row, {})
        if value == RETRACTION:
            del votes[annotator]
            if not votes:
                del self.votes[row]
            return Outcome.RETRACTED
        votes[annotator] = value
        if before != RETRACTION:
            return Outcome.CORRECTED
        if len(votes) > self.quota + self.extra.get(row, 0):
            return Outcome.SURPLUS
        late = leased and (row, annotator) not in self.leases
        return Outcome.LATE if late else Outcome.NEW

    def held_by(self, annotator: str) -> list[int]:
        return sorted(row for row, who in self.leases if who == annotator)


class SessionMachine(RuleBasedStateMachine):
    """Runs each operation on the store and on the model."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = self.run(RedisStore.connect(self.url))
        request = a_request(request_id=f"create-{uuid4()}")
        create = self.store.create(f"session-{uuid4()}", a_config(1, None).settings(), request)
        self.session = self.run(create)
        self.model = Model(1, None)
        self.view = View(a_config(1, None), 1)
        self.answers: list[tuple[Any, Any]] = []

    def run(self, call: Any) -> Any:
        return self.loop.run_until_complete(call)

    def teardown(self) -> None:
        self.run(self.store.close())
        self.loop.close()

    @property
    def uid(self) -> str:
        return self.session.uid

    @initialize(groups=st.sampled_from([GROUPS, NO_GROUPS]))
    def set_groups(self, groups: list[int]) -> None:
        self.model.groups = groups

    def granted(
        self,
        proposed: list[int],
        annotator: str,
        size: int,
        lease_ms: int,
        review: bool = False,
        one_label: bool = False,
    ) -> Granted:
        now = self.run(self.store.read(self.session.session_id))
        view = ViewKey(now.offset, now.revision, now.nonce, now.config_version, now.tip)
        claim = replace(
            a_claim([], annotator, size=size, view=view, lease_ms=lease_ms),
            proposals=[Proposal(row, b"%d" % row, self.model.groups[row]) for row in proposed],
            review=review,
            one_label=one_label,
        )
        answer = self.run(self.store.claim(self.uid, claim))
        assert isinstance(answer, Granted)
        if answer.rows and lease_ms == LONG_MS:
            expected = (answer.rows, answer.deadline_ms, answer.payloads)
            self.answers.append((lambda: self.store.claim(self.uid, claim), expected))
        return answer

    @rule(
        proposed=rows,
        annotator=annotators,
        size=st.integers(1, ROWS),
        review=st.booleans(),
        one_label=st.booleans(),
    )
    def claim(
        self, proposed: list[int], annotator: str, size: int, review: bool, one_label: bool
    ) -> None:
        budget, before = self.model.budget, self.model.total()
        expected = self.model.claim(proposed, annotator, size, review, one_label)
        granted = self.granted(proposed, annotator, size, LONG_MS, review, one_label)
        assert granted.rows == expected
        left = None if budget is None else max(0, budget - before)
        assert granted.budget_spent == (left is not None and left < size and len(expected) == left)

    @rule(proposed=rows, annotator=annotators, review=st.booleans())
    def claim_and_expire(self, proposed: list[int], annotator: str, review: bool) -> None:
        expected = self.model.claim(proposed, annotator, 3, review, False)
        assert self.granted(proposed, annotator, 3, 1, review).rows == expected
        ended = {(row, annotator) for row in expected}
        while ended & {(at.row, at.annotator) for at in self.run(all_leases(self.store, self.uid))}:
            pass
        self.model.leases -= ended
        self.model.due |= ended

    @rule(chosen=rows, annotator=annotators, value=values, leased=st.booleans())
    def label(self, chosen: list[int], annotator: str, value: bytes, leased: bool) -> None:
        request = a_request()
        writes = [
            LabelWrite(row, f"item {row}", value, leased, self.model.groups[row]) for row in chosen
        ]
        self.model.settle()
        expected = tuple(self.model.label(row, annotator, value, leased) for row in chosen)
        self.model.leases -= {(row, annotator) for row in chosen}
        self.model.log.append(("labels", annotator, tuple(chosen), value, expected))
        self.model.revision = len(self.model.log)
        written = self.run(self.store.add_labels(self.uid, request, annotator, writes))
        assert written.outcomes == expected
        assert written.revision == self.model.revision
        self.answers.append(
            (
                lambda: self.store.add_labels(self.uid, request, annotator, writes),
                (expected, written.revision, written.nonce),
            )
        )

    @rule(chosen=rows, annotator=annotators, reason=st.sampled_from(Release))
    def release(self, chosen: list[int], annotator: str, reason: Release) -> None:
        self.model.settle()
        distinct = list(dict.fromkeys(chosen))
        expected = tuple(row for row in distinct if (row, annotator) in self.model.leases)
        self.model.leases -= {(row, annotator) for row in chosen}
        if reason is Release.RETURN:
            logged = expected
        else:
            logged = tuple(distinct)
            who = annotator if reason is Release.SKIP else None
            self.model.skips |= {(row, who) for row in chosen}
        if logged:
            self.model.log.append(("release", annotator, logged, int(reason)))
        request = a_request()
        released = self.run(self.store.release(self.uid, request, annotator, chosen, reason))
        assert released == expected
        self.answers.append(
            (lambda: self.store.release(self.uid, request, annotator, chosen, reason), expected)
        )

    @rule(chosen=st.one_of(st.just([]), rows), annotator=annotators)
    def renew(self, chosen: list[int], annotator: str) -> None:
        self.model.settle()
        held = self.model.held_by(annotator)
        distinct = list(dict.fromkeys(chosen))
        request = a_request()
        renewed = self.run(self.store.renew(self.uid, request, annotator, chosen, LONG_MS))
        assert list(renewed.renewed) == ([r for r in distinct if r in held] if chosen else held)
        assert list(renewed.lost) == [row for row in distinct if row not in held]
        leases = self.run(all_leases(self.store, self.uid))
        for lease in leases:
            if lease.annotator == annotator and lease.row in renewed.renewed:
                assert lease.deadline_ms == renewed.deadline_ms

    @rule(quota=st.integers(1, 3), budget=st.one_of(st.none(), st.integers(0, 12)))
    def configure(self, quota: int, budget: int | None) -> None:
        version = self.model.config_version
        changed = a_config(quota, budget).settings()
        record = self.run(self.store.configure(self.uid, a_request(), changed, version))
        assert record.settings == changed
        self.model.quota, self.model.budget = quota, budget
        self.model.config_version += 1
        self.model.log.append(("config", version + 1))

    @rule()
    def configure_too_late(self) -> None:
        version = self.model.config_version + 1
        call = self.store.configure(self.uid, a_request(), Settings(9, None, b""), version)
        with pytest.raises(CoresiftError) as caught:
            self.run(call)
        assert caught.value.reason is Reason.CONFIG_VERSION_MISMATCH

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        call, expected = data.draw(st.sampled_from(self.answers))
        again = self.run(call())
        if isinstance(again, Granted):
            assert again.replayed
            assert (again.rows, again.deadline_ms, again.payloads) == expected
        elif isinstance(again, tuple):
            assert again == expected
        else:
            assert again.replayed
            assert (again.outcomes, again.revision, again.nonce) == expected

    @rule(proposed=rows, annotator=annotators)
    def reuse_a_request(self, proposed: list[int], annotator: str) -> None:
        request = a_request("first")
        self.model.settle()
        self.run(self.store.renew(self.uid, request, annotator, [], LONG_MS))
        with pytest.raises(CoresiftError) as caught:
            self.run(self.store.claim(self.uid, a_claim(proposed, annotator, request=request)))
        assert caught.value.reason is Reason.REQUEST_ID_REUSED

    @invariant()
    def record_and_leases_agree(self) -> None:
        now = self.run(self.store.read(self.session.session_id))
        assert now.offset == len(self.model.log)
        assert now.revision == self.model.revision
        assert now.config_version == self.model.config_version
        leases = {(at.row, at.annotator) for at in self.run(all_leases(self.store, self.uid))}
        assert leases == self.model.leases

    @invariant()
    def log_agrees(self) -> None:
        entries = self.run(self.store.log(self.uid, 0, 1_000)).entries
        assert [entry.offset for entry in entries] == list(range(1, len(entries) + 1))
        assert sorted(entry.time_ms for entry in entries) == [e.time_ms for e in entries]
        assert [_plain(entry) for entry in entries] == self.model.log
        self.view.apply(entries)
        assert self.view.extra == self.model.extra
        for row in range(ROWS):
            for name in NAMES:
                assert self.view.free_for(row, name) == self.model.is_free(row, name)
                is_free = self.model.is_free(row, name, review=True)
                assert self.view.free_for_review(row, name) == is_free

    @invariant()
    def stored_look_ups_agree(self) -> None:
        names = SessionKeys(self.uid).of_script()
        client = self.store._link.client
        votes = {
            int(row): {who.decode(): value for who, value in unpack(packed).items()}
            for row, packed in self.run(client.hgetall(names[5])).items()
        }
        assert votes == {row: votes for row, votes in self.model.votes.items() if votes}
        assert int(self.run(client.hget(names[0], "votes"))) == sum(map(len, votes.values()))
        held = {int(row): int(n) for row, n in self.run(client.hgetall(names[4])).items()}
        extra = self.run(client.hgetall(names[8]))
        assert {int(row): int(votes) for row, votes in extra.items()} == self.model.extra
        still = self.model.leases | self.model.due
        assert held == {row: sum(at == row for at, _ in still) for row in {at for at, _ in still}}


def _plain(entry: Any) -> tuple[Any, ...]:
    match entry:
        case ConfigEntry():
            return ("config", entry.config_version)
        case GrantEntry():
            return ("grant", entry.annotator, entry.rows, entry.review)
        case LabelsEntry():
            (value,) = set(entry.values)
            outcomes = tuple(map(Outcome, entry.outcomes))
            return ("labels", entry.annotator, entry.rows, value, outcomes)
        case ReleaseEntry():
            return ("release", entry.annotator, entry.rows, entry.reason)
        case ExpiryEntry():
            return ("expiry", frozenset(entry.leases))
    raise AssertionError(entry)


def run_machine(url: str, examples: int, steps: int) -> None:
    SessionMachine.url = url
    run_state_machine_as_test(
        SessionMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def examples_on(url: str, most: int) -> int:
    """The same scripts run on a cluster: there it is about where the keys lie."""
    return most // 4 if "cluster" in url else most


def test_session_does_what_the_model_says(every_redis_url: str) -> None:
    run_machine(every_redis_url, examples_on(every_redis_url, 40), 25)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_session_does_what_the_model_says_for_long(every_redis_url: str) -> None:
    run_machine(every_redis_url, examples_on(every_redis_url, 500), 40)
