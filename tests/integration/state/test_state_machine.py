"""A session driven at random against a plain-Python model of what the store promises."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.fixtures.sessions import a_claim, a_request, a_session

from coresift.server.errors import CoresiftError, Reason
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
from coresift.server.state.store import (
    RETRACTION,
    Granted,
    LabelWrite,
    Outcome,
    Release,
    Settings,
    ViewKey,
)

ROWS = 8
LONG_MS = 3_600_000
annotators = st.sampled_from(["ann", "bob", "a", "9:ä"])
rows = st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=ROWS)
values = st.sampled_from([b"yes", b"no", RETRACTION])


@dataclass
class Model:
    """What the state of a session must be. Leases are live until `expire`."""

    quota: int
    budget: int | None
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

    def is_free(self, row: int, annotator: str) -> bool:
        votes = self.votes.get(row, {})
        held = [who for at, who in self.leases if at == row]
        hidden = (row, None) in self.skips or (row, annotator) in self.skips
        mine = annotator in votes or annotator in held
        return not mine and not hidden and len(votes) + len(held) + 1 <= self.quota

    def claim(self, proposed: list[int], annotator: str, size: int) -> tuple[int, ...]:
        self.settle()
        granted: list[int] = []
        for row in proposed:
            spent = self.budget is not None and self.total() >= self.budget
            if len(granted) < size and not spent and self.is_free(row, annotator):
                granted.append(row)
                self.leases.add((row, annotator))
        if granted:
            self.log.append(("grant", annotator, tuple(granted)))
        return tuple(granted)

    def label(self, row: int, annotator: str, value: bytes, leased: bool) -> Outcome:
        votes = self.votes.setdefault(row, {})
        before = votes.get(annotator, RETRACTION)
        if value == before:
            return Outcome.UNCHANGED
        if value == RETRACTION:
            del votes[annotator]
            return Outcome.RETRACTED
        votes[annotator] = value
        if before != RETRACTION:
            return Outcome.CORRECTED
        if len(votes) > self.quota:
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
        self.session = self.run(a_session(self.store))
        self.model = Model(1, None)
        self.answers: list[tuple[Any, Any]] = []

    def run(self, call: Any) -> Any:
        return self.loop.run_until_complete(call)

    def teardown(self) -> None:
        self.run(self.store.close())
        self.loop.close()

    @property
    def uid(self) -> str:
        return self.session.uid

    def granted(self, proposed: list[int], annotator: str, size: int, lease_ms: int) -> Granted:
        now = self.run(self.store.read(self.session.session_id))
        view = ViewKey(now.offset, now.revision, now.nonce, now.config_version)
        claim = a_claim(proposed, annotator, size=size, view=view, lease_ms=lease_ms)
        answer = self.run(self.store.claim(self.uid, claim))
        assert isinstance(answer, Granted)
        if answer.rows and lease_ms == LONG_MS:
            expected = (answer.rows, answer.deadline_ms, answer.payloads)
            self.answers.append((lambda: self.store.claim(self.uid, claim), expected))
        return answer

    @rule(proposed=rows, annotator=annotators, size=st.integers(1, ROWS))
    def claim(self, proposed: list[int], annotator: str, size: int) -> None:
        budget, before = self.model.budget, self.model.total()
        expected = self.model.claim(proposed, annotator, size)
        granted = self.granted(proposed, annotator, size, LONG_MS)
        assert granted.rows == expected
        left = None if budget is None else max(0, budget - before)
        assert granted.budget_spent == (left is not None and left < size and len(expected) == left)

    @rule(proposed=rows, annotator=annotators)
    def claim_and_expire(self, proposed: list[int], annotator: str) -> None:
        expected = self.model.claim(proposed, annotator, 3)
        assert self.granted(proposed, annotator, 3, 1).rows == expected
        ended = {(row, annotator) for row in expected}
        while ended & {(at.row, at.annotator) for at in self.run(self.store.leases(self.uid))}:
            pass
        self.model.leases -= ended
        self.model.due |= ended

    @rule(chosen=rows, annotator=annotators, value=values, leased=st.booleans())
    def label(self, chosen: list[int], annotator: str, value: bytes, leased: bool) -> None:
        request = a_request()
        writes = [LabelWrite(row, f"item {row}", value, leased) for row in chosen]
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
        leases = self.run(self.store.leases(self.uid))
        for lease in leases:
            if lease.annotator == annotator and lease.row in renewed.renewed:
                assert lease.deadline_ms == renewed.deadline_ms

    @rule(quota=st.integers(1, 3), budget=st.one_of(st.none(), st.integers(0, 12)))
    def configure(self, quota: int, budget: int | None) -> None:
        version = self.model.config_version
        changed = Settings(quota, budget, b"c")
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
        leases = {(at.row, at.annotator) for at in self.run(self.store.leases(self.uid))}
        assert leases == self.model.leases

    @invariant()
    def log_agrees(self) -> None:
        entries = self.run(self.store.log(self.uid, 0, 1_000)).entries
        assert [entry.offset for entry in entries] == list(range(1, len(entries) + 1))
        assert sorted(entry.time_ms for entry in entries) == [e.time_ms for e in entries]
        assert [_plain(entry) for entry in entries] == self.model.log

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
        still = self.model.leases | self.model.due
        assert held == {row: sum(at == row for at, _ in still) for row in {at for at, _ in still}}


def _plain(entry: Any) -> tuple[Any, ...]:
    match entry:
        case ConfigEntry():
            return ("config", entry.config_version)
        case GrantEntry():
            return ("grant", entry.annotator, entry.rows)
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


def test_session_does_what_the_model_says(every_redis_url: str) -> None:
    run_machine(every_redis_url, 40, 25)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_session_does_what_the_model_says_for_long(every_redis_url: str) -> None:
    run_machine(every_redis_url, 500, 40)
