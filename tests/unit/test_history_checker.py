"""The checker of histories: an honest one passes, and each law finds what breaks it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fault.history.checker import LAWS, check
from tests.fault.history.record import History, Outcome
from tests.fault.history.story import STEP_MS, Story

from coresift.server.session.replay import Difference, Report
from coresift.server.state.entries import ExpiryEntry, GrantEntry, LabelsEntry
from coresift.v1 import selection_pb2 as pb

YES, NO = "positive", "negative"
SKIP = 2


@pytest.fixture
def story() -> Story:
    """A short one in which much happens."""
    told = Story(votes_per_item=2, budget=50)
    told.grant("ann", 1, 2, 3)
    told.grant("bob", 1, 2)
    told.label("ann", {1: YES, 2: NO})
    told.label("bob", {1: NO})
    told.label("ann", {1: ""}, leased=False)
    told.renew("ann", 3)
    told.release("bob", 2, SKIP)
    told.label("eve", {5: YES}, leased=False)
    told.configure(label_budget=40)
    told.grant("ann", 7, lease_ms=2_000)
    told.wait(5_000)
    told.expire((7, "ann"))
    told.label("ann", {7: YES})
    told.label("bob", {7: YES}, leased=False)
    told.grant("eve", 7, review=True)
    told.list_leases()
    told.list_labels()
    told.progress()
    told.get_session()
    return told


def grant_of(story: Story, number: int) -> GrantEntry:
    found = [entry for entry in story.log if isinstance(entry, GrantEntry)]
    return found[number]


def put(story: Story, entry: GrantEntry | LabelsEntry | ExpiryEntry) -> None:
    story.log[entry.offset - 1] = entry


def test_an_honest_history_breaks_no_law(story: Story) -> None:
    assert story.violations() == []


def test_every_law_has_facts_in_it(story: Story) -> None:
    batch = story.grant("dee", 9)
    story.again(batch)
    label = story.label("dee", {9: YES})
    story.again(label)
    reused = pb.AddLabelsRequest.FromString(label.request)
    reused.annotator = "else"
    story.tell(
        "AddLabels", reused, outcome=Outcome.REFUSED, reason="REQUEST_ID_REUSED", intent="reuse"
    )
    single = Story()
    single.grant("ann", 1, lease_ms=1_000)
    single.wait(3_000)
    single.expire((1, "ann"))
    single.grant("bob", 1)
    single.replayed = Report(2, 2, ())
    facts: Counter[str] = Counter()
    for told in (story, single):
        assert told.violations() == []
        facts.update(told.facts())
    assert [law for law in LAWS if not facts[law]] == []


def test_a_lost_label_is_found(story: Story) -> None:
    story.label("ann", {8: YES})
    story.log.pop()
    assert "labels kept" in story.broken()


def test_a_label_that_stands_twice_is_found(story: Story) -> None:
    story.label("ann", {8: YES}, leased=False)
    story.log.append(replace(story.log[-1], offset=story.offset))
    assert {"labels kept", "no strangers in the log"} <= story.broken()


def test_a_label_with_another_value_is_found(story: Story) -> None:
    story.label("ann", {8: YES}, leased=False)
    other = story.label("ann", {8: NO}, leased=False, answered=False)
    last = story.log.pop()
    assert isinstance(last, LabelsEntry)
    first = story.log[-1]
    assert isinstance(first, LabelsEntry)
    put(story, replace(first, values=last.values))
    story.attempts.remove(other)
    assert "labels kept" in story.broken()


def test_a_label_of_an_unanswered_call_may_be_there_or_not(story: Story) -> None:
    story.label("ann", {8: YES}, answered=False, leased=False)
    assert story.violations() == []
    story.log.pop()
    assert story.violations() == []


def test_an_effect_of_a_refused_call_is_found(story: Story) -> None:
    attempt = story.label("ann", {8: YES}, leased=False)
    story.change(attempt, outcome=Outcome.REFUSED, reason="OVERLOADED", answer=b"")
    assert story.broken() == {"no strangers in the log"}


def test_an_entry_that_nobody_sent_is_found(story: Story) -> None:
    story.attempts.remove(story.label("ann", {8: YES}, leased=False))
    assert story.broken() == {"no strangers in the log"}


def test_a_lost_grant_is_found_and_counted_as_a_limit_after_a_failover(story: Story) -> None:
    story.grant("dee", 9)
    story.log.pop()
    assert "grants kept" in story.broken()
    assert "grants kept" not in story.broken(failed_over=True)


def test_a_grant_of_other_items_is_found(story: Story) -> None:
    story.grant("dee", 9)
    put(story, replace(grant_of(story, -1), rows=(10,)))
    assert "grants kept" in story.broken()


def test_a_lease_where_nothing_was_answered_is_found(story: Story) -> None:
    attempt = story.grant("dee", 9)
    story.change(attempt, answer=pb.NextBatchResponse(basis=story.basis()).SerializeToString())
    assert "grants kept" in story.broken()


def test_a_lost_release_and_a_lost_configuration_are_found(story: Story) -> None:
    story.release("ann", 3)
    story.log.pop()
    assert "releases, settings kept" in story.broken()
    other = Story()
    other.configure(label_budget=3)
    other.log.pop()
    assert "releases, settings kept" in other.broken()


@pytest.mark.parametrize(
    ("annotator", "row", "why"),
    [
        ("bob", 2, "given up"),
        ("bob", 1, "label of bob"),
        ("ann", 3, "already leased"),
    ],
)
def test_a_grant_of_what_the_annotator_has_done_is_found(
    story: Story, annotator: str, row: int, why: str
) -> None:
    story.grant(annotator, row)
    [violation] = [v for v in story.violations() if v.law == "quota, by the log"]
    assert why in violation.text


def test_a_grant_beyond_the_quota_is_found_in_the_log_and_in_the_answers() -> None:
    story = Story()
    story.grant("ann", 1)
    story.grant("bob", 1)
    assert story.broken() == {"quota, by the log", "quota, by answers"}


def test_a_grant_after_the_lease_was_ended_is_none() -> None:
    story = Story()
    story.grant("ann", 1)
    story.release("ann", 1)
    story.grant("bob", 1)
    assert story.violations() == []


def test_answers_say_nothing_of_items_that_a_second_look_raised() -> None:
    story = Story()
    story.label("ann", {1: YES}, leased=False)
    story.grant("bob", 1, review=True)
    story.label("ann", {1: ""}, leased=False)
    story.grant("cyd", 1)
    assert story.violations() == []


def test_a_grant_of_an_item_with_its_votes_is_found() -> None:
    story = Story()
    story.label("ann", {1: YES}, leased=False)
    story.grant("bob", 1)
    assert story.broken() == {"quota, by the log"}


def test_a_second_look_may_exceed_the_quota_once() -> None:
    story = Story()
    story.label("ann", {1: YES}, leased=False)
    story.grant("bob", 1, review=True)
    assert story.violations() == []
    story.grant("cyd", 1, review=True)
    assert story.broken() == {"quota, by the log"}


def test_a_spent_budget_is_found() -> None:
    story = Story(budget=2)
    story.grant("ann", 1, 2, 3)
    assert story.broken() == {"budget"}


def test_a_wrong_outcome_is_found(story: Story) -> None:
    attempt = story.label("ann", {3: YES})
    last = story.log[-1]
    assert isinstance(last, LabelsEntry)
    put(story, replace(last, outcomes=(5,)))
    answer = pb.AddLabelsResponse.FromString(attempt.answer)
    answer.outcomes[:] = [pb.LABEL_OUTCOME_LATE]
    story.change(attempt, answer=answer.SerializeToString())
    assert story.broken() == {"outcomes"}


def test_a_lease_that_ends_before_its_deadline_is_found() -> None:
    story = Story()
    story.grant("ann", 1)
    story.expire((1, "ann"))
    assert story.broken() == {"deadlines"}


def test_a_lease_that_outlives_its_deadline_is_found() -> None:
    story = Story()
    story.grant("ann", 1, lease_ms=1_000)
    story.wait(2_000)
    story.grant("bob", 2)
    assert story.broken() == {"deadlines"}


def test_a_renewed_lease_ends_at_its_new_deadline() -> None:
    story = Story()
    story.grant("ann", 1, lease_ms=5_000)
    story.renew("ann", 1, lease_ms=30_000)
    story.wait(8_000)
    story.grant("bob", 2)
    assert story.violations() == []
    story.expire((1, "ann"))
    assert story.broken() == {"deadlines"}


def test_a_renewal_of_what_is_not_leased_is_found(story: Story) -> None:
    story.renew("ann", 20)
    assert story.broken() == {"renewals"}


def test_a_live_lease_that_is_called_lost_is_found(story: Story) -> None:
    attempt = story.renew("ann", 3)
    answer = pb.RenewLeasesResponse.FromString(attempt.answer)
    answer.lost.extend(answer.renewed)
    del answer.renewed[:]
    story.change(attempt, answer=answer.SerializeToString())
    assert story.broken() == {"renewals"}


def test_a_listed_lease_that_nobody_has_is_found(story: Story) -> None:
    attempt = story.list_leases()
    answer = pb.ListLeasesResponse.FromString(attempt.answer)
    answer.leases[0].annotator = "nobody"
    story.change(attempt, answer=answer.SerializeToString())
    assert story.broken() == {"lists of leases"}


def test_a_revision_that_goes_back_is_found(story: Story) -> None:
    attempt = story.get_session()
    answer = pb.GetSessionResponse.FromString(attempt.answer)
    answer.session.basis.revision -= 1
    story.change(attempt, answer=answer.SerializeToString())
    assert story.broken() == {"revisions monotone"}


def test_a_batch_from_older_labels_is_found_unless_it_asked_for_them(story: Story) -> None:
    attempt = story.grant("dee", 9)
    grant = grant_of(story, -1)
    put(story, replace(grant, view_revision=1))
    answer = pb.NextBatchResponse.FromString(attempt.answer)
    answer.basis.revision = 1
    story.change(attempt, answer=answer.SerializeToString())
    assert story.broken() == {"revisions monotone"}
    request = pb.NextBatchRequest.FromString(attempt.request)
    request.min_revision = 0
    story.change(attempt, answer=answer.SerializeToString(), request=request.SerializeToString())
    assert story.violations() == []


def test_an_item_that_is_offered_after_its_label_is_found(story: Story) -> None:
    story.grant("eve", 5)
    assert "read your labels" in story.broken()


def test_a_second_answer_that_differs_is_found(story: Story) -> None:
    attempt = story.label("ann", {8: YES}, leased=False)
    answer = pb.AddLabelsResponse.FromString(attempt.answer)
    answer.outcomes[:] = [pb.LABEL_OUTCOME_UNCHANGED]
    story.again(attempt, answer)
    assert story.broken() == {"same request, same answer"}


def test_a_batch_that_is_forgotten_is_found(story: Story) -> None:
    attempt = story.grant("dee", 9)
    story.again(attempt, pb.NextBatchResponse(basis=story.basis()))
    assert story.broken() == {"same request, same answer"}


@pytest.mark.parametrize(("lease_ms", "fits"), [(STEP_MS // 2, True), (60_000, False)])
def test_a_batch_expires_with_its_leases(story: Story, lease_ms: int, fits: bool) -> None:
    attempt = story.grant("dee", 9, lease_ms=lease_ms)
    story.again(attempt, reason="REQUEST_EXPIRED")
    assert story.broken() == (set() if fits else {"same request, same answer"})


def test_a_batch_that_is_answered_after_its_leases_is_found(story: Story) -> None:
    attempt = story.grant("dee", 9, lease_ms=STEP_MS // 2)
    story.again(attempt)
    assert story.broken() == {"same request, same answer"}


def test_another_body_under_a_known_id_is_found(story: Story) -> None:
    first = story.label("ann", {8: YES}, leased=False)
    request = pb.AddLabelsRequest.FromString(first.request)
    request.annotator = "else"
    answer = pb.AddLabelsResponse.FromString(first.answer)
    story.tell("AddLabels", request, answer, intent="reuse")
    assert {"other body refused", "refusals fit"} <= story.broken()


@pytest.mark.parametrize(
    ("intent", "reason", "fits"),
    [
        ("foreign token", "LEASE_TOKEN_FOREIGN", True),
        ("foreign token", "UNKNOWN_CLASS", False),
        ("foreign token", "STATE_UNAVAILABLE", True),
        ("", "LEASE_TOKEN_FOREIGN", False),
        ("", "OVERLOADED", True),
    ],
)
def test_refusals_must_fit(story: Story, intent: str, reason: str, fits: bool) -> None:
    request = pb.AddLabelsRequest(request_id="x", session_id="story", annotator="ann")
    story.tell("AddLabels", request, outcome=Outcome.REFUSED, reason=reason, intent=intent)
    assert story.broken() == (set() if fits else {"refusals fit"})


def test_an_internal_error_is_found(story: Story) -> None:
    request = pb.GetSessionRequest(session_id="story")
    story.tell("GetSession", request, outcome=Outcome.UNKNOWN, reason="INTERNAL")
    assert story.broken() == {"refusals fit"}


def test_a_list_of_labels_that_lacks_one_is_found(story: Story) -> None:
    attempt = story.list_labels()
    answer = pb.ListLabelsResponse.FromString(attempt.answer)
    del answer.labels[-1]
    story.change(attempt, answer=answer.SerializeToString())
    assert story.broken() == {"lists of labels"}


def test_wrong_progress_is_found(story: Story) -> None:
    attempt = story.progress()
    answer = pb.GetSessionProgressResponse.FromString(attempt.answer)
    answer.votes += 1
    story.change(attempt, answer=answer.SerializeToString())
    assert story.broken() == {"progress"}


@pytest.mark.parametrize("field", ["leases", "held", "votes", "extra"])
def test_a_state_that_is_not_the_logs_is_found(story: Story, field: str) -> None:
    empty: dict[str, Any] = {field: {}}
    assert "state follows the log" in story.broken(replace(story.remains(), **empty))


def test_a_count_that_is_not_the_logs_is_found(story: Story) -> None:
    remains = story.remains()
    wrong = replace(remains, meta=remains.meta | {"votes": b"99"})
    assert story.broken(wrong) == {"state follows the log"}


def test_a_replay_that_differs_is_found(story: Story) -> None:
    story.replayed = Report(1, 1, (Difference(2, (1, 2, 3), (4,)),))
    assert story.broken() == {"replay"}


def test_a_session_that_is_gone_is_found(story: Story) -> None:
    history = History(0, "none", 1, attempts=story.attempts)
    verdict = check(history, {}, failed_over=False)
    assert ["gone" in v.text for v in verdict.violations] == [True]


def test_a_history_is_kept_and_read_again(story: Story, tmp_path: Path) -> None:
    history = History(3, "none", 7, story.attempts, Counter(server_killed=2), seconds=1.5)
    history.sessions["story"] = replace(story.remains(), entries=(b"one", b"two"))
    history.save(tmp_path / "history")
    assert History.load(tmp_path / "history") == history
